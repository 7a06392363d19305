"""Where images come from: folders, archives, arrays, torchvision's sets and an embedded one; the pyramid cache.

source = open_source("photos", labels=False)
pyramid = open_pyramid(source, resolution=64, channels=3)
pyramid.images(16, [0, 1, 2])   # uint8 [3, 3, 16, 16]
"""

import signal
import sys

if sys.argv[:1] == ["-m"]:  # Ctrl-C while `python -m` imports what is below, which takes seconds: no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from .base import DataError, Format, Header, Source, percentage
from .images import FITS, Preparation
from .order import shuffled
from .places import cache_folder
from .pyramid import Pyramid, open_pyramid
from .sheet import contact_sheet
from .sources import KINDS, open_source
from .summary import summarize
from .survey import native_format
from .synthetic import MODES, SMALLEST_CLASSIFIED, SyntheticShapes, classify

__all__ = [
    "FITS",
    "KINDS",
    "MODES",
    "SMALLEST_CLASSIFIED",
    "DataError",
    "Format",
    "Header",
    "Preparation",
    "Pyramid",
    "Source",
    "SyntheticShapes",
    "cache_folder",
    "classify",
    "contact_sheet",
    "native_format",
    "open_pyramid",
    "open_source",
    "percentage",
    "shuffled",
    "summarize",
]
