"""Sets of generated images as other programs read them: a folder, a zip, an .npz; written batch by batch."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .output import INDEX

SUFFIXES = (".zip", ".npz", "")


class Batch(NamedTuple):
    """uint8 images [N, C, r, r], the seeds they were drawn from, their class indices or None."""

    images: np.ndarray
    seeds: Sequence[int]
    labels: Sequence[int] | None


def to_picture(image: np.ndarray) -> Image.Image:
    """uint8 [C, H, W], 1 to 4 channels, as a Pillow image."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def class_folders(classes: Sequence[str]) -> list[str]:
    """A folder for each class: its name, or its number where a name is none for a file on every system."""
    plain = all(name and not set(name) & set('/\\:*?"<>|\0') and name.strip(". ") == name for name in classes)
    unique = len({name.lower() for name in classes}) == len(classes)
    return list(classes) if plain and unique else [f"{i:05d}" for i in range(len(classes))]


def write_image_set(path: Path, batches: Iterator[Batch], count: int, classes: list[str], made_by: Any) -> None:
    """Write `count` images to an .npz, a .zip, or else a folder.

    A folder or zip holds seed00000012.png and so on, with labels in a subfolder for each class, and a dataset.json
    with the class indices as StyleGAN reads them. An .npz holds arr_0, uint8 [N, r, r, C], and with labels arr_1,
    int64 [N], as guided-diffusion's evaluation reads them.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        write_npz(path, batches, count)
    elif suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files(batches, classes, made_by):
                archive.writestr(zipfile.ZipInfo(name), data)
    else:
        for name, data in files(batches, classes, made_by):
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def files(batches: Iterator[Batch], classes: list[str], made_by: Any) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each image as PNG, and of dataset.json."""
    folders = class_folders(classes)
    labels: list[tuple[str, int]] = []
    for batch in batches:
        for i, (image, seed) in enumerate(zip(batch.images, batch.seeds, strict=True)):
            name = f"seed{seed:08d}.png"
            if batch.labels is not None:
                name = f"{folders[batch.labels[i]]}/{name}"
                labels.append((name, batch.labels[i]))
            data = io.BytesIO()
            to_picture(image).save(data, "PNG")
            yield name, data.getvalue()
    index = {"labels": labels if classes else None, "classes": classes, "made_by": made_by}
    yield INDEX, json.dumps(index).encode()


def write_npz(path: Path, batches: Iterator[Batch], count: int) -> None:
    """In one pass, without holding the images: numpy's own writer would."""
    labels: list[int] = []
    with zipfile.ZipFile(path, "w") as archive:
        first = next(batches)
        shape = (count, *first.images.shape[2:], first.images.shape[1])
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in chain([first], batches):
                file.write(np.ascontiguousarray(batch.images.transpose(0, 2, 3, 1)).tobytes())
                labels += batch.labels or []
        if labels:
            with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as file:
                np.lib.format.write_array(file, np.array(labels, np.int64))
