"""THINGS-EEG2 (Gifford et al. 2022): ten people, 16540 training and 200 test pictures in rapid succession.

Layouts under ``data_uri`` or under one folder in it; ``sub-XX`` stands for each person::

    raw          sub-XX/ses-YY/raw_eeg_{training,test}.npy                    continuous, 1000 Hz, volt, with codes
    gifford      sub-XX/preprocessed_eeg_{training,test}.npy                  17 channels, 100 Hz
    nice         sub-XX/preprocessed_eeg_{training,test}.npy                  63 channels, 250 Hz (NICE, ATM)
    ubp          sub-XX/{train,test}.pt                                       63 channels, 250 Hz, float16
    neurobridge  info.json, sub-XX/{train,test}.npy                           63 channels, 250 Hz (NeuroBridge, SAMGA)
    enigma       sub-XX/preprocessed_eeg_{training,test}_flat.npy, experiment_metadata.parquet
    all          image_metadata.npy (but ubp and enigma), training_images/, test_images/

All but `raw` come cut, baseline-corrected and noise-normalised; see `eegdecode.data.sources.things_eeg2_cut`.
The training files of `raw` are five recordings one after the other, without a mark where they meet.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import mne
import numpy as np
import numpy.typing as npt
import pandas as pd

from eegdecode.batch import SourceFact
from eegdecode.config import ThingsEeg2Data
from eegdecode.data.sources import (
    CutRecording,
    DuplicateError,
    EventsError,
    Picture,
    Recording,
    RecordingError,
    RecordingRef,
)
from eegdecode.data.sources import local_folder as _local_folder
from eegdecode.data.sources import things_eeg2_cut as cut
from eegdecode.data.sources import things_eeg2_pictures as pictures
from eegdecode.data.sources.things_eeg2_pictures import Part, Shown

TARGET_CODE = 99999
"""A catch trial: the person answered to a special picture. It is no trial of any picture."""
FACT = SourceFact(
    name="things_eeg2",
    licence="CC-BY-4.0",
    citation="Gifford, Dwivedi, Roig & Cichy 2022, A large and rich EEG dataset for modeling human visual object "
    "recognition, NeuroImage 264, 119754",
    design="rapid",
    truth="picture",
)
PARTS: dict[str, Part] = {"training": "train", "test": "test"}
"""Name of a run -> part of the pictures it shows."""
_RAW_FILES = {"training": "ses-*/raw_eeg_training.npy", "test": "ses-*/raw_eeg_test.npy"}
_PROBE_BYTES = 1 << 16


class ThingsEeg2Source:
    """THINGS-EEG2 in one layout; see the head of this module.

    Raises
    ------
    SourceError
        No folder.
    """

    fact = FACT

    def __init__(self, config: ThingsEeg2Data, data_uri: str) -> None:
        self.layout = config.layout
        self.findings: list[str] = []
        self._root = _local_folder(data_uri, "things_eeg2")
        self._wanted = config.subjects

    def recordings(self) -> list[RecordingRef]:
        """List the files, one recording each; copies and runs without events are left out and reported.

        Of raw recordings the channel with the codes is read and checked; nothing else is.

        Raises
        ------
        SourceError
            No subject, a subject that was asked for and is not there, the same run twice, impossible codes.
        """
        refs = self._refs
        twins = _copies([Path(ref.location) for ref in refs])
        self.findings = self._missing(refs)
        usable = []
        for ref in refs:
            if Path(ref.location) in twins:
                twin = next(other for other in refs if Path(other.location) == twins[Path(ref.location)])
                self.findings.append(f"{ref.key}: left out, byte-identical copy of {twin.key}.")
                continue
            if self.layout == "raw":
                events, n_targets = self._events(ref, _Raw(Path(ref.location)))
                if n_targets:
                    self.findings.append(
                        f"{ref.key}: {n_targets} of {n_targets + len(events)} events are catch trials (code "
                        f"{TARGET_CODE}) and no trials of a picture."
                    )
                if events.empty:
                    self.findings.append(f"{ref.key}: left out, shows no picture.")
                    continue
            usable.append(ref)
        return usable

    def read(self, ref: RecordingRef) -> Recording | CutRecording:
        """Read one file; the values of a large one stay in it until they are used.

        Raises
        ------
        SourceError
            A file that can not be used; the message names it and what must hold.
        """
        if self.layout != "raw":
            part = PARTS[ref.run]
            return cut.read(self.layout, ref, part, () if self.layout in cut.NAMES_PICTURES else self._ordered[part])
        raw = _Raw(Path(ref.location))
        events, _ = self._events(ref, raw)
        info = mne.create_info(list(raw.channels), raw.sfreq_hz, "eeg")
        return Recording(ref, mne.io.RawArray(raw.eeg_v_CT, info, verbose="ERROR"), events)

    def pictures(self) -> list[Picture]:
        """List all pictures, shown or not, sorted by id; none is opened.

        Raises
        ------
        PictureError
            No `image_metadata.npy`, or one that contradicts itself.
        """
        return pictures.listed(self._root, [one for listed in self._ordered.values() for one in listed])

    @cached_property
    def _ordered(self) -> dict[Part, list[Shown]]:
        """Pictures of each part, in the order of the codes where the layout has codes."""
        if self.layout not in cut.NAMES_PICTURES:
            return pictures.read_metadata(self._root)
        named: set[Shown] = set()
        for ref in self._refs:
            named.update(cut.names(self.layout, ref, PARTS[ref.run]))
        pictures.check(sorted(named, key=lambda one: (one.picture, one.part, one.concept)), self.layout)
        return {part: [one for one in named if one.part == part] for part in PARTS.values()}

    @cached_property
    def _refs(self) -> list[RecordingRef]:
        files = _RAW_FILES if self.layout == "raw" else cut.FILES[self.layout]
        found: dict[str, RecordingRef] = {}
        present = set()
        for run, path in _find(self._root, files):
            inside = path.relative_to(self._root)
            subject, session = _entity(inside, "sub"), _entity(inside, "ses") or "all"
            present.add(subject)
            if self._wanted is not None and subject not in self._wanted:
                continue
            key = f"sub-{subject}_ses-{session}_run-{run}"
            if key in found:
                raise DuplicateError(
                    f"'{path}' and '{found[key].location}' are both {key}. Let compute.data_uri name the folder of one."
                )
            found[key] = RecordingRef(key, subject, session, run, str(path))
        absent = sorted(set(self._wanted or ()) - present)
        if absent or not found:
            looked = " or ".join(f"sub-*/{tail}" for tail in files.values())
            raise RecordingError(
                f"source things_eeg2, layout '{self.layout}', needs {looked} in '{self._root}' or a folder in it, "
                f"found {f'no subject {absent}, only {sorted(present)}' if absent and present else 'none'}."
            )
        return [found[key] for key in sorted(found)]

    def _missing(self, refs: list[RecordingRef]) -> list[str]:
        runs = Counter((ref.subject, ref.session) for ref in refs)
        return [
            f"sub-{ref.subject}_ses-{ref.session}: has a {ref.run} file only."
            for ref in refs
            if runs[ref.subject, ref.session] == 1
        ]

    def _events(self, ref: RecordingRef, raw: "_Raw") -> tuple[pd.DataFrame, int]:
        """Return onsets of pictures, and how many catch trials there were."""
        shown = self._ordered[PARTS[ref.run]]
        samples, codes = raw.onsets()
        impossible = np.flatnonzero((codes != TARGET_CODE) & ((codes < 1) | (codes > len(shown))))
        if impossible.size:
            at = impossible[0]
            raise EventsError(
                f"{ref.key}: codes must be 1 to {len(shown)} (rows of {pictures.METADATA}, {ref.run}) or "
                f"{TARGET_CODE}, got {codes[at]} at sample {samples[at]} ({impossible.size} such). "
                "Does the image set belong to it?"
            )
        kept = codes != TARGET_CODE
        ids = [shown[code - 1].picture for code in codes[kept]]
        return pd.DataFrame({"sample": samples[kept], "picture": pd.Series(ids, dtype=object)}), int((~kept).sum())


class _Raw:
    """A raw file: its values, mapped, and what its dictionary says about them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = cut.dictionary(path, ("raw_eeg_data", "ch_names", "ch_types", "sfreq"))
        values_CT = cut.values(path, "raw_eeg_data", content["raw_eeg_data"], 2)
        names, types = list(map(str, content["ch_names"])), list(map(str, content["ch_types"]))
        if not len(names) == len(types) == len(values_CT):
            raise RecordingError(
                f"{path.name}: ch_names, ch_types and the rows of raw_eeg_data must be as many, got {len(names)}, "
                f"{len(types)} and {len(values_CT)}."
            )
        if types.count("stim") != 1 or set(types) - {"eeg", "stim"}:
            raise RecordingError(f"{path.name}: ch_types must be eeg and one stim, got {dict(Counter(types))}.")
        self._values_CT, self._stim = values_CT, types.index("stim")
        self.channels = cut.channels(path, [name for name, kind in zip(names, types, strict=True) if kind == "eeg"])
        self.sfreq_hz = float(content["sfreq"])
        if not self.sfreq_hz > 0:
            raise RecordingError(f"{path.name}: sfreq must be above 0 Hz, got {self.sfreq_hz}.")

    @property
    def eeg_v_CT(self) -> np.ndarray:
        """Volt, as MNE read the BrainVision recordings; a part of the map where the stim channel comes last."""
        last = self._stim == len(self._values_CT) - 1
        return self._values_CT[:-1] if last else np.delete(self._values_CT, self._stim, axis=0)

    def onsets(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return samples at which the code rises from 0, and the codes."""
        stim_T = np.asarray(self._values_CT[self._stim])
        odd = np.flatnonzero((stim_T != np.floor(stim_T)) | (stim_T < 0))
        if odd.size:
            raise EventsError(
                f"{self.path}: the stim channel must hold whole numbers from 0 on, got {stim_T[odd[0]]} at sample "
                f"{odd[0]}."
            )
        change = np.flatnonzero((np.diff(stim_T, prepend=0) != 0) & (stim_T != 0))
        before = np.where(change > 0, stim_T[change - 1], 0)
        touching = change[before != 0]
        if touching.size:
            raise EventsError(
                f"{self.path}: the stim channel must return to 0 between pictures, it goes from "
                f"{stim_T[touching[0] - 1]:g} to {stim_T[touching[0]]:g} at sample {touching[0]}."
            )
        return change.astype(np.int64), stim_T[change].astype(np.int64)


def _find(root: Path, files: dict[str, str]) -> Iterable[tuple[str, Path]]:
    for run, tail in files.items():
        for place in ("", "*/"):
            yield from ((run, path) for path in sorted(root.glob(f"{place}sub-*/{tail}")))


def _entity(path: Path, short: str) -> str:
    found = [match[1] for name in path.parent.parts if (match := re.fullmatch(rf"{short}-(.+)", name))]
    return found[-1] if found else ""


def _copies(paths: list[Path]) -> dict[Path, Path]:
    """Return each file that is byte for byte another -> that other one.

    A whole file is read only if another one has its size, beginning, middle and end: the dataset has 126 GB.
    """
    alike: dict[tuple[int, bytes], list[Path]] = {}
    for path in paths:
        alike.setdefault(_probe(path), []).append(path)
    first: dict[str, Path] = {}
    copies = {}
    for path in (path for group in alike.values() if len(group) > 1 for path in group):
        with path.open("rb") as stream:
            twin = first.setdefault(hashlib.file_digest(stream, "sha256").hexdigest(), path)
        if twin != path:
            copies[path] = twin
    return copies


def _probe(path: Path) -> tuple[int, bytes]:
    size = path.stat().st_size
    probe = hashlib.sha256()
    with path.open("rb") as stream:
        for start in (0, size // 2, max(0, size - _PROBE_BYTES)):
            stream.seek(start)
            probe.update(stream.read(_PROBE_BYTES))
    return size, probe.digest()


def open_things_eeg2(config: ThingsEeg2Data, data_uri: str) -> ThingsEeg2Source:
    """Return the source of a folder with THINGS-EEG2 in the layout that the configuration names."""
    return ThingsEeg2Source(config, data_uri)
