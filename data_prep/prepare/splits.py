"""Splits by identity."""

import hashlib

from data_prep.config import SplitFractions

SPLITS = ("train", "val", "test")


def split_of(identity: str, fractions: SplitFractions) -> str:
    """``train``, ``val`` or ``test``: a function of the identity's name alone, never of the rest of the set.

    A set that grows or shrinks moves no identity from one split to another.
    """
    position = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    if position < fractions.test:
        return "test"
    return "val" if position < fractions.test + fractions.val else "train"
