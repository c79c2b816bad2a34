"""A linear decoder by ridge regression, from one pass over the stream on any number of ranks.

Shape letters: B batch, C chan, T time, D feature, E target.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from eegdecode.batch import TrialBatch
from eegdecode.models.decoder import Decoder
from eegdecode.models.linear import LinearMap
from eegdecode.models.riemann import CovarianceTangent
from eegdecode.train.closed_form import (
    Moments,
    Ridge,
    RidgePath,
    accumulate,
    inductive_output_scaling,
    of_all_ranks,
)

Rows = tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]


class TrialStream(Protocol):
    """A stream of trials, whose threads end when its batches are closed."""

    def starting_at(self, trials_seen: int) -> Generator[TrialBatch, None, None]:
        """Return the batches after the first `trials_seen` samples of all ranks."""


def first_pass(stream: TrialStream) -> Iterator[TrialBatch]:
    """Yield this rank's samples of the first pass: those of all ranks together are every sample once."""
    with closing(stream.starting_at(0)) as batches:
        for batch in batches:
            first_B = batch.pass_B == 0
            if not first_B.any():
                return
            yield batch.where(first_B)


def start_ridge(
    decoder: Decoder,
    training: Iterable[TrialBatch],
    validation: Iterable[TrialBatch] | None,
    alphas: tuple[float, ...],
    world: int,
    device: torch.device,
    scale_embedding: bool = False,
) -> dict[str, float]:
    """Set an encoder's linear map and the heads to ridge regression of the targets, and return the penalties by target.

    Samples are standardised, as in Perceptogram (Fei et al., 2024; desa-lab/Perceptogram@8924f99). The penalty of each
    target is the one with the least squared error on validation trials, or by generalised cross-validation without
    any. What heads predict gets the spread of the targets back, from the same trials (inductively: the paper takes the
    spread of the test predictions).

    Parameters
    ----------
    training
        This rank's samples; those of all ranks make the whole.
    validation
        The same samples on every rank.
    world
        Ranks that share the training samples.
    device
        Where ranks add up their moments.
    scale_embedding
        Whether the embedding, which is ranked, gets its spread back too, as all outputs of the paper do. Where targets
        are not centred it must: ridge shrinks towards the mean target, and what is left of a cosine is the mean's.
    """
    moments = accumulate(_rows(decoder, training))
    if world > 1:
        moments = of_all_ranks(moments, device)
    held = accumulate(_rows(decoder, validation)) if validation is not None else None
    encoder = decoder.encoder
    assert isinstance(encoder, LinearMap | CovarianceTangent)
    # Lengths in a tangent space are distances: its directions are penalised alike.
    path = RidgePath(moments, standardise=isinstance(encoder, LinearMap))
    maps = {"": decoder.encoder, **decoder.heads}
    penalties = {}
    for name, module in maps.items():
        found = _chosen(path, name, held, alphas)
        penalties[name] = found.alpha
        if name or scale_embedding:
            found = inductive_output_scaling(found, held or moments, name)
        assert isinstance(module, LinearMap | CovarianceTangent)
        with torch.no_grad():
            module.map.weight.copy_(torch.from_numpy(found.weight_DE.T))
            module.map.bias.copy_(torch.from_numpy(found.bias_E))
    return penalties


def _chosen(path: RidgePath, target: str, held: Moments | None, alphas: tuple[float, ...]) -> Ridge:
    if len(alphas) == 1:
        return path.fit(target, alphas[0])
    return path.fit_by_gcv(target, alphas) if held is None else path.fit_by_validation(target, held, alphas)


def _rows(decoder: Decoder, batches: Iterable[TrialBatch]) -> Iterator[Rows]:
    """Yield features and targets, as the encoder sees them and the embedding is compared with them."""
    for batch in batches:
        with torch.no_grad():
            encoder = decoder.encoder
            assert isinstance(encoder, LinearMap | CovarianceTangent)
            x_BD = encoder.features(decoder.front(batch.eeg_uv_BCT.cpu()))
            main_BE = decoder.embed_target(batch.target_BD.cpu())
        targets = {"": main_BE, **{name: batch.also[name].cpu() for name in decoder.heads}}
        yield x_BD.double().numpy(), {name: y_BE.double().numpy() for name, y_BE in targets.items()}
