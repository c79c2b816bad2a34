"""Controls of a block design in the folds of a run: what mean power and time-locked samples name by themselves.

Shape letters: N trial, F feature.
"""

import numpy as np
from numpy.typing import NDArray

from eegdecode.config import Experiment
from eegdecode.data.shardset import ShardSet, test_trials
from eegdecode.evaluate.confounds import ConfoundFact, Division, confound_report, log_power, time_locked
from eegdecode.evaluate.statistics import Floats

TRIALS_AT_ONCE = 1024
"""Trials in memory at a time; of each a few numbers stay."""


def confounds(experiment: Experiment, shards: ShardSet) -> ConfoundFact | None:
    """Return the report's section `confounds`; None where the source declares no block design.

    Trained and tested on the trials of the recipe's own folds, to name the concept of single trials. Person by person
    where a person is on both sides, as the paper does (Ferrante et al. 2023, table 1), since blocks are a person's own.
    """
    manifest, protocol = shards.manifest, experiment.protocol
    if manifest.source.design != "block":
        return None
    if protocol.split_by in ("concept", "subject_concept"):
        return ConfoundFact(reason="test concepts are not trained on, so no classifier of concepts can name them.")
    trial_N, divisions = _divisions(experiment, shards)
    power_NC, locked_NF, blank_NC = _features(experiment, shards, trial_N)
    table = shards.table.iloc[trial_N]
    concept_N = table["concept"].to_numpy(str)
    # A block design shows the pictures of a class one after the other.
    block_N = np.char.add(np.char.add(table["recording"].to_numpy(str), "|"), concept_N)
    try:
        found = confound_report(
            power_NC,
            concept_N,
            block_N,
            divisions,
            locked_NF=locked_NF if locked_NF.shape[1] else None,
            blank_NC=blank_NC,
            seed=protocol.seed,
        )
    except ValueError as error:  # a class that a person was not trained on must not cost the run its report
        return ConfoundFact(reason=str(error))
    return ConfoundFact(result=found)


def _divisions(experiment: Experiment, shards: ShardSet) -> tuple[NDArray[np.int64], list[Division]]:
    """Return the trials that are learnt from or named, ascending, and the divisions of their rows."""
    protocol = experiment.protocol
    person = shards.table["subject"].to_numpy(str)
    parts: list[tuple[str, NDArray[np.int64], NDArray[np.int64]]] = []
    for fold in (fold for fold in shards.folds if fold.by == protocol.split_by):
        learnt = [shards.trials_of(fold, "train")]
        if protocol.selection == "last":  # then the decoder learns from the validation groups too
            learnt.append(shards.trials_of(fold, "val"))
        train, test = np.sort(np.concatenate(learnt)), test_trials(shards, fold)
        for name in np.unique(person[test]):
            own = train[person[train] == name]
            parts.append((f"{fold.name}, {name}", own if len(own) else train, test[person[test] == name]))
    trial_N = np.unique(np.concatenate([rows for _, train, test in parts for rows in (train, test)]))
    return trial_N, [
        Division(name, np.searchsorted(trial_N, train), np.searchsorted(trial_N, test)) for name, train, test in parts
    ]


def _features(
    experiment: Experiment, shards: ShardSet, trial_N: NDArray[np.int64]
) -> tuple[Floats, Floats, Floats | None]:
    """Return log power, time-locked samples, and log power before the picture where that window says anything."""
    manifest = shards.manifest
    n_before = round(-manifest.tmin_s * manifest.sfreq_hz)
    # A window that is its own baseline was moved to zero, trial by trial.
    before = n_before >= 2 and experiment.data.epochs.baseline_s is None
    power, locked, blank = [], [], []
    for start in range(0, len(trial_N), TRIALS_AT_ONCE):
        eeg_NCT = shards.gather(trial_N[start : start + TRIALS_AT_ONCE]).astype(np.float32)
        power.append(log_power(eeg_NCT))
        locked.append(time_locked(eeg_NCT, manifest.sfreq_hz, manifest.tmin_s))
        if before:
            blank.append(log_power(eeg_NCT[:, :, :n_before]))
    return np.concatenate(power), np.concatenate(locked), np.concatenate(blank) if before else None
