import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.stream.shuffle import WeightedInterleave
from e4t_errors import ConfigError

weights = st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=4)


@given(weights, st.integers(0, 2**40), st.integers(0, 50))
def test_every_block_has_the_exact_fraction_of_each_dataset(given: list[float], seed: int, block: int) -> None:
    interleave = WeightedInterleave(given, seed=seed)
    datasets = [
        interleave.locate(index)[0]
        for index in range(block * interleave.block_size, (block + 1) * interleave.block_size)
    ]
    fractions = [datasets.count(number) / interleave.block_size for number in range(len(given))]
    assert fractions == pytest.approx([weight / sum(given) for weight in given])


@given(weights, st.integers(0, 300))
def test_the_positions_of_each_dataset_have_no_gaps(given: list[float], start: int) -> None:
    interleave = WeightedInterleave(given, seed=3)
    positions = [interleave.locate(index) for index in range(start, start + 100)]
    for number in range(len(given)):
        first = interleave.count_before(start, number)
        own = [position for dataset, position in positions if dataset == number]
        assert own == list(range(first, first + len(own)))


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_lookups_do_not_depend_on_their_order(indices: list[int]) -> None:
    interleave = WeightedInterleave([1, 3], seed=5)
    assert [interleave.locate(index) for index in indices] == [
        WeightedInterleave([1, 3], seed=5).locate(index) for index in indices
    ]


def test_the_pattern_differs_between_blocks_and_seeds() -> None:
    def block(seed: int, number: int) -> list[int]:
        interleave = WeightedInterleave([0.7, 0.3, 1.0], seed=seed)
        return [interleave.locate(number * interleave.block_size + index)[0] for index in range(interleave.block_size)]

    assert len({tuple(block(seed, number)) for seed in range(3) for number in range(3)}) == 9


def test_weights_that_need_a_long_block_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"stream.mixture: weights \[1.0, 0.123457\].* give weights with fewer digits"
    ):
        WeightedInterleave([1.0, 0.123457], seed=0)


def test_the_mixture_equals_that_of_earlier_versions() -> None:
    interleave = WeightedInterleave([1.0, 0.5], seed=42)
    assert [interleave.locate(index) for index in range(9)] == [
        (0, 0),
        (1, 0),
        (0, 1),
        (1, 1),
        (0, 2),
        (0, 3),
        (1, 2),
        (0, 4),
        (0, 5),
    ]
