"""Exceptions of the package ``encoder``."""


class ModelError(RuntimeError):
    """A model, release or concept is missing, broken or does not fit. The message is one line and says what to do."""
