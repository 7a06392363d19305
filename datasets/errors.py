class DataError(ValueError):
    """Images that cannot be found or used, in one sentence that says what to do."""
