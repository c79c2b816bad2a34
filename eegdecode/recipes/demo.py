"""The demonstration on simulated EEG."""

from eegdecode.config import (
    Compute,
    Data,
    Encoder,
    Epochs,
    Experiment,
    Schedule,
    Search,
    SyntheticData,
    Targets,
)


def demo() -> Experiment:
    """Synthetic pictures and EEG, 200-way, on a laptop in minutes; needs no file and no weights."""
    return Experiment(
        recipe="demo",
        data=Data(source=SyntheticData(), epochs=Epochs(sfreq_hz=50.0, crop_s=(0.0, 0.4), reject_uv=250.0)),
        targets=Targets(project=14),
        encoder=Encoder(name="linear", dropout=0.0, start="canonical", whiten="none"),
        schedule=Schedule(steps=100, lr=1e-5, validate_every=20, save_every=50),
        search=Search(lr=(1e-6, 1e-5), temperature=(0.1, 0.3), steps=60),
        compute=Compute(workers=2, runs_uri="runs/demo"),
    )
