"""What the method can refuse, each in one line that says what is wrong, where, and what to do."""


class ModelError(RuntimeError):
    """A model, release or concept folder is bad."""
