"""Every recipe on simulated EEG, as a fraction of the best possible observer: `make bench ONLY=recipes` (long).

Twice: with drawn pictures, and with the thousand photographs of the data pack, where image towers are MobileNetV2.

63 electrodes, 2 people, 475 training concepts with 16 pictures shown 4 times, 200 test concepts with one picture shown
12 times; the simulated brain of `make demo`. No CLIP weights are at hand, so the same stand-ins serve all recipes: an
image tower is `gabor_words` (with the recipe's own views, repeated where the recipe takes several layers), a text tower
the words of the concept, a teacher and a VAE linear maps of Gabor energies. Electrodes, samples and encoder layers are
the recipe's; steps and learning rate are the same for all, far fewer steps than the papers take.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from eegdecode.config import Epochs, Experiment, SyntheticData
from eegdecode.data.shardset import ShardSet, open_shards, test_trials
from eegdecode.evaluate.ideal_observer import ideal_scores
from eegdecode.evaluate.retrieval import average_repetitions, retrieval_report, score_matrix
from eegdecode.models.options import subject_rows
from eegdecode.recipes import RECIPES
from eegdecode.runtime import places
from eegdecode.targets import open_tower
from eegdecode.targets.spec import parse
from eegdecode.targets.words import WORD_DIM
from eegdecode.train.engine import build_engine
from eegdecode.train.fold import FoldRun, build_fold, embedded_targets
from eegdecode.train.loop import fit
from tests.writers.synthetic_set import SyntheticSet

STEPS, LR, BATCH = 400, 1e-3, 256
SOURCE = SyntheticData(n_train_concepts=475, pictures_per_concept=16, train_repetitions=4)
EPOCHS = {
    "linear": Epochs(sfreq_hz=50.0, crop_s=(0.0, 0.4), reject_uv=250.0),
    "net": Epochs(sfreq_hz=200.0, crop_s=(0.0, 0.545), reject_uv=250.0),
}
"""Closed forms take the cube of electrodes times samples; the published encoders need 100 samples and more."""
CHOSEN = (
    "canonical", "canonical_photographs", "demo", "perceptogram", "nice", "nice_sa", "nice_ga",
    "nice_learnt_temperature", "atm", "ubp", "ubp_fixed_blur", "neurobridge", "samga", "distill", "distill_wavelet",
    "neuroimagen",
)  # fmt: skip
IMAGE_KINDS = ("timm", "open_clip", "transformers")
SHARED = Path(os.environ.get("EEGDECODE_SHARED", "../shared"))
PHOTOGRAPHS = SHARED / "data" / "images" / "imagenet_samples"
ON_PHOTOGRAPHS = RECIPES["canonical_photographs"]().data.source
"""As many trials; a thousand pictures are all there are."""


class Stimuli(SyntheticSet):
    """The set with the stand-ins of this benchmark as targets."""

    def target(self, tower: str) -> np.ndarray:
        spec = parse(tower)
        views = f"#{tower.partition('#')[2]}" if spec.views else ""
        if spec.kind in IMAGE_KINDS:
            image_tower = "timm:mobilenetv2_100" if self.source.photographs else "gabor_words"
            made = open_tower(f"{image_tower}{views}", str(SHARED / "data" / "weights")).embed(
                self.images, self.concepts
            )
            return np.tile(made, len(spec.layers.names) if spec.layers else 1)
        if spec.kind == "text":
            words = open_tower("gabor_words", "").embed(self.images, self.concepts)
            return words if "captions" in spec.options else np.ascontiguousarray(words[:, -WORD_DIM:])
        if spec.kind in ("gabor", "pyramid", "pyramid_words"):
            return open_tower(tower, "").embed(self.images, self.concepts)
        return super().target(tower)


def fitted_to(name: str, source: SyntheticData, epochs: Epochs) -> Experiment:
    """Return the recipe on this data; what belongs to its decoder stays."""
    base = RECIPES[name]()
    changes: dict[str, Any] = {
        "data.source": source.model_dump(mode="json"),
        "data.epochs": epochs.model_dump(mode="json"),
        "protocol.n_val": 40,
        "compute.engine": "torch",
        "compute.workers": 1,
    }
    if base.encoder.start == "random":
        changes |= {
            "schedule.steps": STEPS,
            "schedule.lr": LR,
            "schedule.validate_every": STEPS // 4,
            "loss.contrastive_batch": BATCH,
        }
    return base.override(changes)


def scored(name: str, made: SyntheticSet, source: SyntheticData, epochs: Epochs, ideal_top1: float) -> dict[str, Any]:
    """Train, keep the step that validation concepts choose, and score the averaged test trials."""
    experiment = fitted_to(name, source, epochs)
    divided = open_shards(made.uri, verify=False, targets=made.targets({"": "gabor"}), protocol=experiment.protocol)
    # A teacher knows the concepts that are trained on: fewer than are shown, where validation takes whole concepts.
    made.training = sorted(set(divided.table["concept"].iloc[divided.trials_of(divided.folds[0], "train")]))
    shards = open_shards(
        made.uri, verify=False, targets=made.targets(places.towers(experiment)), protocol=experiment.protocol
    )
    began = time.perf_counter()
    run = build_fold(experiment, shards, shards.folds[0], 0, 1)
    if experiment.schedule.steps:
        engine = build_engine(run.task, experiment.schedule, experiment.compute, experiment.loss.contrastive_batch)
        fit(engine, run.stream, experiment.schedule, validate=run.validation)
    seconds = time.perf_counter() - began
    score = retrieval(experiment, shards, run)
    return {
        "bench": f"recipes.{name}" + (".photographs" if source.pictures == "folder" else ""),
        "ratio": round(score.top1 / ideal_top1, 3),
        "unit": "top-1 over the ideal observer's",
        "top1": round(score.top1, 3),
        "ci95": [round(v, 3) for v in score.ci95_top1],
        "ideal_top1": round(ideal_top1, 3),
        "chance": score.chance_top1,
        "steps": experiment.schedule.steps,
        "seconds": round(seconds),
    }


def retrieval(experiment: Experiment, shards: ShardSet, run: FoldRun) -> Any:
    decoder = run.task.decoder.cpu().eval()
    trials = test_trials(shards, shards.folds[0])
    table = shards.table.iloc[trials]
    rows = np.unique(shards.picture_row[trials])
    ids = [shards.picture_ids[row] for row in rows]
    averaged = average_repetitions(
        shards.gather(trials),
        np.array([shards.picture_ids[row] for row in shards.picture_row[trials]]),
        table["subject"].to_numpy(str),
    )
    parts = zip(*(np.array_split(x, 20) for x in (averaged.eeg_uv_QCT, averaged.subject_Q)), strict=True)
    with torch.no_grad():
        z_QD = np.concatenate(
            [decoder(torch.from_numpy(eeg), subject_rows(run.subjects, subject)).numpy() for eeg, subject in parts]
        )
    scores_QG = score_matrix(z_QD, embedded_targets(decoder, shards.target_PD[rows]), experiment.loss.normalise)
    return retrieval_report(
        scores_QG, ids, averaged.picture_Q, averaged.subject_Q, averaged.picture_Q, n_permutations=200, seed=0
    )


def ideal(made: SyntheticSet, epochs: Epochs) -> float:
    """Return what the best possible observer reaches on the very same test trials."""
    shards = open_shards(
        made.uri, verify=False, targets=made.targets({"": "gabor"}), protocol=RECIPES["demo"]().protocol
    )
    trials = test_trials(shards, shards.folds[0])
    table = shards.table.iloc[trials].assign(picture=[shards.picture_ids[row] for row in shards.picture_row[trials]])
    eeg_uv_NCT = shards.gather(trials)
    return ideal_scores(made.source, epochs, eeg_uv_NCT, table, shards.manifest.channels).top1


def run(chosen: tuple[str, ...] = CHOSEN) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(2)
    yield from on(SOURCE, tuple(name for name in chosen if name != "canonical_photographs"))
    if PHOTOGRAPHS.is_dir():
        yield from on(ON_PHOTOGRAPHS, tuple(name for name in chosen if name != "canonical"))
    else:
        print(f"recipes: no photographs in {PHOTOGRAPHS}; set EEGDECODE_SHARED", file=sys.stderr)


def on(source: SyntheticData, chosen: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Score recipes on one kind of pictures."""
    for kind, epochs in EPOCHS.items():
        mine = [name for name in chosen if (RECIPES[name]().encoder.start != "random") == (kind == "linear")]
        if not mine:
            continue
        with TemporaryDirectory() as folder:
            made = Stimuli(Path(folder), source, epochs=epochs, data_uri=str(PHOTOGRAPHS))
            ideal_top1 = ideal(made, epochs)
            for name in mine:
                yield scored(name, made, source, epochs, ideal_top1)
