"""NICE (Song et al., ICLR 2024) and its two mixings of electrodes."""

from eegdecode.config import Compute, Encoder, Experiment, Loss, Protocol, Search, Stream, Targets
from eegdecode.recipes.published import PICTURES, PICTURES_PER_CONCEPT, course, raw

_BATCH = 1000
_VALIDATION_CONCEPTS = 74
"""740 pictures, as many as the paper holds out."""


def nice() -> Experiment:
    """NICE as published: symmetric InfoNCE at a fixed temperature of 0.07, class-centre gallery, 63 electrodes.

    Paper: Song et al., ICLR 2024; code: eeyhsong/NICE-EEG@a7709d8 (MIT), `nice_stand.py`. From there: CLIP ViT-L/14,
    200 passes in batches of 1,000, Adam at 2e-4 with betas (0.5, 0.999), dropout 0.5, repetitions averaged in training
    and test, both sides at unit length, a temperature that no optimiser is given. Adam is AdamW without decay.

    Chosen here:

    - Validation is by concepts, 74 of them, and not by 740 pictures of concepts that are trained on too. The step that
      is kept has the best mean average precision there, and not the least loss.
    - The gallery has one entry for each test concept. The paper's is the mean of further pictures of the concept,
      which nobody saw and no recording names; here it is the concept's shown picture. The paper's centres keep their
      length, ours do not: with lengths of about 0.93 throughout the order hardly changes.
    - First weights follow N(0, 0.02) as published.
    - The learnt temperature is `nice_learnt_temperature`; of the others, --set loss.learn_temperature=true.
    """
    return Experiment(
        recipe="nice",
        data=raw(),
        stream=Stream(average=0),
        targets=Targets(tower="open_clip:ViT-L-14:openai", centre=False),
        encoder=Encoder(name="nice", dropout=0.5, whiten="none"),
        loss=Loss(contrastive_batch=_BATCH, temperature=0.07, learn_temperature=False, normalise="both"),
        schedule=course(
            200, PICTURES - _VALIDATION_CONCEPTS * PICTURES_PER_CONCEPT, _BATCH, 2e-4, 0.0, betas=(0.5, 0.999)
        ),
        protocol=Protocol(n_val=_VALIDATION_CONCEPTS, gallery="concept"),
        search=Search(lr=(1e-4, 2e-4, 4e-4), temperature=(0.07,), steps=320),
        compute=Compute(runs_uri="runs/nice"),
    )


def nice_sa() -> Experiment:
    """NICE with self-attention over electrodes, see `nice`.

    The published attention sums its weights over their own axis and so does nothing; this one attends, as the paper
    means it. Its dropout is 0.3.
    """
    return _variant("nice_sa", {"encoder.name": "nice_sa"})


def nice_ga() -> Experiment:
    """NICE with graph attention over electrodes, see `nice`.

    The published graph has edges for the first trial of a batch only; here every trial has them, as the paper means it.
    """
    return _variant("nice_ga", {"encoder.name": "nice_ga"})


def nice_learnt_temperature() -> Experiment:
    """NICE with a temperature that is trained, which its code defines and forgets; see `nice`."""
    return _variant("nice_learnt_temperature", {"loss.learn_temperature": True})


def _variant(name: str, changes: dict[str, object]) -> Experiment:
    return nice().override({"recipe": name, "compute.runs_uri": f"runs/{name}", **changes})
