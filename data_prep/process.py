"""How a process that makes pictures uses its machine."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's numbers for mallopt."""
_KEPT, _OF_THE_HEAP = 2**28, 2**25
"""Up to 256 MiB stay with the process; buffers of up to 32 MiB, the most that glibc allows, come from them."""


def settle_in() -> None:
    """One core, and memory that is used again for the next picture.

    Without the first, kornia-rs starts as many threads as there are cores, in each of as many processes. Without the
    second, glibc hands a picture's buffers back and the kernel clears as many pages for the next: 2,000 page faults and
    5 of 23 CPU ms a picture. A machine of another C library goes without.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_TRIM_THRESHOLD, _KEPT)
            mallopt(_MMAP_THRESHOLD, _OF_THE_HEAP)
