"""Where images come from: folders and the embedded synthetic set, the multi-resolution pyramid cache, batches.

source = open_source("photos", labels=False)
pyramid = open_pyramid(source, resolution=64, channels=3)
pyramid.images(16, [0, 1, 2])   # uint8 [3, 3, 16, 16]
"""

from .base import DataError, Format, Source
from .order import shuffled
from .pyramid import Pyramid, cache_folder, open_pyramid
from .sources import open_source
from .synthetic import MODES, SMALLEST_CLASSIFIED, SyntheticShapes, classify

__all__ = [
    "MODES",
    "SMALLEST_CLASSIFIED",
    "DataError",
    "Format",
    "Pyramid",
    "Source",
    "SyntheticShapes",
    "cache_folder",
    "classify",
    "open_pyramid",
    "open_source",
    "shuffled",
]
