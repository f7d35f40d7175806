"""Assign identities to splits."""

import hashlib

from data_prep.config import SplitFractions

SPLITS = ("train", "val", "test")


def split_of(identity: str, fractions: SplitFractions) -> str:
    """Return the split of an identity (train, val or test), which depends only on its name.

    An identity stays in its split when images or other identities are added or removed.
    """
    position = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    if position < fractions.test:
        return "test"
    return "val" if position < fractions.test + fractions.val else "train"
