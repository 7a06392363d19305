"""What is said of files that cannot be read."""


class WeightsError(ValueError):
    """Weights that cannot be brought in or out, in one sentence."""
