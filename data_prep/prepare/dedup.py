"""Copies of a picture: the same file, or a file that looks the same."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data_prep.images.perceptual_hash import _DCT

Hashes: TypeAlias = NDArray[np.uint64]
Places: TypeAlias = NDArray[np.signedinteger[Any]]
Pairs: TypeAlias = tuple[Places, Places]
"""Two places each, the earlier first."""

_DCT[0] /= math.sqrt(2)
"""The first rows of the orthonormal DCT (type II)."""

# How a search is cut, which decides what it costs and not what it finds.
_PAIRS_HELD = 2**20
_LONG_RUN = 256
_AT_ONCE = 2**18
_COMPARE_NS, _COMPARE_SORTED_NS, _SORT_NS = 3.5, 20.0, 150.0


@dataclass(frozen=True)
class Copies:
    """For each picture the place of the one it is a copy of, or -1; at most one of the two is not -1."""

    exact: NDArray[np.int64]
    """The first picture with the same file; it may itself be a near copy of another."""
    near: NDArray[np.int64]
    """The first picture that is kept and looks the same."""


def copies(sha256: NDArray[np.uint8], hashes: Hashes | None, distance: int | None) -> Copies:
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
    exact = _first_alike(list(sha256.view(np.uint64).T))
    near = np.full(len(exact), -1, dtype=np.int64)
    if hashes is not None and distance is not None:
        unlike = np.flatnonzero(exact < 0)
        like = _like(hashes[unlike], distance)
        near[unlike] = np.where(like < 0, -1, unlike[like])
    return Copies(exact=exact, near=near)


def _like(hashes: Hashes, distance: int) -> Places:
    """For each hash the first one that is kept and near, or -1 if it is kept itself."""
    alike = _first_alike([hashes])
    distinct = np.flatnonzero(alike < 0)
    equal = np.flatnonzero(alike >= 0)
    first = alike[equal]
    found = _first_near(hashes[distinct], distance)
    like = np.full(len(hashes), -1)
    like[distinct] = np.where(found < 0, -1, distinct[found])
    # What equals a hash that is dropped is dropped for the same picture.
    like[equal] = np.where(like[first] < 0, first, like[first])
    return like


def _first_alike(columns: list[Hashes]) -> NDArray[np.int64]:
    """For each row the first one that is equal in every column, or -1 for the first itself."""
    order = np.lexsort(columns)
    new = np.ones(len(order), dtype=bool)
    new[1:] = False
    for column in columns:
        values = column[order]
        new[1:] |= values[1:] != values[:-1]
    # Equal rows are in order (lexsort is stable), so the first of a run is the first of them all.
    leaders = order[np.flatnonzero(new)]
    first = np.empty(len(order), dtype=np.int64)
    first[order] = leaders[np.cumsum(new) - 1]
    first[leaders] = -1
    return first


def _first_near(hashes: Hashes, distance: int) -> Places:
    """For each of n different hashes the first one that is kept and near, or -1 if it is kept itself.

    Where more pairs are near than can be held, the first half is decided alone, and of the second only what is not near
    to the kept ones of the first is looked at further.
    """
    pairs = _all_pairs(hashes, distance, limit=max(_PAIRS_HELD, len(hashes)))
    if pairs is not None:
        return _decide(len(hashes), *pairs)
    half = len(hashes) // 2
    first = np.full(len(hashes), -1)
    first[:half] = _first_near(hashes[:half], distance)
    kept = np.flatnonzero(first[:half] < 0)
    first[half:] = _first_across(hashes[kept], hashes[half:], kept, distance)
    rest = half + np.flatnonzero(first[half:] < 0)
    found = _first_near(hashes[rest], distance)
    first[rest] = np.where(found < 0, -1, rest[found])
    return first


def _decide(count: int, first: Places, second: Places) -> Places:
    """Go through the pairs in order: the second is dropped for the first, if that is kept."""
    order = np.lexsort((first, second))
    original = np.full(count, -1)
    for start in range(0, len(order), _AT_ONCE):
        part = order[start : start + _AT_ONCE]
        for one, other in zip(first[part].tolist(), second[part].tolist(), strict=True):
            if original[other] < 0 and original[one] < 0:
                original[other] = one
    return original


def _first_across(kept: Hashes, others: Hashes, places: Places, distance: int) -> Places:
    """For each of the others the place of the first kept one that is near, or -1."""
    nearest = np.full(len(others), len(kept))
    for one, other in _pairs(np.concatenate([kept, others]), distance):
        across = (one < len(kept)) & (other >= len(kept))
        np.minimum.at(nearest, other[across] - len(kept), one[across])
    return np.where(nearest == len(kept), -1, np.append(places, -1)[nearest])


def _all_pairs(hashes: Hashes, distance: int, limit: int) -> Pairs | None:
    """Every near pair once, or None if there are more than ``limit``."""
    found: list[Pairs] = []
    count = 0
    for pair in _pairs(hashes, distance):
        count += len(pair[0])
        if count > limit:
            return None
        found.append(pair)
    if not found:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.concatenate([one for one, _ in found]), np.concatenate([other for _, other in found])


def _pairs(hashes: Hashes, distance: int) -> Iterator[Pairs]:
    """Every pair of hashes that differ in at most ``distance`` bits, once, a few at a time.

    If the bits are dealt into distance + k bands, such a pair is equal in k of them at least. So for every choice of k
    bands the hashes are sorted by these, and those that are equal in them compared.
    """
    bands, equal = _cut(len(hashes), distance)
    if equal == 0:
        yield from _compare_all(hashes, distance)
        return
    for chosen in combinations(range(len(bands)), equal):
        mask = sum(bands[band] for band in chosen)
        before = [bands[band] for band in range(chosen[-1]) if band not in chosen]
        for one, other in _pairs_equal_in(hashes, mask, distance):
            new = np.ones(len(one), dtype=bool)
            differing = hashes[one] ^ hashes[other]
            # A pair that is equal in more bands was found with the first of them.
            for band in before:
                new &= (differing & np.uint64(band)) != 0
            if new.any():
                yield one[new], other[new]


def _cut(count: int, distance: int) -> tuple[list[int], int]:
    """Bands, as masks, and in how many of them to ask for equality: the cheapest choice for random hashes.

    No equality, that is to compare all with all, is one of the choices.
    """
    all_pairs = count * count / 2
    costs = {0: all_pairs * _COMPARE_NS}
    for equal in range(1, 6):
        agreeing = all_pairs / 2 ** (64 * equal / (distance + equal))
        costs[equal] = math.comb(distance + equal, equal) * (count * _SORT_NS + agreeing * _COMPARE_SORTED_NS)
    equal = min(costs, key=costs.__getitem__)
    # Dealt out like cards: high frequencies tell less than low ones, and every band gets some of each.
    bands = [sum(1 << bit for bit in range(band, 64, distance + equal)) for band in range(distance + equal)]
    return bands, equal


def _pairs_equal_in(hashes: Hashes, mask: int, distance: int) -> Iterator[Pairs]:
    """Near pairs among those that are equal in the bits of ``mask``."""
    keys = hashes & np.uint64(mask)
    order = np.argsort(keys).astype(np.int32)
    keys = keys[order]
    edges = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1], [True]))).astype(np.int32)
    del keys
    lengths = np.diff(edges)
    for run in np.flatnonzero(lengths > _LONG_RUN):
        members = np.sort(order[edges[run] : edges[run + 1]])
        for one, other in _compare_all(hashes[members], distance):
            yield members[one], members[other]
    ends = np.repeat(np.where(lengths > _LONG_RUN, edges[:-1], edges[1:]), lengths)
    yield from _compare_runs(hashes, order, ends, distance)


def _compare_runs(hashes: Hashes, order: Places, ends: Places, distance: int) -> Iterator[Pairs]:
    """Compare each sorted hash with the next, the one after that and so on, up to the end of its run."""
    values = hashes[order]
    at = np.arange(len(order), dtype=np.int32)
    step = 0
    while True:
        step += 1
        at = at[at + step < ends[at]]
        if not len(at):
            return
        near = at[np.bitwise_count(values[at] ^ values[at + step]) <= distance]
        if len(near):
            one, other = order[near], order[near + step]
            yield np.minimum(one, other), np.maximum(one, other)


def _compare_all(hashes: Hashes, distance: int) -> Iterator[Pairs]:
    """Compare each hash with all after it, in blocks that fit a processor's cache."""
    rows = max(1, _AT_ONCE // max(1, len(hashes)))
    for start in range(0, len(hashes), rows):
        for column in range(start, len(hashes), _AT_ONCE):
            block = hashes[start : start + rows, None] ^ hashes[None, column : column + _AT_ONCE]
            one, other = np.nonzero(np.bitwise_count(block) <= distance)
            one, other = one + start, other + column
            later = one < other
            if later.any():
                yield one[later], other[later]
