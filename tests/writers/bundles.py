"""A bundle of toy size, untrained: two electrodes, ten times, three pictures of two concepts."""

import numpy as np
import torch

from eegdecode.batch import Fold, TargetFact
from eegdecode.bundle import Bundle, BundleFact, Gallery
from eegdecode.config import Experiment
from eegdecode.models.decoder import build_decoder
from eegdecode.models.options import EncoderOptions


def toy_bundle(subjects: tuple[str, ...] = ()) -> Bundle:
    """Return the bundle; each of the subjects has a map of their own, by chance."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    layer = "linear" if subjects else "none"
    decoder = build_decoder(
        "mlp",
        n_chans=2,
        n_times=10,
        target_dim=4,
        dropout=0.5,
        temperature=0.1,
        learn_temperature=True,
        options=EncoderOptions(layer, n_subjects=len(subjects)),
    )
    for name, weight in decoder.named_parameters():
        if name.endswith("weight_STT"):
            torch.nn.init.normal_(weight)
    return Bundle(
        experiment=Experiment(recipe="toy").override({"encoder.name": "mlp", "encoder.subject_layer": layer}),
        fact=BundleFact(
            manifest_digest="a" * 64,
            targets_digest="a" * 64,
            fold=Fold(name="concepts", by="concept", train=("a",), val=(), test=("b",)),
            channels=("Oz", "O1"),
            sfreq_hz=100.0,
            tmin_s=-0.2,
            n_times=10,
            target=TargetFact(tower="toy", layer="none", revision="0", preprocessing="none", dim=4),
            step=7,
            val_score=None,
            subjects=subjects,
        ),
        decoder=decoder,
        bridge_weight_ED=np.eye(4, dtype=np.float32),
        bridge_bias_D=np.zeros(4, np.float32),
        gallery=Gallery(("p0", "p1", "p2"), ("cat", "dog", "cat"), rng.standard_normal((3, 4)).astype(np.float32)),
        drawer=None,
    )
