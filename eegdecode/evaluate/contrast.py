"""Scores of few categories: ROC AUC between two, accuracy among n, per fold, with interval and permutation p.

Shape letters: N trial, F fold, K class, R permutation.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats

from eegdecode.config import Section
from eegdecode.evaluate.statistics import (
    Floats,
    Interval,
    Permute,
    auc_interval,
    auc_rows,
    permutation_p,
    permuted_labels,
)

Share = Annotated[float, Field(ge=0, le=1)]
Chance = Annotated[float, Field(gt=0, lt=1)]
Null = Literal["fixed decisions", "refitted"]


class ContrastScore(Section):
    """ROC AUC between two categories on trials no decoder of that fold was trained on."""

    labels: tuple[str, str]
    """The category the decision is low for, and the one it is high for."""
    split_by: Literal["concept", "picture", "run", "subject"]
    n_trials: int
    auc: Share
    """Mean over folds."""
    sd: float
    """Over folds (n in the denominator); 0 for a single fold."""
    per_fold: dict[str, Share]
    trials_per_fold: dict[str, int]
    weighted_auc: Share
    """Mean over folds weighted by their trials."""
    pooled_auc: Share
    """Of all decisions together; low where folds put their threshold at different places."""
    chance: Chance = 0.5
    ci95: Interval
    """Folds drawn with replacement, then trials within each."""
    p_permutation: Share
    permute: Permute
    null: Null
    """`refitted` where the decoder was trained again on every permuted set of labels."""
    n_permutations: int
    baseline_name: str | None = None
    baseline_auc: Share | None = None
    baseline_sd: float | None = None
    baseline_ci95: Interval | None = None
    baseline_p_permutation: Share | None = None
    baseline_per_fold: dict[str, Share] = Field(default_factory=dict)
    control_name: str | None = None
    control_auc: Share | None = None
    control_sd: float | None = None
    control_ci95: Interval | None = None
    control_per_fold: dict[str, Share] = Field(default_factory=dict)

    def beside(
        self,
        *,
        baseline: "ContrastScore | None" = None,
        baseline_name: str = "shrinkage LDA",
        control: "ContrastScore | None" = None,
        control_name: str = "window before the picture",
    ) -> "ContrastScore":
        """Return the score with a baseline and a control, scored by `contrast_report` on their own decisions."""
        update: dict[str, Any] = {}
        if baseline is not None:
            update |= {
                "baseline_name": baseline_name,
                "baseline_auc": baseline.auc,
                "baseline_sd": baseline.sd,
                "baseline_ci95": baseline.ci95,
                "baseline_p_permutation": baseline.p_permutation,
                "baseline_per_fold": baseline.per_fold,
            }
        if control is not None:
            update |= {
                "control_name": control_name,
                "control_auc": control.auc,
                "control_sd": control.sd,
                "control_ci95": control.ci95,
                "control_per_fold": control.per_fold,
            }
        return type(self).model_validate(self.model_dump() | update)


class ClassScore(Section):
    """Accuracy of naming one of n classes, trial by trial."""

    classes: tuple[str, ...]
    n_way: int
    split_by: Literal["concept", "picture", "run", "subject"]
    n_trials: int
    accuracy: Share
    """Mean over folds."""
    sd: float
    per_fold: dict[str, Share]
    chance: Chance
    """1 / n_way."""
    most_frequent: Share
    """What always naming the most frequent class would score."""
    ci95: Interval
    """Folds drawn with replacement, then trials within each."""
    p_permutation: Share
    permute: Permute
    null: Null
    n_permutations: int
    confusion: tuple[tuple[int, ...], ...]
    """Rows: shown; columns: named."""
    baseline_name: str | None = None
    baseline_accuracy: Share | None = None
    baseline_sd: float | None = None
    baseline_ci95: Interval | None = None


def contrast_report(
    decision_N: NDArray[Any],
    positive_N: NDArray[Any],
    fold_N: NDArray[Any],
    run_N: NDArray[Any],
    position_N: NDArray[Any],
    *,
    labels: tuple[str, str],
    split_by: Literal["concept", "picture", "run", "subject"],
    permute: Permute,
    n_permutations: int,
    seed: int,
    picture_N: NDArray[Any] | None = None,
    null_R: Floats | None = None,
) -> ContrastScore:
    """Score one decision per test trial: higher must mean the second label.

    Parameters
    ----------
    fold_N
        Fold whose decoder made the decision; AUC is taken within it.
    run_N, position_N
        Run of each trial and its place there, for the permutation.
    null_R
        Mean AUC of decoders trained again on permuted labels (`refitted_null`). Without it the decisions stay and
        only test labels are permuted. That is enough where labels are random in time; where every run has the same
        order, a decoder that learnt the order itself passes it, so give the refitted null.

    Raises
    ------
    ValueError
        A fold without both categories, a decision that is not finite, arrays of unequal length.
    """
    decision_N, positive_N = _aligned(decision_N, positive_N, fold_N, run_N, position_N)
    positive_N = positive_N.astype(bool)
    rows = _folds(fold_N)
    for fold, at in rows.items():
        if positive_N[at].all() or not positive_N[at].any():
            raise ValueError(
                f"fold '{fold}' must have trials of both {labels[0]} and {labels[1]}, got {int(positive_N[at].sum())} "
                f"{labels[1]} of {len(at)}: an AUC does not exist there. Leave the fold out and say so."
            )
    per_fold = {
        fold: float(auc_rows(stats.rankdata(decision_N[at]), positive_N[None, at])[0]) for fold, at in rows.items()
    }
    auc = float(np.mean(list(per_fold.values())))
    counts = {fold: len(at) for fold, at in rows.items()}
    null: Null = "refitted"
    if null_R is None:
        null = "fixed decisions"
        rng = np.random.default_rng(seed)
        permuted_RN = np.stack(
            [permuted_labels(positive_N, run_N, position_N, permute, rng, picture_N) for _ in range(n_permutations)]
        )
        null_R = _mean_auc(decision_N, permuted_RN, rows)
    return ContrastScore(
        labels=labels,
        split_by=split_by,
        n_trials=len(decision_N),
        auc=auc,
        sd=float(np.std(list(per_fold.values()))),
        per_fold=per_fold,
        trials_per_fold=counts,
        weighted_auc=float(np.average(list(per_fold.values()), weights=list(counts.values()))),
        pooled_auc=float(auc_rows(stats.rankdata(decision_N), positive_N[None])[0]),
        ci95=auc_interval(
            [decision_N[at] for at in rows.values()], [positive_N[at] for at in rows.values()], seed=seed
        ),
        p_permutation=permutation_p(auc, null_R),
        permute=permute,
        null=null,
        n_permutations=len(null_R),
    )


def refitted_null(
    decide: Callable[[NDArray[Any]], NDArray[Any]],
    labels_N: NDArray[Any],
    fold_N: NDArray[Any],
    run_N: NDArray[Any],
    position_N: NDArray[Any],
    *,
    permute: Permute,
    n_permutations: int,
    seed: int,
    picture_N: NDArray[Any] | None = None,
) -> Floats:
    """Return the null of decoders that are trained and tested on permuted labels.

    Parameters
    ----------
    decide
        Trains on every fold with the labels it is given and returns one decision (booleans: AUC) or one class name
        (otherwise: accuracy) per trial.
    """
    rng = np.random.default_rng(seed)
    rows = _folds(fold_N)
    two = np.asarray(labels_N).dtype == bool
    null_R = np.empty(n_permutations)
    for r in range(n_permutations):
        permuted_N = permuted_labels(labels_N, run_N, position_N, permute, rng, picture_N)
        decision_N = np.asarray(decide(permuted_N))
        if two:
            null_R[r] = _mean_auc(decision_N.astype(np.float64), permuted_N[None], rows)[0]
        else:
            null_R[r] = np.mean([np.mean(decision_N[at] == permuted_N[at]) for at in rows.values()])
    return null_R


def class_report(
    named_N: NDArray[Any],
    shown_N: NDArray[Any],
    fold_N: NDArray[Any],
    run_N: NDArray[Any],
    position_N: NDArray[Any],
    *,
    classes: tuple[str, ...],
    split_by: Literal["concept", "picture", "run", "subject"],
    permute: Permute,
    n_permutations: int,
    seed: int,
    null_R: Floats | None = None,
    baseline: ClassScore | None = None,
    baseline_name: str = "shrinkage LDA",
) -> ClassScore:
    """Score the class named for each test trial; arguments as for `contrast_report`.

    Raises
    ------
    ValueError
        A class outside `classes`, or arrays of unequal length.
    """
    named_N, shown_N = np.asarray(named_N), np.asarray(shown_N)
    _aligned(np.zeros(len(named_N)), shown_N, fold_N, run_N, position_N)
    unknown = sorted((set(named_N.tolist()) | set(shown_N.tolist())) - set(classes))
    if unknown:
        raise ValueError(f"class '{unknown[0]}' must be one of {', '.join(classes)}.")
    rows = _folds(fold_N)
    right_N = (named_N == shown_N).astype(np.float64)
    per_fold = {fold: float(right_N[at].mean()) for fold, at in rows.items()}
    accuracy = float(np.mean(list(per_fold.values())))
    null: Null = "refitted"
    if null_R is None:
        null = "fixed decisions"
        rng = np.random.default_rng(seed)
        right_RN = np.stack(
            [named_N == permuted_labels(shown_N, run_N, position_N, permute, rng) for _ in range(n_permutations)]
        )
        null_R = np.mean([right_RN[:, at].mean(axis=1) for at in rows.values()], axis=0)
    index = {name: i for i, name in enumerate(classes)}
    confusion_KK = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion_KK, ([index[x] for x in shown_N.tolist()], [index[x] for x in named_N.tolist()]), 1)
    return ClassScore(
        classes=classes,
        n_way=len(classes),
        split_by=split_by,
        n_trials=len(named_N),
        accuracy=accuracy,
        sd=float(np.std(list(per_fold.values()))),
        per_fold=per_fold,
        chance=1 / len(classes),
        most_frequent=float(confusion_KK.sum(axis=1).max() / len(named_N)),
        ci95=_accuracy_interval(right_N, rows, seed),
        p_permutation=permutation_p(accuracy, null_R),
        permute=permute,
        null=null,
        n_permutations=len(null_R),
        confusion=tuple(tuple(int(n) for n in row) for row in confusion_KK),
        baseline_name=None if baseline is None else baseline_name,
        baseline_accuracy=None if baseline is None else baseline.accuracy,
        baseline_sd=None if baseline is None else baseline.sd,
        baseline_ci95=None if baseline is None else baseline.ci95,
    )


def _folds(fold_N: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    return {str(fold): np.flatnonzero(np.asarray(fold_N) == fold) for fold in np.unique(fold_N)}


def _aligned(decision_N: NDArray[Any], label_N: NDArray[Any], *others: NDArray[Any]) -> tuple[Floats, NDArray[Any]]:
    decision_N, label_N = np.asarray(decision_N, np.float64), np.asarray(label_N)
    sizes = [len(decision_N), len(label_N), *(len(other) for other in others)]
    if len(set(sizes)) != 1 or not sizes[0]:
        raise ValueError(f"decisions, labels, folds, runs and positions must be one per trial, got {sizes}.")
    if not np.isfinite(decision_N).all():
        raise ValueError(f"decisions must be finite, got {decision_N[~np.isfinite(decision_N)][0]}.")
    return decision_N, label_N


def _mean_auc(decision_N: Floats, positive_RN: NDArray[Any], rows: Mapping[str, NDArray[np.int64]]) -> Floats:
    """Mean over folds; a fold that a permutation left without both categories does not count in that permutation."""
    auc_FR = np.stack([auc_rows(stats.rankdata(decision_N[at]), positive_RN[:, at]) for at in rows.values()])
    mean_R: Floats = np.nanmean(auc_FR, axis=0)
    return mean_R


def _accuracy_interval(right_N: Floats, rows: Mapping[str, NDArray[np.int64]], seed: int) -> Interval:
    """Folds are drawn, then trials within each, as for the AUC; drawing n trials of a share is a binomial."""
    rng = np.random.default_rng(seed)
    size_F = np.array([len(at) for at in rows.values()])
    share_F = np.array([right_N[at].mean() for at in rows.values()])
    fold_RF = rng.integers(len(rows), size=(2000, len(rows)))
    mean_R = (rng.binomial(size_F[fold_RF], share_F[fold_RF]) / size_F[fold_RF]).mean(axis=1)
    low, high = np.quantile(mean_R, [0.025, 0.975])
    return float(low), float(high)
