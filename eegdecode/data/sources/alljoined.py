"""Alljoined1 (Xu et al. 2024) and Alljoined-1.6M (Xu et al. 2025): natural pictures in rapid succession.

Alljoined1 (`release` 1): eight people, 64 channels at 512 Hz, a picture every 0.6 s. Under ``data_uri``::

    raw/subjXX_sessionY_eeg.fif                continuous, as it was recorded
    05_125/subjXX_sessionY.h5                  the authors' table of trials: 73k_id, curr_time (s); its EEG is not used
    nsd_stimuli.hdf5 or nsd_stimuli/<id>.png   pictures of the Natural Scenes Dataset, from there; ids count from 0

Trials are those that the authors' rejection (AutoReject) left. ``curr_time`` counts from where the recorder counts, not
from the first sample of the file. The even session shows 960 pictures that all people saw, the odd one those of this
person alone. Pictures are of many things (COCO): the picture is its own concept, and there are no parts.
Tables are compressed with blosc, and their EEG is a pickle: see `eegdecode.data.sources.hdf_table`.

Alljoined-1.6M (`release` 1.6m): 20 people, Emotiv FLEX2 with 32 channels at 256 Hz, a picture every 0.2 s::

    raw_eeg/sub-XX/session_YY/block_ZZ/Subject X, Session Y, Block Z *.edf
    stimuli/images/NNNNN.jpg                                                   (the dataset's stimuli.zip)
    preprocessed_eeg/sub-XX/{stim_order,experiment_metadata}.parquet           optional, for the names of concepts

Annotations are ``label,value,deleted,orig_index``; a label ``stim_...`` is the onset of picture number `value`. All 421
thousand annotations of the published recordings say -1 for `deleted`; anything else is a deleted event. Pictures are
those of THINGS-EEG2: numbers 0 to 16539 its training pictures, 16540 to 16739 its test pictures, from there on catch
trials.
A few onsets share a sample with another (8 of 328 thousand); the first is kept, as the authors do.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import h5py
import mne
import numpy as np
import pandas as pd
from PIL import Image

from eegdecode.batch import SourceFact
from eegdecode.config import AlljoinedData
from eegdecode.data.sources import (
    DuplicateError,
    EventsError,
    Picture,
    PictureError,
    Recording,
    RecordingError,
    RecordingRef,
    Source,
)
from eegdecode.data.sources import local_folder as _local_folder
from eegdecode.data.sources.files import copies
from eegdecode.data.sources.hdf_table import read_columns
from eegdecode.data.sources.pictures import MAX_PIXELS, open_images
from eegdecode.data.sources.pth import named
from eegdecode.data.sources.tabular import _check_edf_length, _open

FACTS = {
    "1": SourceFact(
        name="alljoined1",
        licence="none stated where it is published (OSF kqgs8); CC-BY-NC-ND-4.0 at NEMAR (nm000133)",
        citation="Xu et al. 2024, Alljoined - A dataset for EEG-to-Image decoding, arXiv 2404.05553",
        design="rapid",
        truth="picture",
    ),
    "1.6m": SourceFact(
        name="alljoined_1.6m",
        licence="non-commercial: CC-BY-NC-ND-4.0 at NEMAR (nm000134), elsewhere given as CC-BY-NC-SA-4.0",
        citation="Xu et al. 2025, Alljoined-1.6M: A million-trial EEG-image dataset for evaluating affordable "
        "brain-computer interfaces, arXiv 2508.18571",
        design="rapid",
        truth="picture",
    ),
}
N_CHANNELS_1 = 64
SFREQ_1_HZ = 512.0
BROKEN_1 = (("02", "02"), ("03", "01"), ("07", "02"), ("08", "02"))
"""Subject and session of recordings that are broken, or miss their table, where they are published."""
N_NSD = 73_000
CHANNELS_16: tuple[str, ...] = (
    "Cz", "FCz", "AFz", "Fp1", "F5", "F1", "CP5", "CP3", "CP1", "P1", "P3", "P5", "P7", "PO7", "PO3", "O1", "Pz", "POz",
    "Oz", "O2", "PO4", "PO8", "P8", "P6", "P4", "P2", "CP2", "CP4", "CP6", "F2", "F6", "Fp2",
)  # fmt: skip
SFREQ_16_HZ = 256.0
N_TRAIN_16, N_TEST_16 = 16_540, 200
KEPT = "-1"
"""What the field `deleted` says of an event that was not."""
RENAMED = {"08": "19"}
"""Subject -> the number that its files carry."""


class Alljoined1Source:
    """Alljoined1, one recording per session; see the head of this module.

    Raises
    ------
    SourceError
        No folder.
    """

    fact = FACTS["1"]

    def __init__(self, config: AlljoinedData, data_uri: str) -> None:
        self.findings: list[str] = []
        self._wanted = config.subjects
        self._root = _local_folder(data_uri, "alljoined")

    def recordings(self) -> list[RecordingRef]:
        """List the sessions; broken ones, copies and those without a table are left out and reported.

        Raises
        ------
        SourceError
            No recording, or a table that can not be used.
        """
        self.findings = []
        refs = {}
        for path in self._paths():
            ref = _session(path)
            broken = (ref.subject, ref.session) in BROKEN_1
            table = self._table(ref)
            if broken:
                self.findings.append(f"{ref.key}: left out, known to be broken where it is published ({path.name}).")
            elif not table.is_file():
                self.findings.append(f"{ref.key}: left out, has no table of trials ({table.parent.name}/{table.name}).")
            else:
                refs[path] = ref
        twins = copies(refs)
        for path, twin in twins.items():
            self.findings.append(f"{refs[path].key}: left out, byte-identical copy of {refs[twin].key}.")
        usable = [ref for path, ref in refs.items() if path not in twins]
        absent = [
            p for p in sorted({p for ref in usable for p in self._events(ref)["picture"]}) if not self._is_there(p)
        ]
        if absent:
            self.findings.append(
                f"{len(absent)} pictures are not in nsd_stimuli.hdf5 or nsd_stimuli/: {named(absent)}. The Natural "
                "Scenes Dataset has them."
            )
        return usable

    def read(self, ref: RecordingRef) -> Recording:
        """Read one session.

        Raises
        ------
        RecordingError
            A file that is unreadable, or not of 64 channels at 512 Hz.
        EventsError
            An event outside the recording.
        DuplicateError
            Two pictures at one sample.
        """
        path = Path(ref.location)
        raw = _open(path)
        n_chans = len(mne.pick_types(raw.info, eeg=True, exclude=()))
        if (n_chans, raw.info["sfreq"]) != (N_CHANNELS_1, SFREQ_1_HZ):
            raise RecordingError(
                f"{path.name}: must have {N_CHANNELS_1} electrodes at {SFREQ_1_HZ:g} Hz, has {n_chans} at "
                f"{raw.info['sfreq']:g} Hz."
            )
        events = self._events(ref)
        samples = events["sample"].to_numpy() - raw.first_samp
        name = self._table(ref).name
        outside = np.flatnonzero((samples < 0) | (samples >= raw.n_times))
        if outside.size:
            row = int(events.index[outside[0]])
            raise EventsError(
                f"{name} row {row}: curr_time must lie in {path.name} ({raw.first_samp / SFREQ_1_HZ:g} to "
                f"{(raw.first_samp + raw.n_times) / SFREQ_1_HZ:g} s), got {events['sample'][row] / SFREQ_1_HZ:g} s "
                f"({outside.size} such)."
            )
        twice = np.flatnonzero(np.diff(samples) == 0)
        if twice.size:
            row = int(events.index[twice[0] + 1])
            raise DuplicateError(f"{name} row {row}: a trial is known by its recording and curr_time, got one twice.")
        return Recording(ref, raw, pd.DataFrame({"sample": samples, "picture": events["picture"].to_numpy()}))

    def pictures(self) -> list[Picture]:
        """List the pictures of all tables, sorted by id (five digits, from 0)."""
        refs = [_session(path) for path in self._paths()]
        shown = {
            picture
            for ref in refs
            if (ref.subject, ref.session) not in BROKEN_1 and self._table(ref).is_file()
            for picture in self._events(ref)["picture"]
        }
        return [Picture(name, name, "any", partial(_nsd_image, self._root, name)) for name in sorted(shown)]

    def _paths(self) -> list[Path]:
        found = sorted((self._root / "raw").glob("subj*_session*_eeg.fif"))
        paths = [path for path in found if self._wanted is None or _session(path).subject in self._wanted]
        absent = sorted(set(self._wanted or ()) - {_session(path).subject for path in paths})
        if absent or not paths:
            raise RecordingError(
                f"source alljoined needs raw/subjXX_sessionY_eeg.fif in '{self._root}', found "
                f"{f'no subject {absent}' if absent and found else 'none'}."
            )
        return paths

    def _table(self, ref: RecordingRef) -> Path:
        return self._root / "05_125" / f"subj{ref.subject}_session{int(ref.session)}.h5"

    def _events(self, ref: RecordingRef) -> pd.DataFrame:
        """Return sample (as the recorder counts) and picture, in the order of time; the index is the row."""
        table = self._table(ref)
        columns = read_columns(table, ("73k_id", "curr_time"))
        ids, times_s = columns["73k_id"], columns["curr_time"]
        for name, values, valid in (
            ("73k_id", ids, (ids >= 0) & (ids < N_NSD) & (ids == np.floor(ids))),
            ("curr_time", times_s, np.isfinite(times_s) & (times_s >= 0)),
        ):
            if not valid.all():
                row = int(np.flatnonzero(~valid)[0])
                limit = f"a whole number from 0 to {N_NSD - 1}" if name == "73k_id" else "seconds from 0 on"
                raise EventsError(f"{table.name} row {row}: {name} must be {limit}, got {values[row]:g}.")
        events = pd.DataFrame(
            {
                "sample": np.rint(times_s * SFREQ_1_HZ).astype(np.int64),
                "picture": [f"{int(number):05d}" for number in ids],
            }
        )
        return events.sort_values("sample", kind="stable")

    def _is_there(self, picture: str) -> bool:
        return (self._root / "nsd_stimuli.hdf5").is_file() or _nsd_file(self._root, picture).is_file()


class Alljoined16Source:
    """Alljoined-1.6M, one recording per block; see the head of this module.

    Raises
    ------
    SourceError
        No folder.
    """

    fact = FACTS["1.6m"]

    def __init__(self, config: AlljoinedData, data_uri: str) -> None:
        self.findings: list[str] = []
        self._wanted = config.subjects
        self._root = _local_folder(data_uri, "alljoined")

    def recordings(self) -> list[RecordingRef]:
        """List the blocks; copies, and blocks without a file or a picture, are left out and reported.

        The annotations of every file are read.

        Raises
        ------
        SourceError
            No recording, a file that belongs elsewhere, annotations of impossible pictures, or a picture that is not
            there.
        """
        refs, self.findings = self._refs()
        known = set(self._numbers)
        twins = copies(refs)
        usable = []
        for path, ref in refs.items():
            if path in twins:
                self.findings.append(f"{ref.key}: left out, byte-identical copy of {refs[twins[path]].key}.")
                continue
            shown = _shown(path)
            if shown.deleted:
                self.findings.append(
                    f"{ref.key}: {len(shown.deleted)} deleted events left out: {named(shown.deleted)}."
                )
            if shown.doubled:
                self.findings.append(
                    f"{ref.key}: {len(shown.doubled)} pictures left out, at the sample of the one before: "
                    f"{named(shown.doubled)}."
                )
            if shown.others:
                kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(shown.others.items()))
                self.findings.append(f"{ref.key}: {shown.others.total()} events are not of pictures ({kinds}).")
            for event, picture in shown.events["picture"].items():
                if int(picture) not in known:
                    raise PictureError(
                        f"{path.name} annotation {event}: picture '{picture}' does not exist in stimuli/images/."
                    )
            if shown.events.empty:
                self.findings.append(f"{ref.key}: left out, shows no picture.")
                continue
            usable.append(ref)
        if not self._concepts:
            self.findings.append(
                "concepts are not known, each picture is its own: preprocessed_eeg/sub-*/stim_order.parquet has them."
            )
        return usable

    def read(self, ref: RecordingRef) -> Recording:
        """Read one block.

        Raises
        ------
        RecordingError
            A file that is unreadable or truncated, lacks an electrode, or is not of 256 Hz.
        EventsError
            An event past the end of the recording.
        """
        path = Path(ref.location)
        events = _shown(path).events
        try:
            # Other channels are of the device: counters, contact quality, motion, some at other rates.
            raw = mne.io.read_raw_edf(path, include=[*CHANNELS_16, "Afz"], preload=True, verbose="ERROR")
        # MNE fails on broken files with whatever it stumbles over.
        except Exception as error:
            raise RecordingError(
                f"{path.name}: unreadable or truncated ({type(error).__name__}: {str(error)[:200]})."
            ) from error
        if "Afz" in raw.ch_names:
            raw.rename_channels({"Afz": "AFz"})
        missing = [name for name in CHANNELS_16 if name not in raw.ch_names]
        if missing or raw.info["sfreq"] != SFREQ_16_HZ:
            raise RecordingError(
                f"{path.name}: must have the 32 electrodes of the dataset at {SFREQ_16_HZ:g} Hz, lacks {missing}, is "
                f"of {raw.info['sfreq']:g} Hz."
            )
        late = np.flatnonzero(events["sample"] >= raw.n_times)
        if late.size:
            event = int(events.index[late[0]])
            raise EventsError(
                f"{path.name} annotation {event}: onset must lie in the recording of {raw.n_times / SFREQ_16_HZ:g} s, "
                f"got {events['sample'][event] / SFREQ_16_HZ:g} s ({late.size} such)."
            )
        return Recording(ref, raw.reorder_channels(list(CHANNELS_16)), events.reset_index(drop=True))

    def pictures(self) -> list[Picture]:
        """List the pictures in ``stimuli/images`` that are no catch trials, sorted by id (five digits)."""
        listed = []
        for number in self._numbers:
            name = f"{number:05d}"
            part: Literal["train", "test"] = "train" if number < N_TRAIN_16 else "test"
            image = partial(open_images, self._images / f"{name}.jpg", name)
            listed.append(Picture(name, self._concepts.get(name, name), part, image))
        return listed

    @property
    def _images(self) -> Path:
        return self._root / "stimuli" / "images"

    @cached_property
    def _numbers(self) -> list[int]:
        found = [int(path.stem) for path in self._images.glob("*.jpg") if re.fullmatch(r"\d{5}", path.stem)]
        numbers = sorted(number for number in found if number < N_TRAIN_16 + N_TEST_16)
        if not numbers:
            raise PictureError(
                f"source alljoined needs stimuli/images/NNNNN.jpg in '{self._root}', found none. They are in the "
                "dataset's stimuli.zip."
            )
        return numbers

    @cached_property
    def _concepts(self) -> dict[str, str]:
        """Picture -> concept, from the first table there is: all people saw the same pictures."""
        folder = self._root / "preprocessed_eeg"
        tables = [
            *sorted(folder.glob("sub-*/stim_order.parquet")),
            *sorted(folder.glob("sub-*/experiment_metadata.parquet")),
        ]
        if not tables:
            return {}
        try:
            table = pd.read_parquet(tables[0], columns=["image_path", "category_name"]).drop_duplicates()
        except (OSError, ValueError, KeyError) as error:
            raise PictureError(f"{tables[0]}: must be a table with image_path and category_name ({error}).") from error
        return {Path(str(row.image_path)).stem: str(row.category_name) for row in table.itertuples()}

    def _refs(self) -> tuple[dict[Path, RecordingRef], list[str]]:
        """Return the blocks by their file, and remarks on folders and names."""
        refs: dict[Path, RecordingRef] = {}
        findings = []
        renamed: Counter[str] = Counter()
        for folder in sorted((self._root / "raw_eeg").glob("sub-*/session_*/block_*")):
            places = [folder.parent.parent.name, folder.parent.name, folder.name]
            numbers = [re.fullmatch(r"(?:sub-|session_|block_)(\d{2})", place) for place in places]
            if not all(numbers):
                findings.append(f"raw_eeg/{'/'.join(places)}: left out, is no sub-XX/session_YY/block_ZZ.")
                continue
            subject, session, block = (match[1] for match in numbers if match)
            if self._wanted is not None and subject not in self._wanted:
                continue
            key = f"sub-{subject}_ses-{session}_run-{block}"
            files = sorted(folder.glob("*.edf"))
            if len(files) > 1:
                raise DuplicateError(
                    f"raw_eeg/{'/'.join(places)}: must hold one EDF file, holds {[f.name for f in files]}."
                )
            if not files:
                findings.append(f"{key}: left out, has no EDF file.")
                continue
            if _check_name(files[0], subject, session, block):
                renamed[subject] += 1
            refs[files[0]] = RecordingRef(key, subject, session, block, str(files[0]))
        findings += [
            f"sub-{subject}: {n} files are named 'Subject {RENAMED[subject]}'; known, the folder is right."
            for subject, n in sorted(renamed.items())
        ]
        absent = sorted(set(self._wanted or ()) - {ref.subject for ref in refs.values()})
        if absent or not refs:
            raise RecordingError(
                f"source alljoined, release 1.6m, needs raw_eeg/sub-XX/session_YY/block_ZZ/*.edf in '{self._root}', "
                f"found {f'no subject {absent}' if absent and refs else 'none'}."
            )
        return refs, findings


@dataclass(frozen=True)
class _Shown:
    """What the annotations of a file say.

    Attributes
    ----------
    events
        Columns sample and picture, in the order of time; the index is the number of the annotation, from 0.
    deleted, doubled
        Annotations that are no trials, in words.
    others
        Label -> number of events that are not of pictures.
    """

    events: pd.DataFrame
    deleted: list[str]
    doubled: list[str]
    others: Counter[str]


def _shown(path: Path) -> _Shown:
    # Of a file that was cut, MNE gives the annotations that are left.
    _check_edf_length(path)
    try:
        annotations = mne.read_annotations(path)
    # MNE fails on broken files with whatever it stumbles over.
    except Exception as error:
        raise RecordingError(
            f"{path.name}: unreadable or truncated ({type(error).__name__}: {str(error)[:200]})."
        ) from error
    rows: list[tuple[int, int, str]] = []
    deleted, others = [], Counter[str]()
    for event, (onset_s, text) in enumerate(zip(annotations.onset, annotations.description, strict=True)):
        label, _, rest = str(text).partition(",")
        if not label.startswith("stim"):
            others[label] += 1
            continue
        fields = rest.split(",")
        n_pictures = N_TRAIN_16 + N_TEST_16
        if len(fields) != 3 or not fields[0].isdecimal() or int(fields[0]) >= n_pictures:
            raise EventsError(
                f"{path.name} annotation {event}: must be label,value,deleted,orig_index with a picture from 0 to "
                f"{n_pictures - 1}, got '{text}'."
            )
        if fields[1] != KEPT:
            deleted.append(f"annotation {event} ('{text}')")
            continue
        rows.append((event, round(float(onset_s) * SFREQ_16_HZ), f"{int(fields[0]):05d}"))
    frame = pd.DataFrame(rows, columns=["event", "sample", "picture"]).set_index("event")
    frame = frame.astype({"sample": np.int64, "picture": object}).sort_values("sample", kind="stable")
    twice = frame["sample"].duplicated()
    doubled = [f"annotation {row.Index} ('{row.picture}')" for row in frame[twice].itertuples()]
    return _Shown(frame[~twice], deleted, doubled, others)


def _check_name(path: Path, subject: str, session: str, block: str) -> bool:
    """Refuse a file that belongs elsewhere; return whether it carries the other number of its subject."""
    match = re.match(r"Subject (\d+), Session (\d+), Block (\d+)\D", path.name)
    said = tuple(f"{int(number):02d}" for number in match.groups()) if match else ()
    if said == (subject, session, block):
        return False
    if said == (RENAMED.get(subject), session, block):
        return True
    raise RecordingError(
        f"{path.name}: must be named 'Subject {int(subject)}, Session {int(session)}, Block {int(block)} ...' as its "
        "folder is. Is it in the right one?"
    )


def _session(path: Path) -> RecordingRef:
    match = re.fullmatch(r"subj(\d{2})_session(\d)_eeg\.fif", path.name)
    if match is None:
        raise RecordingError(f"{path.name}: must be named subjXX_sessionY_eeg.fif.")
    session = f"0{match[2]}"
    return RecordingRef(f"sub-{match[1]}_ses-{session}", match[1], session, "01", str(path))


def _nsd_file(root: Path, picture: str) -> Path:
    return root / "nsd_stimuli" / f"{int(picture)}.png"


def _nsd_image(root: Path, picture: str) -> list[Image.Image]:
    bricks = root / "nsd_stimuli.hdf5"
    if not bricks.is_file():
        return open_images(_nsd_file(root, picture), picture)
    try:
        with h5py.File(bricks, "r") as file:
            brick = file["imgBrick"]
            # Before it is read: what is compressed in there may be of any size.
            if math.prod(brick.shape[1:]) > 3 * MAX_PIXELS:
                raise PictureError(
                    f"picture '{picture}': {bricks.name} must hold at most {MAX_PIXELS} pixels a picture, says it has "
                    f"{brick.shape[1:]}."
                )
            pixels = np.asarray(brick[int(picture)])
    except PictureError:
        raise
    # What comes out of h5py on a broken file depends on where it broke.
    except Exception as error:
        raise PictureError(f"picture '{picture}': can not be read from {bricks.name} ({error}).") from error
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise PictureError(
            f"picture '{picture}': {bricks.name} must hold RGB bytes, has {pixels.dtype} {pixels.shape}."
        )
    return [Image.fromarray(pixels)]


def open_alljoined(config: AlljoinedData, data_uri: str) -> Source:
    """Return the source of the release that the configuration names."""
    return Alljoined1Source(config, data_uri) if config.release == "1" else Alljoined16Source(config, data_uri)
