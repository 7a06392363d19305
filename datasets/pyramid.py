"""The pyramid cache: every image at every resolution, decoded once, memory-mapped uint8, one .npy file a level."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .base import DataError, Source

LAYOUT = 1
MAX_BAD_SHARE = 0.01


def cache_folder() -> Path:
    """Where caches live: $PGGAN_CACHE, or pggan in the user's cache folder."""
    base = os.environ.get("PGGAN_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pggan"


class Pyramid:
    """A built cache.

    Attributes:
        key: changes when the images, their resolution or their channels do.
        classes: class names. labels: class indices [len] or None. bad: [name, reason] of the images left out.
    """

    def __init__(self, folder: Path):
        meta = json.loads((folder / "meta.json").read_text())
        self.key, self.resolution, self.channels = folder.name, meta["resolution"], meta["channels"]
        self.classes, self.bad = meta["classes"], meta["bad"]
        self.labels = np.load(folder / "labels.npy") if self.classes else None
        self.levels = {r: np.load(folder / level_file(r), mmap_mode="r") for r in resolutions(self.resolution)}

    def __len__(self) -> int:
        return len(self.levels[4])

    def digest(self) -> str:
        """Stands for the images themselves, by their 4x4 versions and labels: the same for a copy of them."""
        digest = hashlib.blake2b(self.levels[4].tobytes(), digest_size=12)
        digest.update(b"" if self.labels is None else self.labels.tobytes())
        return digest.hexdigest()

    def images(self, resolution: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [len(indices), channels, resolution, resolution]."""
        return self.levels[resolution][np.asarray(indices)]


def resolutions(largest: int) -> list[int]:
    return [1 << level for level in range(2, largest.bit_length())]


def level_file(resolution: int) -> str:
    return f"{resolution:04d}.npy"


def open_pyramid(source: Source, resolution: int, channels: int, cache: Path | None = None) -> Pyramid:
    """Open the cache of these images, building it first where it is missing.

    It is built beside its final place and moved there whole, so an interrupted build leaves nothing half-done.

    Raises:
        DataError: too many images that cannot be read, none at all, no room on the disk, or a cache not to be written.
    """
    key = f"{source.name}-{resolution}x{channels}-{source.fingerprint()}-{LAYOUT}"
    folder = (cache or cache_folder()) / "datasets" / key
    if not folder.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            check_space(folder.parent, len(source), resolution, channels)
            building = folder.with_name(f"building-{secrets.token_hex(8)}")
            building.mkdir()
        except OSError as error:
            raise DataError(f"{folder.parent} cannot be written ({error.strerror}); set PGGAN_CACHE") from None
        try:
            build(source, resolution, channels, building)
            try:
                building.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return Pyramid(folder)


def check_space(folder: Path, count: int, resolution: int, channels: int) -> None:
    needed = sum(count * channels * r * r for r in resolutions(resolution))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"the pyramid cache needs {needed / 1e9:.1f} GB but {folder} has {free / 1e9:.1f} GB free; make room, or "
            f"set PGGAN_CACHE to a folder on a larger disk"
        )


def build(source: Source, resolution: int, channels: int, folder: Path) -> None:
    count = len(source)
    levels = {
        r: np.lib.format.open_memmap(folder / level_file(r), "w+", np.uint8, (count, channels, r, r))
        for r in resolutions(resolution)
    }
    bad: dict[int, str] = {}

    def decode(index: int) -> None:
        try:
            image = source.image(index, resolution, channels)
        except Exception as error:  # Pillow raises many kinds for damaged files, also struct.error and SyntaxError
            bad[index] = (str(error) or type(error).__name__).split("\n")[0]
            return
        for r, level in pyramid_levels(image):
            levels[r][index] = level

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        progress = tqdm(total=count, desc=f"caching {source.name}", unit="image", disable=None, leave=False)
        for _ in pool.map(decode, range(count)):
            progress.update()
        progress.close()
    if bad:
        report_bad(source, bad)
        good = np.setdiff1d(np.arange(count), list(bad))
        for r in levels:
            kept = np.lib.format.open_memmap(folder / "kept", "w+", np.uint8, (len(good), channels, r, r))
            for start in range(0, len(good), 1024):
                kept[start : start + 1024] = levels[r][good[start : start + 1024]]
            (folder / "kept").replace(folder / level_file(r))
    if source.labels is not None:
        np.save(folder / "labels.npy", np.delete(source.labels, list(bad)))
    meta = {
        "resolution": resolution,
        "channels": channels,
        "classes": source.classes,
        "bad": [[source.describe(i), bad[i]] for i in sorted(bad)],
    }
    (folder / "meta.json").write_text(json.dumps(meta))


def report_bad(source: Source, bad: dict[int, str]) -> None:
    listed = "\n".join(f"  {source.describe(i)}: {bad[i]}" for i in sorted(bad)[:20])
    more = f"\n  and {len(bad) - 20} more" if len(bad) > 20 else ""
    if len(bad) > MAX_BAD_SHARE * len(source) or len(bad) == len(source):
        raise DataError(
            f"{len(bad)} of {len(source)} images cannot be read, more than {MAX_BAD_SHARE:.0%}; mend or remove them:\n"
            f"{listed}{more}"
        )
    print(f"{len(bad)} images cannot be read and are left out:\n{listed}{more}", file=sys.stderr)


def pyramid_levels(image: np.ndarray):
    """(resolution, uint8 [C, r, r]) from the image's own size down to 4, averaging 2x2 boxes of unrounded values.

    The arithmetic of the official dataset tool: float32 all the way down, each level rounded to even by itself.
    """
    exact = image.astype(np.float32)
    yield image.shape[-1], image
    while exact.shape[-1] > 4:
        exact = (exact[:, 0::2, 0::2] + exact[:, 0::2, 1::2] + exact[:, 1::2, 0::2] + exact[:, 1::2, 1::2]) * 0.25
        yield exact.shape[-1], np.rint(exact).clip(0, 255).astype(np.uint8)
