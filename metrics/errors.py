"""Exceptions of this package, and the ones that damaged files raise."""

import errno
import lzma
import re
import tokenize
import zipfile
import zlib

import torch


class MetricError(ValueError):
    """A metric cannot be computed. The message is one sentence with the reason and the remedy."""


# Texts of the RuntimeErrors that have no class of their own, from torch 2.14's libraries and NVIDIA's lists of codes.
# Near the limit, libraries that allocate on their own (cuBLAS, cuDNN, NCCL) fail before PyTorch's allocator does.
OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory"  # Linux and macOS, Windows
    r"|(CUDA|HIP) (driver )?error: out of memory"  # also of pinned memory and expandable segments
    r"|CUDA ran out of memory outside PyTorch's allocator"
    r"|CU(BLAS|DNN|SOLVER)_STATUS_(ALLOC_FAILED|INTERNAL_ERROR_(HOST|DEVICE)_ALLOCATION_FAILED)"
    r"|unable to find an engine to execute this computation"  # cuDNN: no algorithm's workspace fits
    r"|Cuda failure (\d+ )?'out of memory'"  # NCCL
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means out of memory, on a GPU or in main memory, or a disk full of temporary files."""
    has_text = isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))
    is_disk_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or has_text or is_disk_full


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
