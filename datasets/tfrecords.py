"""The multi-resolution TFRecords of the official dataset tool, read without TensorFlow."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from .arrays import read_npy_header
from .base import DAMAGED, DataError, Header, Source
from .content import combine_digests, compute_stamp, hash_file
from .images import to_pillow

LEVEL_FILE = re.compile(r"-r(\d\d)\.tfrecords$")


class TFRecords(Source):
    """A folder of NAME-r02.tfrecords, NAME-r03.tfrecords, ..., one file for each power of two, and NAME-rxx.labels.

    Each record is a tf.train.Example with "shape", [channels, height, width], and "data", as many uint8 bytes. The
    labels are a one-hot float array [N, classes]. Images of a resolution are read from that resolution's file.

    Raises:
        DataError: the files have another format, or labels are requested and missing.
    """

    def __init__(self, folder: Path, labels: bool = False):
        self.path, self.name, self.classes, self.labels, self.others = folder, folder.resolve().name, [], None, []
        files = find_files(folder)
        if len({LEVEL_FILE.sub("", path.name) for path in files.values()}) > 1:
            raise DataError(f"{folder} holds more than one TFRecords dataset; pass a folder with one of them")
        self.files = dict(sorted(files.items()))
        self.offsets = {resolution: np.array(list(iterate_records(path))) for resolution, path in self.files.items()}
        counts = {len(offsets) for offsets in self.offsets.values()}
        if counts == {0}:
            raise DataError(f"{folder}: its TFRecords files are empty; copy them again")
        if len(counts) > 1:
            numbers = ", ".join(map(str, sorted(counts)))
            raise DataError(f"{folder}: its files have different numbers of records ({numbers}); copy them again")
        if labels:
            self.read_labels()

    def read_labels(self) -> None:
        found = sorted(self.path.glob("*.labels"))
        if not found:
            raise DataError(f"{self.path} has no .labels file; omit --labels")
        try:
            with found[0].open("rb") as file:
                shape, _, dtype = read_npy_header(file)
                if file.tell() + math.prod(shape) * dtype.itemsize != found[0].stat().st_size:
                    raise ValueError
                file.seek(0)
                onehot = np.lib.format.read_array(file, allow_pickle=False)
            fits = onehot.ndim == 2 and len(onehot) == len(self) and ((onehot == 1).sum(axis=1) == 1).all()
        except DAMAGED:
            fits = False
        if not fits:
            raise DataError(
                f"{found[0]} holds no one-hot labels [{len(self)}, classes]; copy it again, or omit --labels"
            )
        self.labels = onehot.argmax(axis=1).astype(np.int64)
        self.classes = [str(i) for i in range(onehot.shape[1])]

    def __len__(self) -> int:
        return len(next(iter(self.offsets.values())))

    def describe(self, index: int) -> str:
        return f"{self.path}, record {index}"

    def stamp(self) -> str:
        return compute_stamp(self.path, self.files.values())

    def content_digest(self) -> str:
        return combine_digests(hash_file(path) for path in self.files.values())

    def header(self, index: int) -> Header:
        with self.read_image(index) as picture:
            return Header(*picture.size, picture.mode)

    def read_image(
        self, index: int, resolution: int = 0, channels: int = 0, digest: hashlib.blake2b | None = None
    ) -> Image.Image:
        resolution = resolution if resolution in self.files else max(self.files)
        offset, size = self.offsets[resolution][index]
        with open(self.files[resolution], "rb") as file:
            file.seek(offset)
            pixels = parse_example(file.read(size))
        return to_pillow(pixels.transpose(1, 2, 0))


def find_files(folder: Path) -> dict[int, Path]:
    """Return the TFRecords files in a folder by resolution."""
    matches = ((LEVEL_FILE.search(path.name), path) for path in folder.iterdir())
    return {1 << int(match[1]): path for match, path in matches if match and 2 <= int(match[1]) <= 10}


def iterate_records(path: Path) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of each record.

    TFRecord framing: 8 bytes of length and 4 of its checksum before the data, 4 of the data's checksum after.
    """
    end = path.stat().st_size
    with open(path, "rb") as file:
        place = 0
        while place < end:
            file.seek(place)
            size = int.from_bytes(file.read(8), "little")
            if place + 16 + size > end:
                raise DataError(f"{path} is damaged: the record at byte {place} extends beyond the file's end")
            yield place + 12, size
            place += 16 + size


def parse_example(message: bytes) -> np.ndarray:
    """Return the image uint8 [C, H, W] in a tf.train.Example {features {feature: map<string, Feature>}}.

    Raises:
        ValueError: the record has another structure.
    """
    found: dict[bytes, bytes] = {}
    for features in iterate_fields(message, 1):
        for entry in iterate_fields(features, 1):
            key = b"".join(iterate_fields(entry, 1))
            found[key] = b"".join(iterate_fields(entry, 2))
    try:
        shape = list(parse_int64s(found[b"shape"]))
        (data,) = (value for values in iterate_fields(found[b"data"], 1) for value in iterate_fields(values, 1))
    except (KeyError, ValueError, IndexError):
        raise ValueError("a record without shape and data, as the official dataset tool writes them") from None
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1 or len(data) != shape[0] * shape[1] * shape[2]:
        raise ValueError(f"a record of shape {shape} with {len(data)} bytes")
    return np.frombuffer(data, np.uint8).reshape(shape)


def parse_int64s(feature: bytes) -> Iterator[int]:
    """Yield the numbers of a Feature {int64_list = 3 {value = 1}}, packed or not."""
    for values in iterate_fields(feature, 3):
        for value in iterate_fields(values, 1):
            if isinstance(value, int):
                yield value
                continue
            place = 0
            while place < len(value):
                number, place = parse_varint(value, place)
                yield number


def iterate_fields(message: bytes, wanted: int) -> Iterator:
    """Yield the values of one field of a protocol buffer message: bytes, or int for varints. Raises ValueError."""
    place = 0
    while place < len(message):
        tag, place = parse_varint(message, place)
        kind = tag & 7
        if kind == 0:
            value, place = parse_varint(message, place)
        else:
            size, place = (
                parse_varint(message, place) if kind == 2 else ({1: 8, 5: 4}.get(kind, len(message) + 1), place)
            )
            value, place = message[place : place + size], place + size
        if place > len(message):
            raise ValueError("damaged record")
        if tag >> 3 == wanted:
            yield value


def parse_varint(message: bytes, place: int) -> tuple[int, int]:
    """Return a varint (7 bits per byte, lowest first) and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("damaged record")
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("damaged record")
