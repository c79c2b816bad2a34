"""Perceptogram (Fei et al., 2024): linear maps and no gradient."""

from eegdecode.config import (
    Compute,
    Data,
    Encoder,
    Epochs,
    Experiment,
    Loss,
    LossTerm,
    Protocol,
    Schedule,
    Search,
    Stream,
    Targets,
    ThingsEeg2Data,
)
from eegdecode.recipes.published import SUBJECTS

_CLIP = "open_clip:ViT-H-14:laion2b_s32b_b79k"
_UNCLIP = "stabilityai/stable-diffusion-2-1-unclip"


def perceptogram() -> Experiment:
    """Ridge regression of EEG on image embedding, text embedding and VAE latent, from one pass over the stream.

    Paper: Fei et al., 2024; code: desa-lab/Perceptogram@8924f99 (research licence). From there: Gifford's files of 17
    electrodes at 100 Hz without the first 20 samples, 0 to 0.79 s; repetitions averaged; features standardised on the
    training rows; the 1,024 numbers by which SD 2.1 unCLIP is conditioned, and its VAE's latents of pictures of 768
    pixels in [0, 1], not [-1, 1].

    Chosen here:

    - The penalty of each target is chosen on 40 validation concepts among 0 (its unCLIP pipeline) and 10 to 1e5 (1,000
      and 10,000 are those of its other pipeline); the fit leaves these concepts out.
    - All outputs, the image embedding that is ranked among them, get the spread of the targets back from validation
      trials. The published form takes it from the 200 test predictions and exists as
      `closed_form.transductive_output_scaling` alone. Targets are not centred, as published, so that without this
      every prediction is close to the mean target and a few candidates near it win.
    - What is drawn from the image embedding goes through the bundle's own map.
    - The text is "This picture is {concept}" in the same CLIP, as the paper's other pipeline has a text embedding too.
    """
    return Experiment(
        recipe="perceptogram",
        data=Data(
            source=ThingsEeg2Data(layout="gifford", subjects=SUBJECTS),
            epochs=Epochs(baseline_s=None, sfreq_hz=100.0, crop_s=(0.0, 0.79)),
        ),
        stream=Stream(average=0),
        targets=Targets(
            tower=_CLIP,
            also={
                "text": "text(prompt=This picture is {concept}):" + _CLIP,
                "vae": f"vae(px=768; range=unit; subfolder=vae):{_UNCLIP}",
            },
            centre=False,
        ),
        encoder=Encoder(
            name="linear",
            dropout=0.0,
            start="ridge",
            alphas=(0.0, 10.0, 100.0, 1e3, 1e4, 1e5),
            whiten="none",
        ),
        loss=Loss(
            terms=(
                LossTerm(name="mse"),
                LossTerm(name="mse", target="text"),
                LossTerm(name="mse", target="vae"),
            ),
            contrastive_batch=256,
        ),
        schedule=Schedule(steps=0),
        protocol=Protocol(n_val=40),
        # Nothing of a closed form depends on rate or temperature; penalties are chosen where it is fitted.
        search=Search(lr=(1e-4,), temperature=(0.07,), steps=1),
        compute=Compute(runs_uri="runs/perceptogram"),
    )
