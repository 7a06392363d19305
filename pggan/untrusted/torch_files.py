"""Read the files of torch.save without torch.load: tensors and plain data only, in memory bounded by the file's size.

torch.load(weights_only=True) calls any of some 60 functions that a file names, among them bytearray(n), which takes n
bytes, and hashes any tuple. A state dict needs only the classes of its storages and the names in `TensorReader`.
"""

from __future__ import annotations

import errno
import math
import mmap
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .files import has_zip_directory
from .pickles import Name, Record, UntrustedFileError, make_ordered_dict, read_pickle

MAX_STRUCTURE_BYTES = 8 << 20  # limit for everything but tensor data; a run at 1024x1024 has 0.1 MB
CHUNK = 16 << 20  # bytes read at a time; our choice, small beside the tensors
# The first pickle in files of torch before 1.6, and the one of torch.save(_use_new_zipfile_serialization=False)
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
TORCHSCRIPT = "a TorchScript program, which would have to be run to read it"
DTYPES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}


class Storage(NamedTuple):
    """A storage's memory, uint8, and the type and number of its elements."""

    content: Tensor
    dtype: torch.dtype
    length: int


def read_torch_file(path: Path, records: Iterable[str] = ()) -> Any:
    """Return the content of a file of torch.save, on the CPU: tensors, numbers, text, lists, tuples and dicts.

    Every byte of a zip member is compared with its checksum. Parameters become tensors.

    Args:
        path: the file, in the current format or the one before torch 1.6.
        records: see `pickles.read_snapshot`.

    Raises:
        UntrustedFileError: the file is damaged, or holds anything else. OSError: it cannot be read.
    """
    size = path.stat().st_size
    if not (path.is_file() or path.is_dir()):  # opening a pipe would block; opening a folder raises OSError below
        raise UntrustedFileError("not a regular file")
    reader = TensorReader(size, records)
    try:
        return reader.read_zip(path) if has_zip_directory(path) else reader.read_legacy(path)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a damaged zip makes zipfile seek to negative positions
            raise
        raise UntrustedFileError("damaged, or not a file of tensors") from None
    except UntrustedFileError:
        raise
    except (ValueError, TypeError, LookupError, EOFError, RuntimeError, OverflowError, MemoryError):
        raise UntrustedFileError("damaged, or not a file of tensors") from None
    except zipfile.BadZipFile as error:
        raise UntrustedFileError(f"damaged: {error}") from None


class TensorReader:
    """The storages of one file, and the tensors on them.

    Args:
        size: of the file in bytes, the limit for all storages together.
        records: see `read_torch_file`.
    """

    def __init__(self, size: int, records: Iterable[str]):
        self.size, self.allocated, self.claimed = size, 0, 0
        self.storages: dict[str, Tensor] = {}
        self.constructors: dict[str, Callable[..., Any]] = {
            **{name: lambda *_, name=name: Record(name) for name in records},
            "collections.OrderedDict": make_ordered_dict,
            "torch._utils._rebuild_tensor": self.make_tensor,  # of torch 0.3
            "torch._utils._rebuild_tensor_v2": self.make_tensor,
            "torch._utils._rebuild_parameter": lambda data, *_: data,
        }

    def read_pickle(self, data: Any) -> Any:
        """Return the content of a pickle whose persistent IDs are storages."""
        return read_pickle(data, self.constructors, (Tensor,), self.load_storage)

    def read_zip(self, path: Path) -> Any:
        """Return the content of a file in the current format: a zip of data.pkl and one member per storage."""
        with zipfile.ZipFile(path) as archive:
            members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
            if "constants.pkl" in members:
                raise UntrustedFileError(TORCHSCRIPT)
            # torch compresses nothing; members that overlap could together be larger than the file
            stored = all(m.compress_type == zipfile.ZIP_STORED for m in members.values())
            total = sum(member.file_size for member in archive.infolist())
            if not stored or total > self.size or members["data.pkl"].file_size > MAX_STRUCTURE_BYTES:
                raise ValueError
            if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
                raise UntrustedFileError("stored in big-endian byte order, which is not supported")
            for name, member in members.items():
                with archive.open(member) as file:
                    if name.startswith("data/"):
                        self.storages[name[5:]] = content = self.allocate(member.file_size)
                        self.fill(content, file)
                    elif name != "data.pkl":
                        while file.read(CHUNK):  # compares its checksum
                            pass
            return self.read_pickle(archive.read(members["data.pkl"]))

    def read_legacy(self, path: Path) -> Any:
        """Return the content of a file of torch before 1.6: pickles, then the storages' content.

        The pickles are a magic number, the format's version, the byte order and sizes of types, the content, and the
        list of the storages' keys. Each storage begins with its number of elements in 8 bytes.
        """
        # mmap rather than the file: asked for more bytes than there are, it allocates no more than those
        with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
            if (
                file.read(2) != b"\x80\x02" or file.read(2) != b"\x8a\x0a"
            ):  # cheaper than parsing the start of another file
                raise ValueError
            file.seek(0)
            magic, _, system = (read_pickle(file, {}) for _ in range(3))
            if magic != LEGACY_MAGIC or system["little_endian"] is not True:
                raise ValueError
            content = self.read_pickle(file)
            keys = read_pickle(file, {})
            if sorted(keys) != sorted(self.storages):
                raise ValueError
            for key in keys:
                file.seek(8, 1)  # the number of elements, which the storage's persistent ID has too
                target = self.storages[key].numpy()
                if len(data := file.read(len(target))) < len(target):
                    raise EOFError
                target[:] = np.frombuffer(data, np.uint8)
        return content

    def allocate(self, size: int) -> Tensor:
        """Return `size` bytes of memory, uint8. Raises ValueError if all storages would be larger than the file."""
        self.allocated += size
        if size < 0 or self.allocated > self.size:
            raise ValueError
        return torch.empty(size, dtype=torch.uint8)

    @staticmethod
    def fill(content: Tensor, file: Any) -> None:
        """Read a storage's content in chunks. Raises EOFError if there are fewer bytes."""
        view, place = memoryview(content.numpy()), 0
        while place < len(view):
            if not (count := file.readinto(view[place : place + CHUNK])):
                raise EOFError
            place += count

    def load_storage(self, identifier: Any) -> Storage:
        """Return the storage for ("storage", its class, key, device, number of elements), which torch.save writes.

        Before torch 1.6, a sixth entry described a part of a storage; it is None in files of whole storages.
        """
        what, kind, key, _, count, *part = identifier
        if what != "storage" or type(kind) is not Name or type(key) is not str or type(count) is not int or any(part):
            raise TypeError
        if kind.text not in DTYPES:
            raise UntrustedFileError(f"refers to {kind.text}, which is not supported")
        dtype = DTYPES[kind.text]
        if key not in self.storages:
            if not part:  # in a zip, all are read before
                raise KeyError
            self.storages[key] = self.allocate(count * dtype.itemsize)
        if len(self.storages[key]) != count * dtype.itemsize:
            raise ValueError
        return Storage(self.storages[key], dtype, count)

    def make_tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        """Return a tensor on a storage; replaces torch._utils._rebuild_tensor_v2.

        Raises:
            UntrustedFileError: the tensor has more elements than its storage (strides of 0 could make terabytes of one
                number), or reaches beyond it; or all tensors together are larger than two files.
        """
        if type(storage) is not Storage or type(size) is not tuple or type(stride) is not tuple:
            raise TypeError
        if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
            raise TypeError
        count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
        self.claimed += count * storage.dtype.itemsize
        # twice: two names may refer to the same tensor
        if count > storage.length or last >= max(storage.length, 1) or self.claimed > 2 * self.size:
            raise UntrustedFileError("damaged: a tensor has more numbers than the file holds")
        return torch.empty(0, dtype=storage.dtype).set_(storage.content.untyped_storage(), offset, size, stride)
