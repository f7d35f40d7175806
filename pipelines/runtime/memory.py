"""Peak memory of the device and the host."""

import re
import resource
from contextlib import suppress
from pathlib import Path

import torch


def peak_memory_bytes() -> int:
    """The most memory that this process has held: on the device, or of the host if there is none."""
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else host_peak_memory_bytes()


def host_peak_memory_bytes() -> int:
    """The most of the host's memory that this process has held.

    Linux' own count is read where there is one: getrusage begins with the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    if found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text() if status.exists() else ""):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak_memory() -> None:
    """Let the peaks begin anew from what is held now, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
