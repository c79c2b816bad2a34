"""Three people who see the same pictures: the second's EEG has the other sign, the third's is the first's again.

No decoder that does not know whose trials they are can do better on both than on one alone.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from eegdecode.data import shards
from eegdecode.data.shards import PackedPicture
from tests.writers import shard_set

PEOPLE = ("01", "02", "03")
SIGN = {"01": 1.0, "02": -1.0, "03": 1.0}
N_TRAIN, N_TEST, REPETITIONS = 48, 12, 3
CHANNELS = ("Oz", "O1", "O2", "Pz", "Cz")
N_TIMES, DIM = 16, 6


def write(
    folder: Path, people: tuple[str, ...] = PEOPLE, channels: tuple[str, ...] = CHANNELS, seed: int = 0
) -> dict[str, str]:
    """Publish a set of a picture a concept at `shards`, targets at `targets`; return both addresses."""
    rng = np.random.default_rng(0)
    n = N_TRAIN + N_TEST
    target_PD = rng.normal(size=(n, DIM)).astype(np.float32)
    mixing = rng.normal(size=(DIM, len(channels) * N_TIMES))
    pictures = [PackedPicture(f"p{k:03d}", f"c{k:03d}", Image.new("RGB", (8, 8), (k, 0, 0))) for k in range(n)]
    picture_row = np.tile(np.repeat(np.arange(n), REPETITIONS), len(people))
    subject = np.repeat(people, n * REPETITIONS)
    clean = target_PD[picture_row] @ mixing * np.array([SIGN[s] for s in subject])[:, None]
    noise = np.random.default_rng(seed).normal(size=clean.shape)
    eeg_uv_NCT = (clean + 0.5 * noise).reshape(-1, len(channels), N_TIMES).astype(np.float16)
    table = shard_set.trial_table(
        len(subject),
        picture_row,
        subject=subject,
        recording=subject,
        picture=[pictures[row].picture for row in picture_row],
        concept=[pictures[row].concept for row in picture_row],
        partition=np.where(picture_row < N_TRAIN, "train", "test"),
    )
    uri = str(folder / "eeg")
    per_shard = [n * REPETITIONS] * len(people)
    made = shard_set.write_set(uri, eeg_uv_NCT, table, per_shard, pictures, pictures_per_shard=n)
    made = shards.publish(uri, made.model_copy(update={"channels": channels}), table)
    where = str(folder / "targets")
    shard_set.publish_targets(where, made, [p.picture for p in pictures], target_PD)
    return {"shards": uri, "targets": where}
