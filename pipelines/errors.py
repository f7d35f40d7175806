"""What a job's exit code tells a scheduler."""

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_REQUEUE = 75
"""Stopped on request with everything saved: start it again."""
EXIT_CONFIG_ERROR = 78
"""The recipe is wrong: starting it again cannot help."""


class RunError(RuntimeError):
    """A run cannot go on; the message is one line that says what is wrong, where, and what to do."""
