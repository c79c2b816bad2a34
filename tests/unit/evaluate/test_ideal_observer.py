"""The ceiling: equal to a brute-force likelihood on a small case, and the regime of the demo's default data."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from eegdecode.config import Epochs, SyntheticData
from eegdecode.data.epochs import cut
from eegdecode.data.sources.forward_model import CHANNELS, SFREQ_HZ, SOA_S, Generator
from eegdecode.data.sources.synthetic import SyntheticSource
from eegdecode.evaluate.ideal_observer import IdealObserver, ideal_scores, preparation
from eegdecode.recipes import RECIPES

SPEC = Epochs(sfreq_hz=50.0, crop_s=(0.0, 0.4), reject_uv=250.0)
SMALL = SyntheticData(n_subjects=1, n_train_concepts=4, n_test_concepts=12, test_repetitions=6)


def test_trials(source: SyntheticSource, spec: Epochs) -> tuple[np.ndarray, pd.DataFrame]:
    parts = [cut(source.read(ref), spec) for ref in source.recordings() if ref.session == "02"]
    return np.concatenate([p.eeg_uv_NCT for p in parts]), pd.concat([p.table for p in parts], ignore_index=True)


test_trials.__test__ = False  # type: ignore[attr-defined]


def test_without_noise_to_speak_of_it_is_always_right() -> None:
    generator = dataclasses.replace(Generator(), blink_uv=0.0, bad_uv=0.0, variability=0.0)
    source = SyntheticSource(SMALL, generator)
    scores = ideal_scores(source, SPEC, *test_trials(source, SPEC))
    assert scores.top1 == 1.0
    assert scores.n_way == 12


def test_scores_are_the_gaussian_log_likelihood_computed_the_long_way() -> None:
    channels = CHANNELS[14:20]
    source = SyntheticSource(SMALL)
    model, prepared = source.parameters("01"), preparation(SPEC)
    candidates = sorted(source.table.index[source.table.partition == "test"])
    observer = IdealObserver(source, "01", SPEC, candidates, channels, prepared)
    pick = [CHANNELS.index(name) for name in channels]

    code_GK = source.code(candidates)
    code_GK = code_GK * model.strength(code_GK)[:, None]
    kernel_KCT = model.kernel_uv_KCT[:, pick]
    own_KCS = prepared.of_response(kernel_KCT)
    n_samples = own_KCS.shape[1] * own_KCS.shape[2]
    covariance = np.zeros((n_samples, n_samples))
    for part in (*model.noise, model.blink_noise):
        covariance += np.kron(part.covariance_uv2_CC[np.ix_(pick, pick)], prepared.of_noise(part))
    fluctuation_KK = np.diag(source.fluctuation(model) ** 2)
    step, reach = round(SOA_S * SFREQ_HZ), prepared.weight_SR.shape[1]
    for n in range(-reach // step, reach // step + 1):
        moved = own_KCS if n == 0 else prepared.of_response(kernel_KCT, n * step)
        spread_KK = fluctuation_KK + (0 if n == 0 else np.cov(code_GK.T, bias=True))
        flat = moved.reshape(len(moved), -1)
        covariance += flat.T @ spread_KK @ flat
    # A baseline, where there is one, leaves a silent direction: the pseudo-inverse skips it on both sides.
    precision = np.linalg.pinv(covariance, rcond=1e-11, hermitian=True)

    eeg, _ = test_trials(source, SPEC)
    some = eeg[:20, pick].astype(np.float64)
    template_GX = np.tensordot(code_GK, own_KCS, axes=1).reshape(len(candidates), -1)
    x = (some - observer.evoked_CS).reshape(len(some), -1)
    expected = x @ precision @ template_GX.T - 0.5 * np.einsum("gx,xy,gy->g", template_GX, precision, template_GX)
    got = observer.scores(some)
    np.testing.assert_allclose(got - got[:, :1], expected - expected[:, :1], rtol=1e-3, atol=1e-3)


def test_default_data_lies_in_the_regime_of_real_recordings() -> None:
    experiment = RECIPES["demo"]()
    assert isinstance(experiment.data.source, SyntheticData)
    source = SyntheticSource(experiment.data.source)
    eeg, table = test_trials(source, experiment.data.epochs)
    mine = (table["subject"] == "01").to_numpy()
    channels = CHANNELS
    averaged = ideal_scores(source, experiment.data.epochs, eeg[mine], table[mine].reset_index(drop=True), channels, 0)
    single = ideal_scores(source, experiment.data.epochs, eeg[mine], table[mine].reset_index(drop=True), channels, 1)
    assert averaged.n_way == 200
    assert 0.6 <= averaged.top1 <= 0.9
    assert 0.005 < single.top1 < 0.15
    # Mean signal power of the averaged trial, matched to the closest of the other half, stays at chance.
    names = sorted(table["picture"].unique())
    power = np.log((eeg[mine] ** 2).mean(axis=2))
    picture = table["picture"].to_numpy()[mine]
    halves = [
        np.stack([power[np.flatnonzero(picture == name)[half::2]].mean(axis=0) for name in names]) for half in (0, 1)
    ]
    centred = [(h - h.mean(0)) / h.std(0) for h in halves]
    hits = (centred[0] @ centred[1].T).argmax(axis=1) == np.arange(len(names))
    assert hits.sum() <= 6, "chance is one of 200; six has a probability below 1e-3"


def test_a_table_of_another_length_is_refused() -> None:
    source = SyntheticSource(SMALL)
    with pytest.raises(ValueError, match="one row of the table per trial"):
        ideal_scores(source, SPEC, np.zeros((2, 63, 21)), pd.DataFrame({"subject": ["01"], "picture": ["x"]}))
