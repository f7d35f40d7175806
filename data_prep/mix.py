"""Which set each position of a mixed stream comes from: a function of seed and position alone."""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np

from data_prep.errors import ConfigError
from data_prep.order import Integers, permutation

LONGEST_BLOCK = 10_000


class Mix:
    """Sets interleaved by weight.

    The line is cut into blocks of ``len(shares)`` positions in all, the smallest number in which every weight is a
    whole one. Each block holds every set's share exactly, shuffled; so how many of a set come before any position
    follows by arithmetic.
    """

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        """Raises ConfigError if the weights have no common measure that is short enough."""
        parts = [Fraction(str(weight)) for weight in weights]
        whole = math.lcm(*(part.denominator for part in parts))
        counts = [int(part * whole) for part in parts]
        self.counts = [count // math.gcd(*counts) for count in counts]
        """Positions of each set in a block."""
        self.block = sum(self.counts)
        """Positions in a block."""
        if self.block > LONGEST_BLOCK:
            raise ConfigError(
                f"stream.mix: weights {list(weights)} (the first is of the recipe's own set) are exact only over "
                f"{self.block} samples; give weights with fewer digits (at most {LONGEST_BLOCK} samples)"
            )
        self._seed = seed
        self._pattern = lru_cache(maxsize=4)(self._make_pattern)

    def place(self, index: int) -> tuple[int, int]:
        """The set at a position, from 0, and the position in that set's own line."""
        block, within = divmod(index, self.block)
        sets, before = self._pattern(block)
        number = int(sets[within])
        return number, block * self.counts[number] + int(before[within])

    def before(self, index: int, number: int) -> int:
        """How many of a set come before a position."""
        block, within = divmod(index, self.block)
        sets, _ = self._pattern(block)
        return block * self.counts[number] + int(np.count_nonzero(sets[:within] == number))

    def _make_pattern(self, block: int) -> tuple[Integers, Integers]:
        """The set at each position of the block, and how many of it come before in the block."""
        sets = np.repeat(np.arange(len(self.counts)), self.counts)
        # Four numbers, the last not 0: no key of an epoch or a window is the same.
        sets = sets[permutation(self.block, self._seed, block, 0, 1)]
        before = np.empty_like(sets)
        for number, count in enumerate(self.counts):
            before[sets == number] = np.arange(count)
        return sets, before
