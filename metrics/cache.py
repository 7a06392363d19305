"""Cache features of images on disk, by the images' content."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .errors import DAMAGED


def default_folder() -> Path:
    """Return $PGGAN_CACHE/metrics, or the same in pggan in $XDG_CACHE_HOME, ~/.cache or the temporary folder.

    datasets.cache_files.find_cache_folder follows the same rule.
    """
    if chosen := os.environ.get("PGGAN_CACHE"):
        return Path(chosen, "metrics")
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pggan", "metrics")
    except RuntimeError:  # HOME is not set, and the system does not know the user, as in some containers
        return Path(tempfile.gettempdir(), f"pggan-{os.getuid()}", "metrics")


def digest_images(batches: Iterable[Tensor]) -> tuple[str, int, tuple[int, ...]]:
    """Return a digest of all pixels in order (hexadecimal), the number of images, and the last image's shape.

    Args:
        batches: uint8 [N, C, H, W].
    """
    digest, count, shape = hashlib.blake2b(digest_size=16), 0, ()
    for images in batches:
        count, shape = count + len(images), tuple(images.shape[1:])
        digest.update(np.ascontiguousarray(images.cpu().numpy()))
    digest.update(repr(shape).encode())
    return digest.hexdigest(), count, shape


class Cache:
    """A folder of .npz files, written atomically; a file that cannot be read counts as missing."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def path(self, key: dict[str, Any]) -> Path:
        """Return the file for a key, a dict of JSON data; the file's name begins with key["what"]."""
        # 32 hexadecimal digits are 128 bits, enough to rule out collisions
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"{key['what']}-{digest}.npz"

    def load(self, key: dict[str, Any]) -> dict[str, np.ndarray] | None:
        """Return the arrays stored under a key, by name, or None if there are none or the file is damaged."""
        try:
            with np.load(self.path(key), allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except DAMAGED:
            return None

    def save(self, key: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Store arrays under a key. Raises OSError if the folder cannot be written."""
        save_arrays(self.path(key), arrays)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz atomically. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        try:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # no array is named like savez's option, allow_pickle
            file.close()
            os.chmod(file.name, 0o644)  # temporary files are readable by their owner only
            os.replace(file.name, path)
        finally:
            Path(file.name).unlink(missing_ok=True)
