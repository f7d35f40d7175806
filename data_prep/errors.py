"""Errors of data preparation and reading. Each message is one line: what is wrong, where, and what to do."""


class DataError(RuntimeError):
    """The input data or the shards are unusable."""


class SampleReadError(DataError):
    """A stored sample cannot be read, even after retries."""

    def __init__(self, message: str, *, sample: str = "", shard_lost: bool = False) -> None:
        super().__init__(message)
        self.sample = sample
        """Sample key, or shard and row if the key is unknown."""
        self.shard_lost = shard_lost
        """Whether the other samples of the shard are unreadable, too."""


class SourceChangedError(DataError):
    """The source was changed after it was listed, so that the plan no longer describes it."""


class SampleRejected(Exception):  # noqa: N818 - an outcome, not an error
    """The image is not taken into the dataset. The message is the reason, from a small fixed set."""

    def __init__(self, reason: str, *, cause: str = "", retryable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        """Reason from a small fixed set, so that reasons can be counted."""
        self.cause = cause
        """Details of this case, such as the error message; empty if the reason says everything."""
        self.retryable = retryable
        """Whether the reason may be temporary, so that the next run reads the image again."""
