r"""A BIDS-EEG folder (BIDS 1.x, ``eeg/``), read through mne-bids.

Used of it: the recording (EDF, BDF, BrainVision, EEGLAB) with its ``channels.tsv``; ``events.tsv``, which alone says
what was shown when; ``stimuli/``; ``participants.tsv``; ``dataset_description.json`` for licence and citation.
Annotations inside the recordings are not used.

A row of events.tsv is a trial if its column `picture_column` (``stim_file``, the column of the standard) names a
picture: a path below ``stimuli/`` or below the dataset, or the name of a file in ``stimuli/`` without its suffix. Other
rows are counted in the findings. Optional columns: `concept_column` (else the picture's folder, else its name) and
``partition`` (train, val or test).

Where a published dataset departs from BIDS, this is known by its DOI and need not be configured:

* THINGS-EEG1, ds003825 (Grootswagers et al. 2022, Scientific Data 9, 3): 50 people, 63 channels (127 in subjects 49 and
  50), 1000 Hz, a picture every 100 ms. `onset` and `duration` are in milliseconds. The picture is the column ``stim``,
  with backslashes (``stimuli\aardvark\aardvark_01b.jpg``). The column ``object`` is -1 in the 2400 rows of the 200
  validation pictures (``isteststim`` of 1), so concepts come from the folders. Validation pictures are of concepts that
  the other pictures show too. The pictures do not come with the dataset: put those of THINGS into ``stimuli/``.
"""

import json
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import mne
import mne_bids
import numpy as np
import pandas as pd

from eegdecode.batch import SourceFact
from eegdecode.config import BidsData
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
from eegdecode.data.sources.files import copies
from eegdecode.data.sources.pictures import open_images
from eegdecode.data.sources.tabular import SUFFIXES, _check_brainvision_length, _check_edf_length, _concept, _data_file

STIMULI = "stimuli"
ABSENT = ("", "n/a")
"""What BIDS writes where there is no value."""
Partition = Literal["train", "val", "test", "any"]


@dataclass(frozen=True)
class _Known:
    """How a published dataset departs from BIDS, and what its description does not say."""

    name: str
    citation: str
    design: Literal["rapid", "block", "event"]
    picture_column: str
    onset_unit: Literal["s", "ms", "sample"]
    test_column: str
    """Column that is 1 where the picture is of the test part."""


KNOWN: dict[str, _Known] = {
    "ds003825": _Known(
        name="things_eeg1",
        citation="Grootswagers, Zhou, Robinson, Hebart & Carlson 2022, Human EEG recordings for 1,854 concepts "
        "presented in rapid serial visual presentation streams, Scientific Data 9, 3",
        design="rapid",
        picture_column="stim",
        onset_unit="ms",
        test_column="isteststim",
    )
}
"""Accession number in the DatasetDOI -> departures."""


@dataclass(frozen=True)
class _Run:
    """One recording, the rows of its table that show a picture, and how many others there are of each kind."""

    ref: RecordingRef
    path: Path
    table: Path
    events: pd.DataFrame
    others: Counter[str]


class BidsSource:
    """A BIDS dataset; see the head of this module.

    Raises
    ------
    SourceError
        No folder, or one without a valid `dataset_description.json`.
    """

    def __init__(self, config: BidsData, data_uri: str) -> None:
        self.findings: list[str] = []
        self._root = _local_folder(data_uri, "bids")
        described = _description(self._root)
        doi = str(described.get("DatasetDOI", ""))
        known = next((known for number, known in KNOWN.items() if number in doi), None)
        self._test_column = known.test_column if known else None
        self._column = config.picture_column or (known.picture_column if known else "stim_file")
        self._unit = config.onset_unit or (known.onset_unit if known else "s")
        self._config = config
        self._places: dict[str, tuple[str, Path]] = {}
        self.fact = SourceFact(
            name=known.name if known else f"bids:{described.get('Name', self._root.resolve().name)}",
            licence=str(described.get("License") or "not stated in dataset_description.json"),
            citation="; ".join(filter(None, (known.citation, doi))) if known else _citation(described),
            design=known.design if known else "event",
            truth="picture",
        )

    def recordings(self) -> list[RecordingRef]:
        """List the runs, sorted by name; copies and runs that show no picture are left out and reported.

        Raises
        ------
        SourceError
            No recording, a subject that was asked for and is not there, a table that can not be used, or a picture
            that does not exist.
        """
        runs = {_data_file(run.path): run for run in self._runs}
        twins = copies(runs)
        self.findings = self._remarks()
        usable = []
        for path, run in runs.items():
            if path in twins:
                self.findings.append(f"{run.ref.key}: left out, byte-identical copy of {runs[twins[path]].ref.key}.")
                continue
            if run.others:
                kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(run.others.items()))
                self.findings.append(
                    f"{run.ref.key}: {run.others.total()} of {run.others.total() + len(run.events)} events name no "
                    f"picture in column '{self._column}' ({kinds})."
                )
            if run.events.empty:
                self.findings.append(f"{run.ref.key}: left out, shows no picture.")
                continue
            usable.append(run.ref)
        return usable

    def read(self, ref: RecordingRef) -> Recording:
        """Read one run.

        Raises
        ------
        RecordingError
            A file that is unreadable, truncated or empty, or of another rate than its description says.
        EventsError
            An event past the end of the recording.
        DuplicateError
            Two pictures at one sample.
        """
        run = self._run(Path(ref.location))
        raw = self._open(run.path)
        sfreq_hz = float(raw.info["sfreq"])
        per_unit = {"s": sfreq_hz, "ms": sfreq_hz / 1000, "sample": 1.0}[self._unit]
        samples = np.rint(run.events["onset"].to_numpy(dtype=np.float64) * per_unit).astype(np.int64)
        late = np.flatnonzero(samples >= raw.n_times)
        if late.size:
            row = run.events.index[late[0]]
            raise EventsError(
                f"{run.table.name} row {row}: onset must lie in {run.path.name} ({raw.n_times / sfreq_hz:g} s), got "
                f"{run.events['onset'][row]:g} {self._unit} ({late.size} such). If the table does not count in "
                f"{self._unit}, set data.source.onset_unit."
            )
        twice = np.flatnonzero(np.diff(samples) == 0)
        if twice.size:
            row = run.events.index[twice[0] + 1]
            raise DuplicateError(
                f"{run.table.name} row {row}: a trial is known by its recording and onset, got "
                f"{run.events['onset'][row]:g} {self._unit} twice."
            )
        return Recording(ref, raw, pd.DataFrame({"sample": samples, "picture": run.events["picture"].to_numpy()}))

    def pictures(self) -> list[Picture]:
        """List the pictures that the tables name, sorted by id (path below ``stimuli/``).

        Raises
        ------
        EventsError
            A picture with two concepts or two partitions.
        """
        facts: dict[str, tuple[str, str, str]] = {}
        for run in self._runs:
            for row in run.events[["picture", "concept", "partition", "file"]].drop_duplicates().itertuples():
                fact = (str(row.concept), str(row.partition), str(row.file))
                known = facts.setdefault(str(row.picture), fact)
                if known[:2] != fact[:2]:
                    raise EventsError(
                        f"{run.table.name} row {row.Index}: picture '{row.picture}' must have one concept and one "
                        f"partition, got {fact[:2]} and {known[:2]}."
                    )
        return [
            Picture(name, concept, cast(Partition, partition), partial(open_images, Path(file), name))
            for name, (concept, partition, file) in sorted(facts.items())
        ]

    @cached_property
    def _runs(self) -> list[_Run]:
        paths = sorted(
            Path(found.fpath)
            for found in mne_bids.find_matching_paths(
                self._root,
                tasks=self._config.task,
                suffixes="eeg",
                extensions=list(SUFFIXES),
                datatypes="eeg",
                ignore_nosub=True,
            )
        )
        present = {path.name.split("_")[0].removeprefix("sub-") for path in paths}
        absent = sorted(set(self._config.subjects or ()) - present)
        if absent or not paths:
            task = f" of task '{self._config.task}'" if self._config.task else ""
            raise RecordingError(
                f"source bids needs recordings{task} sub-*/[ses-*/]eeg/*_eeg ({', '.join(SUFFIXES)}) in '{self._root}'"
                + (f", found no subject {absent}, only {sorted(present)}." if present else ", found none.")
                + self._unfetched()
            )
        return [run for path in paths if self._wanted((run := self._run(path)).ref.subject)]

    def _wanted(self, subject: str) -> bool:
        return self._config.subjects is None or subject in self._config.subjects

    def _run(self, path: Path) -> _Run:
        named = mne_bids.get_entities_from_fname(path, on_error="ignore")
        key = path.stem.removesuffix("_eeg")
        session = named.get("session") or "01"
        # Two tasks of one session may both have a run 1: everything but person and session tells runs apart.
        run = "_".join(part for part in key.split("_") if not part.startswith(("sub-", "ses-"))) or "run-01"
        ref = RecordingRef(key, str(named["subject"]), str(session), run, str(path))
        found = _bids_path(path, self._root).find_matching_sidecar("events", ".tsv", on_error="ignore")
        if found is None:
            raise EventsError(
                f"{path.name} needs an events table, {key}_events.tsv beside it (or inherited), found none."
            )
        events, others = self._events(Path(found))
        return _Run(ref, path, Path(found), events, others)

    def _events(self, table: Path) -> tuple[pd.DataFrame, Counter[str]]:
        """Return the rows that show a picture in the order of time, and the number of others by `trial_type`."""
        try:
            # Tables written on Windows may begin with a byte order mark.
            events = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except (ValueError, OSError) as error:
            raise EventsError(f"{table.name}: must be a table with a header line ({error}).") from error
        optional = [self._config.concept_column] if self._config.concept_column else []
        for column in ("onset", self._column, *optional):
            if column not in events.columns:
                raise EventsError(
                    f"{table.name}: needs the column '{column}', has {list(events.columns)}. Name the columns in "
                    "data.source.picture_column and data.source.concept_column."
                )
        # Rows are named as an editor shows them: the header is line 1.
        events.index = pd.RangeIndex(2, len(events) + 2)
        shows = ~events[self._column].str.strip().isin(ABSENT)
        kinds = events["trial_type"] if "trial_type" in events.columns else pd.Series("other", index=events.index)
        others = Counter(kinds[~shows].str.strip().replace("", "n/a"))
        events = events[shows].copy()
        onset = pd.to_numeric(events["onset"], errors="coerce")
        wrong = events.index[~np.isfinite(onset) | (onset < 0)]
        if len(wrong):
            raise EventsError(
                f"{table.name} row {wrong[0]}: onset must be a number from 0 on, got '{events['onset'][wrong[0]]}'."
            )
        events["onset"] = onset
        places = [self._place(name, table, cast(int, row)) for row, name in events[self._column].items()]
        events["picture"] = [picture for picture, _ in places]
        events["file"] = [str(file) for _, file in places]
        events["concept"] = self._concepts(events, table)
        events["partition"] = self._partitions(events, table)
        return events.sort_values("onset", kind="stable"), others

    def _concepts(self, events: pd.DataFrame, table: Path) -> pd.Series:
        if self._config.concept_column is None:
            return events["picture"].map(_concept)
        concepts = events[self._config.concept_column].str.strip()
        empty = concepts.index[concepts.isin(ABSENT)]
        if len(empty):
            raise EventsError(f"{table.name} row {empty[0]}: {self._config.concept_column} must not be empty.")
        return concepts

    def _partitions(self, events: pd.DataFrame, table: Path) -> pd.Series:
        if self._test_column is not None:
            if self._test_column not in events.columns:
                return pd.Series("train", index=events.index)
            return events[self._test_column].map(lambda value: "test" if value == "1" else "train")
        if "partition" not in events.columns:
            return pd.Series("any", index=events.index)
        odd = events.index[~events["partition"].isin(("train", "val", "test", "any"))]
        if len(odd):
            raise EventsError(
                f"{table.name} row {odd[0]}: partition must be train, val, test or any, got "
                f"'{events['partition'][odd[0]]}'."
            )
        return events["partition"]

    def _place(self, name: str, table: Path, row: int) -> tuple[str, Path]:
        """Return the id and the file of the picture that a table names."""
        if name not in self._places:
            path = PurePosixPath(name.strip().replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
                raise PictureError(f"{table.name} row {row}: picture must name a file of the dataset, got '{name}'.")
            inside = PurePosixPath(*path.parts[1:]) if path.parts[0] == STIMULI else path
            candidates = [self._root / STIMULI / inside, self._root / path]
            if not path.suffix:
                candidates += self._by_stem.get(path.name, [])
            files = [file for file in candidates if file.is_file()]
            if not files:
                raise PictureError(
                    f"{table.name} row {row}: picture '{name}' does not exist, neither in {STIMULI}/ nor beside it."
                )
            if not path.suffix and len(self._by_stem.get(path.name, [])) > 1:
                raise PictureError(
                    f"{table.name} row {row}: picture '{name}' must be one file, {STIMULI}/ has "
                    f"{[str(file.relative_to(self._root)) for file in self._by_stem[path.name]]}."
                )
            below = self._root / STIMULI
            picture = files[0].relative_to(below if files[0].is_relative_to(below) else self._root)
            self._places[name] = (picture.as_posix(), files[0])
        return self._places[name]

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        stems: dict[str, list[Path]] = {}
        for path in sorted((self._root / STIMULI).rglob("*")):
            if path.is_file():
                stems.setdefault(path.stem, []).append(path)
        return stems

    def _remarks(self) -> list[str]:
        """Say what the dataset says of its participants, and which recordings are names without content."""
        remarks = [unfetched.strip()] if (unfetched := self._unfetched()) else []
        table = self._root / "participants.tsv"
        if table.is_file():
            people = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
            if {"participant_id", "exclude"} <= set(people.columns):
                present = {run.ref.subject for run in self._runs}
                for row in people[people["exclude"] == "1"].itertuples():
                    if str(row.participant_id).removeprefix("sub-") in present:
                        remarks.append(
                            f"{row.participant_id}: participants.tsv says to exclude this person; it is read. Name the "
                            "others in data.source.subjects."
                        )
        return remarks

    def _unfetched(self) -> str:
        """Say how many recordings are links to content that is not here, as git-annex leaves them."""
        gone = [
            path
            for path in self._root.glob("sub-*/**/eeg/*_eeg.*")
            if path.suffix.lower() in SUFFIXES and path.is_symlink() and not path.exists()
        ]
        if not gone:
            return ""
        return f" {len(gone)} recordings are links without content ({gone[0].name}); fetch them (git-annex, DataLad)."

    def _open(self, path: Path) -> mne.io.BaseRaw:
        suffix = path.suffix.lower()
        if suffix in (".edf", ".bdf"):
            _check_edf_length(path)
        with warnings.catch_warnings():
            # Remarks on sidecars are the dataset's own matter; what makes data unusable is checked.
            warnings.simplefilter("ignore")
            try:
                raw = mne_bids.read_raw_bids(_bids_path(path, self._root), verbose="ERROR").load_data(verbose="ERROR")
            # Readers fail on broken files with whatever they stumble over.
            except Exception as error:
                raise RecordingError(
                    f"{path.name}: unreadable or truncated ({type(error).__name__}: {str(error)[:200]})."
                ) from error
        if raw.n_times == 0:
            raise RecordingError(f"{path.name}: has no samples.")
        if suffix == ".vhdr":
            _check_brainvision_length(path, raw)
        self._check_rate(path, raw)
        # mne-bids makes annotations of all events, and MNE drops trials under one that begins with "bad": a badger,
        # badminton. Those that mark bad stretches are written BAD_.
        shown = [n for n, text in enumerate(raw.annotations.description) if not str(text).startswith("BAD_")]
        raw.annotations.delete(shown)
        return raw

    def _check_rate(self, path: Path, raw: mne.io.BaseRaw) -> None:
        sidecar = _bids_path(path, self._root).find_matching_sidecar("eeg", ".json", on_error="ignore")
        if sidecar is None:
            return
        declared = _json(Path(sidecar)).get("SamplingFrequency")
        sfreq_hz = float(raw.info["sfreq"])
        if isinstance(declared, int | float) and abs(declared - sfreq_hz) > 1e-3 * sfreq_hz:
            raise RecordingError(
                f"{path.name}: its rate must be the SamplingFrequency of {Path(sidecar).name}, got {sfreq_hz:g} Hz and "
                f"{declared:g} Hz."
            )


def _bids_path(path: Path, root: Path) -> "mne_bids.BIDSPath":
    return mne_bids.get_bids_path_from_fname(path, check=False).update(root=root)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path.name}: must be a JSON file ({error}).") from error
    if not isinstance(content, dict):
        raise RecordingError(f"{path.name}: must hold an object, holds {type(content).__name__}.")
    return content


def _description(root: Path) -> dict[str, Any]:
    path = root / "dataset_description.json"
    if not path.is_file():
        raise RecordingError(f"source bids needs a BIDS dataset: '{root}' has no dataset_description.json.")
    return _json(path)


def _citation(described: dict[str, Any]) -> str:
    """Return how the dataset asks to be cited; else its authors and name. The DOI goes with both."""
    asked = str(described.get("HowToAcknowledge") or "")
    if not asked:
        authors = described.get("Authors") or []
        named = [", ".join(map(str, authors)) if isinstance(authors, list) else str(authors), described.get("Name")]
        links = described.get("ReferencesAndLinks") or []
        asked = "; ".join(str(part) for part in [*named, *(links if isinstance(links, list) else [links])] if part)
    doi = str(described.get("DatasetDOI") or "")
    return "; ".join(part for part in (asked, doi if doi not in asked else "") if part) or "none given"
