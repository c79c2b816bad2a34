import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from eegdecode.evaluate import reconstruction as score


def golden(shared: Path, case: str) -> tuple[dict[str, np.ndarray], dict]:
    folder = shared / "golden"
    return load_file(folder / f"{case}.safetensors"), json.loads((folder / f"{case}.json").read_text())


def test_pixcorr_and_ssim_equal_perceptogram(shared):
    case, _ = golden(shared, "recon_pixcorr_ssim")
    gt, recon = case["input.gt"], case["input.recon"]
    np.testing.assert_allclose(score.pixcorr(gt, recon), case["expected.pixcorr"], atol=1e-9)
    np.testing.assert_allclose(score.ssim(gt, recon), case["expected.ssim"], atol=1e-6)


def test_resized_equals_perceptogram(shared):
    case, _ = golden(shared, "recon_pixcorr_ssim")
    small = score.resized(case["input.gt_small"], 64)
    np.testing.assert_array_equal(small, case["expected.resized_gt"])
    np.testing.assert_allclose(score.pixcorr(small, case["input.recon"]), case["expected.pixcorr_resized"], atol=1e-9)
    np.testing.assert_allclose(score.ssim(small, case["input.recon"]), case["expected.ssim_resized"], atol=1e-6)


def test_two_way_equals_the_published_counts(shared):
    case, facts = golden(shared, "recon_two_way")
    gt, pred = case["input.gt_features"], case["input.pred_features"]
    share = score.two_way(gt, pred)
    np.testing.assert_array_equal(np.round(share * (len(gt) - 1)), case["expected.success_count"])
    assert share.mean() == pytest.approx(facts["scalars"]["two_way"], abs=1e-12)
    # The swapped direction is another number: a swap would be seen.
    assert score.two_way(pred, gt).mean() == pytest.approx(facts["scalars"]["two_way_other_direction"], abs=1e-12)
    np.testing.assert_allclose(score.correlation_distance(gt, pred), case["expected.correlation_distance"], atol=1e-6)


def test_n_way_top_k_is_the_expectation_of_the_sampled_score(shared):
    case, facts = golden(shared, "recon_nway_topk")
    for name, expected in facts["scalars"]["mean_accuracy_exact_expectation"].items():
        n_way, k = (int(part) for part in name.replace("way_top", " ").split())
        got = score.n_way_top_k(case["input.prob"], case["input.class_id"], n_way, k)
        assert got.mean() == pytest.approx(expected, abs=1e-9)
        sampled = case[f"expected.{name}.acc"]
        # Forty draws a picture: within five standard errors of the expectation.
        assert np.all(np.abs(sampled - got) < 5 * np.sqrt(got * (1 - got) / 40) + 1e-9)


def test_two_way_is_half_for_equal_drawings_and_one_for_the_truth():
    features = np.random.default_rng(0).standard_normal((9, 30))
    assert score.two_way(features, np.repeat(features[:1] + 1, 9, axis=0)).mean() == pytest.approx(0.5)
    assert score.two_way(features, np.zeros((9, 30))).mean() == pytest.approx(0.5)
    assert score.two_way(features, features).min() == 1.0
    assert score.two_way(features, -features).max() == 0.0


def test_a_picture_of_one_colour_scores_zero():
    shown = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert score.pixcorr(shown, np.full_like(shown, 7)).tolist() == [0, 0]
    assert score.pixcorr(shown, 255 - shown) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("shown", "drawn", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 16, 16, 3), np.uint8), "one size"),
        (np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 3), np.uint8), "uint8"),
    ],
)
def test_pictures_that_can_not_be_compared_are_refused(shown, drawn, message):
    with pytest.raises(ValueError, match=message):
        score.pixcorr(shown, drawn)
