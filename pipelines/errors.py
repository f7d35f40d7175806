"""Exit codes of the commands, and the error of a run that cannot continue."""

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_REQUEUE = 75
"""Stopped on request with a checkpoint saved; the scheduler should start the command again."""
EXIT_CONFIG_ERROR = 78
"""The configuration is wrong; starting the command again cannot succeed."""


class RunError(RuntimeError):
    """A run cannot continue. The message is one line that says what is wrong, where, and what to do."""
