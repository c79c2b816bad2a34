"""What chooses a step or a configuration: validation pictures ranked by their averaged EEG.

Shape letters: N trial, Q query, C chan, T time, D embedding, P picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from eegdecode import metrics
from eegdecode.batch import Fold
from eegdecode.data.shardset import ShardSet, Untested
from eegdecode.data.splits import TEST, group_of
from eegdecode.models.decoder import Decoder
from eegdecode.models.options import subject_rows

Scores = Mapping[str, float]
NEW = ("concept", "picture", "subject_concept")
"""Divisions whose test pictures were not shown in training."""


@dataclass(frozen=True)
class Validation:
    """Ranks validation pictures by their averaged EEG; the score by which steps and configurations are chosen.

    Attributes
    ----------
    eeg_uv_QCT
        Mean over the repetitions of a picture in a subject (or run).
    target_PD, right_Q
        Candidates, and the row of each query's own.
    subject_Q
        Row of each query's subject in the decoder's table; None where it has none.
    """

    eeg_uv_QCT: torch.Tensor
    target_PD: torch.Tensor
    right_Q: NDArray[np.int64]
    subject_Q: torch.Tensor | None = None

    def __call__(self, task: nn.Module) -> Scores:
        """Return `val_score` (mean average precision) and `val_top1`."""
        decoder = task.decoder
        assert isinstance(decoder, Decoder)
        device = decoder.target_centre_D.device
        subject_Q = None if self.subject_Q is None else self.subject_Q.to(device)
        z_QD = functional.normalize(decoder(self.eeg_uv_QCT.to(device), subject_Q), dim=1)
        candidate_PD = functional.normalize(decoder.embed_target(self.target_PD.to(device)), dim=1)
        scores_QP = (z_QD @ candidate_PD.T).float().cpu().numpy()
        relevant_QP = np.arange(len(self.target_PD))[None] == self.right_Q[:, None]
        return {
            "val_score": float(metrics.mean_average_precision(scores_QP, relevant_QP)),
            "val_top1": float(metrics.top_k(scores_QP, self.right_Q, 1)),
        }


def validation_of(shards: ShardSet, fold: Fold, trials_N: Untested, subjects: tuple[str, ...]) -> Validation:
    """Return what ranks the validation part of a fold."""
    eeg_uv_QCT, rows_Q, subject_Q = picture_means(shards, fold, trials_N)
    rows, right_Q = np.unique(rows_Q, return_inverse=True)
    return Validation(
        torch.from_numpy(eeg_uv_QCT),
        torch.from_numpy(shards.target_PD[rows]),
        right_Q.astype(np.int64),
        subject_rows(subjects, subject_Q),
    )


def picture_means(
    shards: ShardSet, fold: Fold, trials_N: Untested
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[str]]:
    """Return EEG averaged over a picture's repetitions in one subject (one run where runs are split), row and subject.

    Raises
    ------
    ValueError
        A trial of the test part: a step would be selected, or a bridge fitted, on what is scored.
    """
    tested = trials_N[shards.part_of(fold)[trials_N] == TEST]
    if len(tested):
        raise ValueError(
            f"fold '{fold.name}': what selects or fits must be of its train or val part, got {len(tested)} trials of "
            f"its test part, {int(tested[0])} among them. Take them from ShardSet.trials_of."
        )
    table = shards.table.iloc[trials_N]
    new = fold.by in NEW
    who = table["subject"].astype(str) if new else pd.Series(group_of(table, "run"), table.index)
    means, rows, subjects = [], [], []
    for _, members in table.groupby([who, "picture_row"]):
        means.append(shards.gather(members.index.to_numpy(np.int64)).mean(axis=0, dtype=np.float32))
        rows.append(int(members["picture_row"].iloc[0]))
        subjects.append(str(members["subject"].iloc[0]))
    return np.stack(means), np.array(rows, np.int64), subjects
