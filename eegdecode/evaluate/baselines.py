"""The baseline every decoder is held against: linear discriminant analysis with automatic shrinkage.

The same function as scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")``, with one
fold left out at a time; features are all electrodes at all times (Blankertz et al. 2011, NeuroImage 56, 814). Written
out because the permutation test trains it hundreds of times: scatter matrices are summed per fold and class once, and
a training set is the sum of all folds but its own.

Shape letters: N trial, C chan, T time, F feature, K class, G fold, R permutation.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from eegdecode.config import Section
from eegdecode.data.whiten import ledoit_wolf_shrunk
from eegdecode.evaluate.confounds import left_out, logistic
from eegdecode.evaluate.contrast import ClassScore, ContrastScore, class_report, contrast_report, refitted_null
from eegdecode.evaluate.statistics import PairedTest, Permute, paired_tests

F64 = NDArray[np.float64]
Decide = Callable[[NDArray[Any]], F64]
"""Labels (N) to decisions (N), higher for the positive category, each by a classifier of all folds but the trial's."""
N_PERMUTATIONS = 200
DECODER = "decoder"


class ContrastBaselines(Section):
    """Other classifiers between two categories, on the decoder's trials and folds, and what it differs from each by."""

    split_by: Literal["concept", "picture", "run", "subject"]
    scores: dict[str, ContrastScore]
    against_decoder: tuple[PairedTest, ...]
    """AUC of every classifier, first, minus the decoder's, second, paired by what is left out; Holm over these."""


class FoldwiseLda:
    """Shrinkage LDA with one fold left out at a time; built once, trained on as many labelings as wanted.

    Parameters
    ----------
    eeg_NCT
        Trials, any unit.
    fold_N
        Trials of one value are decided by the discriminants of all others.

    Raises
    ------
    ValueError
        One fold only, arrays of unequal length, or values that are not finite.
    """

    def __init__(self, eeg_NCT: NDArray[np.floating], fold_N: NDArray[Any]) -> None:
        x_NF = np.asarray(eeg_NCT, dtype=np.float64).reshape(len(eeg_NCT), -1)
        folds, self._fold_N = np.unique(np.asarray(fold_N, dtype=str), return_inverse=True)
        if len(self._fold_N) != len(x_NF) or len(folds) < 2:
            raise ValueError(
                f"LDA needs one fold per trial and at least two folds, got {len(self._fold_N)} for {len(x_NF)} trials "
                f"and {len(folds)} folds."
            )
        if not np.isfinite(x_NF).all():
            raise ValueError(f"trials must be finite, trial {int(np.argwhere(~np.isfinite(x_NF))[0, 0])} is not.")
        self._folds = folds
        # Centred, because second moments are summed raw and the means taken off afterwards.
        self._x_NF = x_NF - x_NF.mean(axis=0)
        self._squared_NF = self._x_NF**2
        self._scatter_GFF = np.stack([self._moment(np.flatnonzero(self._fold_N == g)) for g in range(len(folds))])

    def decide(self, labels_N: NDArray[Any], classes: tuple[Any, ...]) -> F64:
        """Return the log posterior (N, K), up to a constant per trial, each trial by the folds it is not in.

        Raises
        ------
        ValueError
            A class without two training trials in some fold.
        """
        labels_N = np.asarray(labels_N)
        member_KN = np.stack([labels_N == name for name in classes])
        scatter_GKFF, sum_GKF, n_GK = self._sums(member_KN)
        decision_NK = np.empty((len(labels_N), len(classes)))
        for g, fold in enumerate(self._folds):
            n_K = n_GK.sum(axis=0) - n_GK[g]
            if n_K.min() < 2:
                raise ValueError(
                    f"LDA needs two training trials of each class, got {int(n_K.min())} of "
                    f"'{classes[int(n_K.argmin())]}' when fold '{fold}' is left out."
                )
            mean_KF = (sum_GKF.sum(axis=0) - sum_GKF[g]) / n_K[:, None]
            scatter_KFF = scatter_GKFF.sum(axis=0) - scatter_GKFF[g]
            prior_K = n_K / n_K.sum()
            within_FF = np.zeros(scatter_KFF.shape[1:])
            for k, prior in enumerate(prior_K):
                train_N = member_KN[k] & (self._fold_N != g)
                within_FF += prior * self._class_covariance(scatter_KFF[k], mean_KF[k], train_N)
            weight_FK = scipy.linalg.solve(within_FF, mean_KF.T, assume_a="pos")
            offset_K = np.log(prior_K) - 0.5 * (mean_KF.T * weight_FK).sum(axis=0)
            rows = self._fold_N == g
            decision_NK[rows] = self._x_NF[rows] @ weight_FK + offset_K
        return decision_NK

    def _moment(self, rows: NDArray[np.int64]) -> F64:
        chosen_NF = self._x_NF[rows]
        moment_FF: F64 = chosen_NF.T @ chosen_NF
        return moment_FF

    def _sums(self, member_KN: NDArray[np.bool_]) -> tuple[F64, F64, F64]:
        n_folds, n_classes, n_features = len(self._folds), len(member_KN), self._x_NF.shape[1]
        scatter_GKFF = np.empty((n_folds, n_classes, n_features, n_features))
        sum_GKF = np.empty((n_folds, n_classes, n_features))
        n_GK = np.empty((n_folds, n_classes))
        # The last class of a fold is what the others leave of the fold's whole, unless some trials have no class.
        complete = bool((member_KN.sum(axis=0) == 1).all())
        for g in range(n_folds):
            inside_N = self._fold_N == g
            for k in range(n_classes):
                rows = np.flatnonzero(member_KN[k] & inside_N)
                sum_GKF[g, k], n_GK[g, k] = self._x_NF[rows].sum(axis=0), len(rows)
                if complete and k == n_classes - 1:
                    scatter_GKFF[g, k] = self._scatter_GFF[g] - scatter_GKFF[g, :k].sum(axis=0)
                else:
                    scatter_GKFF[g, k] = self._moment(rows)
        return scatter_GKFF, sum_GKF, n_GK

    def _class_covariance(self, scatter_FF: F64, mean_F: F64, train_N: NDArray[np.bool_]) -> F64:
        """Ledoit-Wolf on standardised features, scaled back: scikit-learn's automatic shrinkage."""
        n = int(train_N.sum())
        covariance_FF = scatter_FF / n - np.outer(mean_F, mean_F)
        variance_F = np.diag(covariance_FF).copy()
        variance_F[variance_F <= 0] = 1.0
        sd_F = np.sqrt(variance_F)
        # Squared length of each standardised trial, from products of the matrices that are there already.
        precision_F = 1 / variance_F
        length_N = (
            self._squared_NF @ precision_F - 2 * self._x_NF @ (mean_F * precision_F) + (mean_F**2 * precision_F).sum()
        )
        fourth = float((length_N[train_N] ** 2).mean())
        shrunk_FF: F64 = ledoit_wolf_shrunk(covariance_FF / np.outer(sd_F, sd_F), fourth, n) * np.outer(sd_F, sd_F)
        return shrunk_FF


def lda_decider(eeg_NCT: NDArray[np.floating], fold_N: NDArray[Any]) -> Decide:
    """Return shrinkage LDA of two categories, one fold left out at a time."""
    lda = FoldwiseLda(eeg_NCT, fold_N)

    def decide(truth_N: NDArray[Any]) -> F64:
        decision_NK = lda.decide(truth_N, (False, True))
        difference_N: F64 = decision_NK[:, 1] - decision_NK[:, 0]
        return difference_N

    return decide


def logistic_decider(feature_NF: F64, fold_N: NDArray[Any]) -> Decide:
    """Return logistic regression on features (`log_power`, `time_locked`), one fold left out at a time."""
    divisions = left_out(fold_N)

    def decide(truth_N: NDArray[Any]) -> F64:
        decision_N = np.empty(len(truth_N))
        with threadpool_limits(1, user_api="blas"):  # few numbers per trial, and many fits
            for division in divisions:
                fitted = logistic(feature_NF[division.train_N], truth_N[division.train_N])
                decision_N[division.test_N] = fitted.decision_function(feature_NF[division.test_N])
        return decision_N

    return decide


def classifier_contrast(
    decide: Decide,
    positive_N: NDArray[np.bool_],
    fold_N: NDArray[Any],
    run_N: NDArray[Any],
    position_N: NDArray[Any],
    *,
    labels: tuple[str, str],
    split_by: Literal["concept", "picture", "run", "subject"],
    permute: Permute,
    seed: int,
    n_permutations: int,
    refitted: bool = True,
) -> ContrastScore:
    """Score a classifier between two categories; see `contrast_report`.

    Parameters
    ----------
    refitted
        Whether the null trains again on permuted labels; its decisions stay otherwise.
    """
    positive_N = np.asarray(positive_N, dtype=bool)
    null_R = None
    if refitted:
        null_R = refitted_null(
            decide,
            positive_N,
            fold_N,
            run_N,
            position_N,
            permute=permute,
            n_permutations=n_permutations,
            seed=seed,
        )
    return contrast_report(
        decide(positive_N),
        positive_N,
        fold_N,
        run_N,
        position_N,
        labels=labels,
        split_by=split_by,
        permute=permute,
        n_permutations=n_permutations,
        seed=seed,
        null_R=null_R,
    )


def baselines_beside(decoder: ContrastScore, scores: Mapping[str, ContrastScore], seed: int) -> ContrastBaselines:
    """Return classifiers beside the decoder, with its paired test against each.

    Raises
    ------
    ValueError
        Classifiers that were scored on other folds, or fewer than two folds.
    """
    table = {DECODER: decoder.per_fold} | {name: score.per_fold for name, score in scores.items()}
    return ContrastBaselines(
        split_by=decoder.split_by,
        scores=dict(scores),
        against_decoder=paired_tests(table, unit=f"{decoder.split_by}s", against=DECODER, seed=seed),
    )


def lda_classes(
    eeg_NCT: NDArray[np.floating],
    shown_N: NDArray[Any],
    fold_N: NDArray[Any],
    run_N: NDArray[Any],
    position_N: NDArray[Any],
    *,
    split_by: Literal["concept", "picture", "run", "subject"],
    permute: Literal["trials", "positions"],
    seed: int,
    n_permutations: int = N_PERMUTATIONS,
) -> ClassScore:
    """Score LDA among all classes shown, with a null of LDAs trained on permuted labels; see `class_report`.

    Exchanging pictures for pictures would only rename the classes, so that null is not offered.
    """
    shown_N = np.asarray(shown_N, dtype=object)
    classes = tuple(sorted(set(shown_N.tolist())))
    names_K = np.array(classes, dtype=object)
    lda = FoldwiseLda(eeg_NCT, fold_N)

    def decide(truth_N: NDArray[Any]) -> NDArray[Any]:
        named_N: NDArray[Any] = names_K[lda.decide(truth_N, classes).argmax(axis=1)]
        return named_N

    null_R = refitted_null(
        decide, shown_N, fold_N, run_N, position_N, permute=permute, n_permutations=n_permutations, seed=seed
    )
    return class_report(
        decide(shown_N),
        shown_N,
        fold_N,
        run_N,
        position_N,
        classes=classes,
        split_by=split_by,
        permute=permute,
        n_permutations=n_permutations,
        seed=seed,
        null_R=null_R,
    )
