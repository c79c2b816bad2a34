"""Classifiers beside the decoder of two categories: LDA, logistic regressions and those of covariances, a task each."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import ray
from numpy.typing import NDArray

from eegdecode.config import Protocol
from eegdecode.evaluate.baselines import (
    N_PERMUTATIONS,
    ContrastBaselines,
    Decide,
    baselines_beside,
    classifier_contrast,
    lda_decider,
    logistic_decider,
)
from eegdecode.evaluate.confounds import log_power, time_locked
from eegdecode.evaluate.contrast import ContrastScore
from eegdecode.runtime.progress import gather

LDA = "shrinkage LDA"
MEAN_POWER, TIME_LOCKED = "logistic regression, mean power", "logistic regression, means of 50 ms"
REFITS = 50
"""Of a classifier of covariances, where labels are permuted by position: each takes a second."""


@dataclass(frozen=True)
class TwoCategories:
    """Trials of two categories, and how they are divided."""

    eeg_uv_NCT: NDArray[np.float32]
    sfreq_hz: float
    tmin_s: float
    positive_N: NDArray[np.bool_]
    fold_N: NDArray[np.str_]
    run_N: NDArray[np.str_]
    position_N: NDArray[np.int64]
    labels: tuple[str, str]
    split_by: Literal["concept", "picture", "run", "subject"]


def contrast_baselines(trials: TwoCategories, protocol: Protocol, decoder: ContrastScore) -> ContrastBaselines:
    """Score every classifier in the decoder's folds, and test the decoder against each."""
    # Covariances take seconds to import, and only runs of categories need them.
    from eegdecode.evaluate.covariance_baselines import RIEMANN

    names = (LDA, *RIEMANN, TIME_LOCKED, MEAN_POWER)
    given, task = ray.put(trials), ray.remote(num_cpus=1)(baseline_contrast)
    futures = [task.remote(name, given, protocol) for name in names]
    found: list[ContrastScore] = gather(futures, f"evaluate: baselines, leave one {trials.split_by} out", "classifiers")
    return baselines_beside(decoder, dict(zip(names, found, strict=True)), protocol.seed)


def baseline_contrast(name: str, trials: TwoCategories, protocol: Protocol) -> ContrastScore:
    """Score one classifier by its name.

    Where labels are permuted by position it is trained again on each permutation. Elsewhere its decisions stay and test
    labels are permuted within runs, but for LDA, of which a training takes a hundredth of the others'.
    """
    refitted, covariances = name == LDA or protocol.permute == "positions", False
    decide: Decide
    if name == LDA:
        decide = lda_decider(trials.eeg_uv_NCT, trials.fold_N)
    elif name == TIME_LOCKED:
        locked_NF = time_locked(trials.eeg_uv_NCT, trials.sfreq_hz, trials.tmin_s)
        decide = logistic_decider(locked_NF, trials.fold_N)
    elif name == MEAN_POWER:
        decide = logistic_decider(log_power(trials.eeg_uv_NCT), trials.fold_N)
    else:
        from eegdecode.evaluate.covariance_baselines import RIEMANN, riemann_decisions

        decide, covariances = partial(riemann_decisions, RIEMANN[name], trials.eeg_uv_NCT, fold_N=trials.fold_N), True
    refits = REFITS if covariances else N_PERMUTATIONS
    return classifier_contrast(
        decide,
        trials.positive_N,
        trials.fold_N,
        trials.run_N,
        trials.position_N,
        labels=trials.labels,
        split_by=trials.split_by,
        permute=protocol.permute,
        seed=protocol.seed,
        n_permutations=refits if refitted else protocol.permutations,
        refitted=refitted,
    )
