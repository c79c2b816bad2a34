"""Retrieval against golden cases, and the ways a score could lie."""

import json
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from eegdecode.evaluate.retrieval import (
    RetrievalScore,
    average_repetitions,
    candidates,
    centre_scores,
    control_from,
    repetition_point,
    retrieval_report,
    score_matrix,
)


def golden(shared: Path, case: str) -> tuple[dict[str, np.ndarray], dict]:  # type: ignore[type-arg]
    root = shared / "golden"
    return load_file(root / f"{case}.safetensors"), json.loads((root / f"{case}.json").read_text())["scalars"]


def test_square_matrix_is_the_published_score(shared: Path) -> None:
    tensors, expected = golden(shared, "retrieval_square")
    scores_QG = score_matrix(tensors["input.eeg"], tensors["input.img"])
    np.testing.assert_allclose(scores_QG, tensors["input.similarity"], atol=1e-6)
    names = [f"{i:03d}" for i in range(200)]
    score = retrieval_report(
        tensors["input.similarity"], names, names, ["sub-01"] * 200, names, n_permutations=1000, seed=0
    )
    assert score.n_way == score.n_queries == 200
    assert score.top1 == pytest.approx(expected["top1_count"] / 200, abs=1e-9)
    assert score.top5 == pytest.approx(expected["top5_count"] / 200, abs=1e-9)
    assert score.map == pytest.approx(expected["mAP_single_positive"], abs=1e-6)
    assert (score.chance_top1, score.chance_top5) == pytest.approx((0.005, 0.025))
    assert score.chance_map == pytest.approx(np.mean(1 / np.arange(1, 201)))
    assert score.p_permutation == pytest.approx(1 / 1001)
    # Interval of 49 of 200 (exact binomial: 0.187 to 0.311).
    assert score.ci95_top1 == pytest.approx((0.187, 0.311), abs=0.012)
    assert score.shuffled_ci95[0] <= 0.005 <= score.shuffled_ci95[1]
    assert score.shuffled_top1 == pytest.approx(0.005, abs=0.001)


def test_several_right_candidates_is_the_published_score(shared: Path) -> None:
    tensors, expected = golden(shared, "retrieval_multi_positive")
    classes_Q, classes_G = (tensors[f"input.{side}_class"].astype(str) for side in ("query", "gallery"))
    score = retrieval_report(
        tensors["input.similarity"],
        classes_G.tolist(),
        classes_Q,
        ["s"] * 40,
        np.arange(40).astype(str),
        n_permutations=200,
        seed=0,
        unit="queries",
    )
    assert score.map == pytest.approx(expected["mAP"], abs=1e-9)
    assert score.top1 == pytest.approx(expected["topk_any_hit_rate"]["1"], abs=1e-9)
    assert score.top5 == pytest.approx(expected["topk_any_hit_rate"]["5"], abs=1e-9)
    assert score.n_way == 120
    share_Q = np.array([(classes_G == c).mean() for c in classes_Q])
    assert score.chance_top1 == pytest.approx(share_Q.mean())


def test_a_decoder_that_says_nothing_sits_on_chance_exactly() -> None:
    names = [f"p{i}" for i in range(50)]
    score = retrieval_report(np.zeros((50, 50)), names, names, ["s"] * 50, names, n_permutations=100, seed=0)
    assert score.top1 == pytest.approx(score.chance_top1)
    assert score.top5 == pytest.approx(score.chance_top5)
    assert score.p_permutation == 1
    # So does one that always names the same picture, however sure it is.
    one = np.zeros((50, 50))
    one[:, 7] = 1
    score = retrieval_report(one, names, names, ["s"] * 50, names, n_permutations=100, seed=0)
    assert score.top1 == pytest.approx(1 / 50)
    assert score.p_permutation == 1


def test_headline_is_the_mean_over_subjects_and_pairs_by_name() -> None:
    names = [f"p{i:02d}" for i in range(20)]
    perfect, rng = np.eye(20), np.random.default_rng(0)
    wrong = np.roll(np.eye(20), 1, axis=1)
    rows = np.concatenate([perfect, perfect, perfect, wrong])
    subjects = ["a"] * 60 + ["b"] * 20
    score = retrieval_report(rows, names, names * 4, subjects, names * 4, n_permutations=50, seed=0)
    assert score.per_subject["a"].top1 == 1
    assert score.per_subject["b"].top1 == 0
    assert score.top1 == pytest.approx(0.5)
    # Concepts agree, so drawing them says nothing; drawing two people who differ this much says all.
    assert score.ci95_top1_people == pytest.approx((0, 1))
    assert retrieval_report(
        perfect, names, names, ["a"] * 20, names, n_permutations=50, seed=0
    ).ci95_top1_people is None  # fmt: skip
    # Queries and candidates in any order: names decide, not rows.
    q, g = rng.permutation(80), rng.permutation(20)
    other = retrieval_report(
        rows[q][:, g], [names[i] for i in g], np.array(names * 4)[q], np.array(subjects)[q], np.array(names * 4)[q],
        n_permutations=50, seed=0,
    )  # fmt: skip
    assert (other.top1, other.map) == pytest.approx((score.top1, score.map))
    assert other.ci95_top1 == pytest.approx(score.ci95_top1)
    assert score.map == pytest.approx((1 + 1 / 20) / 2, abs=0.03)


def test_bad_input_is_named() -> None:
    names = ["a", "b", "c"]
    kwargs = {"n_permutations": 10, "seed": 0}
    with pytest.raises(ValueError, match="'x' is not"):
        retrieval_report(np.eye(3), names, ["a", "b", "x"], ["s"] * 3, names, **kwargs)  # type: ignore[arg-type]
    bad = np.eye(3)
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match="finite, got nan for query 1 against 'c'"):
        retrieval_report(bad, names, names, ["s"] * 3, names, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="another tower"):
        score_matrix(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="row 1 has 0"):
        score_matrix(np.array([[1.0, 0], [0, 0]]), np.ones((2, 2)))


def test_scores_are_inductive_and_the_asymmetric_form_ranks_the_same() -> None:
    rng = np.random.default_rng(1)
    z_QD, gallery_GD = rng.normal(size=(30, 8)), rng.normal(size=(12, 8))
    whole = score_matrix(z_QD, gallery_GD)
    np.testing.assert_allclose(score_matrix(z_QD[4:5], gallery_GD), whole[4:5], atol=1e-6)
    one_sided = score_matrix(z_QD, gallery_GD, "target")
    np.testing.assert_array_equal(one_sided.argsort(axis=1), whole.argsort(axis=1))
    np.testing.assert_allclose(one_sided / whole, np.linalg.norm(z_QD, axis=1)[:, None] * np.ones(12), rtol=1e-4)


def test_repetitions_are_averaged_once_each() -> None:
    rng = np.random.default_rng(2)
    picture_N = np.tile(["x", "y"], 11)[:21]  # 11 of x, 10 of y
    eeg_NCT = np.zeros((21, 21, 1), np.float32)
    eeg_NCT[np.arange(21), np.arange(21)] = 1  # every trial is its own channel: a mean shows which trials it holds
    subject_N = np.array(["s"] * 21)
    every = average_repetitions(eeg_NCT, picture_N, subject_N)
    assert every.picture_Q.tolist() == ["x", "y"]
    assert every.repetitions_Q.tolist() == [11, 10]
    np.testing.assert_allclose(every.eeg_uv_QCT[0, picture_N == "x"], 1 / 11)
    five = average_repetitions(eeg_NCT, picture_N, subject_N, k=5, seed=1)
    assert five.picture_Q.tolist() == ["x", "x", "y", "y"]
    used_N = (five.eeg_uv_QCT[:, :, 0] > 0).sum(axis=0)
    assert used_N.max() == 1
    assert used_N.sum() == 20
    for row, picture in zip(five.eeg_uv_QCT[:, :, 0], five.picture_Q, strict=True):
        assert (picture_N[row > 0] == picture).all()
    single = average_repetitions(eeg_NCT, picture_N, subject_N, k=1)
    assert sorted(single.eeg_uv_QCT[:, :, 0].argmax(axis=1)) == list(range(21))
    np.testing.assert_array_equal(
        five.eeg_uv_QCT, average_repetitions(eeg_NCT, picture_N, subject_N, k=5, seed=1).eeg_uv_QCT
    )
    with pytest.raises(ValueError, match="'y' of subject 's' must have at least 11 trials to average, got 10"):
        average_repetitions(eeg_NCT, picture_N, subject_N, k=11)
    assert rng is not None


def test_gallery_of_concepts_is_their_mean_direction() -> None:
    target_PD = np.array([[2.0, 0], [0, 3.0], [0, 1.0]])
    names, target = candidates("concept", target_PD, ["p", "q", "r"], ["b", "a", "b"])
    assert names == ("a", "b")
    np.testing.assert_allclose(target, [[0, 1], [0.5**0.5, 0.5**0.5]], atol=1e-6)
    assert candidates("picture", target_PD, ["p", "q", "r"], ["b", "a", "b"])[0] == ("p", "q", "r")


def test_more_repetitions_score_higher_and_noise_is_a_control_on_chance() -> None:
    rng = np.random.default_rng(3)
    names = [f"{i:02d}" for i in range(40)]
    gallery_GD = rng.normal(size=(40, 30))
    shown_N = np.repeat(np.arange(40), 16)
    eeg_ND = gallery_GD[shown_N] + 4 * rng.normal(size=(640, 30))
    points = []
    for k in (1, 4, 16):
        mean = average_repetitions(eeg_ND, np.array(names)[shown_N], np.array(["s"] * 640), k=k)
        scores_QG = score_matrix(mean.eeg_uv_QCT, gallery_GD)
        points.append(repetition_point(k, scores_QG, names, mean.picture_Q, mean.subject_Q, mean.picture_Q, seed=0))
    assert points[0].top1 + 0.1 < points[1].top1
    assert points[1].top1 + 0.1 < points[2].top1
    assert all(p.ci95_top1[0] <= p.top1 <= p.ci95_top1[1] for p in points)
    noise = score_matrix(rng.normal(size=(640, 30)), gallery_GD)
    shown = np.array(names)[shown_N]
    control = control_from(
        "noise", retrieval_report(noise, names, shown, ["s"] * 640, shown, n_permutations=200, seed=0)
    )
    assert control.ci95[0] <= control.chance <= control.ci95[1]


def test_smaller_galleries_are_the_mean_over_all_of_them() -> None:
    """Against every gallery of 3 of 6, one by one, ties broken in every order; and the whole gallery is no other."""
    rng = np.random.default_rng(4)
    names = [f"p{k}" for k in (3, 0, 5, 1, 4, 2)]  # not in the order of their names
    scores_QG = rng.integers(0, 4, (9, 6)).astype(float)  # many ties
    right_Q = rng.integers(0, 6, 9)
    shown = [names[g] for g in right_Q]

    def report(n_way: int, scores_QG: np.ndarray = scores_QG) -> RetrievalScore:
        return retrieval_report(
            scores_QG, names, shown, ["s"] * 9, [str(q) for q in range(9)], n_permutations=50, seed=0, n_way=n_way
        )

    top1, precision = [], []
    for q, right in enumerate(right_Q):
        others = [g for g in range(6) if g != right]
        for pair in combinations(others, 2):
            for order in permutations((right, *pair)):
                best = sorted(order, key=lambda g: -scores_QG[q, g])  # stable: ties stay in this order
                top1.append(best[0] == right)
                precision.append(1 / (1 + best.index(right)))
    score = report(3)
    assert score.n_way == 3
    assert score.top1 == pytest.approx(np.mean(top1))
    assert score.map == pytest.approx(np.mean(precision))
    assert (score.top5, score.chance_top1, score.chance_top5) == pytest.approx((1, 1 / 3, 1))
    assert score.chance_map == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert score.ci95_top1[0] < score.top1 < score.ci95_top1[1]
    assert report(6) == report(0)
    nothing = report(2, np.zeros((9, 6)))
    assert nothing.top1 == nothing.shuffled_top1 == pytest.approx(0.5)
    point = repetition_point(1, scores_QG, names, shown, ["s"] * 9, [str(q) for q in range(9)], seed=0, n_way=3)
    assert point.top1 == score.top1
    for n_way in (1, 7):
        with pytest.raises(ValueError, match="2 to 6 of them"):
            report(n_way)


def test_centres_leave_the_picture_shown_out() -> None:
    """By hand in two dimensions, and against a loop."""
    rng = np.random.default_rng(0)
    concepts = ["b", "a", "b", "a", "b", "a", "c", "c"]
    pictures = [f"p{k}" for k in range(8)]
    target_PD, z_QD = rng.normal(size=(8, 5)), rng.normal(size=(8, 5))
    unit_PD = target_PD / np.linalg.norm(target_PD, axis=1, keepdims=True)
    labels, scores_QU = centre_scores(z_QD, target_PD, pictures, concepts, pictures, concepts)
    assert labels == ("a", "b", "c")
    for q in range(8):
        for u, name in enumerate(labels):
            centre_D = np.mean([unit_PD[p] for p in range(8) if concepts[p] == name and p != q], axis=0)
            cosine = centre_D @ z_QD[q] / np.linalg.norm(centre_D) / np.linalg.norm(z_QD[q])
            assert scores_QU[q, u] == pytest.approx(cosine, abs=1e-6)
    # A query that is none of the pictures meets the centres of all of them.
    _, other_QU = centre_scores(z_QD[:1], target_PD, pictures, concepts, ["new"], ["a"])
    centre_D = unit_PD[[1, 3, 5]].sum(axis=0)
    assert other_QU[0, 0] == pytest.approx(
        centre_D @ z_QD[0] / np.linalg.norm(centre_D) / np.linalg.norm(z_QD[0]), abs=1e-6
    )
    # With one picture a concept, that picture is the centre; a mixture is refused.
    _, single_QU = centre_scores(z_QD[:3], target_PD[:3], pictures[:3], ["x", "y", "z"], pictures[:3], ["x", "y", "z"])
    np.testing.assert_allclose(single_QU, score_matrix(z_QD[:3], target_PD[:3]), atol=1e-6)
    with pytest.raises(ValueError, match="concept 'z' has 'p2' alone"):
        centre_scores(z_QD[:3], target_PD[:3], pictures[:3], ["x", "x", "z"], pictures[:3], ["x", "x", "z"])
