"""Datasets from folders, archives, arrays, TFRecords, torchvision or drawn shapes; the pyramid cache of images.

source = open_source("photos", labels=False)
pyramid = open_pyramid(source, resolution=64, channels=3)
pyramid.read_images(16, [0, 1, 2])   # uint8 [3, 3, 16, 16]
"""

from pggan.clone import prefer_other_package
from pggan.datasets.base import DataError, Format, Header, Source, parse_fraction
from pggan.datasets.cache_files import find_cache_folder
from pggan.datasets.images import FITS, Preparation
from pggan.datasets.listing import class_folders
from pggan.datasets.order import shuffled_indices
from pggan.datasets.pyramid import Pyramid, open_pyramid
from pggan.datasets.sheet import make_grid
from pggan.datasets.sources import SOURCE_TYPES, open_source
from pggan.datasets.stream import ImageStream
from pggan.datasets.summary import check_sizes, summarize
from pggan.datasets.survey import read_native_format
from pggan.datasets.synthetic import MIN_CLASSIFIED_SIDE, MODES, SyntheticShapes, classify

__all__ = [
    "FITS",
    "MIN_CLASSIFIED_SIDE",
    "MODES",
    "SOURCE_TYPES",
    "DataError",
    "Format",
    "Header",
    "ImageStream",
    "Preparation",
    "Pyramid",
    "Source",
    "SyntheticShapes",
    "check_sizes",
    "class_folders",
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

prefer_other_package(__name__, __file__)  # where `import datasets` means another project's
