"""Datasets from folders, archives, arrays, TFRecords, torchvision or drawn shapes; the pyramid cache of images.

source = open_source("photos", labels=False)
pyramid = open_pyramid(source, resolution=64, channels=3)
pyramid.read_images(16, [0, 1, 2])   # uint8 [3, 3, 16, 16]
"""

import signal
import sys

# The imports below take seconds. Under `python -m`, let Ctrl-C during that time end the process without a traceback.
if sys.argv[:1] == ["-m"]:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from .base import DataError, Format, Header, Source, parse_fraction
from .cache_files import find_cache_folder
from .images import FITS, Preparation
from .order import shuffled_indices
from .pyramid import Pyramid, open_pyramid
from .sheet import make_grid
from .sources import SOURCE_TYPES, open_source
from .summary import check_sizes, summarize
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
    "check_sizes",
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
