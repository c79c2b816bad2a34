"""EEGCVPR40 (Spampinato et al. 2017, Palazzo et al. 2020): six people, 40 ImageNet classes of 50 pictures, in blocks.

Layout under ``data_uri``::

    eeg_{5_95,14_70,55_95}_std.pth, eeg_signals_raw_with_mean_std.pth   dataset, labels, images (raw: means, stddevs)
    block_splits_by_image_{all,single}.pth                              splits[k]: train, val, test (rows of dataset)
    images/<wnid>/<name>.JPEG                                           from ImageNet; not part of the dataset

Each trial has 128 channels at 1000 Hz and about 500 samples from the onset on. As the authors do, samples 20 to 459 are
used (the first 20 ms may hold the response to the picture before), of trials of at most 600 samples. The authors admit
450 samples, of which these can not be cut; here it is 460.

The 50 pictures of a class were shown one after the other, so whatever drifts tells the class, and test trials lie
between training trials (Li et al. 2020, IEEE TPAMI, 10.1109/TPAMI.2020.2973153). The splits are by picture, within
blocks.

Names of channels: as one of the authors gave them (issue 4 of perceivelab/eeg_visual_classification, December 2023).
The files of filtered EEG are standardised and have no unit. That the raw one is in microvolt is not stated anywhere.
"""

import re
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd
import torch

from eegdecode.batch import SourceFact
from eegdecode.config import EegCvpr40Data
from eegdecode.data.sources import CutRecording, EventsError, Picture, RecordingError, RecordingRef
from eegdecode.data.sources import local_folder as _local_folder
from eegdecode.data.sources.pickles import load_torch
from eegdecode.data.sources.pictures import open_images
from eegdecode.data.sources.pth import copied, load_trials, named, signal, stack, whole

CHANNELS: tuple[str, ...] = (
    "Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "FC5", "FC1", "FC2", "FC6", "T7", "C3", "Cz", "C4", "T8", "TP9", "CP5",
    "CP1", "CP2", "CP6", "TP10", "P7", "P3", "Pz", "P4", "P8", "PO9", "O1", "Oz", "O2", "PO10", "AF7", "AF3", "AF4",
    "AF8", "F5", "F1", "F2", "F6", "FT9", "FT7", "FC3", "FC4", "FT8", "FT10", "C5", "C1", "C2", "C6", "TP7", "CP3",
    "CPz", "CP4", "TP8", "P5", "P1", "P2", "P6", "PO7", "PO3", "POz", "PO4", "PO8", "Fpz", "F9", "AFF5h", "AFF1h",
    "AFF2h", "AFF6h", "F10", "FTT9h", "FTT7h", "FCC5h", "FCC3h", "FCC1h", "FCC2h", "FCC4h", "FCC6h", "FTT8h", "FTT10h",
    "TPP9h", "TPP7h", "CPP5h", "CPP3h", "CPP1h", "CPP2h", "CPP4h", "CPP6h", "TPP8h", "TPP10h", "POO9h", "POO1", "POO2",
    "POO10h", "Iz", "AFp1", "AFp2", "FFT9h", "FFT7h", "FFC5h", "FFC3h", "FFC1h", "FFC2h", "FFC4h", "FFC6h", "FFT8h",
    "FFT10h", "TTP7h", "CCP5h", "CCP3h", "CCP1h", "CCP2h", "CCP4h", "CCP6h", "TTP8h", "P9", "PPO9h", "PPO5h", "PPO1h",
    "PPO2h", "PPO6h", "PPO10h", "P10", "I1", "OI1h", "OI2h", "I2",
)  # fmt: skip
SFREQ_HZ = 1000.0
LENGTHS = (460, 600)
"""Shortest and longest trial that is used."""
WINDOW = slice(20, 460)
FACT = SourceFact(
    name="eegcvpr40",
    licence="none given; pictures are ImageNet's, for non-commercial research",
    citation="Palazzo, Spampinato, Kavasidis, Giordano, Schmidt & Shah 2020, Decoding brain representations by "
    "multimodal learning of neural activity and visual features, IEEE TPAMI, 10.1109/TPAMI.2020.2995909; Spampinato, "
    "Palazzo, Kavasidis, Giordano, Souly & Shah 2017, Deep learning human mind for automated visual "
    "classification, CVPR",
    design="block",
    truth="picture",
)
PARTS = ("train", "val", "test")
Part = Literal["train", "val", "test", "any"]


@dataclass(frozen=True)
class _Trial:
    """One row of the file."""

    row: int
    subject: str
    picture: str
    concept: str
    eeg: torch.Tensor

    @property
    def fits(self) -> bool:
        return LENGTHS[0] <= self.eeg.shape[1] <= LENGTHS[1]


class EegCvpr40Source:
    """EEGCVPR40, one recording per person; see the head of this module.

    Raises
    ------
    SourceError
        No folder.
    """

    fact = FACT

    def __init__(self, config: EegCvpr40Data, data_uri: str) -> None:
        self.findings: list[str] = []
        self._config = config
        self._root = _local_folder(data_uri, "eegcvpr40")
        self._path = self._root / config.file

    def recordings(self) -> list[RecordingRef]:
        """List the people; trials of other lengths and copies of trials are left out and reported.

        Raises
        ------
        SourceError
            A file that is missing or can not be used, or a split that does not fit it.
        """
        self.findings = ["block design: the pictures of a class were shown together, so the time of a trial tells it."]
        refs = []
        for subject in sorted({trial.subject for trial in self._trials}):
            trials = [trial for trial in self._trials if trial.subject == subject]
            odd = [f"trial {trial.row} ({trial.eeg.shape[1]})" for trial in trials if not trial.fits]
            if odd:
                self.findings.append(
                    f"sub-{subject}: {len(odd)} of {len(trials)} trials left out, not of {LENGTHS[0]} to {LENGTHS[1]} "
                    f"samples: {named(odd)}."
                )
            twins = [f"{trial.row} of {self._copies[trial.row]}" for trial in trials if trial.row in self._copies]
            if twins:
                self.findings.append(
                    f"sub-{subject}: {len(twins)} of {len(trials)} trials left out, copies: {named(twins)}."
                )
            if self._kept(subject):
                refs.append(RecordingRef(f"sub-{subject}", subject, "all", "all", str(self._path)))
        loose = sorted({trial.picture for trial in self._trials} - set(self._parts))
        if loose:
            self.findings.append(
                f"{len(loose)} pictures are in no part of split {self._config.split} of {self._config.split_file}: "
                f"{named(loose)}."
            )
        absent = [p.picture for p in self.pictures() if not self._image(p.picture).is_file()]
        if absent:
            self.findings.append(f"{len(absent)} pictures are not in images/: {named(absent)}. ImageNet has them.")
        return refs

    def read(self, ref: RecordingRef) -> CutRecording:
        """Read the trials of one person, in the order of the file.

        Raises
        ------
        RecordingError
            A value that is not finite.
        """
        kept = self._kept(ref.subject)
        rows = [trial.row for trial in kept]
        standardised = "stddevs" not in self._content
        band = re.search(r"(\d+)_(\d+)_std", self._config.file)
        history = ["samples 20 to 459 of the authors' segments; no baseline subtracted"]
        if standardised:
            history.insert(0, "standardised by the authors, mean and deviation not kept")
        if band:
            history.insert(0, f"filtered {band[1]} to {band[2]} Hz by the authors")
        return CutRecording(
            ref,
            stack(self._path, rows, [trial.eeg for trial in kept], WINDOW, CHANNELS),
            "whitened" if standardised else "uV",
            CHANNELS,
            SFREQ_HZ,
            WINDOW.start / SFREQ_HZ,
            pd.DataFrame({"picture": [trial.picture for trial in kept], "row": rows}),
            tuple(history),
        )

    def pictures(self) -> list[Picture]:
        """List the pictures of usable trials, sorted by id (their name in ImageNet)."""
        concepts: dict[str, str] = {}
        for trial in self._trials:
            if concepts.setdefault(trial.picture, trial.concept) != trial.concept:
                raise EventsError(
                    f"{self._path.name} trial {trial.row}: picture '{trial.picture}' must have one label, got "
                    f"'{trial.concept}' and '{concepts[trial.picture]}'."
                )
        shown = {trial.picture for trial in self._trials if trial.fits and trial.row not in self._copies}
        return [
            Picture(name, concepts[name], self._parts.get(name, "any"), partial(open_images, self._image(name), name))
            for name in sorted(shown)
        ]

    def _image(self, picture: str) -> Path:
        return self._root / "images" / picture.split("_")[0] / f"{picture}.JPEG"

    def _kept(self, subject: str) -> list[_Trial]:
        return [t for t in self._trials if t.subject == subject and t.fits and t.row not in self._copies]

    @cached_property
    def _content(self) -> dict[str, Any]:
        return load_trials(self._path, ("labels", "images"), ("eeg", "image", "label", "subject"))

    @cached_property
    def _trials(self) -> list[_Trial]:
        labels, images = self._content["labels"], [str(name).removesuffix(".JPEG") for name in self._content["images"]]
        for name in images:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise RecordingError(f"{self._path.name}: images must be names of ImageNet's files, got '{name}'.")
        trials = []
        for row, item in enumerate(self._content["dataset"]):
            subject = f"{whole(self._path, row, item, 'subject'):02d}"
            if self._config.subjects is not None and subject not in self._config.subjects:
                continue
            picture = images[whole(self._path, row, item, "image", len(images))]
            concept = str(labels[whole(self._path, row, item, "label", len(labels))])
            eeg = signal(self._path, row, item, "eeg", len(CHANNELS))
            trials.append(_Trial(row, subject, picture, concept, eeg))
        absent = sorted(set(self._config.subjects or ()) - {trial.subject for trial in trials})
        if absent:
            raise RecordingError(f"{self._path.name}: has no trials of subject {absent}.")
        return trials

    @cached_property
    def _copies(self) -> dict[int, int]:
        """Row of a trial -> row of an earlier one with the same EEG."""
        found = copied([trial.eeg for trial in self._trials])
        return {self._trials[n].row: self._trials[twin].row for n, twin in found.items()}

    @cached_property
    def _parts(self) -> dict[str, Part]:
        """Picture -> its part in the split."""
        path = self._root / self._config.split_file
        content = load_torch(path)
        splits = content.get("splits") if isinstance(content, dict) else None
        k = self._config.split
        if not isinstance(splits, list) or k >= len(splits) or not isinstance(splits[k], dict):
            n = len(splits) if isinstance(splits, list) else 0
            raise RecordingError(f"{path.name}: needs splits[{k}] (data.source.split), has {n} splits.")
        part_of: dict[int, str] = {}
        for part in PARTS:
            rows = splits[k].get(part)
            if not isinstance(rows, list) or not all(isinstance(row, int) and row >= 0 for row in rows):
                raise RecordingError(f"{path.name}: splits[{k}]['{part}'] must be a list of rows.")
            for row in rows:
                if part_of.setdefault(row, part) != part:
                    raise RecordingError(f"{path.name}: splits[{k}] has row {row} in both {part_of[row]} and {part}.")
        trials = self._split_rows(path.name, part_of)
        parts: dict[str, Part] = {}
        for row, part in part_of.items():
            trial = trials.get(row)
            if trial is not None and parts.setdefault(trial.picture, cast(Part, part)) != part:
                raise RecordingError(
                    f"{path.name}: splits[{k}] must be by picture, '{trial.picture}' is in both "
                    f"{parts[trial.picture]} and {part}. Does it belong to {self._path.name}?"
                )
        return parts

    def _split_rows(self, name: str, part_of: dict[int, str]) -> dict[int, _Trial]:
        """Return what a row of the split stands for: a row of the file, or of one person's part of it."""
        n_all = len(self._content["dataset"])
        largest = max(part_of, default=0)
        if largest >= n_all:
            raise RecordingError(f"{name}: splits[{self._config.split}] names row {largest}, the file has {n_all}.")
        people = sorted({trial.subject for trial in self._trials})
        if "single" not in name:
            return {trial.row: trial for trial in self._trials}
        if len(people) != 1:
            raise RecordingError(
                f"{name}: is a split of one person's trials; name the person in data.source.subjects, got {people}."
            )
        if largest >= len(self._trials):
            raise RecordingError(
                f"{name}: splits[{self._config.split}] names row {largest}, sub-{people[0]} has "
                f"{len(self._trials)} trials."
            )
        return dict(enumerate(self._trials))
