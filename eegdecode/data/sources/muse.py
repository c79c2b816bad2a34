"""Muse headband EEG as EEG-ExPy wrote it: `n170` (faces against houses) and `gratings` (eight known pictures).

Layout under ``data_uri``: ``muse/{n170,gratings}/sub-*_ses-*_run-*.csv.gz``, ``stimuli/face_house/`` and
``stimuli/gratings.json``.
Recordings and pictures: NeuroTechX/eeg-notebooks_v0.1, commit 5ee39e4f (BSD-3-Clause); the face and house pictures are
those of Haxby et al. 2001, Science 293, 2425 (CC BY-SA 3.0).

The row is the clock: 256 rows a second. The time stamps jitter and run backwards, and are not used.
"""

import gzip
import hashlib
import io
import json
import re
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import mne
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from eegdecode.batch import SourceFact
from eegdecode.config import MuseData
from eegdecode.data.sources import EventsError, Picture, PictureError, Recording, RecordingError, RecordingRef
from eegdecode.data.sources import local_folder as _local_folder
from eegdecode.data.sources.pictures import open_picture

SFREQ_HZ = 256.0
RAILS_UV = (-1000.0, 999.5)
"""Smallest and largest value the headband can write."""
MAX_SHARE_AT_RAILS = 0.01
"""A run with an electrode at a rail for more of its samples than this is saturated: evoked responses are cut off."""
MIN_MARKERS = 20
"""A run with fewer onsets is no run but a start that was given up."""
GRATING_PX = 224
GRATING_DEG = 10.0
"""The middle of the 40 degree disc: 22 px per degree draws 4.1 cycles per degree without aliasing."""
FIXATION_DEG = 0.2

_NAME = re.compile(r"(?P<subject>sub-[^_]+)_(?P<session>ses-[^_]+)_(?P<run>run-[^_.]+)\.csv\.gz")


@dataclass(frozen=True)
class _Task:
    """What differs between the two data sets: column of the file -> electrode, and what is declared about the whole."""

    electrodes: dict[str, str]
    fact: SourceFact


_HEADBAND = {"TP9": "TP9", "AF7": "AF7", "AF8": "AF8", "TP10": "TP10"}
_CITATION = "NeuroTechX/eeg-notebooks_v0.1, commit 5ee39e4f91080937ead13c208a65089cbb13b7f6"
_LICENCE = "BSD-3-Clause"

TASKS: dict[str, _Task] = {
    # Right AUX carries mostly mains here, and no electrode is documented for it.
    "n170": _Task(
        _HEADBAND,
        SourceFact(
            name="muse_n170",
            licence=f"{_LICENCE}; pictures CC BY-SA 3.0",
            citation=f"{_CITATION}; pictures: Haxby et al. 2001, Science 293, 2425-2430",
            design="event",
            truth="class",
        ),
    ),
    # Right AUX is a real electrode at POz in these files, and carries most of the signal.
    "gratings": _Task(
        {**_HEADBAND, "Right AUX": "POz"},
        SourceFact(name="muse_gratings", licence=_LICENCE, citation=_CITATION, design="event", truth="picture"),
    ),
}

_CLASSES = {1: "house", 2: "face"}
_FOLDERS = {"house": "houses", "face": "faces"}


class MuseSource:
    """One of the two Muse data sets; what is unusable is found in the files themselves and reported in `findings`.

    Raises
    ------
    SourceError
        No folder, or no recordings in it.
    """

    def __init__(self, config: MuseData, data_uri: str) -> None:
        self.task = config.task
        self.fact = TASKS[config.task].fact
        self.findings: list[str] = []
        self._root = _local_folder(data_uri, "muse")

    def recordings(self) -> list[RecordingRef]:
        """List the usable runs; byte-identical copies, saturated and nearly empty runs are left out and reported."""
        folder = self._root / "muse" / self.task
        paths = sorted(folder.glob("*.csv.gz"))
        if not paths:
            raise RecordingError(f"source muse needs muse/{self.task}/*.csv.gz in '{self._root}', found none.")
        self.findings = []
        first_with: dict[str, str] = {}
        usable = []
        for path in paths:
            ref = _reference(path)
            content = _content(path)
            digest = hashlib.sha256(content).hexdigest()
            twin = first_with.setdefault(digest, ref.key)
            complaint = (
                f"byte-identical copy of {twin} (sha256 {digest[:12]})" if twin != ref.key else self._unusable(path)
            )
            if complaint:
                self.findings.append(f"{ref.key}: left out, {complaint}.")
            else:
                usable.append(ref)
        return usable

    def read(self, ref: RecordingRef) -> Recording:
        """Read one run: rows in the order of the file at 256 Hz, volt, and one event per onset."""
        path = Path(ref.location)
        frame = self._frame(path)
        electrodes = TASKS[self.task].electrodes
        eeg_v_CT = frame[list(electrodes)].to_numpy(dtype=np.float64).T * 1e-6
        info = mne.create_info(list(electrodes.values()), SFREQ_HZ, "eeg")
        samples = _onsets(frame)
        events = pd.DataFrame({"sample": samples, "picture": self._shown(frame, samples, path)})
        return Recording(ref, mne.io.RawArray(eeg_v_CT, info, verbose="ERROR"), events)

    def pictures(self) -> list[Picture]:
        """List what was shown: two classes of twelve photographs, or eight gratings drawn from their parameters."""
        if self.task == "n170":
            return [
                Picture(name, name, "any", partial(_photographs, self._root / "stimuli" / "face_house" / folder))
                for name, folder in sorted(_FOLDERS.items())
            ]
        drawn = [
            Picture(
                condition["id"],
                condition["id"],
                "any",
                partial(
                    _grating_images, condition["spatial_frequency_cycles_per_degree"], condition["orientation_deg"]
                ),
            )
            for condition in self._conditions
        ]
        return sorted(drawn, key=lambda picture: picture.picture)

    @cached_property
    def _conditions(self) -> list[dict[str, Any]]:
        path = self._root / "stimuli" / "gratings.json"
        try:
            conditions: list[dict[str, Any]] = json.loads(path.read_text())["conditions"]
        except (OSError, ValueError, KeyError) as error:
            raise PictureError(f"{path}: must describe the eight gratings under 'conditions' ({error}).") from error
        return conditions

    def _frame(self, path: Path) -> pd.DataFrame:
        content = _content(path)
        needed = [*TASKS[self.task].electrodes, "Marker0", *(["Marker2"] if self.task == "gratings" else [])]
        try:
            frame = pd.read_csv(io.BytesIO(content), usecols=needed, dtype=np.float64)
        except ValueError as error:
            raise RecordingError(f"{path.name}: must be a CSV with numeric columns {needed} ({error}).") from error
        if frame.empty:
            raise RecordingError(f"{path.name}: has no samples.")
        if frame["Marker0"].isna().any():
            row = int(np.flatnonzero(frame["Marker0"].isna())[0])
            raise RecordingError(f"{path.name}: column Marker0 is empty at sample {row}; the file was cut or altered.")
        return frame

    def _unusable(self, path: Path) -> str:
        frame = self._frame(path)
        eeg_uv = frame[list(TASKS[self.task].electrodes)]
        share = ((eeg_uv <= RAILS_UV[0]) | (eeg_uv >= RAILS_UV[1])).mean()
        n_markers = len(_onsets(frame))
        reasons = []
        if share.max() > MAX_SHARE_AT_RAILS:
            reasons.append(
                f"saturated: {share.idxmax()} is at the rail in {share.max():.0%} of the samples "
                f"(limit {MAX_SHARE_AT_RAILS:.0%})"
            )
        if n_markers < MIN_MARKERS:
            reasons.append(f"nearly empty: {n_markers} markers (at least {MIN_MARKERS})")
        return "; ".join(reasons)

    def _shown(self, frame: pd.DataFrame, samples: npt.NDArray[np.int64], path: Path) -> list[str]:
        codes = frame["Marker0"].to_numpy()[samples].astype(int)
        if self.task == "n170":
            return [_CLASSES[code] for code in codes]
        orientations = frame["Marker2"].to_numpy()[samples].astype(int)
        names = {(c["onset"]["Marker0"], c["onset"]["Marker2"]): str(c["id"]) for c in self._conditions}
        shown = []
        for sample, code in zip(samples, zip(codes.tolist(), orientations.tolist(), strict=True), strict=True):
            if code not in names:
                raise EventsError(
                    f"{path.name}: Marker0, Marker2 at sample {sample} must be those of a condition in gratings.json, "
                    f"got {code}."
                )
            shown.append(names[code])
        return shown


def draw_grating(cycles_per_degree: float, orientation_deg: float) -> Image.Image:
    """Draw the middle 10 degrees of a grating at 224 px, with the fixation square.

    Cosine phase at the centre; orientation clockwise from vertical bars, y down (``stimuli/gratings.json``).
    """
    axis_deg = (np.arange(GRATING_PX) + 0.5 - GRATING_PX / 2) * (GRATING_DEG / GRATING_PX)
    x_deg, y_deg = np.meshgrid(axis_deg, axis_deg)
    theta = np.deg2rad(orientation_deg)
    value = np.cos(2 * np.pi * cycles_per_degree * (x_deg * np.cos(theta) + y_deg * np.sin(theta)))
    grey = np.rint((value + 1) / 2 * 255).astype(np.uint8)
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    rgb[(np.abs(x_deg) <= FIXATION_DEG / 2) & (np.abs(y_deg) <= FIXATION_DEG / 2)] = (255, 128, 128)
    return Image.fromarray(rgb)


def _grating_images(cycles_per_degree: float, orientation_deg: float) -> list[Image.Image]:
    return [draw_grating(cycles_per_degree, orientation_deg)]


def _photographs(folder: Path) -> list[Image.Image]:
    paths = sorted(folder.glob("*.jpg"))
    if not paths:
        raise PictureError(f"source muse needs photographs in '{folder}', found none.")
    return [open_picture(path, path.name) for path in paths]


def _reference(path: Path) -> RecordingRef:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise RecordingError(f"{path.name}: must be named sub-SUBJECT_ses-SESSION_run-RUN.csv.gz.")
    key = path.name.removesuffix(".csv.gz")
    return RecordingRef(key, match["subject"], match["session"], match["run"], str(path))


def _content(path: Path) -> bytes:
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise RecordingError(f"{path.name}: unreadable or truncated gzip file ({error}).") from error
    if not content:
        raise RecordingError(f"{path.name}: is empty.")
    return content


def _onsets(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    # 1 and 2 are onsets in both tasks; 3 and 4 are the offsets of the gratings.
    return np.flatnonzero(frame["Marker0"].isin((1, 2)).to_numpy()).astype(np.int64)
