"""A score that saw the whole test set can not stand where an inductive one belongs, and does what it says."""

import inspect
from itertools import permutations

import numpy as np
import pytest
from pydantic import ValidationError

from eegdecode.evaluate import transductive
from eegdecode.evaluate.report import Report
from eegdecode.evaluate.retrieval import Control, RetrievalScore, retrieval_report
from eegdecode.evaluate.transductive import (
    TransductiveScore,
    transductive_assignment,
    transductive_csls,
    transductive_procrustes,
    transductive_scores,
    transductive_sinkhorn,
    transductive_whiten,
)


def noisy(n: int = 40, noise: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.eye(n) * 2 + noise * rng.normal(size=(n, n))


def test_every_public_name_carries_the_word() -> None:
    own = [
        name
        for name, thing in vars(transductive).items()
        if getattr(thing, "__module__", "") == transductive.__name__ and not name.startswith("_")
    ]
    assert len(own) >= 8
    assert all("transductive" in name.lower() for name in own)
    assert inspect.getdoc(transductive) is not None


def test_a_headline_refuses_it() -> None:
    names = [f"p{i}" for i in range(40)]
    scores = transductive_scores(noisy(), names, names, ["s"] * 40, names, seed=0)
    assert {s.name for s in scores} == {
        "transductive_csls_top1",
        "transductive_csls_top5",
        "transductive_sinkhorn_top1",
        "transductive_sinkhorn_top5",
        "transductive_hungarian_top1",
    }
    honest = retrieval_report(noisy(), names, names, ["s"] * 40, names, n_permutations=20, seed=0)
    for score in scores:
        assert not isinstance(score, RetrievalScore)
        # As a report, as its numbers, as JSON of one, and as one number inside an honest score.
        for section in ("retrieval", "classes", "contrast"):
            with pytest.raises(ValidationError) as refused:
                Report.model_validate({section: score})
            assert (section,) in {error["loc"] for error in refused.value.errors()}
        with pytest.raises(ValidationError, match="transductive"):
            RetrievalScore.model_validate(score.model_dump())
        with pytest.raises(ValidationError, match="top1"):
            honest.with_(top1=score)
        with pytest.raises(ValidationError, match="controls"):
            honest.with_(controls=(score,))
        with pytest.raises(ValidationError):
            Control.model_validate(score.model_dump())
    with pytest.raises(ValidationError, match="transductive"):
        TransductiveScore.model_validate(scores[0].model_dump() | {"name": "top1"})


def test_assignment_is_the_best_of_all_orders_and_lifts_the_score() -> None:
    scores_QG = noisy(7, seed=1)
    best = max(permutations(range(7)), key=lambda order: scores_QG[range(7), order].sum())
    assert transductive_assignment(scores_QG).tolist() == list(best)
    names = [f"p{i}" for i in range(40)]
    by_name = {s.name: s for s in transductive_scores(noisy(), names, names, ["s"] * 40, names, seed=0)}
    greedy = (noisy().argmax(1) == np.arange(40)).mean()
    assert by_name["transductive_hungarian_top1"].value > greedy + 0.1
    assert all(s.ci95[0] <= s.value <= s.ci95[1] for s in by_name.values())
    assert by_name["transductive_csls_top5"].chance == pytest.approx(5 / 40)
    with pytest.raises(ValueError, match="at least as many candidates"):
        transductive_assignment(np.zeros((3, 2)))


def test_subjects_are_taken_one_by_one() -> None:
    names = [f"p{i}" for i in range(40)]
    rows = np.concatenate([noisy(seed=1), noisy(seed=2)])
    both = transductive_scores(rows, names, names * 2, ["a"] * 40 + ["b"] * 40, names * 2, seed=0)
    alone = [transductive_scores(noisy(seed=s), names, names, ["x"] * 40, names, seed=0) for s in (1, 2)]
    for i, score in enumerate(both):
        assert score.value == pytest.approx((alone[0][i].value + alone[1][i].value) / 2)
    # Several queries of a picture in one subject have no one-to-one assignment, so none is claimed.
    more = transductive_scores(rows, names, names * 2, ["a"] * 80, names * 2, seed=0)
    assert "transductive_hungarian_top1" not in {s.name for s in more}


def test_methods_do_what_they_are_named_for() -> None:
    rng = np.random.default_rng(3)
    scores_QG = noisy(30, 0.5)
    scores_QG[:, 4] += 1.5  # a hub: near to everybody
    assert np.mean(scores_QG.argmax(1) == 4) > 0.2
    assert np.mean(transductive_csls(scores_QG).argmax(1) == 4) < 0.1
    soft = transductive_sinkhorn(scores_QG / 10, n_iterations=100)
    np.testing.assert_allclose(soft.sum(axis=0), 1)
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-6)
    z_QD = rng.normal(size=(80, 6)) @ rng.normal(size=(6, 6)) + 3
    subject_Q = np.repeat(["a", "b"], 40)
    white = transductive_whiten(z_QD, subject_Q, shrinkage=0.0)
    whole = transductive_whiten(z_QD[:40], subject_Q[:40], shrinkage=0.0)
    np.testing.assert_allclose(white[:40], whole)
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), 1)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    gallery = rng.normal(size=(20, 6))
    np.testing.assert_allclose(transductive_procrustes(gallery @ rotation.T, gallery, np.eye(20)), rotation, atol=1e-8)
    with pytest.raises(ValueError, match="2 queries of a subject, got 1 of 'b'"):
        transductive_whiten(z_QD[:41], subject_Q[:41])
