"""What a run found: one frozen value whose JSON is `summary.json`, written piecewise by the stages.

A score has no field without its chance level, interval and protocol, so a report without them can not be built.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from eegdecode import storage
from eegdecode.batch import SourceFact, TargetFact
from eegdecode.config import Protocol, Section
from eegdecode.evaluate import page
from eegdecode.evaluate.baselines import ContrastBaselines
from eegdecode.evaluate.certainty import CalibrationFact, CeilingFact
from eegdecode.evaluate.confounds import ConfoundFact
from eegdecode.evaluate.confusions import Confusion
from eegdecode.evaluate.contrast import ClassScore, ContrastScore
from eegdecode.evaluate.retrieval import RetrievalScore
from eegdecode.evaluate.scaling import Scaling
from eegdecode.evaluate.statistics import Interval

SCHEMA_VERSION: Literal[1] = 1
Share = Annotated[float, Field(ge=0, le=1)]


class DataFact(Section):
    """What was decoded."""

    source: SourceFact
    target: TargetFact
    channels: tuple[str, ...]
    sfreq_hz: float
    tmin_s: float
    n_times: int
    n_trials: int
    n_pictures: int
    dropped: dict[str, int] = Field(default_factory=dict)
    """Reason to number of trials."""
    findings: tuple[str, ...] = ()
    pictures_licence: str | None = None


class FoldTraining(Section):
    """How one decoder was trained and which step was kept."""

    fold: str
    steps: int
    kept_step: int
    val_score: float | None = None
    n_train: int
    n_val: int
    bundle_digest: str | None = None


class SearchFact(Section):
    """What one search tried, judged on validation only."""

    trials: int
    best: dict[str, Any]
    metric: str = "validation score"
    table: tuple[dict[str, Any], ...] = ()


class AnchorScore(Section):
    """The same scores of pictures drawn from something other than the EEG."""

    two_way: Share
    pixcorr: float
    ssim: float


class ReconstructionScore(Section):
    """Pictures drawn from EEG against the pictures shown, between anchors."""

    n_pictures: int
    two_way: Share
    two_way_chance: Share = 0.5
    ci95_two_way: Interval
    p_permutation: Share | None = None
    two_way_random: Share
    two_way_oracle: Share
    pixcorr: float
    ssim: float
    features: str
    """Whose features the 2-way identification compares."""
    anchors: dict[str, AnchorScore] = Field(default_factory=dict)


class ServingFact(Section):
    """What happened when the bundle was served."""

    requests: int
    errors: int
    p50_ms: float
    p95_ms: float | None = None
    equal_to_batch_job: bool | None = None
    """Whether the served pictures are the batch job's, bit for bit, for the same seed."""


class Report(Section):
    """Everything about one run that can be told in numbers."""

    schema_version: Literal[1] = SCHEMA_VERSION
    recipe: str
    run_id: str
    manifest_digest: str
    protocol: Protocol
    data: DataFact
    command: str
    """What makes this report again, from the folder of the project."""
    commit: str | None = None
    """Of the code, with `+changes` where files differ from it; None outside a checkout."""
    date: str
    """When it was scored, UTC."""
    versions: dict[str, str] = Field(default_factory=dict)
    training: tuple[FoldTraining, ...] = ()
    retrieval: RetrievalScore | None = None
    calibration: CalibrationFact | None = None
    ceiling: CeilingFact | None = None
    confusions: tuple[Confusion, ...] = ()
    scaling: Scaling | None = None
    """Score against training data, where jobs/scaling.py measured it."""
    confounds: ConfoundFact | None = None
    """Of a block design; None where the source declares none."""
    contrast: ContrastScore | None = None
    more_contrasts: tuple[ContrastScore, ...] = ()
    """Further contrasts or splits of the same data, each with its own chance, interval and p."""
    baselines: tuple[ContrastBaselines, ...] = ()
    """Other classifiers of the same trials: of `contrast`, then of each of `more_contrasts`."""
    classes: ClassScore | None = None
    search: SearchFact | None = None
    reconstruction: ReconstructionScore | None = None
    serving: ServingFact | None = None
    seconds: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _main_contrast_first(self) -> Self:
        if self.more_contrasts and self.contrast is None:
            raise ValueError("more_contrasts needs a contrast: the first one goes there.")
        return self

    def with_section(self, **sections: Any) -> "Report":
        """Return a validated copy with sections set; `seconds` are added to those already there."""
        if "seconds" in sections:
            sections["seconds"] = self.seconds | dict(sections["seconds"])
        return Report.model_validate({name: getattr(self, name) for name in type(self).model_fields} | sections)


def concerns(report: Report) -> tuple[str, ...]:
    """Return what a reader must know before believing a number; empty if every control holds."""
    found = []
    score = report.retrieval
    if score is not None:
        low, high = score.shuffled_ci95
        if not low <= score.chance_top1 <= high:
            found.append(
                f"The shuffled-pair control is not on chance ({page.percent(score.shuffled_top1)} against "
                f"{page.percent(score.chance_top1)}): the scoring itself favours some pictures."
            )
        if score.ideal_observer_top1 is not None and score.ci95_top1[0] > score.ideal_observer_top1:
            found.append(
                "The decoder is above the best possible observer: something other than the EEG gives pictures away."
            )
        for control in score.controls:
            if control.ci95[0] > control.chance:
                found.append(
                    f"Control '{control.name}' is above chance ({page.percent(control.value)} against "
                    f"{page.percent(control.chance)})."
                )
    if report.data.source.design == "block":
        found.append(
            "Block design: pictures of one class were shown together, so that slow drift can give the class away "
            "without any response to a picture (Li et al. 2021). Never compare with scores on a rapid design."
        )
    if report.confounds is not None and report.confounds.result is not None:
        found += report.confounds.result.findings
    for contrast in (*((report.contrast,) if report.contrast else ()), *report.more_contrasts):
        name = " against ".join(contrast.labels)
        if contrast.control_ci95 is not None and contrast.control_ci95[0] > contrast.chance:
            found.append(
                f"{name}: the control ({contrast.control_name}) is above chance, AUC {contrast.control_auc:.3f}."
            )
        if contrast.permute == "positions" and contrast.null == "fixed decisions":
            found.append(
                f"{name}: labels come in the same order in every run and the null did not train again on permuted "
                "labels, so a decoder that learnt the order would pass this p."
            )
    if report.serving is not None and report.serving.equal_to_batch_job is False:
        found.append("The served pictures differ from those of the batch job.")
    return tuple(found)


def render(report: Report, figures: Mapping[str, bytes]) -> str:
    """Return the report as one self-contained HTML page.

    Parameters
    ----------
    figures
        Name in `page.FIGURES` to PNG bytes.
    """
    return page.render(report.model_dump(mode="json"), concerns(report), figures)


def load_report(folder_uri: str) -> Report:
    """Read `summary.json` of a folder.

    Raises
    ------
    ValueError
        No summary there, or not one of this schema.
    """
    where = storage.join(folder_uri, "summary.json")
    if not storage.exists(where):
        raise ValueError(f"{folder_uri} holds no summary.json: the evaluate stage writes the first one.")
    try:
        return Report.model_validate_json(storage.read_bytes(where))
    except ValueError as error:
        raise ValueError(f"{where} must be a report of schema {SCHEMA_VERSION}: {error}") from None


def write_report(folder_uri: str, report: Report, figures: Mapping[str, bytes] | None = None) -> None:
    """Write figures, page and summary, in this order, each whole; figures of earlier stages are kept and shown.

    Raises
    ------
    ValueError
        A figure the page has no place for.
    """
    unknown = sorted(set(figures or {}) - set(page.FIGURES))
    if unknown:
        raise ValueError(f"figure '{unknown[0]}' must be one of {', '.join(page.FIGURES)}.")
    for name, png in (figures or {}).items():
        storage.write_bytes(storage.join(folder_uri, "figures", f"{name}.png"), png)
    kept = {}
    for name in page.FIGURES:
        where = storage.join(folder_uri, "figures", f"{name}.png")
        if storage.exists(where):
            kept[name] = storage.read_bytes(where)
    storage.write_bytes(storage.join(folder_uri, "report.html"), render(report, kept).encode())
    storage.write_bytes(storage.join(folder_uri, "summary.json"), (report.model_dump_json(indent=2) + "\n").encode())
