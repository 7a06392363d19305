class MetricError(ValueError):
    """A metric that cannot be computed, in one sentence that says why and what to do."""
