"""Any recording that MNE reads, with a table of events beside it.

Layout under ``data_uri``::

    NAME.edf | .bdf | .vhdr (+ .eeg) | .set (+ .fdt) | .fif        one recording, at any depth, except in pictures/
    NAME_events.tsv | NAME_events.csv                              beside it, one row a trial
    pictures/                                                      the images, in folders if wanted

Columns of the events: ``onset`` (seconds from the first sample), ``picture`` (file below ``pictures/``); optional are
``concept`` (else the picture's folder, else its name), ``partition`` (train or test), ``subject``, ``session`` and
``run``. Where these are not columns they come from BIDS entities in NAME (``sub-01_ses-02_run-03``), else subject is
NAME. Rows of several sessions or runs in one table become several recordings that share the file.
"""

import hashlib
import re
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import mne
import numpy as np
import pandas as pd

from eegdecode.batch import SourceFact
from eegdecode.config import MneData
from eegdecode.data.sources import (
    DuplicateError,
    EventsError,
    Picture,
    PictureError,
    Recording,
    RecordingError,
    RecordingRef,
)
from eegdecode.data.sources import local_folder as _local_folder
from eegdecode.data.sources.pictures import open_images

SUFFIXES = (".edf", ".bdf", ".vhdr", ".set", ".fif")
PICTURES = "pictures"
Partition = Literal["train", "test", "any"]


@dataclass(frozen=True)
class _Run:
    """One recording of the source: its file and its rows of the events table."""

    ref: RecordingRef
    path: Path
    table: Path
    events: pd.DataFrame


class TabularSource:
    """A folder of recordings with events tables; see the head of this module.

    Raises
    ------
    SourceError
        No folder, or no recordings in it.
    """

    def __init__(self, data_uri: str) -> None:
        self._root = _local_folder(data_uri, "mne")
        self.fact = SourceFact(
            name=f"mne:{self._root.resolve().name}",
            licence="that of the files given",
            citation="none given",
            design="event",
            truth="picture",
        )
        self.findings: list[str] = []

    def recordings(self) -> list[RecordingRef]:
        """List the runs, sorted by key; tables are read and checked, recordings are only hashed.

        Raises
        ------
        SourceError
            A file or table that can not be used, the same recording twice, or a picture that does not exist.
        """
        first_with: dict[str, Path] = {}
        runs: dict[str, _Run] = {}
        for path in self._paths():
            twin = first_with.setdefault(_content_digest(path), path)
            if twin != path:
                raise DuplicateError(
                    f"'{path.relative_to(self._root)}' has the same content as '{twin.relative_to(self._root)}': "
                    "the same trials would be on both sides of a split. Remove one."
                )
            for run in self._split(path):
                if run.ref.key in runs:
                    raise DuplicateError(
                        f"{run.table.name}: recording '{run.ref.key}' must be there once, also given by "
                        f"{runs[run.ref.key].table.name}. Name another subject, session or run."
                    )
                runs[run.ref.key] = run
        return [runs[key].ref for key in sorted(runs)]

    def read(self, ref: RecordingRef) -> Recording:
        """Read one run.

        Raises
        ------
        RecordingError
            A file that is unreadable, truncated or empty.
        EventsError
            An event past the end of the recording.
        """
        run = next(run for run in self._split(Path(ref.location)) if run.ref == ref)
        raw = _open(run.path)
        sfreq_hz = float(raw.info["sfreq"])
        samples = np.rint(run.events["onset"].to_numpy(dtype=np.float64) * sfreq_hz).astype(np.int64)
        late = np.flatnonzero(samples >= raw.n_times)
        if late.size:
            row = run.events.index[late[0]]
            raise EventsError(
                f"{run.table.name} row {row}: onset must lie in {run.path.name} ({raw.n_times / sfreq_hz:g} s), "
                f"got {run.events['onset'][row]:g} s ({late.size} such)."
            )
        events = pd.DataFrame({"sample": samples, "picture": run.events["picture"].to_numpy()})
        return Recording(ref, raw, events)

    def pictures(self) -> list[Picture]:
        """List the pictures that the tables name, sorted by id.

        Raises
        ------
        EventsError
            A picture with two concepts or two partitions.
        """
        facts: dict[str, tuple[str, str]] = {}
        for run in (run for path in self._paths() for run in self._split(path)):
            for row in run.events[["picture", "concept", "partition"]].drop_duplicates().itertuples():
                fact = (str(row.concept), str(row.partition))
                if facts.setdefault(str(row.picture), fact) != fact:
                    raise EventsError(
                        f"{run.table.name} row {row.Index}: picture '{row.picture}' must have one concept and one "
                        f"partition, got {fact} and {facts[str(row.picture)]}."
                    )
        folder = self._root / PICTURES
        return [
            Picture(name, concept, cast(Partition, partition), partial(open_images, folder / name, name))
            for name, (concept, partition) in sorted(facts.items())
        ]

    def _paths(self) -> list[Path]:
        paths = sorted(
            path
            for path in self._root.rglob("*")
            if path.suffix.lower() in SUFFIXES and PICTURES not in path.relative_to(self._root).parts
        )
        if not paths:
            raise RecordingError(f"source mne needs recordings ({', '.join(SUFFIXES)}) in '{self._root}', found none.")
        return paths

    def _split(self, path: Path) -> list[_Run]:
        table, events = _events(path, self._root / PICTURES)
        runs = []
        for (subject, session, run), rows in events.groupby(["subject", "session", "run"], sort=True):
            key = f"{subject}_{session}_{run}"
            twice = rows.index[rows["onset"].duplicated()]
            if len(twice):
                raise DuplicateError(
                    f"{table.name} row {twice[0]}: a trial is known by its recording and onset, got "
                    f"{rows['onset'][twice[0]]:g} s twice in '{key}'."
                )
            ref = RecordingRef(key, str(subject), str(session), str(run), str(path))
            runs.append(_Run(ref, path, table, rows.sort_values("onset", kind="stable")))
        return runs


def _events(path: Path, pictures: Path) -> tuple[Path, pd.DataFrame]:
    tables = [path.with_name(f"{path.stem}_events{suffix}") for suffix in (".tsv", ".csv")]
    found = [table for table in tables if table.is_file()]
    if len(found) != 1:
        raise EventsError(
            f"{path.name} needs one events table, {tables[0].name} or {tables[1].name} beside it, found {len(found)}."
        )
    table = found[0]
    try:
        events = pd.read_csv(table, sep="\t" if table.suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
    except ValueError as error:
        raise EventsError(f"{table.name}: must be a table with a header line ({error}).") from error
    for column in ("onset", "picture"):
        if column not in events.columns:
            raise EventsError(f"{table.name}: needs the column '{column}', has {list(events.columns)}.")
    if events.empty:
        raise EventsError(f"{table.name}: has no rows.")
    # Rows are named as an editor shows them: the header is line 1.
    events.index = pd.RangeIndex(2, len(events) + 2)
    onset_s = pd.to_numeric(events["onset"], errors="coerce")
    wrong = events.index[~np.isfinite(onset_s) | (onset_s < 0)]
    if len(wrong):
        raise EventsError(
            f"{table.name} row {wrong[0]}: onset must be a number of seconds from 0 on, "
            f"got '{events['onset'][wrong[0]]}'."
        )
    events["onset"] = onset_s
    _check_pictures(events, table, pictures)
    for column, default in _defaults(path.stem).items():
        if column not in events.columns:
            events[column] = default
    if "concept" not in events.columns:
        events["concept"] = [_concept(name) for name in events["picture"]]
    if "partition" not in events.columns:
        events["partition"] = "any"
    for column in ("concept", "subject", "session", "run", "partition"):
        empty = events.index[events[column].str.strip() == ""]
        if len(empty):
            raise EventsError(f"{table.name} row {empty[0]}: {column} must not be empty.")
    odd = events.index[~events["partition"].isin(("train", "test", "any"))]
    if len(odd):
        raise EventsError(
            f"{table.name} row {odd[0]}: partition must be train, test or any, got '{events['partition'][odd[0]]}'."
        )
    return table, events


def _check_pictures(events: pd.DataFrame, table: Path, pictures: Path) -> None:
    for row, name in events["picture"].drop_duplicates().items():
        inside = name and not Path(name).is_absolute() and ".." not in Path(name).parts
        if not inside:
            raise PictureError(f"{table.name} row {row}: picture must name a file below {PICTURES}/, got '{name}'.")
        if not (pictures / name).is_file():
            raise PictureError(f"{table.name} row {row}: picture '{name}' does not exist in {PICTURES}/.")


def _defaults(stem: str) -> dict[str, str]:
    entities = {short: value for short in ("sub", "ses", "run") if (value := _entity(stem, short))}
    return {
        "subject": entities.get("sub", stem),
        "session": entities.get("ses", "ses-01"),
        "run": entities.get("run", "run-01"),
    }


def _entity(stem: str, short: str) -> str:
    match = re.search(rf"(?:^|_)({short}-[^_]+)", stem)
    return match[1] if match else ""


def _concept(picture: str) -> str:
    path = Path(picture)
    return path.parent.name or path.stem


def _data_file(path: Path) -> Path:
    """Return the file with the samples: BrainVision and EEGLAB may keep them beside the header."""
    if path.suffix.lower() == ".vhdr":
        match = re.search(r"^DataFile\s*=\s*(.+?)\s*$", path.read_text(encoding="utf-8", errors="replace"), re.M)
        if match is None:
            raise RecordingError(f"{path.name}: header without DataFile; it is truncated or no BrainVision header.")
        data = path.with_name(match[1].replace("$b", path.stem))
        if not data.is_file():
            raise RecordingError(f"{path.name}: its data file '{data.name}' does not exist.")
        return data
    beside = path.with_suffix(".fdt")
    return beside if path.suffix.lower() == ".set" and beside.is_file() else path


def _content_digest(path: Path) -> str:
    data = _data_file(path)
    for file in (path, data):
        if file.stat().st_size == 0:
            raise RecordingError(f"{file.name}: is empty.")
    with data.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _open(path: Path) -> mne.io.BaseRaw:
    if path.suffix.lower() in (".edf", ".bdf"):
        _check_edf_length(path)
    with warnings.catch_warnings():
        # Notes on the header (units, filters, dates) are the file's own matter; what makes data unusable is checked.
        warnings.simplefilter("ignore")
        try:
            raw = mne.io.read_raw(path, preload=True, verbose="ERROR")
        # MNE's readers fail on broken files with whatever they stumble over (IndexError, struct.error, MatReadError).
        except Exception as error:
            raise RecordingError(
                f"{path.name}: unreadable or truncated ({type(error).__name__}: {str(error)[:200]})."
            ) from error
    if raw.n_times == 0:
        raise RecordingError(f"{path.name}: has no samples.")
    if path.suffix.lower() == ".vhdr":
        _check_brainvision_length(path, raw)
    return raw


def _check_edf_length(path: Path) -> None:
    """Refuse an EDF or BDF file that is shorter than its header says: MNE would read what is there without a word."""
    bytes_per_sample = 3 if path.suffix.lower() == ".bdf" else 2
    try:
        with path.open("rb") as stream:
            head = stream.read(256)
            n_records, n_signals = int(head[236:244]), int(head[252:256])
            signals = stream.read(256 * n_signals)
        per_record = sum(int(signals[216 * n_signals + 8 * i :][:8]) for i in range(n_signals))
        n_head = int(head[184:192])
    except ValueError as error:
        raise RecordingError(f"{path.name}: unreadable or truncated header ({error}).") from error
    expected = n_head + n_records * per_record * bytes_per_sample
    size = path.stat().st_size
    # -1 records: the recording was not closed properly, its length is not known from the header.
    if n_records >= 0 and size < expected:
        raise RecordingError(
            f"{path.name}: truncated, its header announces {expected} bytes ({n_records} records), the file has {size}."
        )


def _check_brainvision_length(path: Path, raw: mne.io.BaseRaw) -> None:
    text = path.read_text(encoding="utf-8", errors="replace")
    data = _data_file(path)
    width = {"INT_16": 2, "INT_32": 4, "IEEE_FLOAT_32": 4}
    encoding = re.search(r"^BinaryFormat\s*=\s*(\w+)", text, re.M)
    channels = re.search(r"^NumberOfChannels\s*=\s*(\d+)", text, re.M)
    points = re.search(r"^DataPoints\s*=\s*(\d+)", text, re.M)
    if encoding and channels and (frame := width.get(encoding[1], 0) * int(channels[1])):
        size = data.stat().st_size
        if size % frame:
            raise RecordingError(
                f"{data.name}: truncated, {size} bytes are no whole number of samples of {channels[1]} channels."
            )
    if points and int(points[1]) != raw.n_times:
        raise RecordingError(
            f"{data.name}: truncated, {path.name} announces {points[1]} samples, the file has {raw.n_times}."
        )
    # The header need not say how long the data are, but markers past the end tell that some are missing. MNE drops
    # those silently, so they are counted in the marker file itself.
    markers = re.search(r"^MarkerFile\s*=\s*(.+?)\s*$", text, re.M)
    marker_file = path.with_name(markers[1].replace("$b", path.stem)) if markers else None
    if marker_file is None or not marker_file.is_file():
        return
    marked = re.findall(r"^Mk\d+=[^,]*,[^,]*,(\d+)", marker_file.read_text(encoding="utf-8", errors="replace"), re.M)
    last = max((int(sample) for sample in marked), default=0)
    if last > raw.n_times:
        raise RecordingError(
            f"{data.name}: truncated, {marker_file.name} has a marker at sample {last}, the file ends at {raw.n_times}."
        )


def open_tabular(config: MneData, data_uri: str) -> TabularSource:
    """Return the source of a folder with `events` tables; it has nothing to configure."""
    return TabularSource(data_uri)
