"""CSLS, whitening, Sinkhorn, rotation and assignment against numbers made by published code."""

from collections.abc import Callable
from typing import Any

import numpy as np

from eegdecode import metrics
from eegdecode.evaluate.retrieval import score_matrix
from eegdecode.evaluate.transductive import (
    transductive_assignment,
    transductive_csls,
    transductive_procrustes,
    transductive_sinkhorn,
    transductive_whiten,
)

Golden = Callable[[str], Any]


def test_test_batch_methods(golden: Golden) -> None:
    case = golden("retrieval_transductive")
    eeg, img, target, subject = (case[f"input.{n}"].numpy() for n in ("eeg", "img", "target", "subject_ids"))
    cosine = score_matrix(eeg, img).astype(np.float64)
    white = transductive_whiten(eeg, subject, shrinkage=case.facts["config"]["saw_shrink"])
    sinkhorn = transductive_sinkhorn(cosine, case.facts["config"]["tau"], case.facts["config"]["iters"])
    rotation = transductive_procrustes(eeg, img, sinkhorn)
    rotated = score_matrix(eeg / np.linalg.norm(eeg, axis=1, keepdims=True) @ rotation, img)
    found = {
        "cosine": (cosine, 1e-5),
        "csls.k10": (transductive_csls(cosine, 10), 1e-5),
        "csls.k12": (transductive_csls(cosine, 12), 1e-5),
        "saw": (white, 1e-4),
        "saw_csls": (transductive_csls(score_matrix(white, img), 12), 1e-4),
        "sinkhorn": (sinkhorn, 1e-5),
        "procrustes": (rotation, 1e-4),
        "cosine_after_procrustes": (rotated, 1e-4),
    }
    for name, (got, rtol) in found.items():
        expected = case[f"expected.{name}"].numpy()
        assert np.abs(got - expected).max() <= rtol * np.abs(expected).max(), name
    counted = {
        "cosine": cosine,
        "csls_k10": found["csls.k10"][0],
        "csls_k12": found["csls.k12"][0],
        "saw": score_matrix(white, img),
        "saw_csls_k12": found["saw_csls"][0],
        "sinkhorn": sinkhorn,
        "procrustes": rotated,
    }
    for name, counts in case.facts["scalars"]["top1_top5_counts"].items():
        assert [round(metrics.top_k_hits(counted[name], target, k).sum()) for k in (1, 5)] == counts, name


def test_assignment(golden: Golden) -> None:
    case = golden("retrieval_square")
    assigned = transductive_assignment(case["input.similarity"].numpy())
    np.testing.assert_array_equal(assigned, case["expected.hungarian_assignment"].numpy())
    assert (assigned == np.arange(200)).sum() == case.facts["scalars"]["hungarian_top1_count"]
    ensemble = golden("retrieval_ensemble")
    for rule, counts in ensemble.facts["scalars"]["counts"].items():
        assigned = transductive_assignment(ensemble[f"expected.{rule}"].numpy())
        assert (assigned == np.arange(60)).sum() == counts["hungarian_count"], rule
