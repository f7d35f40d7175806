"""Copies of a picture: the same file, or a file that looks the same."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data_prep.images.perceptual_hash import _DCT_MATRIX

Hashes: TypeAlias = NDArray[np.uint64]
Indices: TypeAlias = NDArray[np.signedinteger[Any]]
IndexPairs: TypeAlias = tuple[Indices, Indices]
"""Two places each, the earlier first."""

_DCT_MATRIX[0] /= math.sqrt(2)
"""The first rows of the orthonormal DCT (type II)."""

# How a search is cut, which decides what it costs and not what it finds.
_MAX_PAIRS = 2**20
_MAX_BUCKET = 256
_CHUNK = 2**18
_COMPARE_NS, _COMPARE_SORTED_NS, _SORT_NS = 3.5, 20.0, 150.0


@dataclass(frozen=True)
class DuplicateMap:
    """For each picture the place of the one it is a copy of, or -1; at most one of the two is not -1."""

    exact: NDArray[np.int64]
    """The first picture with the same file; it may itself be a near copy of another."""
    near: NDArray[np.int64]
    """The first picture that is kept and looks the same."""


def find_duplicates(sha256: NDArray[np.uint8], hashes: Hashes | None, max_distance: int | None) -> DuplicateMap:
    """Which of n pictures are copies of earlier ones.

    ``sha256`` (n, 32) are their files' digests, ``hashes`` (n,) their perceptual hashes; without hashes or a distance
    only exact copies are found. Of the pictures that are no exact copy, each in turn is kept unless its hash differs in
    at most ``distance`` bits from that of one kept before it. So every near copy has an original that is kept and looks
    like it, and no two that are kept look the same. (Joining whatever is connected through others would not depend on
    the order, but a chain of small steps, such as the frames of a film, would be one picture however far apart its ends
    are.) The outcome follows from the order alone, not from how the set was cut up among workers, and pictures that no
    chain of near copies links can change places without any effect.

    10 million random hashes take 40 s at distance 4 on one core, and 110 bytes a picture beside the arguments; a
    million take 2 s, 5 s at distance 6, 25 s at 8. Beyond 8 nearly all pairs have to be compared, and what is found is
    chance: of a million random hashes 221 are within 8 bits of another, and of 100,000 nearly half within 15.
    """
    exact = _first_equal(list(sha256.view(np.uint64).T))
    near = np.full(len(exact), -1, dtype=np.int64)
    if hashes is not None and max_distance is not None:
        unique = np.flatnonzero(exact < 0)
        duplicate_of = _greedy_keep(hashes[unique], max_distance)
        near[unique] = np.where(duplicate_of < 0, -1, unique[duplicate_of])
    return DuplicateMap(exact=exact, near=near)


def _greedy_keep(hashes: Hashes, max_distance: int) -> Indices:
    """For each hash the first one that is kept and near, or -1 if it is kept itself."""
    first_equal = _first_equal([hashes])
    distinct = np.flatnonzero(first_equal < 0)
    equal = np.flatnonzero(first_equal >= 0)
    first = first_equal[equal]
    found = _first_within(hashes[distinct], max_distance)
    duplicate_of = np.full(len(hashes), -1)
    duplicate_of[distinct] = np.where(found < 0, -1, distinct[found])
    # What equals a hash that is dropped is dropped for the same picture.
    duplicate_of[equal] = np.where(duplicate_of[first] < 0, first, duplicate_of[first])
    return duplicate_of


def _first_equal(columns: list[Hashes]) -> NDArray[np.int64]:
    """For each row the first one that is equal in every column, or -1 for the first itself."""
    order = np.lexsort(columns)
    starts_run = np.ones(len(order), dtype=bool)
    starts_run[1:] = False
    for column in columns:
        values = column[order]
        starts_run[1:] |= values[1:] != values[:-1]
    # Equal rows are in order (lexsort is stable), so the first of a run is the first of them all.
    run_firsts = order[np.flatnonzero(starts_run)]
    first = np.empty(len(order), dtype=np.int64)
    first[order] = run_firsts[np.cumsum(starts_run) - 1]
    first[run_firsts] = -1
    return first


def _first_within(hashes: Hashes, max_distance: int) -> Indices:
    """For each of n different hashes the first one that is kept and near, or -1 if it is kept itself.

    Where more pairs are near than can be held, the first half is decided alone, and of the second only what is not near
    to the kept ones of the first is looked at further.
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
    """Go through the pairs in order: the second is dropped for the first, if that is kept."""
    order = np.lexsort((first, second))
    duplicate_of = np.full(count, -1)
    for start in range(0, len(order), _CHUNK):
        part = order[start : start + _CHUNK]
        for one, other in zip(first[part].tolist(), second[part].tolist(), strict=True):
            if duplicate_of[other] < 0 and duplicate_of[one] < 0:
                duplicate_of[other] = one
    return duplicate_of


def _nearest_kept(kept: Hashes, others: Hashes, indices: Indices, max_distance: int) -> Indices:
    """For each of the others the place of the first kept one that is near, or -1."""
    nearest = np.full(len(others), len(kept))
    for one, other in _candidate_pairs(np.concatenate([kept, others]), max_distance):
        across = (one < len(kept)) & (other >= len(kept))
        np.minimum.at(nearest, other[across] - len(kept), one[across])
    return np.where(nearest == len(kept), -1, np.append(indices, -1)[nearest])


def _collect_pairs(hashes: Hashes, max_distance: int, limit: int) -> IndexPairs | None:
    """Every near pair once, or None if there are more than ``limit``."""
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
    """Every pair of hashes that differ in at most ``distance`` bits, once, a few at a time.

    If the bits are dealt into distance + k bands, such a pair is equal in k of them at least. So for every choice of k
    bands the hashes are sorted by these, and those that are equal in them compared.
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
            # A pair that is equal in more bands was found with the first of them.
            for band in before:
                new &= (differing & np.uint64(band)) != 0
            if new.any():
                yield one[new], other[new]


def _choose_bands(count: int, max_distance: int) -> tuple[list[int], int]:
    """Bands, as masks, and in how many of them to ask for equality: the cheapest choice for random hashes.

    No equality, that is to compare all with all, is one of the choices.
    """
    all_pairs = count * count / 2
    costs = {0: all_pairs * _COMPARE_NS}
    for equal in range(1, 6):
        agreeing = all_pairs / 2 ** (64 * equal / (max_distance + equal))
        costs[equal] = math.comb(max_distance + equal, equal) * (count * _SORT_NS + agreeing * _COMPARE_SORTED_NS)
    equal = min(costs, key=costs.__getitem__)
    # Dealt out like cards: high frequencies tell less than low ones, and every band gets some of each.
    bands = [sum(1 << bit for bit in range(band, 64, max_distance + equal)) for band in range(max_distance + equal)]
    return bands, equal


def _pairs_in_buckets(hashes: Hashes, mask: int, max_distance: int) -> Iterator[IndexPairs]:
    """Near pairs among those that are equal in the bits of ``mask``."""
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
    """Compare each sorted hash with the next, the one after that and so on, up to the end of its run."""
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
    """Compare each hash with all after it, in blocks that fit a processor's cache."""
    rows = max(1, _CHUNK // max(1, len(hashes)))
    for start in range(0, len(hashes), rows):
        for column in range(start, len(hashes), _CHUNK):
            block = hashes[start : start + rows, None] ^ hashes[None, column : column + _CHUNK]
            one, other = np.nonzero(np.bitwise_count(block) <= max_distance)
            one, other = one + start, other + column
            later = one < other
            if later.any():
                yield one[later], other[later]
