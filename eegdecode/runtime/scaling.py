"""A curve of score against training data: the recipe trained anew on nested shares of its concepts, and tested alike.

Candidates, test trials and validation concepts are those of the whole run. Every training takes the recipe's steps, and
the settings that the whole run's search found. Noise normalisation in the preparation (`data.epochs.mvnn`) was fitted
on all training pictures and stays.
"""

from collections.abc import Sequence

import numpy as np

from eegdecode import storage
from eegdecode.config import Experiment
from eegdecode.evaluate import plots
from eegdecode.evaluate.report import load_report, write_report
from eegdecode.evaluate.scaling import Scaling, ScalingPoint, write_scaling
from eegdecode.runtime import places
from eegdecode.runtime.progress import say
from eegdecode.runtime.ranked import Ranked, answers_of, score_of
from eegdecode.runtime.search import tuned_for
from eegdecode.runtime.tested import open_tested
from eegdecode.runtime.tracked_report import track_report, track_scaling
from eegdecode.runtime.train import train

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)


def scaling(experiment: Experiment, shares: Sequence[float] = SHARES) -> Scaling:
    """Train and score every share; write scaling.json, and into the run's report where it has been scored.

    A share that was trained before is not trained again.

    Raises
    ------
    ValueError
        A recipe that does not test new concepts, or is of a share itself; shares that do not ascend to 1.
    """
    tuned = tuned_for(experiment)
    for one in at_shares(experiment, shares):
        train(one, tuned=tuned, whole=one.protocol.train_share == 1)
    found = curve(experiment, shares)
    where = places.report(experiment)
    write_scaling(where, found)
    if storage.exists(storage.join(where, "summary.json")):
        report = load_report(where)
        if report.run_id == experiment.run_id:
            report = report.with_section(scaling=found)
            write_report(where, report, {"scaling": plots.scaling_curve(found)})
            track_report(experiment, report)
    track_scaling(experiment, found)
    say(f"scaling: {where}/scaling.json")
    return found


def at_shares(experiment: Experiment, shares: Sequence[float]) -> list[Experiment]:
    """Return the experiment on each share of its concepts; the last one is the experiment itself."""
    if experiment.protocol.split_by not in ("concept", "subject_concept"):
        raise ValueError(
            "a curve over training concepts needs protocol.split_by='concept' or 'subject_concept', got "
            f"'{experiment.protocol.split_by}'."
        )
    if experiment.protocol.train_share != 1:
        raise ValueError(
            f"a curve goes up to all training concepts: set protocol.train_share=1, got "
            f"{experiment.protocol.train_share:g}."
        )
    if len(shares) < 2 or list(shares) != sorted(set(shares)) or shares[-1] != 1:
        raise ValueError(f"shares must ascend to 1, two at least, got {list(shares)}.")
    return [experiment.override({"protocol.train_share": share}) for share in shares]


def curve(experiment: Experiment, shares: Sequence[float]) -> Scaling:
    """Return the scores of the bundles that were trained on each share, by the code that scores a run."""
    points = []
    for one in at_shares(experiment, shares):
        shards, protocol = places.open_set(one), one.protocol
        folds = [fold for fold in shards.folds if fold.by == protocol.split_by]
        ranked = [Ranked(one, shards, open_tested(one, shards, fold)) for fold in folds]
        learnt = [shards.trials_of(fold, "train") for fold in folds]
        rows = np.unique(shards.picture_row[np.concatenate(learnt)])
        score = score_of(*answers_of(ranked, protocol.test_repetitions), protocol)
        points.append(
            ScalingPoint(
                train_share=protocol.train_share,
                n_concepts=len({shards.picture_concepts[row] for row in rows.tolist()}),
                n_trials=round(float(np.mean([len(trials_N) for trials_N in learnt]))),
                run_id=one.run_id,
                score=score,
            )
        )
        say(f"scaling: {points[-1].n_concepts} concepts, top-1 {score.top1:.4f} (chance {score.chance_top1:.4f})")
    return Scaling(run_id=experiment.run_id, steps=experiment.schedule.steps, points=tuple(points))
