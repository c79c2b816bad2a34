"""Bundles and averaged test trials to drawn pictures, between anchors, with scores and a contact sheet."""

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eegdecode import storage
from eegdecode.config import Experiment
from eegdecode.data.shardset import ShardSet
from eegdecode.evaluate import plots
from eegdecode.evaluate.reconstruction import pixcorr, resized, ssim, two_way
from eegdecode.evaluate.report import AnchorScore, ReconstructionScore, Report, load_report, write_report
from eegdecode.evaluate.retrieval import average_repetitions
from eegdecode.evaluate.statistics import bootstrap_interval
from eegdecode.reconstruct.reconstructor import anchor_conditions
from eegdecode.runtime import places
from eegdecode.runtime.progress import Progress, say
from eegdecode.runtime.tested import open_tested
from eegdecode.runtime.train import fold_facts
from eegdecode.targets import open_tower
from eegdecode.train.fold import drawn_rows

SHEET = 12
"""Pictures on the contact sheet: evenly spaced over all, none picked by hand."""
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class _Drawn:
    """Drawings of one fold: one row a query."""

    picture_row_Q: NDArray[np.int64]
    eeg_uv_QCT: NDArray[np.float32]
    subjects: list[str]
    images: dict[str, Images]
    """`eeg` and the anchors `oracle`, `random`, `mean`, `nearest`; (Q, px, px, 3) each."""


def reconstruct(experiment: Experiment) -> Report:
    """Draw from every fold's averaged test trials, score, and add the section and the sheet to the report.

    What is drawn from the first fold is kept under `drawings/` with the EEG it was drawn from, so that it can be
    compared with what the served bundle draws.

    Raises
    ------
    ValueError
        A report of another run, or a bundle of another shard set.
    """
    shards = places.open_set(experiment)
    folds = [fold for fold in shards.folds if fold.by == experiment.protocol.split_by]
    progress = Progress("reconstruct: draw", len(folds), "folds")
    drawn = []
    for fold in folds:
        drawn.append(_draw(experiment, shards, fold.name))
        progress.add()
    progress.close()
    _keep(experiment, drawn[0])
    rows = np.concatenate([part.picture_row_Q for part in drawn])
    shown = resized(_stacked(shards.picture_images(rows)), experiment.drawer.px)
    images = {name: np.concatenate([part.images[name] for part in drawn]) for name in drawn[0].images}
    report = load_report(places.report(experiment))
    if report.run_id != experiment.run_id:
        raise ValueError(
            f"the report must be of run {experiment.run_id}, got {report.run_id}: evaluate this run first."
        )
    score = _score(experiment, shards, rows, shown, images)
    report = report.with_section(reconstruction=score)
    figures = {
        "contact_sheet": _sheet(shards, rows, shown, images),
        "drawer_training": plots.training_curves([_drawer_curve(experiment)]),
    }
    write_report(places.report(experiment), report, figures)
    say(
        f"reconstruct: {len(rows)} drawings, 2-way {score.two_way:.3f} "
        f"(random {score.two_way_random:.3f}, oracle {score.two_way_oracle:.3f})"
    )
    return report


def _draw(experiment: Experiment, shards: ShardSet, fold_name: str) -> _Drawn:
    fold = next(fold for fold in shards.folds if fold.name == fold_name)
    tested = open_tested(experiment, shards, fold)
    averaged = average_repetitions(
        tested.eeg_uv_NCT,
        tested.table["picture"].to_numpy(str),
        tested.table["subject"].to_numpy(str),
        experiment.protocol.test_repetitions,
        experiment.protocol.seed,
    )
    row_of = {picture: row for row, picture in enumerate(shards.picture_ids)}
    rows = np.array([row_of[picture] for picture in averaged.picture_Q], np.int64)
    reconstructor, seed = tested.reconstructor, experiment.drawer.seed
    z_QD = reconstructor.embed(averaged.eeg_uv_QCT, subject=averaged.subject_Q.tolist())
    condition_QD = reconstructor.condition(z_QD)
    train_rows = drawn_rows(shards, shards.folds)
    anchors = anchor_conditions(shards.target_PD[rows], shards.target_PD[train_rows], seed, condition_QD)
    # Every picture starts from the same noise, so that what differs comes from the condition, and a picture served
    # alone is the picture drawn here.
    unique, back = np.unique(rows, return_index=True)
    drawn = {"eeg": reconstructor.draw_condition(condition_QD, seed)}
    # The oracle and the mean do not depend on the subject: each picture is drawn once.
    once = reconstructor.draw_condition(anchors["oracle"][back], seed)
    drawn["oracle"] = once[np.searchsorted(unique, rows)]
    drawn["random"] = reconstructor.draw_condition(anchors["random"], seed)
    mean = reconstructor.draw_condition(anchors["mean"][:1], seed)
    drawn["mean"] = np.repeat(mean, len(rows), axis=0)
    nearest = train_rows[anchors["nearest"]]
    drawn["nearest"] = resized(_stacked(shards.picture_images(nearest)), experiment.drawer.px)
    return _Drawn(rows, averaged.eeg_uv_QCT, averaged.subject_Q.tolist(), drawn)


def _score(
    experiment: Experiment, shards: ShardSet, rows: NDArray[np.int64], shown: Images, images: dict[str, Images]
) -> ReconstructionScore:
    tower = open_tower(experiment.targets.tower, experiment.compute.weights_uri)
    unique, back = np.unique(rows, return_index=True)
    shown_UF = tower.embed([Image.fromarray(image) for image in shown[back]])
    place_Q = np.searchsorted(unique, rows)
    scores: dict[str, AnchorScore] = {}
    two: dict[str, NDArray[np.float64]] = {}
    for name, drawn in images.items():
        drawn_QF = tower.embed([Image.fromarray(image) for image in drawn])
        two[name] = _two_way(shown_UF, drawn_QF, place_Q)
        scores[name] = AnchorScore(
            two_way=float(two[name].mean()),
            pixcorr=float(np.nanmean(pixcorr(shown, drawn))),
            ssim=float(ssim(shown, drawn).mean()),
        )
    concept_Q = np.unique([shards.picture_concepts[row] for row in rows], return_inverse=True)[1]
    return ReconstructionScore(
        n_pictures=len(unique),
        two_way=scores["eeg"].two_way,
        ci95_two_way=_interval(two["eeg"], concept_Q, experiment.protocol.seed),
        two_way_random=scores["random"].two_way,
        two_way_oracle=scores["oracle"].two_way,
        pixcorr=scores["eeg"].pixcorr,
        ssim=scores["eeg"].ssim,
        features=experiment.targets.tower,
        anchors={name: score for name, score in scores.items() if name != "eeg"},
    )


def _two_way(shown_UF: NDArray[Any], drawn_QF: NDArray[Any], place_Q: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return, for each drawing, the share of other pictures its own beats; pictures shown to several are one."""
    out = np.empty(len(drawn_QF))
    # Each round takes one drawing of every picture, so that own and other pictures are counted once.
    turn_Q = np.zeros(len(place_Q), np.int64)
    seen: dict[int, int] = {}
    for q, place in enumerate(place_Q.tolist()):
        turn_Q[q] = seen.get(place, 0)
        seen[place] = turn_Q[q] + 1
    for turn in np.unique(turn_Q):
        queries = np.flatnonzero(turn_Q == turn)
        out[queries] = two_way(shown_UF[place_Q[queries]], drawn_QF[queries])
    return out


def _interval(value_Q: NDArray[np.float64], concept_Q: NDArray[np.int64], seed: int) -> tuple[float, float]:
    n = int(concept_Q.max()) + 1
    total_U, count_U = np.bincount(concept_Q, value_Q, n), np.bincount(concept_Q, minlength=n)
    return bootstrap_interval(lambda weight_RU: (weight_RU @ total_U) / (weight_RU @ count_U), n, seed=seed)


def _sheet(shards: ShardSet, rows: NDArray[np.int64], shown: Images, images: dict[str, Images]) -> bytes:
    at = np.unique(np.linspace(0, len(rows) - 1, min(SHEET, len(rows))).round().astype(int))
    labels = {
        "eeg": "drawn from EEG",
        "oracle": "oracle: true embedding",
        "nearest": "nearest training picture",
        "mean": "mean embedding",
        "random": "random condition",
    }
    sheet = {"shown": shown[at]} | {label: images[name][at] for name, label in labels.items()}
    return plots.contact_sheet(
        {label: list(part) for label, part in sheet.items()}, [shards.picture_concepts[row] for row in rows[at]]
    )


def _drawer_curve(experiment: Experiment) -> plots.Curve:
    curve = fold_facts(experiment, "drawer")["curve"]
    return plots.Curve(fold="drawer", steps=curve["steps"], loss=curve["loss"])


def _keep(experiment: Experiment, drawn: _Drawn) -> None:
    """Keep inputs, whose they are, and drawings of a fold."""
    folder = storage.join(places.report(experiment), "drawings")
    buffer = io.BytesIO()
    np.save(buffer, drawn.eeg_uv_QCT.astype(np.float32))
    storage.write_bytes(storage.join(folder, "eeg_uv.npy"), buffer.getvalue())
    storage.write_bytes(storage.join(folder, "subjects.json"), json.dumps(drawn.subjects).encode())
    for number, image in enumerate(drawn.images["eeg"]):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG")
        storage.write_bytes(storage.join(folder, f"{number:04d}.png"), buffer.getvalue())


def _stacked(images: list[Image.Image]) -> Images:
    """Return pictures as one array; those of another size than the first are brought to it."""
    size = images[0].size
    return np.stack([np.asarray(image if image.size == size else image.resize(size)) for image in images])
