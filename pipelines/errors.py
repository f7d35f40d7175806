"""What a job's exit code tells a scheduler."""

DONE = 0
FAILED = 1
REQUEUE = 75
"""Stopped on request with everything saved: start it again."""
WRONG_RECIPE = 78
"""The recipe is wrong: starting it again cannot help."""


class RunError(RuntimeError):
    """A run cannot go on; the message is one line that says what is wrong, where, and what to do."""
