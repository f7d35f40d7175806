"""Standard output that is closed or cannot be written."""

import errno
import os
import select
import sys


def open_missing_streams() -> None:
    """Open the null device for standard streams that are closed, so that no other file gets their descriptors."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w", closefd=False))  # noqa: PTH123, SIM115


def flush_stdout() -> OSError | None:
    """Flush standard output. If it cannot be written, as when its reader has ended, discard it and return the error."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # it is an object in memory
        return None
    try:
        sys.stdout.flush()
        os.write(descriptor, b"")  # fails also when nothing is left to flush
        if _has_lost_its_reader(descriptor):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    except OSError as error:
        discard_stdout()
        return error
    return None


def _has_lost_its_reader(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def discard_stdout() -> None:
    """Send everything that is written to standard output to the null device."""
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, sys.stdout.fileno())
    os.close(null_device)
