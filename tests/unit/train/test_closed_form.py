import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eegdecode.train import closed_form
from eegdecode.train.closed_form import canonical, ridge_loo


def test_leave_one_out_error_is_that_of_really_leaving_one_out() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 6)), rng.normal(size=(30, 3))
    power = np.mean(np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2)

    def naive(alpha: float) -> float:
        errors = []
        for i in range(len(x)):
            rest = np.arange(len(x)) != i
            # The penalty is the same number in each refit, as in the closed form.
            a, b = x[rest] - x[rest].mean(0), y[rest] - y[rest].mean(0)
            weight = np.linalg.solve(a.T @ a + alpha * power * np.eye(6), a.T @ b)
            errors.append(np.mean((y[i] - y[rest].mean(0) - (x[i] - x[rest].mean(0)) @ weight) ** 2))
        return float(np.mean(errors))

    alphas = (1e-3, 0.1, 1.0, 10.0, 100.0)
    assert ridge_loo(x, y, alphas).alpha == alphas[int(np.argmin([naive(a) for a in alphas]))]


def test_noise_free_linear_map_is_found() -> None:
    rng = np.random.default_rng(1)
    x, weight = rng.normal(size=(80, 5)), rng.normal(size=(5, 4))
    fit = ridge_loo(x, x @ weight + 2.0, (1e-12, 1.0))
    np.testing.assert_allclose(fit.weight_DE, weight, rtol=1e-8)
    np.testing.assert_allclose(fit.bias_E, 2.0, rtol=1e-8)


def test_rows_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(4, 1\)"):
        ridge_loo(np.zeros((3, 2)), np.zeros((4, 1)))


def test_canonical_directions_are_those_of_scikit_learn() -> None:
    from sklearn.cross_decomposition import CCA

    rng = np.random.default_rng(2)
    hidden = rng.normal(size=(500, 2))
    x = hidden @ rng.normal(size=(2, 6)) + 0.5 * rng.normal(size=(500, 6))
    y = hidden @ rng.normal(size=(2, 4)) + 0.5 * rng.normal(size=(500, 4))
    found = canonical(x, y, 2, x_penalty=0.0, y_penalty=0.0)
    a, b = (x - found.x_mean_D) @ found.x_map_DR, (y - y.mean(0)) @ found.y_map_ER
    expected = CCA(n_components=2, scale=False, max_iter=5000, tol=1e-10).fit(x, y).transform(x, y)
    for k in range(2):
        assert np.corrcoef(a[:, k], b[:, k])[0, 1] == pytest.approx(found.correlation_R[k], abs=1e-5)
        length = found.correlation_R[k] / found.correlation_R[0]  # what it tells of the other side
        assert (a[:, k].std(), b[:, k].std()) == pytest.approx((length, length), rel=1e-5)
        assert abs(np.corrcoef(a[:, k], expected[0][:, k])[0, 1]) > 0.999
        assert abs(np.corrcoef(b[:, k], expected[1][:, k])[0, 1]) > 0.999


def test_canonical_rank_must_exist() -> None:
    with pytest.raises(ValueError, match="rank of 1 to 2"):
        canonical(np.zeros((5, 3)), np.zeros((5, 2)), 3)


def rows(seed: int, n: int, dim: int = 7, offset: float = 0.0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Correlated features of unlike scales, and two targets with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) * 10.0 ** rng.uniform(-1, 1, dim) + offset
    targets = {"clip": 3, "vae": 5}
    return x, {name: x @ rng.normal(size=(dim, e)) + rng.normal(size=(n, e)) + offset for name, e in targets.items()}


def cut(x: np.ndarray, y: dict[str, np.ndarray], size: int) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    return [(x[k : k + size], {name: a[k : k + size] for name, a in y.items()}) for k in range(0, len(x), size)]


def furthest(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(12, 300),
    size=st.integers(1, 320),
    parts=st.sampled_from([1, 2, 4]),
    alpha=st.sampled_from([0.0, 1e-3, 1.0, 1e4]),
    offset=st.sampled_from([0.0, 1e3]),
    seed=st.integers(0, 1000),
)
def test_any_stream_on_any_number_of_workers_is_the_closed_form(
    n: int, size: int, parts: int, alpha: float, offset: float, seed: int
) -> None:
    x, y = rows(seed, n, offset=offset)
    shares = [
        closed_form.accumulate(cut(x[k::parts], {t: a[k::parts] for t, a in y.items()}, size)) for k in range(parts)
    ]
    moments = functools.reduce(closed_form.merge, shares)
    assert moments.n == n
    path = closed_form.RidgePath(moments)
    for name, target in y.items():
        centred = x - x.mean(0)
        expected = np.linalg.lstsq(
            np.concatenate([centred, np.sqrt(alpha) * np.eye(x.shape[1])]),
            np.concatenate([target - target.mean(0), np.zeros((x.shape[1], target.shape[1]))]),
        )[0]
        found = path.fit(name, alpha)
        assert furthest(x @ found.weight_DE + found.bias_E, centred @ expected + target.mean(0)) < 1e-6
        if alpha:
            assert furthest(found.weight_DE, expected) < 1e-6


def test_updates_in_small_blocks_and_float32_rows_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many merges of blocks of five rows far from zero; sums of squares taken naively would have no digits left."""
    x, y = rows(3, 4000, offset=1e5)
    x, y = x.astype(np.float32), {name: a.astype(np.float32) for name, a in y.items()}
    once = closed_form.accumulate([(x, y)])
    monkeypatch.setattr(closed_form, "BLOCK_ROWS", 5)
    often = closed_form.accumulate(cut(x, y, 3))
    assert furthest(often.xx_DD, once.xx_DD) < 1e-9
    assert furthest(often.targets["vae"].xy_DE, once.targets["vae"].xy_DE) < 1e-9
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    assert furthest(once.xx_DD, centred.T @ centred) < 1e-9


def test_merging_leaves_both_parts_as_they_were() -> None:
    a, b = (closed_form.accumulate(cut(*rows(seed, 50), 20)) for seed in (0, 1))
    kept = a.xx_DD.copy(), a.targets["clip"].xy_DE.copy()
    closed_form.merge(a, b)
    assert np.array_equal(a.xx_DD, kept[0])
    assert np.array_equal(a.targets["clip"].xy_DE, kept[1])


def test_standardised_ridge_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import Ridge

    x, y = rows(5, 200)
    x[:, 2] = 4.0  # never varies
    found = closed_form.RidgePath(closed_form.accumulate([(x, y)]), standardise=True).fit("clip", 20.0)
    unit = np.where(x.std(0) > 0, x.std(0, ddof=1), 1)
    expected = Ridge(alpha=20.0).fit((x - x.mean(0)) / unit, y["clip"])
    np.testing.assert_allclose(x @ found.weight_DE + found.bias_E, expected.predict((x - x.mean(0)) / unit), rtol=1e-9)
    assert np.abs(found.weight_DE[2]).max() < 1e-12


def test_more_features_than_rows_without_a_penalty_is_the_least_solution() -> None:
    x, y = rows(6, 9, dim=20)
    found = closed_form.RidgePath(closed_form.accumulate([(x, y)])).fit("clip", 0.0)
    expected = np.linalg.pinv(x - x.mean(0)) @ (y["clip"] - y["clip"].mean(0))
    assert furthest(found.weight_DE, expected) < 1e-6


ALPHAS = (1e-3, 1.0, 30.0, 1e3, 1e5)


def test_penalty_by_validation_moments_is_that_by_validation_rows() -> None:
    rng = np.random.default_rng(7)
    weight = rng.normal(size=(30, 3))
    x, held_x = rng.normal(size=(60, 30)), rng.normal(size=(400, 30)) + 0.3
    y, held_y = {"clip": x @ weight + 8 * rng.normal(size=(60, 3))}, {"clip": held_x @ weight + 1.0}
    path = closed_form.RidgePath(closed_form.accumulate([(x, y)]), standardise=True)
    errors = []
    for alpha in ALPHAS:
        fit = path.fit("clip", alpha)
        errors.append(np.sum((held_y["clip"] - held_x @ fit.weight_DE - fit.bias_E) ** 2))
    assert 0 < int(np.argmin(errors)) < len(ALPHAS) - 1  # neither end: the choice can be wrong
    chosen = path.fit_by_validation("clip", closed_form.accumulate(cut(held_x, held_y, 70)), ALPHAS)
    assert chosen.alpha == ALPHAS[int(np.argmin(errors))]
    np.testing.assert_array_equal(chosen.weight_DE, path.fit("clip", chosen.alpha).weight_DE)


def test_generalised_cross_validation_from_moments_is_that_from_rows() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(40, 25))
    y = x @ rng.normal(size=(25, 4)) + 6 * rng.normal(size=(40, 4))
    centred = x - x.mean(0)
    errors = []
    for alpha in ALPHAS:
        hat = centred @ np.linalg.solve(centred.T @ centred + alpha * np.eye(25), centred.T) + 1 / 40
        errors.append(np.sum((y - hat @ y) ** 2) / (40 - np.trace(hat)) ** 2)
    assert 0 < int(np.argmin(errors)) < len(ALPHAS) - 1
    found = closed_form.RidgePath(closed_form.accumulate([(x, {"y": y})])).fit_by_gcv("y", ALPHAS)
    assert found.alpha == ALPHAS[int(np.argmin(errors))]


def test_inductive_scaling_restores_the_spread_and_works_for_one_trial() -> None:
    x, y = rows(9, 300)
    moments = closed_form.accumulate([(x, y)])
    ridge = closed_form.RidgePath(moments, standardise=True).fit("clip", 500.0)
    scaled = closed_form.inductive_output_scaling(ridge, moments, "clip")
    before, after = (x @ r.weight_DE + r.bias_E for r in (ridge, scaled))
    assert np.all(before.std(0) < 0.9 * y["clip"].std(0))
    np.testing.assert_allclose(after.std(0), y["clip"].std(0))
    np.testing.assert_allclose(after.mean(0), y["clip"].mean(0))
    # On the rows it was fitted to, the transductive form is the same; but it does not exist for one trial.
    np.testing.assert_allclose(closed_form.transductive_output_scaling(before, moments, "clip"), after)
    np.testing.assert_allclose(x[:1] @ scaled.weight_DE + scaled.bias_E, after[:1])
    with pytest.raises(ValueError, match="predictions of a test set, got 1 row"):
        closed_form.transductive_output_scaling(before[:1], moments, "clip")


def test_what_moments_cannot_be_made_of_is_refused() -> None:
    x, y = rows(1, 6)
    with pytest.raises(ValueError, match="the stream gave none"):
        closed_form.accumulate([])
    with pytest.raises(ValueError, match=r"got \(6, 7\) and \{'clip': \(5, 3\)\}"):
        closed_form.accumulate([(x, {"clip": y["clip"][:5]})])
    with pytest.raises(ValueError, match=r"\['clip'\] after 7 with \['clip', 'vae'\]"):
        closed_form.accumulate([(x, y), (x, {"clip": y["clip"]})])
    with pytest.raises(ValueError, match="'vae' has NaN"):
        closed_form.accumulate([(x, y | {"vae": y["vae"] * np.nan})])
    with pytest.raises(ValueError, match=r"same targets, got \(7, 7\) with \['clip', 'vae'\]"):
        closed_form.merge(closed_form.accumulate([(x, y)]), closed_form.accumulate([(x, {"clip": y["clip"]})]))
    path = closed_form.RidgePath(closed_form.accumulate([(x, y)]))
    with pytest.raises(ValueError, match=r"one of \['clip', 'vae'\], got 'text'"):
        path.fit("text", 1.0)
    with pytest.raises(ValueError, match="not be below 0"):
        path.fit("clip", -1.0)
    with pytest.raises(ValueError, match="at least two rows, got 1"):
        closed_form.RidgePath(closed_form.accumulate([(x[:1], {"clip": y["clip"][:1]})]))
