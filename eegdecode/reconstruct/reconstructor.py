"""The one class that turns EEG into concepts and pictures, and the anchors its pictures are held against.

Shape letters: N trial, C chan, T time, D embedding, P picture.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from scipy.special import logsumexp, softmax

from eegdecode.bundle import Bundle
from eegdecode.models.options import subject_rows

PLAUSIBLE_UV = (0.02, 5000.0)
"""Median absolute value of EEG in microvolt; outside it the unit is taken to be wrong."""


class Reconstructor:
    """EEG to embedding, concepts and pictures with the decoder, bridge, gallery and drawer of a bundle.

    Trials go through the decoder and the bridge one at a time: the last bits of a matrix product depend on its size and
    on the row, and a served trial must equal the batch job's.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._decoder = bundle.decoder.eval()
        self._device = next(self._decoder.parameters()).device
        self._weight_ED = bundle.bridge_weight_ED.astype(np.float64)
        self._bias_D = bundle.bridge_bias_D.astype(np.float64)
        self._gallery_PD = _unit(bundle.gallery.target_PD.astype(np.float64))

    def check(self, eeg_uv_NCT: np.ndarray, sfreq_hz: float | None = None) -> None:
        """Raise ValueError if these are not trials as the bundle was trained on: dtype, shape, rate, unit, NaN."""
        fact = self.bundle.fact
        expected = f"float32 (trials, {len(fact.channels)} chans, {fact.n_times} times) in microvolt"
        if eeg_uv_NCT.dtype != np.float32:
            raise ValueError(f"EEG must be {expected}, got dtype {eeg_uv_NCT.dtype}.")
        if eeg_uv_NCT.ndim != 3 or eeg_uv_NCT.shape[1:] != (len(fact.channels), fact.n_times):
            raise ValueError(
                f"EEG must be {expected}, got shape {eeg_uv_NCT.shape}. "
                f"Chans in order: {', '.join(fact.channels)}; rate {fact.sfreq_hz:g} Hz from {fact.tmin_s:g} s."
            )
        if sfreq_hz is not None and abs(sfreq_hz - fact.sfreq_hz) > 1e-6:
            raise ValueError(f"EEG must be sampled at {fact.sfreq_hz:g} Hz, got {sfreq_hz:g} Hz. Resample it first.")
        if not len(eeg_uv_NCT):
            raise ValueError(f"EEG must be {expected}, got no trial.")
        finite_N = np.isfinite(eeg_uv_NCT).all((1, 2))
        if not finite_N.all():
            trial = int(np.argmin(finite_N))
            chan = int(np.argmin(np.isfinite(eeg_uv_NCT[trial]).all(1)))
            raise ValueError(f"EEG must be finite, got NaN or infinity in trial {trial}, chan {fact.channels[chan]}.")
        size_uv_N = np.median(np.abs(eeg_uv_NCT), axis=(1, 2))
        low, high = PLAUSIBLE_UV
        wrong = np.flatnonzero((size_uv_N < low) | (size_uv_N > high))
        if len(wrong):
            raise ValueError(
                f"EEG must be in microvolt, got a median of {size_uv_N[wrong[0]]:.3g} in trial {wrong[0]} "
                f"(plausible: {low:g} to {high:g}). Volts are to be multiplied by 1e6."
            )

    def embed(
        self, eeg_uv_NCT: np.ndarray, sfreq_hz: float | None = None, subject: str | Sequence[str] | None = None
    ) -> np.ndarray:
        """Return the decoder's embeddings, float32 (N, D), not normalised.

        Parameters
        ----------
        subject
            Whose trials they are, one name for all or one a trial, as `bundle.fact.subjects` spells them. One that
            training did not see, or None, gets what the decoder has for new people; so does everybody where it has
            nothing for each.

        Raises
        ------
        ValueError
            EEG that `check` refuses, or another number of subjects than trials.
        """
        return self._each(lambda *trial: {"": self._decoder(*trial)}, eeg_uv_NCT, sfreq_hz, subject)[""]

    def outputs(
        self, eeg_uv_NCT: np.ndarray, sfreq_hz: float | None = None, subject: str | Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return all that the decoder predicts, by name, each float32 (N, D); parameters and errors as in `embed`.

        Under "" the embedding, under `features` what it is a map of (where `encoder.features` asks for them), and every
        further target that has a head under its own name.
        """
        return self._each(self._decoder.predict, eeg_uv_NCT, sfreq_hz, subject)

    def _each(
        self,
        run: Callable[[torch.Tensor, torch.Tensor | None], dict[str, torch.Tensor]],
        eeg_uv_NCT: np.ndarray,
        sfreq_hz: float | None,
        subject: str | Sequence[str] | None,
    ) -> dict[str, np.ndarray]:
        """Return what the decoder makes of every trial and its subject's row."""
        self.check(eeg_uv_NCT, sfreq_hz)
        names = [subject or ""] * len(eeg_uv_NCT) if isinstance(subject, str | None) else [str(s) for s in subject]
        if len(names) != len(eeg_uv_NCT):
            raise ValueError(
                f"subject must be one name, or one for each of {len(eeg_uv_NCT)} trials, got {len(names)}."
            )
        row_N = subject_rows(self.bundle.fact.subjects, names)
        row_N = None if row_N is None else row_N.to(self._device)
        with torch.inference_mode():
            found = [
                run(
                    torch.tensor(eeg_uv_NCT[n : n + 1], device=self._device),
                    None if row_N is None else row_N[n : n + 1],
                )
                for n in range(len(eeg_uv_NCT))
            ]
        return {name: torch.cat([each[name] for each in found]).float().cpu().numpy() for name in found[0]}

    def top_concepts(self, z_ND: np.ndarray, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return per trial the k concepts whose nearest gallery picture has the largest cosine, with that cosine."""
        concepts = sorted(set(self.bundle.gallery.concepts))
        if not 1 <= k <= len(concepts):
            raise ValueError(f"k must be between 1 and the {len(concepts)} concepts of the gallery, got {k}.")
        cosine_NP = _unit(np.asarray(z_ND, dtype=np.float64)) @ self._gallery_PD.T
        best = np.full((len(concepts), len(cosine_NP)), -np.inf)
        rows = np.searchsorted(concepts, self.bundle.gallery.concepts)
        np.maximum.at(best, rows, cosine_NP.T)
        order = np.argsort(-best, axis=0, kind="stable")[:k].T
        return [[(concepts[c], float(best[c, n])) for c in row] for n, row in enumerate(order)]

    @cached_property
    def classes_(self) -> np.ndarray:
        """Concepts of the gallery, sorted; the columns of `predict_proba`."""
        return np.unique(self.bundle.gallery.concepts)

    def predict(
        self, eeg_uv_NCT: np.ndarray, sfreq_hz: float | None = None, subject: str | Sequence[str] | None = None
    ) -> np.ndarray:
        """Return the concept of each trial, as scikit-learn's classifiers do; parameters as in `embed`.

        Raises
        ------
        ValueError
            EEG that `check` refuses.
        """
        named: np.ndarray = self.classes_[self._log_odds(self.embed(eeg_uv_NCT, sfreq_hz, subject)).argmax(axis=1)]
        return named

    def predict_proba(
        self, eeg_uv_NCT: np.ndarray, sfreq_hz: float | None = None, subject: str | Sequence[str] | None = None
    ) -> np.ndarray:
        """Return probabilities of `classes_`, float64 (N, K): the loss's own softmax over the gallery's pictures.

        How far they can be believed is measured by calibration, not promised here. Parameters as in `embed`.
        """
        log_odds_NK = self._log_odds(self.embed(eeg_uv_NCT, sfreq_hz, subject))
        probability_NK: np.ndarray = softmax(log_odds_NK, axis=1)
        return probability_NK

    def score(
        self, eeg_uv_NCT: np.ndarray, concept_N: Sequence[str], subject: str | Sequence[str] | None = None
    ) -> float:
        """Return the share of trials whose concept is named; its chance is one over the number of `classes_`."""
        return float(np.mean(self.predict(eeg_uv_NCT, subject=subject) == np.asarray(concept_N)))

    def _log_odds(self, z_ND: np.ndarray) -> np.ndarray:
        """Return log odds of the concepts: those of a concept's pictures added up."""
        z_ND = np.asarray(z_ND, np.float64)
        if self.bundle.experiment.loss.normalise == "both":
            z_ND = _unit(z_ND)
        logits_NP = float(self._decoder.logit_scale.detach().exp()) * z_ND @ self._gallery_PD.T
        rows = np.searchsorted(self.classes_, self.bundle.gallery.concepts)
        return np.stack([logsumexp(logits_NP[:, rows == k], axis=1) for k in range(len(self.classes_))], axis=1)

    def condition(self, z_ND: np.ndarray) -> np.ndarray:
        """Return what is drawn from: unit-norm embeddings through the bridge, `z @ weight + bias`, float32 (N, D)."""
        return _one_by_one(z_ND, self._bridge_one, len(self._bias_D))

    def draw(self, z_ND: np.ndarray, seed: int) -> np.ndarray:
        """Draw one picture per embedding, uint8 (N, px, px, 3); all start from the noise of the seed.

        Raises
        ------
        ValueError
            A bundle without a drawer, or embeddings of another length.
        """
        return self.draw_condition(self.condition(z_ND), seed)

    def draw_condition(self, condition_ND: np.ndarray, seed: int) -> np.ndarray:
        """Draw from embeddings that are in the target's space already, such as the anchors'."""
        if self.bundle.drawer is None:
            raise ValueError(
                f"bundle {self.bundle.digest[:12]} has no drawer: it ranks concepts and draws no pictures."
            )
        return self.bundle.drawer.draw(condition_ND, seed)

    def _bridge_one(self, z_1D: np.ndarray) -> np.ndarray:
        bridged: np.ndarray = _unit(z_1D.astype(np.float64)) @ self._weight_ED + self._bias_D
        return bridged.astype(np.float32)


def anchor_conditions(
    z_true_ND: np.ndarray, train_target_PD: np.ndarray, seed: int, z_predicted_ND: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the conditions that a drawing from EEG is compared with.

    Parameters
    ----------
    z_true_ND
        Targets of the pictures that were shown.
    train_target_PD
        Targets of the training pictures.
    seed
        Of the random condition.
    z_predicted_ND
        What was predicted from EEG, in the target's space (`Reconstructor.condition`); for `nearest`.

    Returns
    -------
    ``random`` (N, D), targets of random training pictures; ``mean`` (N, D), the mean training target; ``oracle``
    (N, D), the true ones; ``nearest`` (N,) int64, the training picture that is nearest to the prediction (to the truth
    if none is given) by cosine after the training mean is taken off: to be shown as it is, not drawn.
    """
    if z_true_ND.ndim != 2 or z_true_ND.shape[1:] != train_target_PD.shape[1:] or not len(train_target_PD):
        raise ValueError(f"targets must be (N, D) and (P, D), got {z_true_ND.shape} and {train_target_PD.shape}.")
    mean_D = train_target_PD.mean(0, dtype=np.float64)
    rows = np.random.default_rng(seed).integers(0, len(train_target_PD), len(z_true_ND))
    query = z_true_ND if z_predicted_ND is None else z_predicted_ND
    return {
        "random": train_target_PD[rows],
        "mean": np.repeat(mean_D[None].astype(np.float32), len(z_true_ND), axis=0),
        "oracle": z_true_ND,
        "nearest": (_unit(query - mean_D) @ _unit(train_target_PD - mean_D).T).argmax(1),
    }


def _one_by_one(x: np.ndarray, run: Callable[[np.ndarray], np.ndarray], dim: int) -> np.ndarray:
    return np.concatenate([np.zeros((0, dim), dtype=np.float32), *(run(x[n : n + 1]) for n in range(len(x)))])


def _unit(x_ND: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x_ND, axis=1, keepdims=True)
    unit: np.ndarray = x_ND / np.where(length > 0, length, 1.0)
    return unit
