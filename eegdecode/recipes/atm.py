"""ATM-S (Li et al., NeurIPS 2024)."""

import math

from eegdecode.config import Compute, Encoder, Experiment, Loss, LossTerm, Protocol, Search, Targets
from eegdecode.recipes.published import PICTURES, REPETITIONS, course, raw

_BATCH = 64
_CLIP = "open_clip:ViT-H-14:laion2b_s32b_b79k"


def atm() -> Experiment:
    """ATM-S with its faults mended: single trials, CLIP ViT-H/14 of picture and of text, 63 electrodes.

    Paper: Li et al., NeurIPS 2024; code: dongyangli-del/EEG_Image_decode@22c84ad (MIT), `ATMS_retrieval.py`. From
    there: trials that are not averaged, 40 passes in batches of 64, AdamW at 3e-4, 0.99 InfoNCE with the picture and
    0.01 with "This picture is {concept}", dropout 0.5 and in the transformer 0.25.

    Mended: the temperature is an exponential and both sides are of unit length (published: its logarithm itself, and
    EEG as long as it comes); the slice keeps all electrodes. Chosen here: the weight decay is AdamW's default of 0.01,
    which the code leaves alone; targets come from the tower's own crop, not from a random one; the last step is kept,
    as the paper's numbers are means over the last ten passes. Every subject has a token, and a tenth of the trials get
    the shared one, which is for new people (published: it is never learnt). The recipe takes one person; for the
    paper's joint training set data.source.subjects.
    """
    return Experiment(
        recipe="atm",
        data=raw(),
        targets=Targets(tower=_CLIP, also={"text": "text(prompt=This picture is {concept}):" + _CLIP}, centre=False),
        encoder=Encoder(name="atm", dropout=0.5, whiten="none", subject_layer="token"),
        loss=Loss(
            terms=(LossTerm(name="info_nce", weight=0.99), LossTerm(name="info_nce", target="text", weight=0.01)),
            contrastive_batch=_BATCH,
            temperature=0.07,
            normalise="both",
        ),
        schedule=course(40, PICTURES * REPETITIONS, _BATCH, 3e-4, 0.01),
        protocol=Protocol(selection="last"),
        search=Search(lr=(1e-4, 3e-4), temperature=(0.07,), steps=2000),
        compute=Compute(runs_uri="runs/atm"),
    )


def atm_published() -> Experiment:
    """ATM-S as its code is: see `atm` for what is mended there.

    The logits are multiplied by ln(1/0.07) = 2.66, and the EEG side keeps its length. The scale is learnt; here its
    logarithm is the parameter, there the scale itself: the same value and loss, other steps of the optimiser. Its rule
    for tokens is kept: one subject beyond the table of ten sends a whole batch to the shared one.
    """
    return atm().override(
        {
            "recipe": "atm_published",
            "encoder.name": "atm_published",
            "loss.temperature": 1 / math.log(1 / 0.07),
            "loss.normalise": "target",
            "compute.runs_uri": "runs/atm_published",
        }
    )
