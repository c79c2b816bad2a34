"""Test trials of a fold beside the bundle that has not seen them; opened by scoring and drawing only."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eegdecode import bundle
from eegdecode.batch import Fold
from eegdecode.bundle import Bundle
from eegdecode.config import Experiment
from eegdecode.data.shardset import ShardSet, test_trials
from eegdecode.reconstruct.reconstructor import Reconstructor
from eegdecode.runtime import places


@dataclass(frozen=True)
class Tested:
    """Test trials of one fold, opened once, beside the bundle that has not seen them."""

    fold: Fold
    bundle: Bundle
    reconstructor: Reconstructor
    table: pd.DataFrame
    eeg_uv_NCT: NDArray[np.float32]


def open_tested(experiment: Experiment, shards: ShardSet, fold: Fold) -> Tested:
    """Open a fold's bundle and its test trials.

    Raises
    ------
    ValueError
        A bundle of another shard set.
    """
    uri = places.bundle(experiment, fold.name)
    made = bundle.load(uri)
    for what, trained, scored in (
        ("shard set", made.fact.manifest_digest, shards.manifest.digest),
        ("target set", made.fact.targets_digest, shards.target.manifest.digest),
    ):
        if trained != scored:
            raise ValueError(
                f"{uri} must have been trained on the {what} it is scored on, got {trained[:12]} against "
                f"{scored[:12]}. Train again, or score on the set it was trained on."
            )
    trials = test_trials(shards, fold)
    eeg_uv_NCT = shards.gather(trials).astype(np.float32)
    return Tested(fold, made, Reconstructor(made), shards.table.iloc[trials].reset_index(drop=True), eeg_uv_NCT)
