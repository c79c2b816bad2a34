"""Classifiers of covariances from pyriemann, beside which recipes of few electrodes are held.

A file of its own: pyriemann takes seconds to import, and scoring with shrinkage LDA alone does not need it.

Shape letters: N trial, C chan, T time, K class.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyriemann.classification import MDM
from pyriemann.estimation import ERPCovariances, XdawnCovariances
from pyriemann.tangentspace import TangentSpace
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from eegdecode.evaluate.baselines import F64


def _tangent(covariances: Any) -> Pipeline:
    steps = [("covariances", covariances), ("tangent", TangentSpace()), ("classes", LogisticRegression(max_iter=1000))]
    return Pipeline(steps)


def _xdawn(n_filters: int) -> Pipeline:
    return _tangent(XdawnCovariances(n_filters, estimator="oas", xdawn_estimator="oas"))


RIEMANN: dict[str, Callable[[], Pipeline]] = {
    "xDAWN covariances (2 filters), tangent space, logistic regression": lambda: _xdawn(2),
    "xDAWN covariances (4 filters), tangent space, logistic regression": lambda: _xdawn(4),
    "ERP covariances, tangent space, logistic regression": lambda: _tangent(ERPCovariances(estimator="oas")),
    "ERP covariances, minimum distance to mean": lambda: Pipeline(
        [("covariances", ERPCovariances(estimator="oas")), ("classes", MDM())]
    ),
}
"""Name to a new classifier of trials (N, C, T); covariances are shrunk by oracle approximation."""


def riemann_decisions(
    make: Callable[[], Pipeline], eeg_NCT: NDArray[np.floating], positive_N: NDArray[np.bool_], fold_N: NDArray[Any]
) -> F64:
    """Return one decision per trial, higher for the positive category, by a classifier of all folds but its own."""
    eeg_NCT, positive_N = np.asarray(eeg_NCT, np.float64), np.asarray(positive_N, bool)
    fold_N = np.asarray(fold_N, dtype=str)
    decision_N = np.empty(len(positive_N))
    for fold in np.unique(fold_N):
        test_N = fold_N == fold
        fitted = make().fit(eeg_NCT[~test_N], positive_N[~test_N])
        if hasattr(fitted[-1], "decision_function"):
            decision_N[test_N] = fitted.decision_function(eeg_NCT[test_N])
        else:  # how much nearer a trial is to the mean of the positive ones
            distance_NK = fitted.transform(eeg_NCT[test_N])
            decision_N[test_N] = distance_NK[:, 0] - distance_NK[:, 1]
    return decision_N
