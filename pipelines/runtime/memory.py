"""Peak memory of this process, on the device and on the host."""

import re
import resource
from contextlib import suppress
from pathlib import Path

import torch


def peak_memory_bytes() -> int:
    """Return the peak memory of this process in bytes: on the GPU, or of the host if there is no GPU."""
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else host_peak_memory_bytes()


def host_peak_memory_bytes() -> int:
    """Return the peak host memory of this process in bytes.

    Reads ``/proc/self/status`` where it exists, because getrusage starts at the peak of the parent process.
    """
    status = Path("/proc/self/status")
    if match := re.search(r"VmHWM:\s+(\d+) kB", status.read_text() if status.exists() else ""):
        return int(match[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak_memory() -> None:
    """Reset the peaks to the memory in use now, where the operating system supports it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
