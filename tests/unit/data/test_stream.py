import threading

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eegdecode.batch import FileFact, Fold, Manifest, SourceFact, TargetFact
from eegdecode.data import shards, stream

C, T, D, N = 2, 6, 3, 45
FOLD = Fold(name="runs", by="run", train=("01_01_0", "01_01_1"), val=("01_01_2",), test=("01_01_3",))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> shards.ShardSet:
    """Trial t holds the value t everywhere; its run is t % 4, its picture t % 5."""
    uri = str(tmp_path_factory.mktemp("set"))
    trial = np.arange(N)
    target_PD = np.arange(5 * D, dtype=np.float32).reshape(5, D)
    table = pd.DataFrame(
        {
            "key": [f"t{t:03d}" for t in trial],
            "recording": "r",
            "subject": "01",
            "session": "01",
            "run": (trial % 4).astype(str),
            "position": trial,
            "picture": [f"p{t % 5}" for t in trial],
            "picture_row": trial % 5,
            "concept": [f"c{t % 5}" for t in trial],
            "repetition": trial // 5,
        }
    )
    eeg_uv_NCT = np.broadcast_to(trial[:, None, None], (N, C, T)).astype(np.float32)
    facts = [
        shards.write_trial_shard(uri, f"t{a}", eeg_uv_NCT[a:b], target_PD[trial[a:b] % 5], table.iloc[a:b])
        for a, b in ((0, 10), (10, 11), (11, N))
    ]
    pictures = [(f"p{k}", f"c{k}", Image.new("RGB", (4, 4))) for k in range(5)]
    manifest = Manifest(
        source=SourceFact(name="test", licence="CC0", citation="", design="rapid", truth="picture"),
        sfreq_hz=100.0,
        tmin_s=0.0,
        n_times=T,
        channels=("O1", "O2"),
        target=TargetFact(tower="test", layer="", revision="", preprocessing="", dim=D),
        trials=tuple(facts),
        pictures=(shards.write_picture_shard(uri, "p", pictures, target_PD),),
        table=FileFact(name="", size_bytes=0, sha256=""),
        folds=(FOLD,),
        n_trials=N,
        n_pictures=5,
        config_digest="0",
    )
    shards.publish(uri, manifest, table)
    return shards.open_shards(uri)


def take(iterator, n: int) -> list:
    got = [next(iterator) for _ in range(n)]
    iterator.close()
    return got


def global_trials(opened, batch: int, world: int, start: int, steps: int, seed: int = 1) -> np.ndarray:
    """What all ranks together see, in order."""
    ranks = [stream.open_stream(opened, FOLD, "train", batch, seed, rank, world) for rank in range(world)]
    return np.concatenate([np.concatenate([rank.trials_at(start + k * batch) for rank in ranks]) for k in range(steps)])


def test_batches_hold_the_trials_they_name(opened):
    for batch in take(stream.open_stream(opened, FOLD, "train", 6, 1, 0, 1).starting_at(0), 9):
        assert batch.eeg_uv_BCT.dtype == torch.float32
        assert batch.eeg_uv_BCT.shape == (6, C, T)
        assert torch.equal(batch.eeg_uv_BCT, batch.trial_B[:, None, None].expand(6, C, T).float())
        assert torch.equal(batch.picture_B, batch.trial_B % 5)
        assert torch.equal(batch.target_BD, (batch.picture_B[:, None] * D + torch.arange(D)).float())


@settings(max_examples=60, deadline=None)
@given(micro=st.integers(1, 7), seed=st.integers(-(2**40), 2**70), start=st.integers(0, 200), passes=st.integers(1, 3))
def test_every_world_size_sees_the_same_batches_and_every_trial_once_a_pass(opened, micro, seed, start, passes):
    batch, train = micro * 4, opened.trials_of(FOLD, "train")
    steps = -(-(passes * len(train)) // batch) + 1
    alone = global_trials(opened, batch, 1, 0, steps, seed)
    for p in range(passes):
        assert sorted(alone[p * len(train) : (p + 1) * len(train)]) == train.tolist()
    for world in (2, 4):
        np.testing.assert_array_equal(global_trials(opened, batch, world, 0, steps, seed), alone)
    # A restart anywhere, at another world size and even at another batch, goes on with the same sequence.
    start = start % len(alone)
    resumed = global_trials(opened, 4, 4, start, -(-(len(alone) - start) // 4), seed)
    np.testing.assert_array_equal(resumed[: len(alone) - start], alone[start:])


@settings(max_examples=80, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1), pass_=st.integers(0, 2**32))
def test_a_pass_is_a_permutation(n, seed, pass_):
    assert sorted(stream.permuted(np.arange(n), n, seed, pass_)) == list(range(n))


def test_order_is_well_mixed_and_differs_between_passes_and_seeds():
    n = 5000
    orders = [stream.permuted(np.arange(n), n, seed, p) for seed in (0, 1) for p in (0, 1, 2)]
    for i, order in enumerate(orders):
        # Standard error of a correlation over n independent pairs is 1/sqrt(n) = 0.014.
        assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.06
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.06
        for other in orders[:i]:
            assert abs(np.corrcoef(order, other)[0, 1]) < 0.06
            assert (order == other).sum() < 10
    # Over many passes an item stands at every place equally often: chi-square, 19 degrees of freedom, p = 1e-4 at 50.
    places = np.concatenate([np.flatnonzero(stream.permuted(np.arange(20), 20, 5, p) == 7) for p in range(2000)])
    assert ((np.bincount(places, minlength=20) - 100) ** 2 / 100).sum() < 50


def mixed(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def plainly_permuted(x: int, n: int, seed: int, pass_: int) -> int:
    """The same network in Python's own integers, one position at a time."""
    a = 1
    while a * a < n:
        a += 1
    b = (n + a - 1) // a
    key = mixed(mixed(seed) + pass_)
    while True:
        left, right = divmod(x, b)
        for round_ in range(0, 8, 2):
            left = (left + mixed(right + key * (2 * round_ + 3)) % a) % a
            right = (right + mixed(left + key * (2 * round_ + 5)) % b) % b
        x = left * b + right
        if x < n:
            return x


def test_order_is_pinned():
    # A change of these numbers changes the order of every run that is resumed: it needs a new schema version.
    assert stream.permuted(np.arange(10), 10, 0, 0).tolist() == [3, 8, 9, 0, 5, 2, 4, 7, 6, 1]
    far = stream.permuted(np.arange(5), 1_000_003, 7, 3)
    assert far.tolist() == [651585, 265553, 988292, 193534, 364638]
    assert far.tolist() == [plainly_permuted(x, 1_000_003, 7, 3) for x in range(5)]


def test_order_of_ten_million_needs_no_list_of_them():
    place = np.array([0, 5_000_000, 9_999_999])
    got = stream.permuted(place, 10_000_000, 3, 12)
    assert len(set(got.tolist())) == 3
    assert got.max() < 10_000_000


def test_val_comes_once_in_order_with_a_short_last_batch(opened):
    val = stream.open_stream(opened, FOLD, "val", 4, 1, 0, 1)
    batches = list(val.once())
    assert [len(b.trial_B) for b in batches] == [4, 4, 3]
    assert torch.cat([b.trial_B for b in batches]).tolist() == opened.trials_of(FOLD, "val").tolist()


def test_no_thread_outlives_its_iterator(opened):
    def reading() -> int:
        return sum(thread.name.startswith("stream") for thread in threading.enumerate())

    endless = stream.open_stream(opened, FOLD, "train", 4, 1, 0, 1).starting_at(0)
    next(endless)
    assert reading() == 1
    endless.close()
    assert reading() == 0
    dropped = stream.open_stream(opened, FOLD, "train", 4, 1, 0, 1).starting_at(0)
    next(dropped)
    del dropped
    assert reading() == 0


def test_a_fault_of_the_reader_reaches_the_caller(opened, monkeypatch: pytest.MonkeyPatch):
    broken = stream.Stream(opened, np.array([0, N + 5]), 2, 0, 0, 1)
    with pytest.raises(ValueError, match=f"0 to {N - 1}"):
        next(broken.starting_at(0))


def test_wrong_divisions_are_refused(opened):
    with pytest.raises(ValueError, match=r"multiple of the number of ranks, got 10 over 4.*8, 12"):
        stream.open_stream(opened, FOLD, "train", 10, 0, 0, 4)
    with pytest.raises(ValueError, match="rank must be 0 to 1, got 2"):
        stream.open_stream(opened, FOLD, "train", 10, 0, 2, 2)
    with pytest.raises(ValueError, match="trials_seen must be at least 0"):
        stream.open_stream(opened, FOLD, "train", 10, 0, 0, 1).starting_at(-1)
    with pytest.raises(ValueError, match="only scoring sees the test part"):
        stream.open_stream(opened, FOLD, "test", 10, 0, 0, 1)
    with pytest.raises(ValueError, match="no trials"):
        stream.Stream(opened, np.zeros(0, np.int64), 2, 0, 0, 1)
