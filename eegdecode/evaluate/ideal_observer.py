"""The ceiling on simulated EEG: the likelihood of every candidate picture under the parameters that made the trials.

Given its picture g, a trial is Gaussian with mean W (evoked + template_g + mean of the neighbours) and covariance S,
where W is the linear map from raw samples to a stored trial, found by sending known noise through `cut` itself. S
holds sensor noise, background, alpha and line noise, blinks by their second moment, and the responses to the other
pictures in the epoch, whose identity this observer is not told. An average of n trials has covariance S / n and the
same order of candidates, so nothing has to be known about repetitions. Trials with a burst are left out.

What is exact: all second moments. What is not: blinks are no Gaussian process, so a decoder that recognises blinks
could gain a little; the neighbours' identities could be decoded jointly.
Shape letters: C chan, S sample of a stored trial, R raw sample, K code, V low-rank column, Q query, G candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eegdecode.config import Epochs
from eegdecode.data.epochs import cut
from eegdecode.data.sources.forward_model import CHANNELS, SFREQ_HZ, SOA_S, NoisePart
from eegdecode.data.sources.synthetic import SyntheticSource, probe

MARGIN_S = 0.6
"""Raw samples outside the epoch that a filter may reach for."""
LARGEST_RESIDUAL = 1e-3
"""Of the map W on an event it was not fitted on; more means a filter longer than `MARGIN_S`."""
SMALLEST = 1e-7
"""Relative size below which a direction of a low-rank part, or of time, is left out."""


@dataclass(frozen=True)
class Preparation:
    """The linear map from raw samples around an onset to a stored trial.

    Attributes
    ----------
    weight_SR
        The same for every electrode.
    first
        Raw sample of the first column, relative to the onset.
    """

    weight_SR: np.ndarray
    first: int

    def of_response(self, response_KCT: np.ndarray, delay: int = 0) -> np.ndarray:
        """Return what a stored trial shows of responses (K, C, T) that begin `delay` raw samples after the onset."""
        n_raw = self.weight_SR.shape[1]
        start = delay - self.first
        low, high = max(start, 0), min(start + response_KCT.shape[-1], n_raw)
        if high <= low:
            return np.zeros((*response_KCT.shape[:2], len(self.weight_SR)))
        return np.asarray(response_KCT[..., low - start : high - start] @ self.weight_SR[:, low:high].T)

    def of_noise(self, part: NoisePart) -> np.ndarray:
        """Return the temporal covariance (S, S) of noise of unit variance."""
        n_raw = self.weight_SR.shape[1]
        lag = np.abs(np.arange(n_raw)[:, None] - np.arange(n_raw)[None])
        return np.asarray(self.weight_SR @ part.autocorrelation(n_raw)[lag] @ self.weight_SR.T)


def preparation(spec: Epochs) -> Preparation:
    """Find the map that `cut` applies, by least squares on white noise.

    Raises
    ------
    ValueError
        The map is not one matrix for every event: a filter longer than `MARGIN_S`.
    """
    recording = probe()
    plain = spec.model_copy(update={"reject_uv": None, "channels": None})
    trials = cut(recording, plain)
    first = int(np.floor((spec.tmin_s - MARGIN_S) * SFREQ_HZ))
    length = int(np.ceil((spec.tmax_s + MARGIN_S) * SFREQ_HZ)) - first
    onset_N = recording.events["sample"].to_numpy()[trials.table["event"].to_numpy()]
    raw_uv_CT = recording.raw.get_data() * 1e6
    raw_NCR = np.stack([raw_uv_CT[:, onset + first : onset + first + length] for onset in onset_N])
    flat_in, flat_out = (
        raw_NCR[:-1].reshape(-1, length),
        trials.eeg_uv_NCT[:-1].reshape(-1, trials.eeg_uv_NCT.shape[-1]),
    )
    weight_RS = np.linalg.lstsq(flat_in, flat_out.astype(np.float64), rcond=None)[0]
    residual = np.abs(raw_NCR[-1] @ weight_RS - trials.eeg_uv_NCT[-1]).max() / np.abs(trials.eeg_uv_NCT[-1]).max()
    if residual > LARGEST_RESIDUAL:
        raise ValueError(
            f"data.epochs must reach at most {MARGIN_S} s beyond the epoch for the ideal observer, got filters that "
            f"leave {residual:.1e} of a trial unexplained. Widen l_freq_hz / notch_hz or filter less."
        )
    return Preparation(np.asarray(weight_RS.T), first)


def _root(covariance: np.ndarray, smallest: float = SMALLEST) -> np.ndarray:
    """Return V with V Vᵀ = covariance, without negligible columns."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > smallest * values[-1]
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


@dataclass(frozen=True)
class _Whitening:
    """Makes sensor noise + background white: separable in time and space, so two small eigenproblems."""

    left_CC: np.ndarray
    right_SS: np.ndarray
    deviation_CS: np.ndarray

    @classmethod
    def of(cls, sensor: tuple[np.ndarray, np.ndarray], background: tuple[np.ndarray, np.ndarray]) -> "_Whitening":
        halves, spectra = [], []
        for white, coloured in zip(sensor, background, strict=True):
            values, vectors = np.linalg.eigh(white)
            kept = values > SMALLEST * values[-1]
            # A baseline makes one direction of time silent; it tells nothing and is left out here.
            half = vectors[:, kept] / np.sqrt(values[kept])
            power, turn = np.linalg.eigh(half.T @ coloured @ half)
            halves.append(half @ turn)
            spectra.append(power)
        return cls(halves[0].T, halves[1], np.sqrt(1 + np.multiply.outer(spectra[0], spectra[1])))

    def __call__(self, eeg_NCS: np.ndarray) -> np.ndarray:
        """Return whitened trials as rows."""
        white = self.left_CC @ eeg_NCS @ self.right_SS / self.deviation_CS
        return np.asarray(white.reshape(len(eeg_NCS), -1))


class IdealObserver:
    """One subject's observer for one set of candidates.

    Parameters
    ----------
    spec
        How the trials that will be scored were cut.
    candidates
        Picture ids, in the order of the scores.
    channels
        Electrodes of the trials, in their order.
    """

    def __init__(
        self,
        source: SyntheticSource,
        subject: str,
        spec: Epochs,
        candidates: Sequence[str],
        channels: Sequence[str] = CHANNELS,
        prepared: Preparation | None = None,
    ) -> None:
        model = source.parameters(subject)
        prepared = prepared or preparation(spec)
        pick = [CHANNELS.index(name) for name in channels]
        parts = {part.name: part for part in (*model.noise, model.blink_noise)}
        if not np.any(parts["sensor"].covariance_uv2_CC):
            raise ValueError("generator.sensor_uv must be above 0 for a likelihood to exist, got 0.")
        moments = {
            name: (part.covariance_uv2_CC[np.ix_(pick, pick)], prepared.of_noise(part)) for name, part in parts.items()
        }
        self._white = _Whitening.of(moments.pop("sensor"), moments.pop("background"))
        code_GK = source.code(list(candidates))
        code_GK = code_GK * model.strength(code_GK)[:, None]
        kernel_KCT, evoked_1CT = model.kernel_uv_KCT[:, pick], model.evoked_uv_CT[None, pick]
        fluctuation_KK = np.diag(source.fluctuation(model) ** 2)
        mean_1K, root_KV = code_GK.mean(0, keepdims=True), _root(np.cov(code_GK.T, bias=True) + fluctuation_KK)
        self.evoked_CS = prepared.of_response(evoked_1CT)[0]
        low_rank = []
        for space_CC, time_SS in moments.values():
            if np.any(space_CC):
                space_CV, time_SV = _root(space_CC), _root(time_SS)
                columns = np.einsum("cv,sw->vwcs", space_CV, time_SV).reshape(-1, len(pick), len(time_SV))
                low_rank.append(self._white(columns))
        step, reach = round(SOA_S * SFREQ_HZ), prepared.weight_SR.shape[1]
        for delay in [n * step for n in range(-reach // step, reach // step + 1) if n != 0]:
            shifted_KCS = prepared.of_response(kernel_KCT, delay)
            if np.any(shifted_KCS):
                self.evoked_CS = self.evoked_CS + prepared.of_response(evoked_1CT, delay)[0]
                self.evoked_CS = self.evoked_CS + np.tensordot(mean_1K[0], shifted_KCS, axes=1)
                low_rank.append(self._white(np.tensordot(root_KV.T, shifted_KCS, axes=1)))
        response_KCS = prepared.of_response(kernel_KCT)
        # The same picture is not answered twice alike.
        low_rank.append(self._white(np.sqrt(np.diag(fluctuation_KK))[:, None, None] * response_KCS))
        self.template_GCS = np.tensordot(code_GK, response_KCS, axes=1)
        white_GX = self._white(self.template_GCS)
        # Woodbury: (I + V Vᵀ)⁻¹ = I - V (I + Vᵀ V)⁻¹ Vᵀ.
        low_VX = np.concatenate(low_rank)
        inner_VV = np.eye(len(low_VX)) + low_VX @ low_VX.T
        self._weight_GX = white_GX - np.linalg.solve(inner_VV, low_VX @ white_GX.T).T @ low_VX
        self._half_energy_G = 0.5 * np.einsum("gx,gx->g", self._weight_GX, white_GX)

    def scores(self, eeg_uv_QCS: np.ndarray) -> np.ndarray:
        """Return the log-likelihood of one trial of each average, up to a constant per query, (Q, G)."""
        white_QX = self._white(np.asarray(eeg_uv_QCS, dtype=np.float64) - self.evoked_CS)
        return np.asarray(white_QX @ self._weight_GX.T - self._half_energy_G)

    def discriminability(self) -> np.ndarray:
        """Return the squared distance d'² of every pair of candidates on one trial, (G, G)."""
        white_GX = self._white(self.template_GCS)
        gram_GG = self._weight_GX @ white_GX.T
        energy_G = np.diag(gram_GG)
        return np.asarray(energy_G[:, None] + energy_G[None] - 2 * gram_GG)


@dataclass(frozen=True)
class IdealScores:
    """What the best decoder could reach on these trials."""

    n_way: int
    n_queries: int
    top1: float
    top5: float
    top1_by_subject: dict[str, float]


def ideal_scores(
    source: SyntheticSource,
    spec: Epochs,
    eeg_uv_NCT: np.ndarray,
    table: pd.DataFrame,
    channels: Sequence[str] = CHANNELS,
    repetitions: int = 0,
) -> IdealScores:
    """Score the ideal observer on test trials as they are stored.

    Parameters
    ----------
    spec
        The `data.epochs` these trials were cut with.
    table
        Columns ``subject`` and ``picture``, one row a trial.
    repetitions
        Trials averaged per query; 0 averages all trials of a subject and picture, 1 scores single trials. Trials are
        taken in their order and a remainder is not scored.

    Raises
    ------
    ValueError
        Table and trials that differ in length, or no trial left.
    """
    if len(table) != len(eeg_uv_NCT):
        raise ValueError(f"one row of the table per trial is needed, got {len(table)} rows, {len(eeg_uv_NCT)} trials.")
    candidates = sorted(table["picture"].unique())
    prepared = preparation(spec)
    clean_N = np.abs(eeg_uv_NCT).max(axis=(1, 2)) <= source.generator.clean_uv
    rank_parts, by_subject = [], {}
    for subject in sorted(table["subject"].unique()):
        mine = np.flatnonzero(clean_N & (table["subject"] == subject).to_numpy())
        averages, target_Q = average(eeg_uv_NCT, mine, table["picture"].to_numpy(), candidates, repetitions)
        if not len(target_Q):
            raise ValueError(f"subject {subject}: needs {repetitions or 1} clean trials of a picture, got none.")
        scores_QG = IdealObserver(source, subject, spec, candidates, channels, prepared).scores(averages)
        true_Q = scores_QG[np.arange(len(target_Q)), target_Q]
        rank_Q = (scores_QG > true_Q[:, None]).sum(1)
        rank_parts.append(rank_Q)
        by_subject[str(subject)] = float(np.mean(rank_Q == 0))
    rank_Q = np.concatenate(rank_parts)
    return IdealScores(
        n_way=len(candidates),
        n_queries=len(rank_Q),
        top1=float(np.mean(rank_Q < 1)),
        top5=float(np.mean(rank_Q < 5)),
        top1_by_subject=by_subject,
    )


def average(
    eeg_uv_NCT: np.ndarray, trials: np.ndarray, picture_N: np.ndarray, candidates: Sequence[str], repetitions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Average trials of one picture, `repetitions` at a time (0: all).

    Returns
    -------
    Averages (Q, C, T) and the row in `candidates` of each, (Q,).
    """
    averages, targets = [], []
    for target, candidate in enumerate(candidates):
        rows = trials[picture_N[trials] == candidate]
        size = repetitions or len(rows)
        for start in range(0, len(rows) - size + 1 if size else 0, size or 1):
            averages.append(eeg_uv_NCT[rows[start : start + size]].mean(0, dtype=np.float64))
            targets.append(target)
    shape = (0, *eeg_uv_NCT.shape[1:])
    return np.stack(averages) if averages else np.empty(shape), np.array(targets, dtype=np.int64)
