"""The order of trials is arithmetic: every trial once a pass, whatever the partitions, ranks, batches and restarts."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eegdecode.data.order import Order, key_of, permuted


def whole(n: int, seed: int, pass_: int) -> np.ndarray:
    return permuted(np.arange(n), np.int64(n), key_of(seed, np.full(1, pass_)))


@settings(max_examples=80, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(-(2**40), 2**70), pass_=st.integers(0, 2**32))
def test_a_permutation_is_one(n: int, seed: int, pass_: int) -> None:
    assert sorted(whole(n, seed, pass_)) == list(range(n))


def test_order_is_well_mixed_and_differs_between_passes_and_seeds() -> None:
    n = 5000
    orders = [whole(n, seed, p) for seed in (0, 1) for p in (0, 1, 2)]
    for i, order in enumerate(orders):
        # Standard error of a correlation over n independent pairs is 1/sqrt(n) = 0.014.
        assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.06
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.06
        for other in orders[:i]:
            assert abs(np.corrcoef(order, other)[0, 1]) < 0.06
            assert (order == other).sum() < 10
    # Over many passes an item stands at every place equally often: chi-square, 19 degrees of freedom, p = 1e-4 at 50.
    places = np.concatenate([np.flatnonzero(whole(20, 5, p) == 7) for p in range(2000)])
    assert ((np.bincount(places, minlength=20) - 100) ** 2 / 100).sum() < 50


def mixed(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def plainly_permuted(x: int, n: int, key: int) -> int:
    """The same network in Python's own integers, one position at a time."""
    a = 1
    while a * a < n:
        a += 1
    b = (n + a - 1) // a
    while True:
        left, right = divmod(x, b)
        for round_ in range(0, 8, 2):
            left = (left + mixed(right + key * (2 * round_ + 3)) % a) % a
            right = (right + mixed(left + key * (2 * round_ + 5)) % b) % b
        x = left * b + right
        if x < n:
            return x


def test_order_is_pinned() -> None:
    # A change of these numbers changes the order of every run that is resumed: it needs a new schema version.
    assert whole(10, 0, 0).tolist() == [3, 8, 9, 0, 5, 2, 4, 7, 6, 1]
    key = key_of(7, np.full(1, 3))
    far = permuted(np.arange(5), np.int64(1_000_003), key)
    assert far.tolist() == [plainly_permuted(x, 1_000_003, mixed(mixed(7) + 3)) for x in range(5)]
    assert Order(45, 8, 3).items_at(np.arange(200, 206))[0].tolist() == [44, 7, 12, 18, 40, 28]


ORDERS = st.builds(
    Order,
    n=st.integers(1, 400),
    partitions=st.integers(1, 12),
    seed=st.integers(-(2**40), 2**70),
    cell=st.integers(0, 30),
    cells=st.integers(0, 5),
)


@settings(max_examples=300, deadline=None)
@given(order=ORDERS, first=st.integers(0, 10**12), passes=st.integers(1, 3))
@example(order=Order(3, 8, 0), first=0, passes=3)
@example(order=Order(103, 4, 7, 5, 2), first=10**12, passes=2)
def test_every_item_comes_once_a_pass(order: Order, first: int, passes: int) -> None:
    for pass_ in range(first, first + passes):
        position = np.arange(pass_ * order.n, (pass_ + 1) * order.n)
        item, pass_of = order.items_at(position)
        assert sorted(item.tolist()) == list(range(order.n))
        assert set(pass_of.tolist()) == {pass_}
        for p in range(order.partitions):
            mine = item[position % order.partitions == p]
            assert set(mine.tolist()) <= set(order.owned(range(p, p + 1)).tolist())


@settings(max_examples=100, deadline=None)
@given(order=ORDERS, where=st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_a_position_means_the_same_whatever_is_asked_with_it(order: Order, where: list[int]) -> None:
    together = order.items_at(np.array(where))[0]
    alone = [int(order.items_at(np.array([w]))[0][0]) for w in where]
    assert together.tolist() == alone


def test_partitions_own_equal_shares_and_only_what_is_left_over_is_shared() -> None:
    order = Order(103, 4, 0)
    owned = [set(order.owned(range(p, p + 1)).tolist()) for p in range(4)]
    assert [len(items) for items in owned] == [28] * 4
    assert owned[0] & owned[1] == {100, 101, 102}
    assert set.union(*owned) == set(range(103))
    assert order.owned(range(4)).tolist() == list(range(103))


def test_a_window_mixes_few_cells_and_all_of_each() -> None:
    n, cell, cells = 1000, 50, 4
    order = Order(n, 1, 3, cell, cells)
    item = order.items_at(np.arange(n))[0]
    windows = [item[k : k + cell * cells] for k in range(0, n, cell * cells)]
    for window in windows:
        assert len(set((window // cell).tolist())) == cells
        # Mixed over the window: the correlation with a sorted one has a standard error of 1/sqrt(200).
        assert abs(np.corrcoef(window, np.arange(len(window)))[0, 1]) < 0.3
    # Which cells share a window changes with the pass.
    other = order.items_at(np.arange(n, 2 * n))[0]
    assert set((other[: cell * cells] // cell).tolist()) != set((windows[0] // cell).tolist())


def test_order_of_ten_million_needs_no_list_of_them() -> None:
    position = np.array([0, 5_000_000, 9_999_999])
    item, pass_ = Order(10_000_000, 64, 3).items_at(position + 12 * 10_000_000)
    assert len(set(item.tolist())) == 3
    assert item.max() < 10_000_000
    assert pass_.tolist() == [12] * 3
