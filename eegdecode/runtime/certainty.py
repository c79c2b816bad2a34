"""Calibration and noise ceiling of a fold's trials, beside its scores."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eegdecode.config import Experiment
from eegdecode.data.shardset import ShardSet
from eegdecode.evaluate.certainty import CalibrationFact, CeilingFact, Part, calibration_fact, ceiling_fact
from eegdecode.evaluate.retrieval import score_matrix
from eegdecode.runtime.tested import Tested
from eegdecode.train.fold import embedded_targets


def certainty(
    experiment: Experiment, shards: ShardSet, folds: Sequence[Tested]
) -> dict[str, CalibrationFact | CeilingFact]:
    """Return the report's sections `calibration` and `ceiling`.

    Parameters
    ----------
    folds
        Those that the headline is of; a calibration belongs to one bundle, so there is none where there are several.
    """
    tested, protocol, manifest = folds[0], experiment.protocol, shards.manifest
    gallery = tested.bundle.gallery
    eeg_uv_NCT = np.concatenate([fold.eeg_uv_NCT for fold in folds])
    picture_N, subject_N = (
        np.concatenate([fold.table[name].to_numpy(str) for fold in folds]) for name in ("picture", "subject")
    )
    test = Part(eeg_uv_NCT, picture_N, subject_N, gallery.pictures, gallery.concepts, gallery.target_PD)

    def score(
        eeg_uv_QCT: NDArray[np.float32], subject_Q: NDArray[np.str_], target_PD: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        z_QD = tested.reconstructor.embed(eeg_uv_QCT, subject=subject_Q.tolist())
        return score_matrix(z_QD, target_PD, experiment.loss.normalise)

    val, reason = _validation(experiment, shards, tested)
    return {
        "calibration": calibration_fact(
            val, test, score, test_repetitions=protocol.test_repetitions, seed=protocol.seed, reason=reason
        ),
        "ceiling": ceiling_fact(
            eeg_uv_NCT,
            picture_N,
            subject_N,
            sfreq_hz=manifest.sfreq_hz,
            tmin_s=manifest.tmin_s,
            seed=protocol.seed,
        ),
    }


def _validation(experiment: Experiment, shards: ShardSet, tested: Tested) -> tuple[Part | None, str]:
    """Return the validation trials that the bundle was not trained on, or why there are none."""
    if experiment.protocol.split_by == "subject_concept":
        return None, "every fold has a bundle of its own, and with it a scale of its own."
    if experiment.protocol.split_by != "concept":
        return None, "validation and test share concepts where pictures are split, so nothing can be fitted on others."
    if experiment.protocol.selection == "last" or not tested.fold.val:
        return None, "no validation concept stayed out of training: the last step is kept and learns from all of them."
    trials_N = shards.trials_of(tested.fold, "val")
    table = shards.table.iloc[trials_N]
    row_N = table["picture_row"].to_numpy(np.int64)
    rows, first_N = np.unique(row_N, return_index=True)
    part = Part(
        eeg_uv_NCT=shards.gather(trials_N).astype(np.float32),
        picture_N=table["picture"].to_numpy(str),
        subject_N=table["subject"].to_numpy(str),
        pictures=tuple(table["picture"].to_numpy(str)[first_N].tolist()),
        concepts=tuple(table["concept"].to_numpy(str)[first_N].tolist()),
        target_PD=embedded_targets(tested.bundle.decoder, shards.target_PD[rows]),
    )
    return part, ""
