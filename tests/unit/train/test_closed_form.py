import numpy as np
import pytest

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
        assert abs(np.corrcoef(a[:, k], expected[0][:, k])[0, 1]) > 0.999
        assert abs(np.corrcoef(b[:, k], expected[1][:, k])[0, 1]) > 0.999


def test_canonical_rank_must_exist() -> None:
    with pytest.raises(ValueError, match="rank of 1 to 2"):
        canonical(np.zeros((5, 3)), np.zeros((5, 2)), 3)
