"""What is said of images and files that cannot be judged."""

import lzma
import tokenize
import zipfile
import zlib


class MetricError(ValueError):
    """A metric that cannot be computed, in one sentence that says why and what to do."""


# What NumPy, zipfile and the decompressors raise for files that are damaged or made to harm.
DAMAGED = (
    OSError, ValueError, EOFError, RuntimeError, NotImplementedError, KeyError, MemoryError, OverflowError, TypeError,
    zlib.error, lzma.LZMAError, zipfile.BadZipFile, tokenize.TokenError,
)  # fmt: skip
