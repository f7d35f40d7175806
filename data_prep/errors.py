"""What data preparation can refuse, each in one line that says what is wrong, where, and what to do."""


class DataError(RuntimeError):
    """The input or the shards are bad."""


class SampleReadError(DataError):
    """A stored sample cannot be read, however often it is tried."""

    def __init__(self, message: str, *, sample: str = "", shard_lost: bool = False) -> None:
        super().__init__(message)
        self.sample = sample
        """Its key, or shard and row where the key is not known."""
        self.shard_lost = shard_lost
        """Whether its neighbours in the shard cannot be read, either."""
