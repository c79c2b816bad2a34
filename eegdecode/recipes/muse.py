"""Real recordings of a four-electrode headband."""

from eegdecode.config import (
    FEATURES,
    Compute,
    Data,
    Drawer,
    Encoder,
    Epochs,
    Experiment,
    Loss,
    LossTerm,
    MuseData,
    Protocol,
    Router,
    Schedule,
    Search,
    Stream,
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


def muse_gratings_riemann() -> Experiment:
    """As `muse_gratings`, decoded in closed form from covariances of trials beside evoked responses (xDAWN)."""
    return _riemann(muse_gratings(), "riemann")


def muse_n170_riemann() -> Experiment:
    """As `muse_n170`, decoded in closed form from covariances of trials beside evoked responses (xDAWN)."""
    return _riemann(muse_n170(), "riemann")


def muse_gratings_riemann_erp() -> Experiment:
    """As `muse_gratings_riemann`, without spatial filters."""
    return _riemann(muse_gratings(), "riemann_erp")


def muse_n170_riemann_erp() -> Experiment:
    """As `muse_n170_riemann`, without spatial filters."""
    return _riemann(muse_n170(), "riemann_erp")


def muse_gratings_riemann_samples() -> Experiment:
    """As `muse_gratings_riemann`, from the samples of a trial too."""
    return _riemann(muse_gratings(), "riemann_samples")


def muse_n170_riemann_samples() -> Experiment:
    """As `muse_n170_riemann`, from the samples of a trial too."""
    return _riemann(muse_n170(), "riemann_samples")


def _riemann(base: Experiment, encoder: str) -> Experiment:
    """Return a recipe with an encoder of covariances and one penalty, the same for both data sets.

    Features (samples, covariances with filters or without, both) and penalty were compared by AUC on one run or subject
    more that was left out of the training part, in each division. On gratings samples with covariances were best (0.967
    against 0.957 to 0.962), on N170 covariances alone (0.597 against 0.578).
    """
    return base.model_copy(
        update={
            "recipe": f"{base.recipe}_{encoder}",
            "encoder": base.encoder.model_validate(
                {"name": encoder, "dropout": 0.0, "start": "ridge", "alphas": (300.0,), "whiten": "none"}
            ),
            "schedule": base.schedule.model_copy(update={"steps": 0}),
            # Nothing of a closed form depends on the rate.
            "search": Search(lr=(base.schedule.lr,), temperature=(base.loss.temperature,), steps=1),
            "compute": Compute(runs_uri=f"runs/{base.recipe}_{encoder}"),
        }
    )


ON_MUSE = (
    "nice",
    "nice_sa",
    "nice_ga",
    "nice_learnt_temperature",
    "atm",
    "ubp",
    "neurobridge",
    "distill",
    "distill_wavelet",
    "neuroimagen",
    "perceptogram",
    "samga",
)
"""Published recipes whose decoder takes any electrodes."""
_LAYERS = tuple(f"blocks.5.{k}" for k in range(3))
"""Of MobileNetV2, of one width (160), for a recipe with a router."""
_OF_EMBEDDINGS = ("info_nce", "siglip", "mse", "cosine", "mmd", "mmd_unbiased", "triplet")


def on_muse(recipe: Experiment, muse: Experiment, steps: int, lr: float) -> Experiment:
    """Return a published recipe's decoder and loss on the headband's data, folds and targets.

    What hangs on other pictures is left out: further targets and their terms, classes of a teacher (in their place the
    symmetric contrast), averages over repetitions, crops and electrodes by name. A course of passes over tens of
    thousands of trials is replaced by a short one. Trials keep the headband's 256 Hz, since temporal kernels need more
    samples than 64 Hz gives; a closed form does not, and takes the trials of `muse`. A router weighs three layers of
    the tower, from its middle one.
    """
    closed = recipe.encoder.start == "ridge"
    router, tower = recipe.targets.router, muse.targets.tower
    if router is not None:
        router = Router(depths=tuple(range(len(_LAYERS))), centre=1, reduced=router.reduced)
        tower = f"{tower}@mean({','.join(_LAYERS)})"
    terms = tuple(term for term in recipe.loss.terms if term.target in ("", FEATURES) and term.name in _OF_EMBEDDINGS)
    schedule = recipe.schedule.model_copy(
        update={
            "steps": 0 if closed else steps,
            "lr": lr,
            "warmup_steps": 0,
            "validate_every": max(1, steps),
            "save_every": max(1, steps),
        }
    )
    epochs = muse.data.epochs if closed else muse.data.epochs.model_copy(update={"sfreq_hz": 256.0})
    return Experiment(
        recipe=recipe.recipe,
        data=muse.data.model_copy(update={"epochs": epochs}),
        stream=Stream(augment=recipe.stream.augment),
        targets=Targets(tower=tower, project=0 if closed else recipe.targets.project, router=router),
        encoder=recipe.encoder,
        loss=recipe.loss.model_copy(
            update={
                "terms": terms or (LossTerm(name="info_nce"),),
                "contrastive_batch": muse.loss.contrastive_batch,
            }
        ),
        schedule=schedule,
        protocol=muse.protocol.model_copy(update={"control_window_s": None}),
        drawer=muse.drawer,
        compute=muse.compute,
    )
