"""The demonstration on simulated EEG."""

from typing import Any

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

LARGE: dict[str, Any] = {
    "data.source.n_train_concepts": 475,
    "data.source.pictures_per_concept": 16,
    "data.source.train_repetitions": 4,
}
"""Of the simulated data: all training concepts that the catalogue leaves, and about half the trials a subject of
THINGS-EEG2 has."""


def demo() -> Experiment:
    """Synthetic pictures and EEG, 200-way, on a laptop in minutes; needs no file and no weights."""
    return Experiment(
        recipe="demo",
        data=Data(source=SyntheticData(), epochs=Epochs(sfreq_hz=50.0, crop_s=(0.0, 0.4), reject_uv=250.0)),
        targets=Targets(project=20),
        encoder=Encoder(name="linear", dropout=0.0, start="canonical", whiten="none"),
        schedule=Schedule(steps=100, lr=1e-5, validate_every=20, save_every=50),
        search=Search(lr=(1e-6, 1e-5), temperature=(0.1, 0.3), steps=60),
        compute=Compute(workers=2, runs_uri="runs/demo"),
    )


def canonical() -> Experiment:
    """Canonical correlations of EEG with looks and words, no gradient, on five times the demo's trials.

    The best of the recipes on simulated EEG. Each canonical direction (Hotelling 1936) is as long as its correlation
    over the first one's.
    """
    return demo().override(
        LARGE
        | {
            "recipe": "canonical",
            "targets.tower": "pyramid_words",
            "schedule.steps": 0,
            "search.lr": (1e-4,),
            "search.temperature": (0.07,),
            "search.steps": 1,
            "compute.runs_uri": "runs/canonical",
        }
    )


def canonical_photographs() -> Experiment:
    """As `canonical`, on simulated EEG of photographs: compute.data_uri has one file a concept, a thousand at least.

    Their concepts' names tell nothing that the simulated brain computes, so the target is looks alone. As many trials
    as there, of fewer pictures: each is shown 38 times.
    """
    return canonical().override(
        {
            "recipe": "canonical_photographs",
            "data.source": SyntheticData(
                pictures="folder",
                n_train_concepts=800,
                pictures_per_concept=1,
                train_repetitions=38,
                picture_px=224,
            ).model_dump(mode="json"),
            "targets.tower": "pyramid",
            "compute.runs_uri": "runs/canonical_photographs",
        }
    )
