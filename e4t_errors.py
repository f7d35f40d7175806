"""The error that every package may raise. This module imports nothing, so that the packages stay independent."""


class ConfigError(ValueError):
    """The configuration is wrong, so running again without changing it cannot succeed (exit code 78)."""
