"""Preprocessing against published code: noise normalisation, merging of sessions, z-scores per channel.

The other golden cases of preprocessing are in tests/unit/data: epochs (`mne_epochs_baseline_resample`,
`nice_epoching`) in test_epochs.py, and raw files through the source of THINGS-EEG2 (`gifford_epoching`,
`nice_epoching`) in sources/test_things_eeg2.py.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eegdecode.config import Epochs
from eegdecode.data.epochs import cut
from eegdecode.data.sources import CutRecording, RecordingRef
from eegdecode.data.trials import Trials, join
from eegdecode.data.whiten import NoiseSum, fit_front, inverse_square_root, noise_sum, whitened

Golden = Callable[[str], Any]
SFREQ_HZ = 100.0
AS_IT_IS = Epochs(sfreq_hz=SFREQ_HZ, baseline_s=None)
SESSIONS = ("ses0", "ses1")


def recorded(eeg_PRCT: np.ndarray, pictures: list[str], session: str, run: str, unit: str) -> CutRecording:
    """Trials of a session, by picture and then repetition, as a recording whose trials came cut."""
    n_repetitions, n_chans = eeg_PRCT.shape[1:3]
    ref = RecordingRef(f"sub-01_ses-{session}_run-{run}", "01", session, run, "")
    events = pd.DataFrame({"picture": np.repeat(pictures, n_repetitions)})
    channels = tuple(f"E{chan}" for chan in range(n_chans))
    return CutRecording(ref, eeg_PRCT.reshape(-1, *eeg_PRCT.shape[2:]), unit, channels, SFREQ_HZ, 0.0, events)  # type: ignore[arg-type]


def trials_of(case: Any, part: str, session: str, unit: str = "uV") -> Trials:
    eeg_PRCT = case[f"input.{part}.{session}"].numpy()
    return cut(recorded(eeg_PRCT, [f"{part}-{p}" for p in range(len(eeg_PRCT))], session, part, unit), AS_IT_IS)


def noise_of(trials: Trials, dim: str) -> NoiseSum:
    return noise_sum(trials.eeg_uv_NCT, trials.table["picture"], dim)  # type: ignore[arg-type]


def close(got: np.ndarray, expected: np.ndarray, rtol: float = 1e-5) -> None:
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= rtol * np.abs(expected).max()


@pytest.mark.parametrize("dim", ["time", "epochs"])
@pytest.mark.parametrize("session", SESSIONS)
def test_golden_mvnn_of_training_trials(golden: Golden, dim: str, session: str) -> None:
    """NICE: what preparation does with the recordings of a session."""
    case = golden(f"mvnn_nice_{dim}")
    parts = {part: trials_of(case, part, session) for part in ("train", "test")}
    noise = noise_of(parts["train"], dim)
    close(noise.mean(), case[f"expected.sigma.{session}"].numpy(), 1e-9)
    close(noise.weight(), case[f"expected.inv_sqrt.{session}"].numpy())
    for part, trials in parts.items():
        expected = case[f"expected.{part}.{session}"].numpy()
        close(whitened(trials.eeg_uv_NCT, noise.weight()), expected.reshape(trials.eeg_uv_NCT.shape))


@pytest.mark.parametrize("dim", ["time", "epochs"])
@pytest.mark.parametrize("session", SESSIONS)
def test_golden_mvnn_of_training_and_test_trials_is_reproduced_here_only(
    golden: Golden, dim: str, session: str
) -> None:
    """Gifford: the mean of the noise of both partitions, so whitening knows test trials. No setting does that."""
    case = golden(f"mvnn_gifford_{dim}")
    parts = {part: trials_of(case, part, session) for part in ("train", "test")}
    sigma_CC = (noise_of(parts["train"], dim).mean() + noise_of(parts["test"], dim).mean()) / 2
    close(sigma_CC, case[f"expected.sigma.{session}"].numpy(), 1e-9)
    weight_CC = inverse_square_root(sigma_CC)
    close(weight_CC, case[f"expected.inv_sqrt.{session}"].numpy())
    for part, trials in parts.items():
        expected = case[f"expected.{part}.{session}"].numpy()
        close(whitened(trials.eeg_uv_NCT, weight_CC), expected.reshape(trials.eeg_uv_NCT.shape))
    # It is another whitening than that of training trials.
    own_CC = noise_of(parts["train"], dim).weight()
    assert np.abs(own_CC - weight_CC).max() > 0.01 * np.abs(weight_CC).max()


@pytest.mark.parametrize("script", ["gifford", "nice"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_golden_merged_sessions_hold_our_trials_in_another_order(golden: Golden, script: str, part: str) -> None:
    """A picture has the trials that the scripts give it; ours are in the order of presentation, theirs permuted."""
    case = golden(f"{script}_merge_sessions")
    expected_PRCT = case[f"expected.{part}"].numpy()
    recordings = []
    for session in ("ses0", "ses1", "ses2", "ses3"):
        eeg_PRCT = case[f"input.{part}.{session}"].numpy()
        codes = case[f"input.train_conditions.{session}"].tolist() if part == "train" else range(1, len(eeg_PRCT) + 1)
        pictures = [f"{code:02d}" for code in codes]
        recordings.append(cut(recorded(eeg_PRCT, pictures, session, part, "whitened"), AS_IT_IS))
    trials = join(recordings)
    table = trials.table
    repetition_N = table.groupby(["subject", "picture"]).cumcount()
    pictures = sorted(table["picture"].unique())
    assert len(pictures) == len(expected_PRCT)
    permutation_R = case[f"expected.{part}_repetition_permutation"].numpy()
    for picture, expected_RCT in zip(pictures, expected_PRCT, strict=True):
        rows = np.flatnonzero(table["picture"] == picture)
        assert repetition_N.iloc[rows].tolist() == list(range(len(expected_RCT)))
        # Each of their trials is exactly one of ours, whatever the order.
        same_RR = (trials.eeg_uv_NCT[rows][:, None] == expected_RCT[None]).all(axis=(2, 3))
        np.testing.assert_array_equal(same_RR.sum(axis=0), 1)
        np.testing.assert_array_equal(same_RR.sum(axis=1), 1)
        # And their order is the documented permutation of ours.
        np.testing.assert_array_equal(trials.eeg_uv_NCT[rows[permutation_R]], expected_RCT)
        assert table["session"].iloc[rows].is_monotonic_increasing


def test_golden_z_scores_per_channel_are_the_front_of_kind_scale(golden: Golden) -> None:
    """NeuroBridge: mean and deviation of training trials, applied to training and test trials."""
    case = golden("nb_zscore_channelwise")
    train_PRCT = case["input.train"].numpy()
    weight_CC, bias_C = fit_front(train_PRCT.reshape(-1, *train_PRCT.shape[2:]), "scale")
    for part in ("train", "test"):
        got = weight_CC @ case[f"input.{part}"].numpy() + bias_C[:, None]
        close(got, case[f"expected.{part}"].numpy())
