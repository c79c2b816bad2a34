"""Datasets that are one dictionary in a ``.pth`` file, with a list ``dataset`` of one dictionary per trial.

Files of the zip format of torch are mapped: values are read when a trial is. Older ones are read whole; loading and
saving such a file once with a current torch converts it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from eegdecode.data.sources import RecordingError
from eegdecode.data.sources.pickles import load_torch

N_NAMED = 5
"""So many trials are named in a message, the others are counted."""


def load_trials(path: Path, lists: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """Return the dictionary of a file, whose `lists` are lists and whose trials have these keys.

    Raises
    ------
    SourceError
        A file that is unreadable or asks for more than data, or one of another form.
    """
    content = load_torch(path)
    if not isinstance(content, dict):
        raise RecordingError(f"{path.name}: must hold a dictionary, holds {type(content).__name__}.")
    for name in ("dataset", *lists):
        if not isinstance(content.get(name), list):
            raise RecordingError(
                f"{path.name}: needs a list '{name}', has {sorted(map(str, content))} "
                f"({type(content.get(name)).__name__})."
            )
    for row, trial in enumerate(content["dataset"]):
        missing = [key for key in keys if not isinstance(trial, dict) or key not in trial]
        if missing:
            raise RecordingError(f"{path.name} trial {row}: needs {list(keys)}, lacks {missing}.")
    if not content["dataset"]:
        raise RecordingError(f"{path.name}: has no trials.")
    return content


def whole(path: Path, row: int, trial: Mapping[str, Any], key: str, below: int | None = None) -> int:
    """Return a whole number from 0 on, below a limit if one is given."""
    value = trial[key]
    if not isinstance(value, int) or value < 0 or (below is not None and value >= below):
        limit = f"0 to {below - 1}" if below is not None else "from 0 on"
        raise RecordingError(f"{path.name} trial {row}: {key} must be a whole number {limit}, got '{value}'.")
    return value


def signal(path: Path, row: int, trial: Mapping[str, Any], key: str, n_chans: int) -> torch.Tensor:
    """Return the EEG (C, T) of a trial; its values are not looked at."""
    value = trial[key]
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim != 2 or len(value) != n_chans:
        got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise RecordingError(
            f"{path.name} trial {row}: {key} must be a tensor of floating-point numbers ({n_chans}, times), got {got}."
        )
    return value


def copied(signals: Sequence[torch.Tensor]) -> dict[int, int]:
    """Return each trial whose EEG is that of an earlier one -> that earlier one.

    A whole trial is read only if another one has the same first electrode.
    """
    alike: dict[bytes, list[int]] = {}
    for n, eeg_CT in enumerate(signals):
        alike.setdefault(_digest(eeg_CT[:1]), []).append(n)
    first: dict[bytes, int] = {}
    found = {}
    for n in (n for group in alike.values() if len(group) > 1 for n in group):
        twin = first.setdefault(_digest(signals[n]), n)
        if twin != n:
            found[n] = twin
    return found


def stack(
    path: Path, rows: Sequence[int], signals: Sequence[torch.Tensor], window: slice, channels: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Return a window of the trials (N, C, T).

    Raises
    ------
    RecordingError
        A value that is not finite.
    """
    eeg_NCT = np.empty((len(rows), len(channels), window.stop - window.start), np.float32)
    for n, (row, eeg_CT) in enumerate(zip(rows, signals, strict=True)):
        eeg_NCT[n] = eeg_CT[:, window].numpy()
        bad = np.argwhere(~np.isfinite(eeg_NCT[n]))
        if len(bad):
            chan, time = bad[0]
            raise RecordingError(
                f"{path.name} trial {row}: {channels[chan]} must be finite, got {eeg_NCT[n, chan, time]} at sample "
                f"{time + window.start}."
            )
    return eeg_NCT


def named(rows: Sequence[object]) -> str:
    """Return the first of them, and how many more there are."""
    more = len(rows) - N_NAMED
    return ", ".join(map(str, rows[:N_NAMED])) + (f" and {more} more" if more > 0 else "")


def _digest(values: torch.Tensor) -> bytes:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).digest()
