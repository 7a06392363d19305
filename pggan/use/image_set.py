"""Write generated images as a dataset that other programs read: a folder, a zip or an .npz, batch by batch."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pggan.datasets import class_folders

from .output import INDEX

SUFFIXES = (".zip", ".npz", "")  # "": a folder


class Batch(NamedTuple):
    """Images, uint8 [N, C, r, r], with the seeds they were drawn from and their class indices, if they have any."""

    images: np.ndarray
    seeds: Sequence[int]
    labels: Sequence[int] | None


def to_pillow(image: np.ndarray) -> Image.Image:
    """Return a uint8 image [C, H, W] of 1 to 4 channels as a Pillow image (L, LA, RGB or RGBA)."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def write_image_set(path: Path, batches: Iterator[Batch], count: int, classes: list[str], made_by: Any) -> None:
    """Write `count` images to an .npz, a .zip or, for any other suffix, a folder.

    A folder or zip contains seed00000012.png and so on, in one subfolder per class if there are labels, and a
    dataset.json with class indices in StyleGAN's format. An .npz contains arr_0, uint8 [N, r, r, C], and arr_1, int64
    [N], if there are labels: the format of guided-diffusion's evaluation.

    Args:
        batches: at least one batch, `count` images in all.
        classes: class names, or [] without labels.
        made_by: recorded in dataset.json; must be JSON.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        write_npz(path, batches, count)
    elif suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in encode_files(batches, classes, made_by):
                # not compressed: PNG cannot be compressed further
                archive.writestr(make_member(name), data)
    else:
        for name, data in encode_files(batches, classes, made_by):
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def make_member(name: str) -> zipfile.ZipInfo:
    """Return the entry of a file in a zip, with a fixed date, so that the same images give the same bytes."""
    member = zipfile.ZipInfo(name)
    # the upper 16 bits are the Unix mode: a regular file that everybody can read; zipfile's default is the owner only
    member.external_attr = (stat.S_IFREG | 0o644) << 16
    return member


def encode_files(batches: Iterator[Batch], classes: list[str], made_by: Any) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each image as a PNG file, and of dataset.json at the end."""
    folders = class_folders(classes)
    labels: list[tuple[str, int]] = []
    for batch in batches:
        for i, (image, seed) in enumerate(zip(batch.images, batch.seeds, strict=True)):
            name = f"seed{seed:08d}.png"
            if batch.labels is not None:
                name = f"{folders[batch.labels[i]]}/{name}"
                labels.append((name, batch.labels[i]))
            data = io.BytesIO()
            to_pillow(image).save(data, "PNG")
            yield name, data.getvalue()
    # StyleGAN reads "labels"; "classes" keeps the names, also of classes that have no image here
    index = {"labels": labels if classes else None, "classes": classes, "made_by": made_by}
    yield INDEX, json.dumps(index).encode()


def write_npz(path: Path, batches: Iterator[Batch], count: int) -> None:
    """Write arr_0.npy and arr_1.npy into an .npz, batch by batch.

    np.savez would need all images in memory at once: 2.5 GB for 50,000 of 128x128.
    """
    labels: list[int] = []
    with zipfile.ZipFile(path, "w") as archive:
        first = next(batches)  # its shape goes into the header, before any image
        shape = (count, *first.images.shape[2:], first.images.shape[1])
        with archive.open(make_member("arr_0.npy"), "w", force_zip64=True) as file:  # may exceed 2 GiB
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in chain([first], batches):
                file.write(np.ascontiguousarray(batch.images.transpose(0, 2, 3, 1)).tobytes())
                labels += batch.labels or []
        if labels:
            with archive.open(make_member("arr_1.npy"), "w") as file:
                np.lib.format.write_array(file, np.array(labels, np.int64))
