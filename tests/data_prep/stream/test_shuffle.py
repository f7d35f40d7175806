import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.stream.shuffle import GlobalOrder, permutation

shards_with_samples = st.lists(st.integers(0, 5), min_size=1, max_size=12).filter(any)


@given(shards_with_samples, st.integers(0, 2**40), st.integers(1, 14), st.integers(0, 3))
def test_each_sample_occurs_once_per_epoch(counts: list[int], seed: int, window: int, epoch: int) -> None:
    order = GlobalOrder(counts, seed=seed, window_shards=window)
    start = epoch * order.epoch_samples
    positions = [order.locate(index) for index in range(start, start + order.epoch_samples)]
    assert {position.epoch for position in positions} == {epoch}
    assert sorted((position.shard, position.row) for position in positions) == [
        (shard, row) for shard, count in enumerate(counts) for row in range(count)
    ]


@given(shards_with_samples, st.integers(1, 14), st.lists(st.integers(0, 200), min_size=1, max_size=20))
def test_lookups_do_not_depend_on_their_order(counts: list[int], window: int, indices: list[int]) -> None:
    in_order = GlobalOrder(counts, seed=7, window_shards=window)
    expected = [in_order.locate(index) for index in range(201)]
    out_of_order = GlobalOrder(counts, seed=7, window_shards=window)
    assert [out_of_order.locate(index) for index in indices] == [expected[index] for index in indices]


@given(st.integers(1, 5))
def test_reads_stay_within_a_window_of_shards(window: int) -> None:
    order = GlobalOrder([4] * 20, seed=3, window_shards=window)
    for start in range(0, 80 - 4 * window, 4 * window):
        assert len({order.locate(index).shard for index in range(start, start + 4 * window)}) == window


def test_the_order_differs_between_epochs_and_seeds() -> None:
    def epoch(seed: int, number: int) -> list[tuple[int, int]]:
        order = GlobalOrder([10] * 10, seed=seed, window_shards=4)
        return [order.locate(number * 100 + index)[1:] for index in range(100)]

    assert len({tuple(epoch(seed, number)) for seed in range(3) for number in range(3)}) == 9


def test_neighbors_in_a_shard_are_separated() -> None:
    order = GlobalOrder([100] * 8, seed=0, window_shards=8)
    shards = [order.locate(index).shard for index in range(800)]
    same = sum(a == b for a, b in zip(shards, shards[1:], strict=False))
    assert same < 200


@given(st.integers(0, 300), st.lists(st.integers(0, 2**63), min_size=1, max_size=4))
def test_permutation_contains_every_index_once(length: int, key: list[int]) -> None:
    assert np.array_equal(np.sort(permutation(length, *key)), np.arange(length))


def test_the_order_equals_that_of_earlier_versions() -> None:
    order = GlobalOrder([3, 1, 2], seed=42, window_shards=2)
    assert [tuple(order.locate(index)) for index in range(8)] == [
        (0, 0, 1),
        (0, 1, 0),
        (0, 0, 0),
        (0, 0, 2),
        (0, 2, 1),
        (0, 2, 0),
        (1, 2, 0),
        (1, 1, 0),
    ]
