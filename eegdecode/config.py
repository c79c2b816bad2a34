"""The one description of a run: science (hashed into the run id) and compute (may not change a loss).

Importing this needs neither torch nor ray, so that a run can be described and checked on a laptop.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Base of every section: frozen, and an unknown field is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SyntheticData(Section):
    """Pictures and EEG simulated from them: the embedded default source."""

    kind: Literal["synthetic"] = "synthetic"
    pictures: Literal["drawn", "folder"] = "drawn"
    """`drawn`: procedural, nothing is needed; `folder`: photographs of compute.data_uri, one file a concept."""
    seed: int = 2026
    n_subjects: int = Field(2, ge=1)
    n_train_concepts: int = Field(376, ge=4)
    pictures_per_concept: int = Field(8, ge=1)
    train_repetitions: int = Field(2, ge=1)
    n_test_concepts: int = Field(200, ge=2)
    test_repetitions: int = Field(12, ge=1)
    picture_px: int = Field(64, ge=16)

    @model_validator(mode="after")
    def _one_photograph_each(self) -> Self:
        if self.pictures == "folder" and self.pictures_per_concept != 1:
            raise ValueError(
                "data.source.pictures_per_concept must be 1 where pictures='folder' (one file a concept), got "
                f"{self.pictures_per_concept}."
            )
        return self


class MuseData(Section):
    """Real Muse headband EEG (EEG-ExPy CSV files); see `eegdecode.data.sources.muse`."""

    kind: Literal["muse"] = "muse"
    task: Literal["n170", "gratings"]


class MneData(Section):
    """Any recording MNE can read, with an events table beside it; see `eegdecode.data.sources.tabular`."""

    kind: Literal["mne"] = "mne"


class ThingsEeg2Data(Section):
    """THINGS-EEG2 in any of the forms it is passed around in; see `eegdecode.data.sources.things_eeg2`."""

    kind: Literal["things_eeg2"] = "things_eeg2"
    layout: Literal["raw", "gifford", "nice", "ubp", "neurobridge", "enigma"] = "raw"
    """`raw`: continuous, 1000 Hz; the others hold trials that were cut and whitened by somebody else."""
    subjects: tuple[str, ...] | None = None
    """For example ``("01", "08")``; all that are there if None."""


class BidsData(Section):
    """A BIDS-EEG folder, THINGS-EEG1 (ds003825) among them; see `eegdecode.data.sources.bids`."""

    kind: Literal["bids"] = "bids"
    task: str | None = None
    """Read this task only; all if None."""
    picture_column: str | None = None
    """Column of events.tsv that names the picture; `stim_file` (or what a dataset known by its DOI has) if None."""
    concept_column: str | None = None
    """Column that names the concept; the picture's folder, or else its name, if None."""
    onset_unit: Literal["s", "ms", "sample"] | None = None
    """What the column onset counts; seconds (or what a dataset known by its DOI has) if None."""
    subjects: tuple[str, ...] | None = None
    """For example ``("01", "08")``; all that are there if None."""


class EegCvpr40Data(Section):
    """EEGCVPR40 (block design): one .pth with trials, one with splits; see `eegdecode.data.sources.eegcvpr40`."""

    kind: Literal["eegcvpr40"] = "eegcvpr40"
    file: str = "eeg_55_95_std.pth"
    split_file: str = "block_splits_by_image_all.pth"
    split: int = Field(0, ge=0)
    subjects: tuple[str, ...] | None = None
    """``("01", "04")``; all six if None. A split file of a single person needs one."""


class EegImageNetData(Section):
    """EEG-ImageNet (block design); see `eegdecode.data.sources.eeg_imagenet`."""

    kind: Literal["eeg_imagenet"] = "eeg_imagenet"
    granularity: Literal["coarse", "fine", "all"] = "all"
    subjects: tuple[str, ...] | None = None
    """``("00", "15")``; all that are there if None."""


class AlljoinedData(Section):
    """Alljoined1 (FIF and HDF5) and Alljoined-1.6M (EDF); see `eegdecode.data.sources.alljoined`."""

    kind: Literal["alljoined"] = "alljoined"
    release: Literal["1", "1.6m"] = "1"
    subjects: tuple[str, ...] | None = None
    """For example ``("01", "08")``; all that are there if None."""


AnySource = (
    SyntheticData | MuseData | MneData | ThingsEeg2Data | BidsData | EegCvpr40Data | EegImageNetData | AlljoinedData
)


class Epochs(Section):
    """How continuous EEG becomes trials."""

    tmin_s: float = -0.2
    tmax_s: float = 0.8
    baseline_s: tuple[float | None, float | None] | None = (None, 0.0)
    l_freq_hz: float | None = None
    h_freq_hz: float | None = None
    notch_hz: tuple[float, ...] = ()
    filter: Literal["fir", "butterworth4"] = "fir"
    """`fir`: MNE's default; `butterworth4`: fourth order, zero phase, over the whole run."""
    sfreq_hz: float = 100.0
    """Rate of the stored trials."""
    crop_s: tuple[float, float] | None = None
    """Part of the epoch that is stored, after the baseline was taken; all of it if None."""
    reject_uv: float | None = None
    """A trial with an absolute value above this is dropped, with the electrode named."""
    channels: tuple[str, ...] | None = None
    """Electrodes by name, in this order; all EEG electrodes of the source if None."""
    scale: Literal["none", "robust"] = "none"
    """`robust`: each electrode minus its median over the whole recording, divided by its interquartile range there
    (NeuralBench). The filtered continuous recording is scaled, so test trials that it holds take part, unlabelled."""
    mvnn: Literal["none", "time", "epochs"] = "none"
    """Multivariate noise normalisation per session, fitted on its training trials: covariance of the repetitions of a
    picture at each `time`, or of the times in each trial (`epochs`)."""
    clamp: float | None = Field(None, gt=0)
    """Stored values are limited to plus and minus this, after everything else, in the unit they have by then."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.tmin_s >= self.tmax_s:
            raise ValueError(f"tmin_s must be before tmax_s, got {self.tmin_s} and {self.tmax_s}.")
        return self

    @model_validator(mode="after")
    def _rejectable(self) -> Self:
        if self.scale != "none" and self.reject_uv is not None:
            raise ValueError(
                f"reject_uv is in microvolt, which scaled trials have no more, got {self.reject_uv:g} and "
                f"scale='{self.scale}'. Leave it out, or limit values with clamp."
            )
        return self


class Augment(Section):
    """What is changed at random in a training trial, anew in every pass; see `eegdecode.data.augment`. All off."""

    shift_s: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Largest shift in time, seconds, in both directions; uniform over whole samples, one shift a trial."""
    smooth: float = Field(0.0, ge=0, le=1)
    """Probability that an electrode of a trial is smoothed by a moving average."""
    smooth_samples: int = Field(5, ge=3)
    """Length of that average, samples, odd."""
    noise: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Standard deviation of Gaussian noise that is added to every sample, in the unit of the stored trials: microvolt,
    or none where these were whitened by somebody else."""
    channel_dropout: float = Field(0.0, ge=0, lt=1)
    """Probability that an electrode of a trial is set to zero."""

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if self.smooth_samples % 2 == 0:
            k = self.smooth_samples
            raise ValueError(f"smooth_samples must be odd, got {k}. Nearest valid values: {k - 1}, {k + 1}.")
        return self

    @property
    def any(self) -> bool:
        """Whether anything is on."""
        return max(self.shift_s, self.smooth, self.noise, self.channel_dropout) > 0


class Data(Section):
    """Which recordings, and how they are cut."""

    source: Annotated[AnySource, Field(discriminator="kind")] = SyntheticData()
    epochs: Epochs = Epochs()
    trials_per_shard: int = Field(2000, ge=1)


class Stream(Section):
    """In which order and how trials are read for training."""

    partitions: int = Field(8, ge=1)
    """Equal parts of the trials, each read by one worker alone, so that a node needs its own shards only. The order
    depends on them and not on the workers, whose number divides them."""
    shuffle_shards: int = Field(0, ge=0)
    """Shards among which a partition's trials are mixed at a time, for sets larger than a node's cache; 0: all."""
    average: int = Field(1, ge=0)
    """Repetitions of a picture in a subject that are averaged to one training sample, drawn anew each pass; 0: all."""
    augment: Augment = Augment()


class Router(Section):
    """Learnt weights over the layers of the main target; see `eegdecode.models.router` (SAMGA, 2026)."""

    depths: tuple[int, ...] = Field(min_length=2)
    """Of the layers in the tower, ascending, as `targets.tower` names them."""
    centre: int
    """Depth with the largest weight before training."""
    reduced: int = Field(ge=1)
    """Length to which every layer is reduced before it is mapped to the embedding."""


class Levels(Section):
    """Three blurs of a picture, of which a training picture has its own (UBP, CVPR 2025); the main one is the middle.

    A picture goes to the less blurred target when its trial was more similar to it than most of the batch, to the more
    blurred one when less; see `eegdecode.train.levels`.
    """

    low: str = "low"
    high: str = "high"
    """Names of the targets with less and with more blur, in `targets.also`."""
    gamma: float = Field(0.3, gt=0, le=1)
    """Weight of a new similarity in a picture's running one."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Share that a normal distribution has outside the band."""


CONCEPT = "concept"
"""Name under which a loss term compares with the number of a trial's concept among those of training."""


FEATURES = "features"
"""Name under which a loss term acts on what the encoder gives, where the embedding is a map of it."""


class Targets(Section):
    """What the EEG is asked to predict for a picture."""

    tower: str = "gabor"
    """`kind(option=value; ...):model@layers#views`, such as `gabor`; see `eegdecode.targets.open_tower`."""
    also: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], str] = Field(default_factory=dict)
    """Further targets by the name that losses call them: name -> tower. A target of the embedding's own length is
    compared with it as it is, one of another length through a linear head."""
    project: int = Field(0, ge=0)
    """Length of a linear map of the target that is learnt with the decoder (NeuroBridge's image projector); 0: none."""
    router: Router | None = None
    """For a tower of several layers; `project` is then the length of the embedding."""
    levels: Levels | None = None
    centre: bool = True
    """Take the mean target of the training pictures off before cosines are taken; published systems do not."""

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        for taken, what in ((CONCEPT, "the concepts of the trials"), (FEATURES, "the features of the encoder")):
            if taken in self.also:
                raise ValueError(f"targets.also: '{taken}' names {what}; choose another name.")
        if self.router is not None and not self.project:
            raise ValueError("targets.router needs targets.project, the length of the embedding, of at least 1, got 0.")
        if self.levels is not None:
            missing = sorted({self.levels.low, self.levels.high} - self.also.keys())
            if missing:
                raise ValueError(f"targets.levels needs its targets in targets.also, missing {missing}.")
        return self


class Encoder(Section):
    """EEG -> embedding; `name` is a key of `eegdecode.models.ENCODERS`."""

    name: (
        Literal[
            "linear",
            "riemann",
            "riemann_erp",
            "riemann_samples",
            "mlp",
            "neurobridge",
            "nice",
            "nice_sa",
            "nice_ga",
            "atm",
            "atm_published",
            "tsconv",
            "tsconv_ubp",
            "eegnet",
            "shallownet",
            "deepnet",
            "eegtransformer",
            "spectrogram",
            "scalogram",
        ]
        | Annotated[str, Field(pattern=r"^braindecode:\w+$")]
    ) = "mlp"
    """Or `braindecode:<model>`, any model of that package."""
    dropout: float = Field(0.5, ge=0, lt=1)
    start: Literal["random", "canonical", "ridge"] = "random"
    """Where training begins; the last two are in closed form, for `linear`. `canonical`: regularised canonical
    correlations of training trials and targets, with targets.project. `ridge`: ridge regression to every target, from
    one pass over the stream; each further target has a linear map of the EEG of its own. With schedule.steps=0 the
    start is the model. `ridge` is there for `riemann`, `riemann_erp` and `riemann_samples` too, with the main target
    alone."""
    alphas: tuple[Annotated[float, Field(ge=0)], ...] = Field((1.0, 10.0, 100.0, 1e3, 1e4, 1e5), min_length=1)
    """Penalties among which `ridge` chooses, for each target: by validation trials, or by generalised cross-validation
    where there are none. In units of scikit-learn's alpha on standardised features; those of `riemann` have
    variance 1 on average."""
    whiten: Literal["none", "scale", "channels"] = "channels"
    """Fixed linear front, fitted on the fold's training trials: none, a scale per electrode, or ZCA over electrodes."""
    features: int = Field(0, ge=0)
    """Length of what the encoder gives, of which the embedding is then a learnt linear map: features that are learnt
    by a term of their own (target `features`) and kept for whoever wants them. 0: the encoder gives the embedding."""
    subject_layer: Literal["none", "linear", "token"] = "none"
    """What a subject of the training trials has of their own: `linear`, a linear map over time in front of the encoder;
    `token`, a token of `atm`. Other subjects get the mean of the maps, or the token that all share."""
    virtual_chans: int = Field(0, ge=0)
    """Electrodes that attention over positions makes of the real ones, so that data sets with other montages share
    weights; 0 takes the electrodes as they are. Every electrode then needs a place in the 10-05 system."""
    pretrained: str = ""
    """Bundle, of another data set or of more people, whose encoder's weights training starts from: a folder, s3:// or
    hf:// address. Tables of subjects and positions of electrodes stay this data set's own."""

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        options = {
            "features": self.features > 0,
            "subject_layer": self.subject_layer != "none",
            "virtual_chans": self.virtual_chans > 0,
            "pretrained": self.pretrained != "",
        }
        asked = [name for name, given in options.items() if given]
        if asked and (self.start != "random" or self.name.startswith("riemann")):
            raise ValueError(
                f"encoder.{asked[0]} is learnt by gradient from a random start, and encoder '{self.name}' with start="
                f"'{self.start}' is fitted in closed form. Leave it out, or choose another encoder."
            )
        if self.subject_layer == "token" and self.name not in ("atm", "atm_published"):
            raise ValueError(
                f"encoder.subject_layer='token' needs encoder.name='atm' or 'atm_published', got '{self.name}'. "
                "Every encoder takes 'linear'."
            )
        return self


class LossTerm(Section):
    """One term of a loss; see `eegdecode.losses`."""

    name: Literal[
        "info_nce",
        "siglip",
        "mse",
        "cosine",
        "mmd",
        "mmd_unbiased",
        "triplet",
        "triplet_semi_hard",
        "ce_hard",
        "ce_soft",
    ]
    weight: float = Field(1.0, gt=0)
    target: str = ""
    """Which target it compares with: a name of targets.also, `concept` for a class head over the training concepts, or
    empty for the main one. `ce_hard` on the main one takes the embedding itself for class logits. Triplets may name
    `features`, which are compared with each other."""
    margin: float = Field(1.0, gt=0)
    """Of the triplets."""

    @property
    def label(self) -> str:
        """Name under which its value is logged."""
        return f"{self.name}.{self.target}" if self.target else self.name


class Loss(Section):
    """Over the gathered batch; in contrastive terms trials of one picture are positives of each other."""

    terms: tuple[LossTerm, ...] = Field((LossTerm(name="info_nce"),), min_length=1)
    """Their weighted sum is the loss."""
    contrastive_batch: int = Field(256, ge=2)
    """Trials over which negatives are taken, on all workers together."""
    temperature: float = Field(0.07, gt=0)
    learn_temperature: bool = True
    normalise: Literal["both", "target"] = "both"
    """Which sides are L2-normalised: `target` alone is UBP's asymmetric form."""

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        labels = [term.label for term in self.terms]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"loss.terms must differ in name or target, got '{twice[0]}' twice: add the weights.")
        return self


class Schedule(Section):
    """Optimiser and its course."""

    steps: int = Field(600, ge=0)
    """0 keeps the start, where encoder.start is a closed form."""
    lr: float = Field(3e-4, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = Field(20, ge=0)
    decay: Literal["constant", "cosine"] = "cosine"
    grad_clip: float = Field(1.0, ge=0)
    """Largest gradient norm; 0 does not clip."""
    validate_every: int = Field(50, ge=1)
    save_every: int = Field(100, ge=1)
    seed: int = 0


class Protocol(Section):
    """Everything that decides what a score means; copied into every bundle and report."""

    split_by: Literal["concept", "picture", "run", "subject", "subject_concept"] = "concept"
    """`concept`: the source's own test concepts; `picture`: its own test pictures, of concepts that are trained on too;
    `run`, `subject`: leave one out; `subject_concept`: leave one subject out, trained on the training concepts of the
    others and tested on the source's test concepts as the left-out subject saw them (the inter-subject protocol of
    THINGS-EEG2)."""
    also_split_by: tuple[Literal["run", "subject"], ...] = ()
    """Further divisions of the same trials, each trained and scored on its own folds."""
    n_val: int = Field(40, ge=0)
    """Groups (concepts, runs, subjects) of the training part held for validation, per fold."""
    train_share: float = Field(1.0, gt=0, le=1)
    """Share of the training concepts that is learnt from, drawn by `seed` after those that validate were taken out; a
    smaller share is part of every larger one. For curves of score against data; see `eegdecode.runtime.scaling`."""
    calibration_concepts: int = Field(0, ge=0)
    """Few-shot calibration, for `subject_concept`: so many of a fold's training concepts, drawn by `seed`, are learnt
    from the left-out subject's trials too. Never concepts that validate or test."""
    gallery: Literal["picture", "concept"] = "picture"
    """Candidates that are ranked: the pictures shown, or the centre (mean of unit-norm targets) of each test concept.
    Centres are of training pictures with `split_by=picture`; else of the concept's other test pictures, the one shown
    left out of its own. A source with one test picture a concept has that picture for a centre."""
    n_way: int = Field(0, ge=0)
    """Candidates in a gallery; 0: all that are tested. Fewer: the right one among the others, drawn at random, and the
    score is the exact mean over all draws. More: training pictures, drawn by `seed`, are added as distractors."""
    contrast: tuple[str, str] | None = None
    """Two labels between which a ROC AUC is computed; matched as the start of a concept's name."""
    test_repetitions: int = Field(0, ge=0)
    """Repetitions averaged per test picture; 0 averages all of them, 1 scores single trials."""
    selection: Literal["validation", "last"] = "validation"
    """Which step's weights are kept; a test score can not be chosen here. With `last` the validation groups serve the
    search alone, and the final training learns from them too."""
    inductive: Literal[True] = True
    control_window_s: tuple[float, float] | None = None
    """Window before the picture in which the same recipe must land on chance; see `Experiment.control`."""
    permutations: int = Field(1000, ge=1)
    permute: Literal["pictures", "trials", "positions"] = "pictures"
    """What the null exchanges: picture labels, labels within a run, or labels by position, one order for all runs."""
    seed: int = 0

    @model_validator(mode="after")
    def _calibrated_and_ranked(self) -> Self:
        if self.calibration_concepts and self.split_by != "subject_concept":
            raise ValueError(
                f"protocol.calibration_concepts={self.calibration_concepts} needs protocol.split_by='subject_concept', "
                f"got '{self.split_by}'."
            )
        if self.train_share < 1 and self.split_by not in ("concept", "subject_concept"):
            raise ValueError(
                f"protocol.train_share={self.train_share:g} is of training concepts: it needs protocol.split_by="
                f"'concept' or 'subject_concept', got '{self.split_by}'."
            )
        if self.n_way == 1:
            raise ValueError("protocol.n_way must be at least 2, or 0 for all that are tested, got 1.")
        if (self.n_way or self.gallery == "concept") and self.split_by in ("run", "subject"):
            raise ValueError(
                f"protocol.n_way and gallery='concept' need a split with pictures of its own to test, got split_by="
                f"'{self.split_by}'. Use 'concept', 'picture' or 'subject_concept'."
            )
        return self

    @model_validator(mode="after")
    def _selectable(self) -> Self:
        if self.selection == "validation" and self.n_val == 0:
            raise ValueError(
                "protocol.selection='validation' needs protocol.n_val of at least 1, got 0. Or set selection='last'."
            )
        return self


class Drawer(Section):
    """The conditional diffusion model that draws a picture from an embedding."""

    space: Literal["pixels", "taef2"] = "pixels"
    px: int = Field(32, ge=8)
    """Side of the picture that is drawn; a multiple of 8."""
    width: int = Field(32, ge=8)
    """Channels of the first level of the UNet; a multiple of 8."""
    steps: int = Field(1000, ge=1)
    batch: int = Field(32, ge=1)
    lr: float = Field(1e-3, gt=0)
    cond_dropout: float = Field(0.1, ge=0, lt=1)
    sampler_steps: int = Field(12, ge=1)
    guidance: float = Field(1.5, ge=0)
    seed: int = 0


class Search(Section):
    """What one Tune run tries; each configuration is an override of the recipe."""

    lr: tuple[float, ...] = (1e-4, 1e-3)
    temperature: tuple[float, ...] = (0.04, 0.15)
    steps: int = Field(120, ge=1)


class Compute(Section):
    """Where and on what it runs. None of it may change a loss beyond tolerance (a test says so)."""

    engine: Literal["deepspeed", "torch"] = "deepspeed"
    workers: int = Field(1, ge=1)
    gpus_per_worker: float = Field(0.0, ge=0)
    cpus_per_worker: float = Field(1.0, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    zero_stage: Literal[0, 1, 2, 3] = 1
    max_failures: int = Field(2, ge=0)
    data_uri: str = ""
    """Folder with the recordings (and pictures) of a real source."""
    weights_uri: str = ""
    """Folder with tower and autoencoder weights; empty where none are used."""
    runs_uri: str = "runs/default"
    """Folder or s3:// prefix under which shards, checkpoints, bundles and reports are written."""
    cache_dir: str = ""
    """Local folder for shards fetched from object storage; a temporary one if empty."""
    cache_gb: float | None = Field(None, gt=0)
    """What the copies there may take together, in 10^9 bytes; as much as the disk has if None."""
    residency: Literal["auto", "disk", "ram", "device"] = "auto"
    """Where training trials are gathered from: shards mapped on disk, this worker's trials copied to its memory or to
    its device once; `auto` is `device` on a GPU that has room, else `disk`."""
    tracking_uri: str = ""
    """MLflow server; nothing is logged if empty."""


def _divisors_beside(n: int, wanted: int) -> str:
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    beside = {max((d for d in divisors if d < wanted), default=1), min((d for d in divisors if d > wanted), default=n)}
    return ", ".join(map(str, sorted(beside)))


class Experiment(Section):
    """A complete run. Science: data to search. Compute: the last section."""

    recipe: str
    data: Data = Data()
    stream: Stream = Stream()
    targets: Targets = Targets()
    encoder: Encoder = Encoder()
    loss: Loss = Loss()
    schedule: Schedule = Schedule()
    protocol: Protocol = Protocol()
    drawer: Drawer = Drawer()
    search: Search = Search()
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _start_fits(self) -> Self:
        encoder, targets = self.encoder, self.targets
        if encoder.start == "canonical" and (encoder.name != "linear" or not targets.project or targets.router):
            raise ValueError(
                "encoder.start='canonical' needs encoder.name='linear' and targets.project of at least 1, got "
                f"'{encoder.name}' and {targets.project}."
            )
        closed = ("linear", "riemann", "riemann_erp", "riemann_samples")
        if encoder.start == "ridge" and (encoder.name not in closed or targets.project):
            raise ValueError(
                f"encoder.start='ridge' predicts the targets as they are: it needs encoder.name of {closed} and "
                f"targets.project=0, got '{encoder.name}' and {targets.project}."
            )
        if encoder.start == "ridge" and encoder.name.startswith("riemann") and targets.also:
            raise ValueError(
                f"encoder.start='ridge' gives each further target a map of the EEG itself, which '{encoder.name}' does "
                f"not have: leave targets.also empty, got {sorted(targets.also)}."
            )
        if self.schedule.steps == 0 and encoder.start == "random":
            raise ValueError("schedule.steps=0 would keep random weights; set encoder.start, or steps of at least 1.")
        return self

    @model_validator(mode="after")
    def _terms_have_targets(self) -> Self:
        known = ["", CONCEPT, *self.targets.also]
        for term in self.loss.terms:
            if term.target == FEATURES:
                if not self.encoder.features or not term.name.startswith("triplet"):
                    raise ValueError(
                        f"loss.terms: '{term.label}' acts on the encoder's features, which have no target: it must be "
                        f"triplets, with encoder.features of at least 1, got {self.encoder.features}."
                    )
                continue
            if term.target not in known:
                raise ValueError(
                    f"loss.terms: '{term.label}' must name one of targets.also {sorted(self.targets.also)} or "
                    f"'{CONCEPT}', got '{term.target}'."
                )
        return self

    @model_validator(mode="after")
    def _probabilities_stay(self) -> Self:
        if any(term.name == "ce_soft" and not term.target for term in self.loss.terms) and (
            self.targets.centre or self.targets.project
        ):
            raise ValueError(
                "loss.terms: 'ce_soft' on the main target takes its probabilities as they are: set "
                "targets.centre=false and targets.project=0."
            )
        return self

    @model_validator(mode="after")
    def _noise_is_of_training_trials(self) -> Self:
        ways = (self.protocol.split_by, *self.protocol.also_split_by)
        if self.data.epochs.mvnn != "none" and not set(ways) <= {"concept", "picture", "subject_concept"}:
            raise ValueError(
                f"data.epochs.mvnn='{self.data.epochs.mvnn}' is fitted once, on the pictures that the source calls "
                f"training ones, and a protocol that splits by {ways[0]} would test on them. Set mvnn='none' and "
                "encoder.whiten='channels', which is fitted in each fold."
            )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        batch, parts, workers = self.loss.contrastive_batch, self.stream.partitions, self.compute.workers
        if batch % parts:
            low = batch - batch % parts
            raise ValueError(
                f"loss.contrastive_batch must be a multiple of stream.partitions, got {batch} over {parts}. "
                f"Nearest valid values: {low or parts}, {low + parts}."
            )
        if parts % workers:
            raise ValueError(
                f"stream.partitions must be a multiple of compute.workers, got {parts} over {workers}. Nearest valid "
                f"numbers of workers: {_divisors_beside(parts, workers)}. The partitions belong to a run's science."
            )
        return self

    @property
    def micro_batch(self) -> int:
        """Trials per worker and step, derived so that workers never change the loss."""
        return self.loss.contrastive_batch // self.compute.workers

    def digest(self, *sections: str) -> str:
        """Return the sha256 of the named sections (all of science if none is named)."""
        chosen = set(sections) if sections else set(type(self).model_fields) - {"compute"}
        text = json.dumps(self.model_dump(mode="json", include=chosen), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def run_id(self) -> str:
        """Name of this run: recipe and the first twelve digits of the science digest. No clock in it."""
        return f"{self.recipe}-{self.digest()[:12]}"

    def control(self) -> "Experiment | None":
        """Return this experiment on the control window, where nothing of the picture can be known; None without one.

        The recordings, folds, decoder and schedule stay; only the cut differs.
        """
        window = self.protocol.control_window_s
        if window is None:
            return None
        return self.override(
            {
                "recipe": f"{self.recipe}-control",
                "data.epochs.tmin_s": window[0],
                "data.epochs.tmax_s": window[1],
                "data.epochs.baseline_s": None,
                "data.epochs.crop_s": None,
                "protocol.control_window_s": None,
            }
        )

    def override(self, changes: Mapping[str, Any]) -> "Experiment":
        """Return a copy with dotted fields changed, validated as a whole.

        Parameters
        ----------
        changes
            Dotted name to value, for example ``{"encoder.name": "nice"}``.

        Raises
        ------
        ValueError
            A name that is no field, or a value the field does not admit.
        """
        tree = self.model_dump(mode="json")
        for name, value in changes.items():
            *path, last = name.split(".")
            node: Any = tree
            for part in path:
                if not isinstance(node, dict) or not isinstance(node.get(part), dict):
                    raise ValueError(f"--set {name}: '{part}' is no section of an experiment.")
                node = node[part]
            node[last] = value
        return Experiment.model_validate(tree)
