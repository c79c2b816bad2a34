"""Controls for block designs, which ask whether the class can be told without the picture.

Where a block holds one class, slow drift tells the block and the block tells the class: logistic regression on mean
signal power alone then scores far above chance (Ferrante et al. 2023, table 1; Li et al. 2020, IEEE TPAMI,
doi:10.1109/TPAMI.2020.2973153). Three questions are asked here: does power alone name the class, does the window before
the picture name it, and is anything left once labels are exchanged within blocks only.

Shape letters: N trial, C chan, T time, R permutation, K class, U block.
"""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from eegdecode.config import Section
from eegdecode.evaluate.statistics import Floats, Interval, bootstrap_interval, permutation_in_groups

Share = Annotated[float, Field(ge=0, le=1)]
Decode = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[Any]]
"""Training trials, their labels and test trials to one label per test trial."""
N_PERMUTATIONS = 200


class ConfoundScore(Section):
    """Accuracy of a control that should not be able to name the class."""

    control: str
    accuracy: Share
    """Share of all trials, each named by a decoder that was trained on the other folds."""
    ci95: Interval
    """Blocks drawn with replacement."""
    n_classes: int
    n_trials: int
    n_blocks: int
    chance: Share
    """1 / classes."""
    most_frequent: Share
    """What always naming the most frequent class would score."""
    p: Share
    """Labels exchanged between all trials while the answers stay: is it above chance at all?"""
    smallest_p: Share
    block_chance: Share
    """Mean of the null within blocks: what the blocks alone give."""
    block_null_ci95: Interval
    p_within_blocks: Share
    """Labels exchanged within blocks, trained again each time: is there more than the block?"""
    smallest_p_within_blocks: Share
    """1 where every block holds one class: then nothing tells the picture from its block."""
    n_permutations: int


class ConfoundReport(Section):
    """The controls of one data set under one division into folds."""

    mean_power: ConfoundScore
    blank: ConfoundScore | None = None
    """The same decoder on the window before the picture."""
    classes_per_block: tuple[int, float, int]
    """Least, mean, most."""
    blocks_in_several_folds: int
    findings: tuple[str, ...]
    """What speaks against reading a score of these data as decoding of pictures; empty if nothing does."""


def mean_power(train_NCT: NDArray[Any], label_N: NDArray[Any], test_NCT: NDArray[Any]) -> NDArray[Any]:
    """Name the class by logistic regression on the log of each electrode's mean square over time; nothing else."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    # A few numbers per trial: threads would cost many times what they give, and this runs for every permutation.
    with threadpool_limits(1, user_api="blas"):
        model.fit(_log_power(train_NCT), label_N)
        return np.asarray(model.predict(_log_power(test_NCT)))


def confound_control(
    control: str,
    decode: Decode,
    eeg_NCT: NDArray[Any],
    label_N: NDArray[Any],
    block_N: NDArray[Any],
    fold_N: NDArray[Any],
    *,
    n_permutations: int = N_PERMUTATIONS,
    seed: int,
) -> ConfoundScore:
    """Score a decoder, one fold left out at a time, against chance and against what blocks alone give.

    Parameters
    ----------
    eeg_NCT
        Trials, or the window before the picture for a blank-period control.
    block_N
        Block in which a trial was recorded.
    fold_N
        The division to be judged: a trial is named by a decoder trained on the other folds.

    Raises
    ------
    ValueError
        Arrays of unequal length, EEG that is not finite, one fold, one block or one class, a class that is absent
        from the training trials of some fold.
    """
    eeg_NCT, label_N, block_N, fold_N = _checked(eeg_NCT, label_N, block_N, fold_N)
    folds = [np.flatnonzero(fold_N == fold) for fold in np.unique(fold_N)]
    rest = [np.flatnonzero(fold_N != fold) for fold in np.unique(fold_N)]
    classes, count_K = np.unique(label_N, return_counts=True)
    for fold, train in zip(np.unique(fold_N), rest, strict=True):
        absent = sorted(set(classes.tolist()) - set(label_N[train].tolist()))
        if absent:
            raise ValueError(
                f"every class needs training trials in every fold, '{absent[0]}' has none when fold '{fold}' is left "
                "out: this division can not tell classes from blocks. Each class must be recorded in several blocks."
            )

    def named(truth_N: NDArray[Any]) -> NDArray[Any]:
        answer_N = np.empty_like(truth_N)
        for test, train in zip(folds, rest, strict=True):
            answer_N[test] = decode(eeg_NCT[train], truth_N[train], eeg_NCT[test])
        return answer_N

    answer_N = named(label_N)
    right_N = (answer_N == label_N).astype(np.float64)
    blocks, block_of_N = np.unique(block_N, return_inverse=True)
    right_U, n_U = np.bincount(block_of_N, right_N), np.bincount(block_of_N).astype(np.float64)

    def share(weight_RU: Floats) -> Floats:
        share_R: Floats = (weight_RU @ right_U) / (weight_RU @ n_U)
        return share_R

    anywhere = permutation_in_groups(
        lambda labels_RN: (labels_RN == answer_N).mean(axis=1),
        label_N,
        np.zeros(len(label_N), np.int64),
        n_permutations=n_permutations,
        seed=seed,
    )
    within = permutation_in_groups(
        lambda labels_N: np.mean(named(labels_N) == labels_N, keepdims=True),
        label_N,
        block_N,
        n_permutations=n_permutations,
        seed=seed,
        vectorised=False,
    )
    low, high = bootstrap_interval(share, len(blocks), seed=seed)
    return ConfoundScore(
        control=control,
        accuracy=float(right_N.mean()),
        ci95=(max(low, 0.0), min(high, 1.0)),
        n_classes=len(classes),
        n_trials=len(label_N),
        n_blocks=len(blocks),
        chance=1 / len(classes),
        most_frequent=float(count_K.max() / len(label_N)),
        p=anywhere.p,
        smallest_p=anywhere.smallest_p,
        block_chance=min(within.chance, 1.0),
        block_null_ci95=within.null_ci95,
        p_within_blocks=within.p,
        smallest_p_within_blocks=within.smallest_p,
        n_permutations=n_permutations,
    )


def confound_report(
    eeg_NCT: NDArray[Any],
    label_N: NDArray[Any],
    block_N: NDArray[Any],
    fold_N: NDArray[Any],
    *,
    blank_NCT: NDArray[Any] | None = None,
    decode: Decode = mean_power,
    n_permutations: int = N_PERMUTATIONS,
    seed: int,
) -> ConfoundReport:
    """Run the controls of a block design; see `confound_control`.

    Parameters
    ----------
    blank_NCT
        Window before the picture of the same trials, not baseline-corrected by itself.
    decode
        What is trained on the blank window: give the decoder whose score is in question.
    """
    power = confound_control(
        "mean power",
        mean_power,
        eeg_NCT,
        label_N,
        block_N,
        fold_N,
        n_permutations=n_permutations,
        seed=seed,
    )
    blank = None
    if blank_NCT is not None:
        blank = confound_control(
            "window before the picture",
            decode,
            blank_NCT,
            label_N,
            block_N,
            fold_N,
            n_permutations=n_permutations,
            seed=seed,
        )
    label_N, block_N, fold_N = np.asarray(label_N), np.asarray(block_N), np.asarray(fold_N)
    blocks = np.unique(block_N)
    per_block = [len(np.unique(label_N[block_N == block])) for block in blocks]
    spread = sum(len(np.unique(fold_N[block_N == block])) > 1 for block in blocks)
    findings = []
    if max(per_block) == 1:
        findings.append(
            "Every block holds one class, so no exchange of labels within blocks exists and nothing in these data "
            "tells the picture from its block."
        )
    if spread:
        findings.append(f"{spread} of {len(blocks)} blocks have trials in several folds: what a block shares leaks.")
    for score in (power, *((blank,) if blank else ())):
        if score.p <= 0.05 and score.ci95[0] > max(score.chance, score.most_frequent):
            findings.append(
                f"The {score.control} alone names the class in {100 * score.accuracy:.1f} % of trials (95 % interval "
                f"{100 * score.ci95[0]:.1f}–{100 * score.ci95[1]:.1f} %; chance {100 * score.chance:.1f} %; blocks "
                f"alone give {100 * score.block_chance:.1f} %, p within blocks {score.p_within_blocks:.3f})."
            )
    return ConfoundReport(
        mean_power=power,
        blank=blank,
        classes_per_block=(min(per_block), float(np.mean(per_block)), max(per_block)),
        blocks_in_several_folds=spread,
        findings=tuple(findings),
    )


def _log_power(eeg_NCT: NDArray[Any]) -> Floats:
    power_NC = np.square(eeg_NCT, dtype=np.float64).mean(axis=2)
    # A silent electrode has no logarithm; it is as good as the weakest number there is.
    log_NC: Floats = np.log(np.maximum(power_NC, np.finfo(np.float64).tiny))
    return log_NC


def _checked(*arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    eeg_NCT, *facts = (np.asarray(array) for array in arrays)
    sizes = [len(eeg_NCT), *(len(fact) for fact in facts)]
    if eeg_NCT.ndim != 3 or len(set(sizes)) != 1:
        raise ValueError(
            f"EEG must be (trials, electrodes, times) with a label, block and fold per trial, got {eeg_NCT.shape} and "
            f"{sizes[1:]}."
        )
    if not np.isfinite(eeg_NCT).all():
        raise ValueError(f"EEG must be finite, trial {int(np.argwhere(~np.isfinite(eeg_NCT))[0, 0])} is not.")
    for what, fact in zip(("classes", "blocks", "folds"), facts, strict=True):
        if len(np.unique(fact)) < 2:
            raise ValueError(f"a control needs at least 2 {what}, got {np.unique(fact).tolist()}.")
    return (eeg_NCT, *facts)
