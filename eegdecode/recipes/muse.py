"""Real recordings of a four-electrode headband."""

from eegdecode.config import (
    Compute,
    Data,
    Drawer,
    Encoder,
    Epochs,
    Experiment,
    Loss,
    MuseData,
    Protocol,
    Schedule,
    Search,
    Targets,
)

# Windows are whole samples at the headband's 256 Hz; 4 x 64 Hz, so that every fourth sample is kept.
_MUSE_EPOCHS = Epochs(
    tmin_s=-25 / 256,
    tmax_s=127 / 256,
    baseline_s=(None, -1 / 256),
    l_freq_hz=1.0,
    h_freq_hz=30.0,
    filter="butterworth4",
    sfreq_hz=64.0,
    reject_uv=100.0,
)


def muse_gratings() -> Experiment:
    """Eight exactly known gratings, five electrodes, one person; leave one run out.

    Trials come in the same order in every run, so the null permutes by position and trains again.
    """
    return Experiment(
        recipe="muse_gratings",
        data=Data(source=MuseData(task="gratings"), epochs=_MUSE_EPOCHS),
        targets=Targets(tower="timm:mobilenetv2_100"),
        encoder=Encoder(name="linear", dropout=0.8, whiten="channels"),
        loss=Loss(contrastive_batch=160, temperature=1.0, learn_temperature=False, normalise="target"),
        schedule=Schedule(steps=100, lr=3e-4, weight_decay=1.0, warmup_steps=10, validate_every=25, save_every=100),
        protocol=Protocol(
            split_by="run",
            n_val=1,
            contrast=("sf0.1", "sf4.1"),
            test_repetitions=0,
            selection="last",
            permute="positions",
            control_window_s=(-256 / 256, -13 / 256),
        ),
        drawer=Drawer(px=64, steps=400, batch=16, sampler_steps=12),
        search=Search(lr=(1e-4, 3e-4), temperature=(1.0, 2.0), steps=100),
        compute=Compute(runs_uri="runs/muse_gratings"),
    )


def muse_n170() -> Experiment:
    """Faces against houses, four electrodes, five people; leave one run out, and leave one subject out.

    Which picture of its category was shown is not logged: the score is about the category.
    """
    base = muse_gratings()
    protocol = base.protocol.model_copy(
        update={
            "also_split_by": ("subject",),
            "contrast": ("house", "face"),
            "permute": "trials",
            "control_window_s": (-128 / 256, -1 / 256),
        }
    )
    return base.model_copy(
        update={
            "recipe": "muse_n170",
            "data": Data(source=MuseData(task="n170"), epochs=_MUSE_EPOCHS.model_copy(update={"tmax_s": 203 / 256})),
            "loss": base.loss.model_copy(update={"contrastive_batch": 256}),
            "protocol": protocol,
            "compute": Compute(runs_uri="runs/muse_n170"),
        }
    )
