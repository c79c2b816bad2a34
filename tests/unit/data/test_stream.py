import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eegdecode.batch import Fold
from eegdecode.config import Stream as Spec
from eegdecode.data import shards, stream
from tests.writers import shard_set
from tests.writers.shard_set import trial_table

C, T, D, N = 2, 6, 3, 45
FOLD = Fold(name="runs", by="run", train=("01_01_0", "01_01_1"), val=("01_01_2",), test=("01_01_3",))
TARGET_PD = np.arange(5 * D, dtype=np.float32).reshape(5, D)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> shards.ShardSet:
    """Trial t holds the value t everywhere; its run is t % 4, its picture t % 5."""
    folder = tmp_path_factory.mktemp("set")
    trial = np.arange(N)
    table = trial_table(N, trial % 5, run=(trial % 4).astype(str))
    eeg_uv_NCT = np.broadcast_to(trial[:, None, None], (N, C, T)).astype(np.float32)
    pictures = [shards.PackedPicture(f"p{k}", f"c{k}", Image.new("RGB", (4, 4))) for k in range(5)]
    manifest = shards.publish(
        str(folder / "eeg"), shard_set.write_set(str(folder / "eeg"), eeg_uv_NCT, table, (10, 1, 34), pictures), table
    )
    ids = [f"p{k}" for k in range(5)]
    shard_set.publish_targets(str(folder / "a"), manifest, ids, TARGET_PD)
    shard_set.publish_targets(str(folder / "b"), manifest, ids, TARGET_PD[:, :1] + 100)
    return shards.open_shards(str(folder / "eeg"), targets={"": str(folder / "a"), "more": str(folder / "b")})


def open_stream(opened, part="train", batch=8, seed=1, rank=0, world=1, spec=None, residency="disk"):
    return stream.Stream(
        opened, opened.trials_of(FOLD, part), batch, seed, rank, world, spec or Spec(partitions=4), residency
    )


def take(iterator, n: int) -> list:
    got = [next(iterator) for _ in range(n)]
    iterator.close()
    return got


def global_trials(opened, trials: np.ndarray, batch: int, world: int, start: int, steps: int, seed: int, spec: Spec):
    """What all ranks together see, batch by batch."""
    ranks = [stream.Stream(opened, trials, batch, seed, rank, world, spec) for rank in range(world)]
    return [np.concatenate([rank.trials_at(start + k * batch) for rank in ranks]) for k in range(steps)]


def test_batches_hold_the_trials_they_name(opened):
    for batch in take(open_stream(opened).starting_at(0), 9):
        assert batch.eeg_uv_BCT.dtype == torch.float16
        assert batch.eeg_uv_BCT.shape == (8, C, T)
        assert torch.equal(batch.eeg_uv_BCT, batch.trial_B[:, None, None].expand(8, C, T).half())
        assert torch.equal(batch.picture_B, batch.trial_B % 5)
        assert torch.equal(batch.target_BD, torch.from_numpy(TARGET_PD)[batch.picture_B])
        assert torch.equal(batch.also["more"], torch.from_numpy(TARGET_PD)[batch.picture_B, :1] + 100)


DIVISIONS = [(p, w) for p in (1, 2, 3, 4, 6, 8, 12) for w in range(1, p + 1) if p % w == 0]


@settings(max_examples=200, deadline=None)
@given(
    n=st.integers(1, N),
    division=st.sampled_from(DIVISIONS),
    rounds=st.integers(1, 4),
    seed=st.integers(-(2**40), 2**70),
    passes=st.integers(1, 3),
    resumed=st.integers(0, 40),
    other=st.sampled_from(DIVISIONS),
    shuffle_shards=st.integers(0, 2),
)
def test_every_world_size_sees_the_same_batches_and_every_trial_once_a_pass(
    opened, n, division, rounds, seed, passes, resumed, other, shuffle_shards
):
    parts, world = division
    batch, trials = parts * rounds, np.arange(N)[:n]
    spec = Spec(partitions=parts, shuffle_shards=shuffle_shards)
    steps = -(-(passes * n) // batch) + 1
    alone = global_trials(opened, trials, batch, 1, 0, steps, seed, spec)
    # Batch k holds what stands at positions k*batch to (k+1)*batch, where every trial comes once a pass.
    order = stream.Stream(opened, trials, batch, seed, 0, 1, spec)._order
    sequence = trials[order.items_at(np.arange(steps * batch))[0]]
    for k, found in enumerate(alone):
        assert sorted(found.tolist()) == sorted(sequence[k * batch : (k + 1) * batch].tolist())
    for p in range(passes):
        assert sorted(sequence[p * n : (p + 1) * n].tolist()) == trials.tolist()
    # The ranks' parts one after the other are the batch of one rank, in its order.
    for got, want in zip(global_trials(opened, trials, batch, world, 0, steps, seed, spec), alone, strict=True):
        np.testing.assert_array_equal(got, want)
    # A restart after any step goes on with the same batches, at another world size too.
    start = resumed % steps
    for w in (w for p, w in DIVISIONS if p == parts):
        again = global_trials(opened, trials, batch, w, start * batch, steps - start, seed, spec)
        np.testing.assert_array_equal(np.concatenate(again), np.concatenate(alone[start:]))


def test_a_rank_reads_its_own_partitions_only(opened):
    trials = opened.trials_of(FOLD, "train")
    met = [
        {int(t) for k in range(40) for t in open_stream(opened, rank=rank, world=4).trials_at(8 * k)}
        for rank in range(4)
    ]
    assert set.union(*met) == set(trials.tolist())
    shared = set.intersection(*met)
    assert shared <= set(trials[-(len(trials) % 4) :].tolist() if len(trials) % 4 else [])
    for a in range(4):
        for b in range(a):
            assert met[a] & met[b] <= set(trials[len(trials) - len(trials) % 4 :].tolist())


@pytest.mark.parametrize("average", [1, 2, 0])
def test_residency_changes_nothing(opened, average: int):
    spec = Spec(partitions=4, average=average)
    disk = take(open_stream(opened, spec=spec).starting_at(16), 12)
    for residency in ("ram", "device", "auto"):
        there = take(open_stream(opened, spec=spec, residency=residency).starting_at(16), 12)
        for a, b in zip(disk, there, strict=True):
            assert torch.equal(a.trial_B, b.trial_B)
            assert torch.equal(a.eeg_uv_BCT, b.eeg_uv_BCT)


def test_on_two_ranks_each_keeps_its_own_trials_resident(opened):
    both = [open_stream(opened, rank=rank, world=2, residency="ram") for rank in range(2)]
    whole = take(open_stream(opened).starting_at(0), 8)
    halves = [take(each.starting_at(0), 8) for each in both]
    for one, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(one.eeg_uv_BCT, torch.cat([part.eeg_uv_BCT for part in parts]))
    held = [len(each._resident._trials) for each in both]
    assert max(held) < len(opened.trials_of(FOLD, "train"))


def test_a_set_that_does_not_fit_in_memory_is_refused(opened, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream, "ROOM", 1e-12)
    with pytest.raises(
        ValueError, match=r"compute\.residency: this rank's 23 trials take .* GB .*Choose residency 'disk'"
    ):
        open_stream(opened, residency="ram").starting_at(0)


def test_averages_are_those_of_repetitions_and_are_drawn_anew_each_pass(opened):
    """The value of a trial is its number, so that an average tells which trials it is of."""
    trials = opened.trials_of(FOLD, "train")
    of = {picture: trials[trials % 5 == picture] for picture in range(5)}
    assert sorted(map(len, of.values())) == [4, 4, 5, 5, 5]
    everything = open_stream(opened, spec=Spec(partitions=1, average=0), batch=5)
    for batch in take(everything.starting_at(0), 3):
        assert sorted(batch.picture_B.tolist()) == list(range(5))
        want = torch.tensor([of[int(p)].mean() for p in batch.picture_B])
        torch.testing.assert_close(batch.eeg_uv_BCT[:, 0, 0], want.float())
        assert batch.eeg_uv_BCT.dtype == torch.float32
    seen = {picture: set() for picture in range(5)}
    for batch in take(open_stream(opened, spec=Spec(partitions=1, average=2), batch=5).starting_at(0), 200):
        for picture, value in zip(batch.picture_B.tolist(), batch.eeg_uv_BCT[:, 1, 2].tolist(), strict=True):
            pairs = {(a + b) / 2 for a in of[picture] for b in of[picture] if a != b}
            assert value in pairs
            seen[picture].add(value)
    assert seen == {p: {(a + b) / 2 for a in of[p] for b in of[p] if a != b} for p in range(5)}


def test_val_comes_once_in_order_with_a_short_last_batch(opened):
    val = open_stream(opened, "val", 4)
    batches = list(val.once())
    assert [len(b.trial_B) for b in batches] == [4, 4, 3]
    assert torch.cat([b.trial_B for b in batches]).tolist() == opened.trials_of(FOLD, "val").tolist()


def test_no_thread_outlives_its_iterator(opened):
    def reading() -> int:
        return sum(thread.name.startswith("stream") for thread in threading.enumerate())

    endless = open_stream(opened, batch=4).starting_at(0)
    next(endless)
    assert reading() > 0
    endless.close()
    assert reading() == 0
    dropped = open_stream(opened, batch=4).starting_at(0)
    next(dropped)
    del dropped
    assert reading() == 0


def test_a_fault_of_the_reader_reaches_the_caller(opened, monkeypatch: pytest.MonkeyPatch):
    broken = stream.Stream(opened, np.array([0, N + 5]), 8, 0, 0, 1)
    with pytest.raises(ValueError, match=f"0 to {N - 1}"):
        next(broken.starting_at(0))


def test_wrong_divisions_are_refused(opened):
    with pytest.raises(ValueError, match=r"multiple of stream\.partitions, got 10 over 4.*8, 12"):
        open_stream(opened, batch=10)
    with pytest.raises(ValueError, match=r"ranks must divide stream\.partitions=4, got 3"):
        open_stream(opened, batch=12, world=3)
    with pytest.raises(ValueError, match="rank must be 0 to 1, got 2"):
        open_stream(opened, rank=2, world=2)
    with pytest.raises(ValueError, match="trials_seen must be at least 0"):
        open_stream(opened).starting_at(-1)
    with pytest.raises(ValueError, match="only scoring sees the test part"):
        open_stream(opened, "test")
    with pytest.raises(ValueError, match="no trials"):
        stream.Stream(opened, np.zeros(0, np.int64), 8, 0, 0, 1)
