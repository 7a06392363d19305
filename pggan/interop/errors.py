"""Exceptions of this package."""


class WeightsError(ValueError):
    """Weights cannot be imported or exported. The message is one sentence; readers put the file's name before it."""
