"""Exceptions of this package, and the ones that damaged files raise."""

import lzma
import tokenize
import zipfile
import zlib


class MetricError(ValueError):
    """A metric cannot be computed. The message is one sentence with the reason and the remedy."""


# What NumPy, zipfile and the decompressors raise for damaged or malicious files.
DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,  # zipfile: the member is encrypted
    NotImplementedError,  # zipfile: an unknown compression method
    KeyError,
    MemoryError,  # NumPy: the header declares a huge array
    OverflowError,
    TypeError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tokenize.TokenError,  # NumPy: the header of an .npy is not a Python literal
)
