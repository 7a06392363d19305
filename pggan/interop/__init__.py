"""Import weights from other codebases, and export generators to other formats."""

from .errors import WeightsError
from .official import from_official
from .recognize import read_weights
from .weights import Weights

__all__ = ["Weights", "WeightsError", "from_official", "read_weights"]
