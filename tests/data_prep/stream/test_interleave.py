import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.stream.shuffle import WeightedInterleave
from e4t import ConfigError

weights = st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=4)


@given(weights, st.integers(0, 2**40), st.integers(0, 50))
def test_every_block_has_each_sets_exact_share(given: list[float], seed: int, block: int) -> None:
    mix = WeightedInterleave(given, seed=seed)
    sets = [mix.locate(index)[0] for index in range(block * mix.block_size, (block + 1) * mix.block_size)]
    shares = [sets.count(number) / mix.block_size for number in range(len(given))]
    assert shares == pytest.approx([weight / sum(given) for weight in given])


@given(weights, st.integers(0, 300))
def test_each_sets_own_line_is_walked_without_a_gap(given: list[float], start: int) -> None:
    mix = WeightedInterleave(given, seed=3)
    walked = [mix.locate(index) for index in range(start, start + 100)]
    for number in range(len(given)):
        first = mix.count_before(start, number)
        own = [place for source, place in walked if source == number]
        assert own == list(range(first, first + len(own)))


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_a_position_has_one_place_in_whatever_order_it_is_asked(indices: list[int]) -> None:
    walked = WeightedInterleave([1, 3], seed=5)
    assert [walked.locate(index) for index in indices] == [
        WeightedInterleave([1, 3], seed=5).locate(index) for index in indices
    ]


def test_blocks_and_seeds_differ() -> None:
    def block(seed: int, number: int) -> list[int]:
        mix = WeightedInterleave([0.7, 0.3, 1.0], seed=seed)
        return [mix.locate(number * mix.block_size + index)[0] for index in range(mix.block_size)]

    assert len({tuple(block(seed, number)) for seed in range(3) for number in range(3)}) == 9


def test_weights_that_are_exact_over_no_short_block_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"stream.mixture: weights \[1.0, 0.123457\].* give weights with fewer digits"
    ):
        WeightedInterleave([1.0, 0.123457], seed=0)


def test_the_mix_is_the_one_that_earlier_runs_were_trained_in() -> None:
    mix = WeightedInterleave([1.0, 0.5], seed=42)
    assert [mix.locate(index) for index in range(9)] == [
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
