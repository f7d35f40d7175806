"""Find duplicates: identical files, and images whose perceptual hashes are close."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Hashes: TypeAlias = NDArray[np.uint64]
Indices: TypeAlias = NDArray[np.signedinteger[Any]]
IndexPairs: TypeAlias = tuple[Indices, Indices]
"""Two arrays of indices; in each pair the smaller index comes first."""

# Limits that affect the cost of the search, not its result.
_MAX_PAIRS = 2**20
_MAX_BUCKET = 256
_CHUNK = 2**18
_COMPARE_NS, _COMPARE_SORTED_NS, _SORT_NS = 3.5, 20.0, 150.0


@dataclass(frozen=True)
class DuplicateMap:
    """For each image the index of the image that it duplicates, or -1. At most one of the two entries is not -1."""

    exact: NDArray[np.int64]
    """Index of the first image with the same file, which may itself be a near duplicate of another."""
    near: NDArray[np.int64]
    """Index of the first kept image that looks the same."""


def find_duplicates(sha256: NDArray[np.uint8], hashes: Hashes | None, max_distance: int | None) -> DuplicateMap:
    """Determine which of n images are duplicates of earlier ones.

    ``sha256`` (n, 32) are the digests of the files and ``hashes`` (n,) their perceptual hashes; without hashes or
    without ``max_distance`` only exact duplicates are found. Images that are not exact duplicates are visited in order,
    and each is kept unless its hash is within ``max_distance`` bits of one that was kept before. So every near
    duplicate looks like a kept image, and no two kept images look the same. (Connected components would not depend on
    the order, but would merge a chain of small steps, such as the frames of a film, into one image however far apart
    its ends are.) The result depends only on the order of the images, not on their distribution over workers, and
    swapping images that no chain of near duplicates connects has no effect.

    10 million random hashes take 40 s at distance 4 on one core, and 110 bytes per image in addition to the arguments;
    one million take 2 s at distance 4, 5 s at 6, and 25 s at 8. Beyond 8 nearly all pairs have to be compared, and most
    matches are chance: of a million random hashes 221 are within 8 bits of another, of 100,000 nearly half within 15.
    """
    exact = _first_equal(list(sha256.view(np.uint64).T))
    near = np.full(len(exact), -1, dtype=np.int64)
    if hashes is not None and max_distance is not None:
        unique = np.flatnonzero(exact < 0)
        duplicate_of = _greedy_keep(hashes[unique], max_distance)
        near[unique] = np.where(duplicate_of < 0, -1, unique[duplicate_of])
    return DuplicateMap(exact=exact, near=near)


def _greedy_keep(hashes: Hashes, max_distance: int) -> Indices:
    """Return for each hash the index of the first kept hash within the distance, or -1 if it is kept itself."""
    first_equal = _first_equal([hashes])
    distinct = np.flatnonzero(first_equal < 0)
    equal = np.flatnonzero(first_equal >= 0)
    first = first_equal[equal]
    found = _first_within(hashes[distinct], max_distance)
    duplicate_of = np.full(len(hashes), -1)
    duplicate_of[distinct] = np.where(found < 0, -1, distinct[found])
    # A hash that equals a dropped one duplicates the same image as that one.
    duplicate_of[equal] = np.where(duplicate_of[first] < 0, first, duplicate_of[first])
    return duplicate_of


def _first_equal(columns: list[Hashes]) -> NDArray[np.int64]:
    """Return for each row the index of the first row that is equal in every column, or -1 for that first row."""
    order = np.lexsort(columns)
    starts_run = np.ones(len(order), dtype=bool)
    starts_run[1:] = False
    for column in columns:
        values = column[order]
        starts_run[1:] |= values[1:] != values[:-1]
    # lexsort is stable, so the first row of a run of equal rows has the smallest index.
    run_firsts = order[np.flatnonzero(starts_run)]
    first = np.empty(len(order), dtype=np.int64)
    first[order] = run_firsts[np.cumsum(starts_run) - 1]
    first[run_firsts] = -1
    return first


def _first_within(hashes: Hashes, max_distance: int) -> Indices:
    """Return for each of n distinct hashes the index of the first kept one within the distance, or -1 if it is kept.

    If there are too many close pairs to hold in memory, the first half is resolved alone. In the second half, hashes
    close to kept ones of the first half are duplicates, and the rest is resolved recursively.
    """
    pairs = _collect_pairs(hashes, max_distance, limit=max(_MAX_PAIRS, len(hashes)))
    if pairs is not None:
        return _resolve_pairs(len(hashes), *pairs)
    half = len(hashes) // 2
    first = np.full(len(hashes), -1)
    first[:half] = _first_within(hashes[:half], max_distance)
    kept = np.flatnonzero(first[:half] < 0)
    first[half:] = _nearest_kept(hashes[kept], hashes[half:], kept, max_distance)
    rest = half + np.flatnonzero(first[half:] < 0)
    found = _first_within(hashes[rest], max_distance)
    first[rest] = np.where(found < 0, -1, rest[found])
    return first


def _resolve_pairs(count: int, first: Indices, second: Indices) -> Indices:
    """Resolve the pairs in order: the second is a duplicate of the first if the first is kept."""
    order = np.lexsort((first, second))
    duplicate_of = np.full(count, -1)
    for start in range(0, len(order), _CHUNK):
        part = order[start : start + _CHUNK]
        for one, other in zip(first[part].tolist(), second[part].tolist(), strict=True):
            if duplicate_of[other] < 0 and duplicate_of[one] < 0:
                duplicate_of[other] = one
    return duplicate_of


def _nearest_kept(kept: Hashes, others: Hashes, indices: Indices, max_distance: int) -> Indices:
    """Return for each of the others the index of the first kept hash within the distance, or -1."""
    nearest = np.full(len(others), len(kept))
    for one, other in _candidate_pairs(np.concatenate([kept, others]), max_distance):
        across = (one < len(kept)) & (other >= len(kept))
        np.minimum.at(nearest, other[across] - len(kept), one[across])
    return np.where(nearest == len(kept), -1, np.append(indices, -1)[nearest])


def _collect_pairs(hashes: Hashes, max_distance: int, limit: int) -> IndexPairs | None:
    """Return all pairs within the distance, or None if there are more than ``limit``."""
    found: list[IndexPairs] = []
    count = 0
    for pair in _candidate_pairs(hashes, max_distance):
        count += len(pair[0])
        if count > limit:
            return None
        found.append(pair)
    if not found:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.concatenate([one for one, _ in found]), np.concatenate([other for _, other in found])


def _candidate_pairs(hashes: Hashes, max_distance: int) -> Iterator[IndexPairs]:
    """Yield every pair of hashes that differ in at most ``max_distance`` bits exactly once, in batches.

    If the 64 bits are divided into ``max_distance`` + k bands, such a pair is equal in at least k of them. So for every
    choice of k bands, the hashes are sorted by these bands and those that are equal in them are compared.
    """
    bands, equal = _choose_bands(len(hashes), max_distance)
    if equal == 0:
        yield from _compare_all(hashes, max_distance)
        return
    for chosen in combinations(range(len(bands)), equal):
        mask = sum(bands[band] for band in chosen)
        before = [bands[band] for band in range(chosen[-1]) if band not in chosen]
        for one, other in _pairs_in_buckets(hashes, mask, max_distance):
            new = np.ones(len(one), dtype=bool)
            differing = hashes[one] ^ hashes[other]
            # Skip pairs that an earlier choice of bands has already found.
            for band in before:
                new &= (differing & np.uint64(band)) != 0
            if new.any():
                yield one[new], other[new]


def _choose_bands(count: int, max_distance: int) -> tuple[list[int], int]:
    """Return the bands as bit masks and the number of bands that must be equal, at the lowest cost for random hashes.

    The number may be 0, which means comparing all pairs.
    """
    all_pairs = count * count / 2
    costs = {0: all_pairs * _COMPARE_NS}
    for equal in range(1, 6):
        agreeing = all_pairs / 2 ** (64 * equal / (max_distance + equal))
        costs[equal] = math.comb(max_distance + equal, equal) * (count * _SORT_NS + agreeing * _COMPARE_SORTED_NS)
    equal = min(costs, key=costs.__getitem__)
    # Assign bits round-robin: low frequencies discriminate better than high ones, and every band gets some of each.
    bands = [sum(1 << bit for bit in range(band, 64, max_distance + equal)) for band in range(max_distance + equal)]
    return bands, equal


def _pairs_in_buckets(hashes: Hashes, mask: int, max_distance: int) -> Iterator[IndexPairs]:
    """Yield the pairs within the distance whose bits in ``mask`` are equal."""
    keys = hashes & np.uint64(mask)
    order = np.argsort(keys).astype(np.int32)
    keys = keys[order]
    edges = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1], [True]))).astype(np.int32)
    del keys
    lengths = np.diff(edges)
    for run in np.flatnonzero(lengths > _MAX_BUCKET):
        members = np.sort(order[edges[run] : edges[run + 1]])
        for one, other in _compare_all(hashes[members], max_distance):
            yield members[one], members[other]
    ends = np.repeat(np.where(lengths > _MAX_BUCKET, edges[:-1], edges[1:]), lengths)
    yield from _compare_runs(hashes, order, ends, max_distance)


def _compare_runs(hashes: Hashes, order: Indices, ends: Indices, max_distance: int) -> Iterator[IndexPairs]:
    """Compare each hash in sorted order with all following ones up to the end of its run."""
    values = hashes[order]
    positions = np.arange(len(order), dtype=np.int32)
    step = 0
    while True:
        step += 1
        positions = positions[positions + step < ends[positions]]
        if not len(positions):
            return
        near = positions[np.bitwise_count(values[positions] ^ values[positions + step]) <= max_distance]
        if len(near):
            one, other = order[near], order[near + step]
            yield np.minimum(one, other), np.maximum(one, other)


def _compare_all(hashes: Hashes, max_distance: int) -> Iterator[IndexPairs]:
    """Compare all pairs, in blocks that fit into the processor's cache."""
    rows = max(1, _CHUNK // max(1, len(hashes)))
    for start in range(0, len(hashes), rows):
        for column in range(start, len(hashes), _CHUNK):
            block = hashes[start : start + rows, None] ^ hashes[None, column : column + _CHUNK]
            one, other = np.nonzero(np.bitwise_count(block) <= max_distance)
            one, other = one + start, other + column
            later = one < other
            if later.any():
                yield one[later], other[later]
