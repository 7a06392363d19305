"""Where images come from: folders, archives, arrays, torchvision's sets and an embedded one; the pyramid cache.

source = open_source("photos", labels=False)
pyramid = open_pyramid(source, resolution=64, channels=3)
pyramid.images(16, [0, 1, 2])   # uint8 [3, 3, 16, 16]
"""

import signal
import sys

if sys.argv[:1] == ["-m"]:  # Ctrl-C while `python -m` imports what is below, which takes seconds: no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from .base import DataError, Format, Header, Source, parse_fraction
from .cache_files import find_cache_folder
from .images import FITS, Preparation
from .order import shuffled_indices
from .pyramid import Pyramid, open_pyramid
from .sheet import make_grid
from .sources import SOURCE_TYPES, open_source
from .summary import summarize
from .survey import read_native_format
from .synthetic import MIN_CLASSIFIED_SIDE, MODES, SyntheticShapes, classify

__all__ = [
    "FITS",
    "MIN_CLASSIFIED_SIDE",
    "MODES",
    "SOURCE_TYPES",
    "DataError",
    "Format",
    "Header",
    "Preparation",
    "Pyramid",
    "Source",
    "SyntheticShapes",
    "classify",
    "find_cache_folder",
    "make_grid",
    "open_pyramid",
    "open_source",
    "parse_fraction",
    "read_native_format",
    "shuffled_indices",
    "summarize",
]
