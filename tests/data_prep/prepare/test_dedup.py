from collections.abc import Sequence
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_prep.prepare import dedup
from data_prep.prepare.dedup import find_duplicates


def digests(names: Sequence[str]) -> NDArray[np.uint8]:
    """Return one digest per file; files with equal names have equal digests."""
    return np.array([list(name.encode().ljust(32)) for name in names], dtype=np.uint8).reshape(-1, 32)


def near(hashes: Sequence[int], distance: int) -> list[int]:
    """Find the near duplicates among files that all differ."""
    duplicates = find_duplicates(
        digests([str(position) for position in range(len(hashes))]), np.array(hashes, np.uint64), distance
    )
    return duplicates.near.tolist()


def test_an_identical_file_is_an_exact_duplicate_of_the_first() -> None:
    duplicates = find_duplicates(digests(["a", "b", "a", "c", "a", "b"]), None, None)
    assert duplicates.exact.tolist() == [-1, -1, 0, -1, 0, 1]
    assert duplicates.near.tolist() == [-1] * 6


def test_files_whose_digests_differ_in_the_last_byte_are_not_duplicates() -> None:
    assert find_duplicates(digests(["a" * 31 + "b", "a" * 31 + "c"]), None, None).exact.tolist() == [-1, -1]


def test_hashes_are_ignored_without_a_maximum_distance() -> None:
    assert find_duplicates(digests(["a", "b"]), np.zeros(2, np.uint64), None).near.tolist() == [-1, -1]


def test_an_exact_duplicate_is_not_a_near_duplicate_and_its_hash_is_ignored() -> None:
    duplicates = find_duplicates(digests(["a", "a", "b"]), np.array([0, 2**40 - 1, 2**40 - 1], np.uint64), 4)
    assert duplicates.exact.tolist() == [-1, 0, -1]
    assert duplicates.near.tolist() == [-1, -1, -1]


def test_distance_0_matches_equal_hashes_only() -> None:
    assert near([5, 7, 5, 5, 7, 6], distance=0) == [-1, -1, 0, 0, 1, -1]


def test_in_a_chain_of_small_steps_every_image_far_from_the_kept_ones_is_kept() -> None:
    assert near([0b0, 0b1, 0b11, 0b111, 0b1111], distance=1) == [-1, 0, -1, 2, -1]


def test_a_duplicate_of_two_images_is_assigned_to_the_first() -> None:
    assert near([0b0011, 0b1100, 0b0000], distance=2) == [-1, -1, 0]


def test_an_empty_dataset_has_no_duplicates() -> None:
    assert near([], distance=4) == []


@st.composite
def clusters(draw: st.DrawFn) -> list[int]:
    """Generate hashes with small and large distances, some of them equal."""
    centers = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3))
    flips = st.lists(st.integers(0, 63), max_size=6)
    hashes = []
    for center, positions in draw(st.lists(st.tuples(st.sampled_from(centers), flips), max_size=40)):
        hashes.append(center ^ sum(1 << position for position in set(positions)))
    return hashes


def find_by_plain_loop(hashes: Sequence[int], distance: int) -> list[int]:
    """Find near duplicates by the definition in the docstring of ``find_duplicates``."""
    duplicates: list[int] = []
    for one in hashes:
        kept = (position for position, original in enumerate(duplicates) if original < 0)
        duplicates.append(next((position for position in kept if (hashes[position] ^ one).bit_count() <= distance), -1))
    return duplicates


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({}, id="compared directly"),
        pytest.param({"_COMPARE_NS": 1e9, "_COMPARE_SORTED_NS": 0}, id="sorted by one band"),
        pytest.param({"_COMPARE_NS": 1e9, "_SORT_NS": 0}, id="sorted by several bands"),
        pytest.param({"_COMPARE_NS": 1e9, "_MAX_BUCKET": 1}, id="long buckets"),
        pytest.param({"_MAX_PAIRS": 1}, id="too many pairs"),
        pytest.param({"_CHUNK": 7}, id="in small blocks"),
    ],
)
@given(hashes=clusters(), distance=st.integers(0, 6))
def test_duplicates_equal_those_of_a_plain_loop(limits: dict[str, float], hashes: list[int], distance: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(dedup, name, value)
        assert near(hashes, distance) == find_by_plain_loop(hashes, distance)


@given(hashes=clusters(), distance=st.integers(0, 8), random=st.randoms())
def test_unconnected_images_can_be_reordered_without_effect(hashes: list[int], distance: int, random: Random) -> None:
    def kept(order: list[int]) -> set[int]:
        duplicates = near([hashes[position] for position in order], distance)
        return {position for position, original in zip(order, duplicates, strict=True) if original < 0}

    order = list(range(len(hashes)))
    shuffled = order.copy()
    random.shuffle(shuffled)
    chains = linked(hashes, distance)
    # The images of each chain keep their order, at the positions that the shuffle assigned to the chain.
    remaining = {chain: [position for position in order if chains[position] == chain] for chain in set(chains)}
    assert kept([remaining[chains[position]].pop(0) for position in shuffled]) == kept(order)


def linked(hashes: Sequence[int], distance: int) -> list[int]:
    """Return the number of the chain of each hash."""
    chains = list(range(len(hashes)))
    for index, one in enumerate(hashes):
        for position, other in enumerate(hashes[:index]):
            if (one ^ other).bit_count() <= distance:
                chains = [chains[index] if chain == chains[position] else chain for chain in chains]
    return chains


def test_the_search_finds_planted_duplicates_among_many_hashes() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 20_000, dtype=np.uint64)
    hashes[10_000:] = hashes[:10_000] ^ np.uint64(0b1001001)
    expected = [-1] * 10_000 + list(range(10_000))
    assert near(hashes.tolist(), distance=4) == expected


def test_many_similar_hashes_do_not_need_memory_for_all_pairs() -> None:
    random = np.random.default_rng(0)
    hashes = sorted(set(random.integers(0, 2**12, 3_000).tolist()), key=lambda one: (one * 7919) % 4096)
    kept = [one for one, original in zip(hashes, near(hashes, distance=4), strict=True) if original < 0]
    assert all((one ^ other).bit_count() > 4 for one, other in combinations(kept, 2))
