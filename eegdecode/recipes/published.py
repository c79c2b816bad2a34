"""What recipes of papers share: the course of training, and THINGS-EEG2 as most take it (Gifford et al., 2022)."""

from eegdecode.config import Data, Epochs, Schedule, ThingsEeg2Data

PICTURES = 16_540
"""Training pictures: ten of each of 1,654 concepts."""
REPETITIONS = 4
"""Of each, in a person."""
PICTURES_PER_CONCEPT = 10
SUBJECTS = ("08",)
"""The papers train a model a person: run a recipe once for each, with --set 'data.source.subjects=["01"]'."""
POSTERIOR = (
    *("P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8"),
    *("PO7", "PO3", "POz", "PO4", "PO8"),
    *("O1", "Oz", "O2"),
)
"""The 17 electrodes over occipital and parietal cortex."""


def raw(channels: tuple[str, ...] | None = None) -> Data:
    """Return the raw recordings cut as NICE cuts them: 250 samples from the onset on, whitened in each session.

    eeyhsong/NICE-EEG@a7709d8, `preprocessing`: epoch of -0.2 to 1.0 s, baseline before the picture, 250 Hz, then 0 to
    1 s; noise covariance over the times of each trial, from training trials alone.
    """
    return Data(
        source=ThingsEeg2Data(subjects=SUBJECTS),
        epochs=Epochs(
            tmin_s=-0.2,
            tmax_s=1.0,
            baseline_s=(None, 0.0),
            sfreq_hz=250.0,
            crop_s=(0.0, 0.996),
            channels=channels,
            mvnn="epochs",
        ),
    )


def course(passes: int, samples: int, batch: int, lr: float, weight_decay: float, **more: object) -> Schedule:
    """Return the schedule of published code: a constant rate, no clipping, passes over the samples counted in steps.

    Where published code drops or shortens the last batch of a pass, batches here go on into the next one.
    """
    a_pass = max(1, round(samples / batch))
    given = {
        "steps": round(passes * samples / batch),
        "lr": lr,
        "weight_decay": weight_decay,
        "warmup_steps": 0,
        "decay": "constant",
        "grad_clip": 0.0,
        "validate_every": a_pass,
        "save_every": 10 * a_pass,
    }
    return Schedule.model_validate(given | more)
