"""The launcher of this process: another ``e4t`` that waits for it, passes signals on and reports its end."""

import os

LAUNCHER_PID = "E4T_LAUNCHER_PID"
"""Environment variable with the process id of the launcher."""


def launcher_pid() -> int | None:
    """Return the process id of the launcher, or None if another program has started this process."""
    parent = os.getppid()
    return parent if os.environ.get(LAUNCHER_PID) == str(parent) else None
