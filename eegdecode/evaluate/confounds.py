"""Controls for block designs, which ask whether the class can be told without the picture.

Where a block holds one class, slow drift tells the block and the block tells the class: logistic regression on mean
signal power alone then scores far above chance, while one on time-locked samples of the same trials is at chance
(Ferrante et al. 2023, table 1; Li et al. 2020, IEEE TPAMI, doi:10.1109/TPAMI.2020.2973153). Asked here: does power
alone name the class, do time-locked samples, does the window before the picture, and is anything left once labels are
exchanged within blocks only.

Features are taken once and regressions are fitted on them: the null within blocks trains hundreds of times.

Shape letters: N trial, C chan, T time, F feature, R permutation, K class, U block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from eegdecode.config import Section
from eegdecode.evaluate.certainty import time_bins
from eegdecode.evaluate.statistics import Floats, Interval, Ints, bootstrap_interval, permutation_in_groups

Share = Annotated[float, Field(ge=0, le=1)]
N_PERMUTATIONS = 200


@dataclass(frozen=True)
class Division:
    """Rows of the trials that one control is trained on, and of those that it names.

    Attributes
    ----------
    name
        Of the fold, and of the person where controls are fitted person by person.
    """

    name: str
    train_N: Ints
    test_N: Ints


class ConfoundScore(Section):
    """Accuracy of a control that should not be able to name the class."""

    control: str
    accuracy: Share
    """Share of the test trials, single ones, that are named rightly."""
    ci95: Interval
    """Blocks drawn with replacement."""
    n_classes: int
    """That it was trained on."""
    n_trials: int
    """Test trials."""
    n_blocks: int
    """With a test trial."""
    chance: Share
    """1 / classes."""
    most_frequent: Share
    """What always naming the most frequent class would score."""
    p: Share
    """Labels exchanged between all test trials while the answers stay: is it above chance at all?"""
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
    """The controls of one data set in the folds of a recipe."""

    mean_power: ConfoundScore
    time_locked: ConfoundScore | None = None
    """Mean of each electrode in bins of 50 ms after the onset; None where no such bin was recorded."""
    blank: ConfoundScore | None = None
    """Mean power in the window before the picture; None where none was recorded, or each trial was set to 0 there."""
    classes_per_block: tuple[int, float, int]
    """Least, mean, most."""
    blocks_on_both_sides: int
    """Blocks with trials that are learnt from and trials that are named."""
    findings: tuple[str, ...]
    """What speaks against reading a score of these data as decoding of pictures; empty if nothing does."""


class ConfoundFact(Section):
    """The controls of a block design, or why there are none."""

    result: ConfoundReport | None = None
    reason: str = ""


def log_power(eeg_NCT: NDArray[Any]) -> Floats:
    """Return the log of each electrode's mean square over time, (N, C): no time and no sign is left."""
    power_NC = np.square(eeg_NCT, dtype=np.float64).mean(axis=2)
    # A silent electrode has no logarithm; it is as good as the weakest number there is.
    log_NC: Floats = np.log(np.maximum(power_NC, np.finfo(np.float64).tiny))
    return log_NC


def time_locked(eeg_NCT: NDArray[Any], sfreq_hz: float, tmin_s: float) -> Floats:
    """Return each electrode's mean in bins of time after the onset, (N, F); F is 0 where no bin lies there."""
    locked_NF: Floats = time_bins(eeg_NCT, sfreq_hz, tmin_s).reshape(len(eeg_NCT), -1).astype(np.float64)
    return locked_NF


def logistic(train_NF: Floats, label_N: NDArray[Any]) -> Pipeline:
    """Return multinomial logistic regression on standardised features, with scikit-learn's own penalty."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(train_NF, label_N)


def left_out(fold_N: NDArray[Any]) -> tuple[Division, ...]:
    """Return the divisions that leave one fold out at a time."""
    fold_N = np.asarray(fold_N)
    return tuple(
        Division(str(fold), np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold))
        for fold in np.unique(fold_N)
    )


def confound_control(
    control: str,
    feature_NF: Floats,
    label_N: NDArray[Any],
    block_N: NDArray[Any],
    divisions: Sequence[Division],
    *,
    n_permutations: int = N_PERMUTATIONS,
    seed: int,
) -> ConfoundScore:
    """Score logistic regression on features against chance and against what blocks alone give.

    Parameters
    ----------
    block_N
        Block in which a trial was recorded.
    divisions
        What is to be judged: which trials are named by a regression of which others. A trial is named once at most.

    Raises
    ------
    ValueError
        Arrays of unequal length, features that are not finite, no division, one block or one class, a class that is
        absent from the training trials of some division.
    """
    feature_NF, label_N, block_N = _checked(feature_NF, label_N, block_N)
    classes = np.unique(label_N)
    if not divisions:
        raise ValueError("a control needs at least 1 division of its trials, got none.")
    for division in divisions:
        absent = sorted(set(classes.tolist()) - set(label_N[division.train_N].tolist()))
        if absent:
            raise ValueError(
                f"every class needs training trials in every fold, '{absent[0]}' has none in '{division.name}': this "
                "division can not tell classes from blocks. Each class must be recorded in several blocks."
            )
    test_N = np.concatenate([division.test_N for division in divisions])

    def named(truth_N: NDArray[Any]) -> NDArray[Any]:
        """Labels of the test trials by regressions trained on these labels."""
        # A few numbers per trial: threads would cost many times what they give, and this runs for every permutation.
        with threadpool_limits(1, user_api="blas"):
            return np.concatenate(
                [logistic(feature_NF[d.train_N], truth_N[d.train_N]).predict(feature_NF[d.test_N]) for d in divisions]
            )

    shown_N, answer_N = label_N[test_N], named(label_N)
    right_N = (answer_N == shown_N).astype(np.float64)
    blocks, block_of_N = np.unique(block_N[test_N], return_inverse=True)
    right_U, n_U = np.bincount(block_of_N, right_N), np.bincount(block_of_N).astype(np.float64)

    def share(weight_RU: Floats) -> Floats:
        share_R: Floats = (weight_RU @ right_U) / (weight_RU @ n_U)
        return share_R

    anywhere = permutation_in_groups(
        lambda labels_RN: (labels_RN == answer_N).mean(axis=1),
        shown_N,
        np.zeros(len(shown_N), np.int64),
        n_permutations=n_permutations,
        seed=seed,
    )
    within = permutation_in_groups(
        lambda labels_N: np.mean(named(labels_N) == labels_N[test_N], keepdims=True),
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
        n_trials=len(test_N),
        n_blocks=len(blocks),
        chance=1 / len(classes),
        most_frequent=float(np.unique(shown_N, return_counts=True)[1].max() / len(shown_N)),
        p=anywhere.p,
        smallest_p=anywhere.smallest_p,
        block_chance=min(within.chance, 1.0),
        block_null_ci95=within.null_ci95,
        p_within_blocks=within.p,
        smallest_p_within_blocks=within.smallest_p,
        n_permutations=n_permutations,
    )


def confound_report(
    power_NC: Floats,
    label_N: NDArray[Any],
    block_N: NDArray[Any],
    divisions: Sequence[Division],
    *,
    locked_NF: Floats | None = None,
    blank_NC: Floats | None = None,
    n_permutations: int = N_PERMUTATIONS,
    seed: int,
) -> ConfoundReport:
    """Run the controls of a block design; see `confound_control`.

    Parameters
    ----------
    power_NC, locked_NF
        `log_power` and `time_locked` of the trials.
    blank_NC
        `log_power` of the window before the picture, not baseline-corrected by itself.
    """

    def control(name: str, feature_NF: Floats | None) -> ConfoundScore | None:
        if feature_NF is None:
            return None
        return confound_control(name, feature_NF, label_N, block_N, divisions, n_permutations=n_permutations, seed=seed)

    power, blank = control("mean power", power_NC), control("mean power before the picture", blank_NC)
    assert power is not None
    label_N, block_N = np.asarray(label_N), np.asarray(block_N)
    blocks = np.unique(block_N)
    per_block = [len(np.unique(label_N[block_N == block])) for block in blocks]
    both = set().union(*(set(block_N[d.train_N].tolist()) & set(block_N[d.test_N].tolist()) for d in divisions))
    findings = []
    if max(per_block) == 1:
        findings.append(
            "Every block holds one class, so no exchange of labels within blocks exists and nothing in these data "
            "tells the picture from its block."
        )
    if both:
        findings.append(
            f"{len(both)} of {len(blocks)} blocks have trials on both sides of the division: what a block shares leaks."
        )
    for score in (power, *((blank,) if blank else ())):
        if score.p <= 0.05 and score.ci95[0] > max(score.chance, score.most_frequent):
            findings.append(
                f"The {score.control} alone names the class in {100 * score.accuracy:.1f} % of trials (95 % interval "
                f"{100 * score.ci95[0]:.1f}–{100 * score.ci95[1]:.1f} %; chance {100 * score.chance:.1f} %; blocks "
                f"alone give {100 * score.block_chance:.1f} %, p within blocks {score.p_within_blocks:.3f})."
            )
    return ConfoundReport(
        mean_power=power,
        time_locked=control("time-locked samples", locked_NF),
        blank=blank,
        classes_per_block=(min(per_block), float(np.mean(per_block)), max(per_block)),
        blocks_on_both_sides=len(both),
        findings=tuple(findings),
    )


def _checked(*arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    feature_NF, *facts = (np.asarray(array) for array in arrays)
    sizes = [len(feature_NF), *(len(fact) for fact in facts)]
    if feature_NF.ndim != 2 or len(set(sizes)) != 1:
        raise ValueError(
            f"features must be (trials, numbers) with a label and block per trial, got {feature_NF.shape} and "
            f"{sizes[1:]}."
        )
    if not np.isfinite(feature_NF).all():
        raise ValueError(f"EEG must be finite, trial {int(np.argwhere(~np.isfinite(feature_NF))[0, 0])} is not.")
    for what, fact in zip(("classes", "blocks"), facts, strict=True):
        if len(np.unique(fact)) < 2:
            raise ValueError(f"a control needs at least 2 {what}, got {np.unique(fact).tolist()}.")
    return (feature_NF, *facts)
