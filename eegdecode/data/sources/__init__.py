"""Files as users have them, behind one interface: recordings whose events name pictures, and those pictures.

Errors of bad input are drawn as one tree here: `SourceError` (a ValueError) and its kinds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from eegdecode.batch import SourceFact
from eegdecode.config import AnySource

if TYPE_CHECKING:
    import mne
    import numpy as np
    import pandas as pd
    from PIL.Image import Image


class SourceError(ValueError):
    """Data that can not be used as given; the message names the file, field or row."""


class RecordingError(SourceError):
    """A recording that is unreadable, truncated or empty."""


class EventsError(SourceError):
    """An events table that is missing, lacks a column or names an impossible event."""


class PictureError(SourceError):
    """A picture that does not exist or does not decode."""


class DuplicateError(SourceError):
    """The same recording or trial twice."""


@dataclass(frozen=True)
class RecordingRef:
    """Where one run is; cheap, nothing is read yet.

    Attributes
    ----------
    key
        Unique in the source, for example ``sub-01_ses-01_run-01``.
    location
        Path or name from which the source reads it.
    """

    key: str
    subject: str
    session: str
    run: str
    location: str


@dataclass(frozen=True)
class Recording:
    """Continuous EEG of one run and what was shown during it.

    Attributes
    ----------
    raw
        In volt, as MNE has it.
    events
        Columns ``sample`` (int, from the first sample of the recording) and ``picture`` (id), perhaps others. The order
        of the rows is the order of presentation: a trial is known by (recording, row).
    """

    ref: RecordingRef
    raw: "mne.io.BaseRaw"
    events: "pd.DataFrame"


@dataclass(frozen=True)
class CutRecording:
    """Trials that came already cut: nothing can be filtered or rejected again, only cropped, picked and slowed down.

    Attributes
    ----------
    eeg_NCT
        Trials in the order of ``events``; an array or a map of a file (not copied until used), float16 to float64.
    unit
        ``uV``, or ``whitened`` where whoever made the file divided by the noise covariance or a deviation.
    tmin_s
        Time of the first sample relative to the onset of the picture.
    events
        Column ``picture`` (id), perhaps ``repetition`` and others. The order of the rows is the order in the file.
    history
        What was done to the trials before, in plain words; goes into the manifest's findings.
    """

    ref: RecordingRef
    eeg_NCT: "np.ndarray"
    unit: Literal["uV", "whitened"]
    channels: tuple[str, ...]
    sfreq_hz: float
    tmin_s: float
    events: "pd.DataFrame"
    history: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """One thing that was shown.

    Attributes
    ----------
    partition
        ``train``, ``val`` or ``test`` where the source has parts of its own, else ``any``.
    images
        Opens the image, in RGB; more than one where only the class of the picture is known.
    """

    picture: str
    concept: str
    partition: Literal["train", "val", "test", "any"]
    images: Callable[[], "list[Image]"]


class Source(Protocol):
    """A set of recordings and the pictures their events name."""

    fact: SourceFact
    findings: list[str]
    """What was found and decided; filled by `recordings`."""

    def recordings(self) -> list[RecordingRef]:
        """List the usable runs; copies and unusable runs are left out and reported in `findings`."""
        ...

    def read(self, ref: RecordingRef) -> Recording | CutRecording:
        """Read one run."""
        ...

    def pictures(self) -> list[Picture]:
        """List the pictures, sorted by id."""
        ...


def local_folder(data_uri: str, kind: str) -> Path:
    """Return the folder that `compute.data_uri` names; recordings are read from files, not from an object store."""
    if not data_uri or "://" in data_uri.removeprefix("file://"):
        raise SourceError(
            f"compute.data_uri must name a local folder with the recordings of source '{kind}', got '{data_uri}'. "
            "Pass --set compute.data_uri=FOLDER."
        )
    folder = Path(data_uri.removeprefix("file://"))
    if not folder.is_dir():
        raise SourceError(f"compute.data_uri: no folder '{data_uri}' (source '{kind}').")
    return folder


SOURCES: dict[str, tuple[str, str]] = {
    "synthetic": ("eegdecode.data.sources.synthetic", "open_synthetic"),
    "muse": ("eegdecode.data.sources.muse", "MuseSource"),
    "mne": ("eegdecode.data.sources.tabular", "open_tabular"),
    "things_eeg2": ("eegdecode.data.sources.things_eeg2", "open_things_eeg2"),
    "bids": ("eegdecode.data.sources.bids", "BidsSource"),
    "eegcvpr40": ("eegdecode.data.sources.eegcvpr40", "EegCvpr40Source"),
    "eeg_imagenet": ("eegdecode.data.sources.eeg_imagenet", "EegImageNetSource"),
    "alljoined": ("eegdecode.data.sources.alljoined", "open_alljoined"),
}
"""Kind of a source's configuration -> module, and what there makes it of (configuration, data_uri)."""


def open_source(config: AnySource, data_uri: str) -> Source:
    """Return the source that a configuration names; its module, and what it needs, is imported now.

    Parameters
    ----------
    data_uri
        Folder with the recordings and pictures; not used by `synthetic`.

    Raises
    ------
    SourceError
        A real source without a folder, or a folder that is not there.
    """
    module, name = SOURCES[config.kind]
    source: Source = getattr(import_module(module), name)(config, data_uri)
    return source
