"""NeuroBridge (AAAI 2026), and SAMGA (2026), which grew out of it."""

from eegdecode.config import (
    Augment,
    Compute,
    Encoder,
    Experiment,
    Loss,
    LossTerm,
    Protocol,
    Router,
    Search,
    Stream,
    Targets,
)
from eegdecode.recipes.published import PICTURES, POSTERIOR, course, raw
from eegdecode.recipes.ubp import SOFTPLUS_TEMPERATURE

_LAYERS = (20, 24, 28, 32, 36)


def neurobridge() -> Experiment:
    """NeuroBridge: the mean target over four spoilt views, learnt linear maps of both sides, smoothed EEG.

    Paper: AAAI 2026; code: feroooooo/NeuroBridge@6144203 (no licence), `train.py` with the options of
    `scripts/things_eeg/intra-subjects.sh`. From there: CLIP RN50 averaged over blur, noise, low resolution and mosaic,
    in training and test; EEGProject and a linear map to 512, a linear map of the picture to 512; a moving average over
    5 samples with probability 0.3 for each electrode; 17 electrodes, repetitions averaged; AdamW at 1e-4 with decay
    1e-4, 50 passes in batches of 1,024; the picture's side alone at unit length, a fixed scale of softplus(ln(1/0.07))
    (its flag for a softplus has no effect, it is always on).

    Chosen here:

    - The raw recordings, whitened in each session over the 17 electrodes. Its own files are layout `neurobridge`,
      and are cut already: take the `Epochs` of `ubp` for them.
    - Dropout 0.3 in EEGProject, as in UBP, whose module it is.
    - The picture's map has no bias.
    - The last step is kept; the code also keeps the one with the least loss on the test pictures.
    """
    return Experiment(
        recipe="neurobridge",
        data=raw(POSTERIOR),
        stream=Stream(average=0, augment=Augment(smooth=0.3, smooth_samples=5)),
        targets=Targets(tower="open_clip:RN50:openai#blur+noise+lowres+mosaic", project=512, centre=False),
        encoder=Encoder(name="neurobridge", dropout=0.3, whiten="none"),
        loss=Loss(
            contrastive_batch=1024, temperature=SOFTPLUS_TEMPERATURE, learn_temperature=False, normalise="target"
        ),
        schedule=course(50, PICTURES, 1024, 1e-4, 1e-4, seed=2025),
        protocol=Protocol(selection="last"),
        search=Search(lr=(1e-4, 3e-4), temperature=(SOFTPLUS_TEMPERATURE,), steps=160),
        compute=Compute(runs_uri="runs/neurobridge"),
    )


def samga() -> Experiment:
    """SAMGA's idea: five layers of a large vision transformer as one target, with learnt weights, and MMD + InfoNCE.

    Paper: SAMGA, 2026; code: LinJiang8/SAMGA@1a63745 (no licence). From there: layers 20, 24, 28, 32 and 36 of a tower
    3,200 wide, weights that start centred on layer 28, one reduction for all layers and a map for each; unbiased MMD on
    features that are not normalised; the contrast of NeuroBridge; AdamW at 1e-4, 60 passes in batches of 512 (script;
    the paper says 1,024).

    Chosen here, since the paper or its code leaves it open or contradicts itself:

    - One stage. The paper first lets the weight of MMD fall from 0.9 to 0.5 over 20 passes, then freezes an encoder
      that both sides share and goes on at 5e-5; neither the two stages nor the shared encoder are here (by its ablation
      the one-stage form loses 4 points of top-1). The weights are those at which its first stage ends, 0.5 and 0.5.
    - Weights are the same for all subjects, as the paper uses them on a new one.
    - The EEG side is NeuroBridge's; reduction to 1,024 and embedding of 512.
    - Whitened EEG, as the paper says (its readme: standardised).
    - The step that scores best on 40 validation concepts is kept; the code keeps the best on the test pictures.
    - The tower is a folder `internvit_6b` below compute.weights_uri, in the form of transformers' InternVLVisionModel.
      Layer k is the class token behind block k, counted from 0.
    """
    names = ",".join(f"encoder.layer.{k}" for k in _LAYERS)
    return Experiment(
        recipe="samga",
        data=raw(POSTERIOR),
        stream=Stream(average=0),
        targets=Targets(
            tower=f"transformers:internvit_6b@token({names})",
            project=512,
            router=Router(depths=_LAYERS, centre=28, reduced=1024),
            centre=False,
        ),
        encoder=Encoder(name="neurobridge", dropout=0.3, whiten="none"),
        loss=Loss(
            terms=(LossTerm(name="mmd_unbiased", weight=0.5), LossTerm(name="info_nce", weight=0.5)),
            contrastive_batch=512,
            temperature=SOFTPLUS_TEMPERATURE,
            learn_temperature=False,
            normalise="target",
        ),
        schedule=course(60, PICTURES - 400, 512, 1e-4, 1e-4),
        protocol=Protocol(n_val=40),
        search=Search(lr=(1e-4, 3e-4), temperature=(SOFTPLUS_TEMPERATURE,), steps=320),
        compute=Compute(runs_uri="runs/samga"),
    )
