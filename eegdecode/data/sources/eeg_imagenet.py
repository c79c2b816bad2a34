"""EEG-ImageNet (Zhu et al. 2024, arXiv 2406.07151): 16 people, 80 ImageNet classes of 50 pictures, block design.

Layout under ``data_uri``::

    EEG-ImageNet_1.pth, EEG-ImageNet_2.pth     dataset, labels, images; eight people each, one of the two will do
    imageNet_images/<wnid>/<file>.JPEG         from ImageNet; not part of the dataset

40 classes are coarse-grained, 40 fine-grained (five groups of eight). Each trial has 62 channels at 1000 Hz over the
0.5 s that a picture was on; as the authors do, samples 40 to 439 are used. The 50 pictures of a class were shown one
after the other, so whatever drifts tells the class.

Parts: the authors train on the first 30 trials of each class of a person and test on the others
(``src/object_classification.py``). Here a picture has one part for all people, that of its place in the class for the
first person who saw the class; people who saw another order are reported.
The unit is not stated. It is told by the size of the values: volt and microvolt differ by a million.
Channels: the authors' ``montage_ch_names.json`` without M1, M2 and what is no EEG, in the usual spelling.
"""

import re
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from eegdecode.batch import SourceFact
from eegdecode.config import EegImageNetData
from eegdecode.data.sources import CutRecording, EventsError, Picture, RecordingError, RecordingRef
from eegdecode.data.sources import local_folder as _local_folder
from eegdecode.data.sources.pictures import open_images
from eegdecode.data.sources.pth import copied, load_trials, named, signal, stack, whole

FILES = ("EEG-ImageNet_1.pth", "EEG-ImageNet_2.pth")
CHANNELS: tuple[str, ...] = (
    "Fp1", "Fpz", "Fp2", "AF3", "AF4", "F7", "F5", "F3", "F1", "Fz", "F2", "F4", "F6", "F8", "FT7", "FC5", "FC3", "FC1",
    "FCz", "FC2", "FC4", "FC6", "FT8", "T7", "C5", "C3", "C1", "Cz", "C2", "C4", "C6", "T8", "TP7", "CP5", "CP3", "CP1",
    "CPz", "CP2", "CP4", "CP6", "TP8", "P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8", "PO7", "PO5", "PO3", "POz",
    "PO4", "PO6", "PO8", "CB1", "O1", "Oz", "O2", "CB2",
)  # fmt: skip
SFREQ_HZ = 1000.0
WINDOW = slice(40, 440)
N_TRAIN = 30
"""Pictures of a class that are trained on."""
UNITS = {"V": (5e-7, 2e-3, 1e6), "µV": (0.5, 2e3, 1.0)}
"""Unit -> smallest and largest typical deviation of EEG in it, and factor to microvolt."""
FACT = SourceFact(
    name="eeg_imagenet",
    licence="MIT for the code, none given for the EEG; pictures are ImageNet's, for non-commercial research",
    citation="Zhu et al. 2024, EEG-ImageNet: An electroencephalogram dataset and benchmarks with image visual stimuli "
    "of multi-granularity labels, arXiv 2406.07151",
    design="block",
    truth="picture",
)
_N_CHECKED = 32


@dataclass(frozen=True)
class _Trial:
    """One row of a file."""

    file: str
    row: int
    subject: str
    picture: str
    image: str
    concept: str
    eeg: torch.Tensor


class EegImageNetSource:
    """EEG-ImageNet, one recording per person and file; see the head of this module.

    Raises
    ------
    SourceError
        No folder, or neither file in it.
    """

    fact = FACT

    def __init__(self, config: EegImageNetData, data_uri: str) -> None:
        self.findings: list[str] = []
        self._config = config
        self._root = _local_folder(data_uri, "eeg_imagenet")
        self._paths = [self._root / name for name in FILES if (self._root / name).is_file()]
        if not self._paths:
            raise RecordingError(f"source eeg_imagenet needs {' or '.join(FILES)} in '{self._root}', found neither.")

    def recordings(self) -> list[RecordingRef]:
        """List the people of each file; copies of trials are left out and reported.

        Raises
        ------
        SourceError
            A file that can not be used, or no trial of the granularity or subjects that were asked for.
        """
        self.findings = ["block design: the pictures of a class were shown together, so the time of a trial tells it."]
        refs = []
        for path in self._paths:
            for subject in sorted({trial.subject for trial in self._trials if trial.file == path.name}):
                part = path.stem.removeprefix("EEG-ImageNet_")
                key = f"sub-{subject}_part-{part}"
                trials = [t for t in self._trials if (t.file, t.subject) == (path.name, subject)]
                twins = [f"{t.row} of {self._copies[t.file, t.row]}" for t in trials if (t.file, t.row) in self._copies]
                if twins:
                    self.findings.append(
                        f"{key}: {len(twins)} of {len(trials)} trials left out, copies: {named(twins)}."
                    )
                moved = self._moved(trials)
                if moved:
                    self.findings.append(
                        f"{key}: {moved} of {len(trials)} trials are in another part than in the authors' split, which "
                        "goes by the order in the file."
                    )
                if self._kept(path, subject):
                    refs.append(RecordingRef(key, subject, "all", f"part-{part}", str(path)))
        absent = sorted({t.picture for t in self._trials if not self._image(t).is_file()})
        if absent:
            self.findings.append(
                f"{len(absent)} pictures are not in imageNet_images/: {named(absent)}. ImageNet has them."
            )
        return refs

    def read(self, ref: RecordingRef) -> CutRecording:
        """Read the trials of one person in a file, in its order, in microvolt.

        Raises
        ------
        RecordingError
            A value that is not finite, or values that are EEG neither in volt nor in microvolt.
        """
        path = Path(ref.location)
        kept = self._kept(path, ref.subject)
        rows = [trial.row for trial in kept]
        eeg_NCT = stack(path, rows, [trial.eeg for trial in kept], WINDOW, CHANNELS)
        unit, factor = _unit(path, ref, eeg_NCT)
        eeg_NCT *= np.float32(factor)
        events = pd.DataFrame({"picture": [trial.picture for trial in kept], "row": rows})
        history = (f"in {unit} by its size", "samples 40 to 439 of the authors' segments; no baseline subtracted")
        return CutRecording(ref, eeg_NCT, "uV", CHANNELS, SFREQ_HZ, WINDOW.start / SFREQ_HZ, events, history)

    def pictures(self) -> list[Picture]:
        """List the pictures shown, sorted by id (their name in ImageNet)."""
        first: dict[str, _Trial] = {}
        for trial in self._trials:
            other = first.setdefault(trial.picture, trial)
            if other.concept != trial.concept:
                raise EventsError(
                    f"{trial.file} trial {trial.row}: picture '{trial.picture}' must have one label, got "
                    f"'{trial.concept}' and '{other.concept}'."
                )
        return [
            Picture(name, trial.concept, self._parts[name], partial(open_images, self._image(trial), name))
            for name, trial in sorted(first.items())
        ]

    def _image(self, trial: _Trial) -> Path:
        return self._root / "imageNet_images" / trial.image.split("_")[0] / trial.image

    def _kept(self, path: Path, subject: str) -> list[_Trial]:
        return [
            t
            for t in self._trials
            if (t.file, t.subject) == (path.name, subject) and (t.file, t.row) not in self._copies
        ]

    @cached_property
    def _trials(self) -> list[_Trial]:
        """Trials of the people and the granularity that were asked for."""
        trials = []
        present = set()
        for path in self._paths:
            content = load_trials(path, (), ("eeg_data", "subject", "granularity", "label", "image"))
            for row, item in enumerate(content["dataset"]):
                subject = f"{whole(path, row, item, 'subject'):02d}"
                granularity, image = item["granularity"], str(item["image"])
                if granularity not in ("coarse", "fine"):
                    raise RecordingError(
                        f"{path.name} trial {row}: granularity must be coarse or fine, got '{granularity}'."
                    )
                if not re.fullmatch(r"\w[\w.-]*", image):
                    raise RecordingError(f"{path.name} trial {row}: image must be a name of ImageNet, got '{image}'.")
                present.add(subject)
                if self._config.granularity not in ("all", granularity):
                    continue
                if self._config.subjects is not None and subject not in self._config.subjects:
                    continue
                eeg = signal(path, row, item, "eeg_data", len(CHANNELS))
                if eeg.shape[1] < WINDOW.stop:
                    raise RecordingError(
                        f"{path.name} trial {row}: eeg_data must have at least {WINDOW.stop} samples, has "
                        f"{eeg.shape[1]}."
                    )
                picture = Path(image).stem
                trials.append(_Trial(path.name, row, subject, picture, image, str(item["label"]), eeg))
        if not trials:
            raise RecordingError(
                f"{', '.join(path.name for path in self._paths)}: no trials of granularity "
                f"'{self._config.granularity}' and subjects {self._config.subjects or 'any'}; there are "
                f"subjects {sorted(present)}."
            )
        return trials

    @cached_property
    def _copies(self) -> dict[tuple[str, int], str]:
        """File and row of a trial -> an earlier one with the same EEG."""
        found = copied([trial.eeg for trial in self._trials])
        return {
            (self._trials[n].file, self._trials[n].row): f"{self._trials[twin].row} ({self._trials[twin].file})"
            for n, twin in found.items()
        }

    @cached_property
    def _parts(self) -> dict[str, Literal["train", "test"]]:
        """Picture -> part, by its place in the class of the first person who saw the class."""
        order: dict[str, tuple[tuple[str, str], list[str]]] = {}
        parts: dict[str, Literal["train", "test"]] = {}
        for trial in self._trials:
            person, pictures = order.setdefault(trial.concept, ((trial.file, trial.subject), []))
            if person == (trial.file, trial.subject) and trial.picture not in pictures:
                pictures.append(trial.picture)
                parts[trial.picture] = "train" if len(pictures) <= N_TRAIN else "test"
        # A picture that the first person did not see.
        for trial in self._trials:
            parts.setdefault(trial.picture, "train")
        return parts

    def _moved(self, trials: list[_Trial]) -> int:
        """Return how many trials of one person the authors' split would have in the other part."""
        places: dict[str, int] = {}
        moved = 0
        for trial in trials:
            place = places[trial.concept] = places.get(trial.concept, -1) + 1
            moved += self._parts[trial.picture] != ("train" if place < N_TRAIN else "test")
        return moved


def _unit(path: Path, ref: RecordingRef, eeg_NCT: np.ndarray) -> tuple[str, float]:
    """Return the unit that makes the values EEG, and its factor to microvolt."""
    some = eeg_NCT[np.unique(np.linspace(0, len(eeg_NCT) - 1, _N_CHECKED).astype(int))].astype(np.float64)
    typical = float(np.median(np.abs(some - np.median(some, axis=2, keepdims=True))))
    for unit, (low, high, factor) in UNITS.items():
        if low <= typical <= high:
            return unit, factor
    raise RecordingError(
        f"{path.name}: the values of sub-{ref.subject} must be EEG in volt or microvolt, their typical deviation is "
        f"{typical:.3g}."
    )
