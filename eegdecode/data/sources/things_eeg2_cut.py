"""THINGS-EEG2 as others cut it: 17 or 63 electrodes, noise-normalised, baseline before the picture taken off.

All of these come from the raw files by variants of one script (Gifford et al. 2022, preprocessing_utils.py). It takes
at most 2 (training) or 20 (test) repetitions of a picture in a session, divides by the noise covariance of the session,
and joins the four sessions. Then:

* `gifford` and `nice` shuffle the repetitions, so the session of a trial is lost; `ubp` keeps it beside the trials.
* all but `gifford` cut off what lies before the picture, and leave `times` as it was: it is longer than the data.

Shape letters: P picture, R repetition, N trial, C chan, T time.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eegdecode.data.sources import CutRecording, RecordingError, RecordingRef
from eegdecode.data.sources.pickles import load_npy, load_pickle
from eegdecode.data.sources.things_eeg2_pictures import Part, Shown, from_path

FILES: dict[str, dict[str, str]] = {
    "gifford": {"training": "preprocessed_eeg_training.npy", "test": "preprocessed_eeg_test.npy"},
    "nice": {"training": "preprocessed_eeg_training.npy", "test": "preprocessed_eeg_test.npy"},
    "ubp": {"training": "train.pt", "test": "test.pt"},
    "neurobridge": {"training": "train.npy", "test": "test.npy"},
    "enigma": {"training": "preprocessed_eeg_training_flat.npy", "test": "preprocessed_eeg_test_flat.npy"},
}
"""Layout -> name of a run -> its file in the folder of a person."""
NAMES_PICTURES = ("ubp", "enigma")
"""Layouts whose trials come with the path of their picture."""
ENIGMA_TABLE = "experiment_metadata.parquet"
PLAUSIBLE = (1e-2, 1e2)
"""Median absolute value of noise-normalised EEG is about 0.7; of EEG in volt it is about 1e-5."""
_N_CHECKED = 32

_CUT = "cut, baseline before the picture subtracted, resampled; at most 2 or 20 repetitions of a picture in a session"
_WHITENED_BY_TRAINING = "noise-normalised per session (MVNN) with the covariance of training trials"
HISTORY: dict[str, tuple[str, ...]] = {
    "gifford": (
        _CUT,
        "noise-normalised per session (MVNN) with the covariance of training and test trials",
        "repetitions of all sessions shuffled: the session of a trial is not known",
    ),
    "nice": (
        _CUT,
        f"{_WHITENED_BY_TRAINING}, in files of its first version of training and test trials",
        "repetitions of all sessions shuffled: the session of a trial is not known",
    ),
    "ubp": (_CUT, _WHITENED_BY_TRAINING, "rounded to float16"),
    "neurobridge": (_CUT, "repetitions in the order of sessions, which session is not kept"),
    "enigma": (_CUT, "noise-normalised by whoever wrote the file"),
}


@dataclass(frozen=True)
class _Trials:
    """Trials of a file, their pictures and whatever else is known of each."""

    eeg_NCT: np.ndarray
    channels: tuple[str, ...]
    times_s: np.ndarray
    events: pd.DataFrame
    history: tuple[str, ...] = ()


def read(layout: str, ref: RecordingRef, part: Part, shown: Sequence[Shown]) -> CutRecording:
    """Read one file.

    Parameters
    ----------
    shown
        The part's pictures in the order of the codes; not used by `NAMES_PICTURES`.

    Raises
    ------
    RecordingError
        A key that is missing, or shapes, names, times and pictures that do not fit each other.
    """
    path = Path(ref.location)
    if layout == "ubp":
        trials = _ubp(path, part)
    elif layout == "enigma":
        trials = _enigma(path, ref.subject, part)
    elif layout == "neurobridge":
        trials = _neurobridge(path, part, shown)
    else:
        trials = _dictionaries(path, part, shown)
    n_times = trials.eeg_NCT.shape[2]
    tmin_s, sfreq_hz = _window(path, trials.times_s, n_times, last=layout == "ubp")
    if len(trials.channels) != trials.eeg_NCT.shape[1]:
        raise RecordingError(
            f"{path}: needs a name for each of its {trials.eeg_NCT.shape[1]} channels, ch_names has "
            f"{len(trials.channels)}."
        )
    _check_whitened(path, trials.eeg_NCT)
    return CutRecording(
        ref=ref,
        eeg_NCT=trials.eeg_NCT,
        unit="whitened",
        channels=trials.channels,
        sfreq_hz=sfreq_hz,
        tmin_s=tmin_s,
        events=trials.events,
        history=HISTORY[layout] + trials.history,
    )


def names(layout: str, ref: RecordingRef, part: Part) -> set[Shown]:
    """Return the pictures that a file of `NAMES_PICTURES` names."""
    path = Path(ref.location)
    if layout == "ubp":
        paths = np.asarray(dictionary(path, ("img",))["img"]).ravel()
    else:
        paths = _enigma_rows(path, ref.subject, part)["image_path"].to_numpy()
    return {from_path(part, str(name)) for name in pd.unique(paths)}


def dictionary(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the dictionary of a file, which must have these keys.

    Raises
    ------
    SourceError
        No dictionary, or a key is missing.
    """
    content = load_pickle(path)
    if not isinstance(content, dict):
        raise RecordingError(f"{path}: must hold a dictionary with {list(keys)}, holds {type(content).__name__}.")
    for key in keys:
        if key not in content:
            raise RecordingError(f"{path}: needs the key '{key}', has {sorted(map(str, content))}.")
    return content


def values(path: Path, key: str, array: Any, n_axes: int) -> np.ndarray:
    """Return an array of floating-point numbers with so many axes, none of them empty."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim != n_axes or not array.size:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise RecordingError(f"{path}: {key} must be floating-point numbers on {n_axes} axes, got {got}.")
    return array


def channels(path: Path, named: Any) -> tuple[str, ...]:
    """Return names of electrodes, each there once."""
    electrodes = tuple(str(name) for name in named)
    twice = sorted({name for name in electrodes if electrodes.count(name) > 1})
    if twice:
        raise RecordingError(f"{path}: names of channels must be unique, got {twice} twice.")
    return electrodes


def _dictionaries(path: Path, part: Part, shown: Sequence[Shown]) -> _Trials:
    content = dictionary(path, ("preprocessed_eeg_data", "ch_names", "times"))
    eeg_PRCT = values(path, "preprocessed_eeg_data", content["preprocessed_eeg_data"], 4)
    return _by_order(path, eeg_PRCT, content, part, shown)


def _by_order(path: Path, eeg_PRCT: np.ndarray, facts: dict[str, Any], part: Part, shown: Sequence[Shown]) -> _Trials:
    n_pictures, n_repetitions = eeg_PRCT.shape[:2]
    if n_pictures != len(shown):
        raise RecordingError(
            f"{path}: its trials belong to pictures by their order alone, so it must have the {len(shown)} {part} "
            f"pictures of image_metadata.npy, got {n_pictures}."
        )
    events = pd.DataFrame(
        {
            "picture": np.repeat([one.picture for one in shown], n_repetitions),
            "repetition": np.tile(np.arange(n_repetitions), n_pictures),
        }
    )
    eeg_NCT = eeg_PRCT.reshape(-1, *eeg_PRCT.shape[2:])
    return _Trials(eeg_NCT, channels(path, facts["ch_names"]), np.asarray(facts["times"]), events)


def _neurobridge(path: Path, part: Part, shown: Sequence[Shown]) -> _Trials:
    described = path.parent.parent / "info.json"
    try:
        facts = json.loads(described.read_text(encoding="utf-8"))
        needed = {key: facts[key] for key in ("ch_names", "times", "normalization")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordingError(
            f"{described}: must describe the trials beside it with ch_names, times and normalization "
            f"({type(error).__name__}: {error})."
        ) from error
    # Concept, picture of the concept, repetition, channel, time.
    eeg = values(path, "the array", load_npy(path), 5)
    trials = _by_order(path, eeg.reshape(-1, *eeg.shape[2:]), needed, part, shown)
    how = {
        "mvnn": _WHITENED_BY_TRAINING,
        "zscore": "each channel of a session divided by its deviation over training trials",
    }.get(str(needed["normalization"]), f"normalised by '{needed['normalization']}'")
    return _Trials(trials.eeg_NCT, trials.channels, trials.times_s, trials.events, (how,))


def _ubp(path: Path, part: Part) -> _Trials:
    content = dictionary(path, ("eeg", "img", "ch_names", "times"))
    eeg_PRCT = values(path, "eeg", content["eeg"], 4)
    img_PR = np.asarray(content["img"])
    if img_PR.shape != eeg_PRCT.shape[:2]:
        raise RecordingError(
            f"{path}: img must name a picture for each of the {eeg_PRCT.shape[:2]} trials, got {img_PR.shape}."
        )
    events = pd.DataFrame(
        {
            "picture": [from_path(part, str(name)).picture for name in img_PR.ravel()],
            "repetition": np.tile(np.arange(eeg_PRCT.shape[1]), len(eeg_PRCT)),
        }
    )
    session_PR = np.asarray(content.get("session", ()))
    if session_PR.shape == img_PR.shape:
        events["session"] = [f"{int(session) + 1:02d}" for session in session_PR.ravel()]
    eeg_NCT = eeg_PRCT.reshape(-1, *eeg_PRCT.shape[2:])
    return _Trials(eeg_NCT, channels(path, content["ch_names"]), np.asarray(content["times"]), events)


def _enigma(path: Path, subject: str, part: Part) -> _Trials:
    content = dictionary(path, ("preprocessed_eeg_data", "ch_names", "times"))
    eeg_NCT = values(path, "preprocessed_eeg_data", content["preprocessed_eeg_data"], 3)
    rows = _enigma_rows(path, subject, part)
    if len(rows) != len(eeg_NCT):
        raise RecordingError(
            f"{path}: {ENIGMA_TABLE} must have a row for each of its {len(eeg_NCT)} trials, has {len(rows)} "
            f"of partition stim_{part} that are not dropped."
        )
    shown = pd.Series([from_path(part, str(name)).picture for name in rows["image_path"]], dtype=object)
    events = pd.DataFrame({"picture": shown, "repetition": shown.groupby(shown).cumcount()})
    return _Trials(eeg_NCT, channels(path, content["ch_names"]), np.asarray(content["times"]), events)


def _enigma_rows(path: Path, subject: str, part: Part) -> pd.DataFrame:
    """Return the rows of the table beside a file that are its trials, in their order."""
    table = path.with_name(ENIGMA_TABLE)
    try:
        frame = pd.read_parquet(table)
        rows = frame[frame["partition"] == f"stim_{part}"]
        if "dropped" in frame.columns:
            rows = rows[~rows["dropped"].astype(bool)]
        rows["image_path"]
    except (OSError, ValueError, KeyError) as error:
        raise RecordingError(
            f"{table}: must be a table with the columns partition and image_path ({type(error).__name__}: {error})."
        ) from error
    # People have as many trials each, in another order: the table of somebody else would fit and be wrong.
    others = sorted(set(rows.get("subject", pd.Series(dtype=object)).astype(str).str.zfill(len(subject))) - {subject})
    if others:
        raise RecordingError(f"{table}: must be about subject {subject}, has rows of {others}.")
    return rows


def _window(path: Path, times_s: np.ndarray, n_times: int, *, last: bool) -> tuple[float, float]:
    """Return the time of the first sample and the rate.

    Where `times` is longer than the data, its part before the picture was cut off; of `ubp` the last samples were kept.
    """
    if times_s.ndim != 1 or times_s.dtype.kind != "f" or len(times_s) < max(n_times, 2):
        raise RecordingError(f"{path}: times must hold a second for each of {n_times} samples, got {times_s.shape}.")
    step_s = (times_s[-1] - times_s[0]) / (len(times_s) - 1)
    if not step_s > 0 or np.abs(np.diff(times_s) - step_s).max() > 0.01 * step_s:
        raise RecordingError(f"{path}: times must rise in equal steps, got {times_s[0]} to {times_s[-1]}.")
    if len(times_s) == n_times:
        start = 0
    elif last:
        start = len(times_s) - n_times
    else:
        start = int(np.argmin(np.abs(times_s)))
        if start + n_times > len(times_s):
            raise RecordingError(
                f"{path}: times must be those of its {n_times} samples, or have those before the picture too; got "
                f"{len(times_s)} from {times_s[0]:g} s, {len(times_s) - start} of them from 0 s on."
            )
    return round(float(times_s[start]), 9), round(float(1 / step_s), 6)


def _check_whitened(path: Path, eeg_NCT: np.ndarray) -> None:
    rows = np.unique(np.linspace(0, len(eeg_NCT) - 1, _N_CHECKED).astype(int))
    typical = float(np.median(np.abs(eeg_NCT[rows].astype(np.float64))))
    low, high = PLAUSIBLE
    if not low <= typical <= high:
        raise RecordingError(
            f"{path}: noise-normalised EEG has a median absolute value of {low:g} to {high:g}, got {typical:.3g}"
            f"{'; it looks like volt' if typical < low else ''}. Was it whitened? Take layout 'raw' if not."
        )
