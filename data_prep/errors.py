"""What data preparation can refuse, each in one line that says what is wrong, where, and what to do."""


class ConfigError(ValueError):
    """The recipe is wrong; trying again cannot help."""


class DataError(RuntimeError):
    """The input or the shards are bad."""
