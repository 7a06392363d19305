"""Read and write FID statistics in pytorch-fid's format: an .npz with mu [D] and sigma [D, D]."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .cache import save_arrays
from .errors import DAMAGED, MetricError
from .features import FeatureStatistics
from .fid import square_root
from .suite import DatasetStatistics

MAX_BYTES = 512 << 20  # bytes, unpacked; mu and sigma of 2048 dimensions are 34 MB in float64
MAX_SETTING_BYTES = 4096  # bytes of any other array that is read, unpacked; the settings have fewer than 300


class StoredStatistics(NamedTuple):
    """Mean and covariance from a file, used in place of `FeatureStatistics`.

    Attributes:
        mean: [D], float64.
        covariance: [D, D], float64.
        count: number of images, or None if the file does not record it.
        shape: of one image, [C, H, W]; () if the file does not record it.
        settings: recorded settings, as in `Suite.settings()`; {} if the file records none.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None  # type: ignore[assignment]
    shape: tuple[int, ...]
    settings: dict[str, str]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean [D] and the covariance [D, D]."""
        return self.mean, self.covariance

    def describe(self) -> DatasetStatistics:
        """Return the statistics in the form that `Suite.compare` takes, for FID only."""
        return DatasetStatistics(self.count or 0, self.shape, {FeatureStatistics: self})

    def check_settings(self, name: str, settings: dict[str, Any], is_resize_given: bool) -> None:
        """Check that the statistics were computed with these settings.

        Args:
            name: the file's, for the error. settings: see `Suite.settings`.
            is_resize_given: whether the user has chosen the resize, which a file without one then has.

        Raises:
            MetricError: a setting differs, or the file does not record its resize and the user has not chosen one.
        """
        made = {"features": "inception"} | self.settings  # files of other tools and earlier versions are Inception's
        for key, value in settings.items():
            if made.get(key, value) != value:
                advice = f"; use --resize {made[key]}" if key == "resize" else "; both sides need the same"
                raise MetricError(f"{name} was made with {key} {made[key]}, not {value}{advice}")
        if "resize" not in self.settings and not is_resize_given:
            raise MetricError(
                f"{name} does not record how the images were resized for Inception, which changes FID by whole points; "
                "use --resize pytorch-fid for a file of pytorch-fid, --resize clean for clean-fid, --resize tf1 for "
                "EDM, StyleGAN or TTUR"
            )


def write_statistics(
    path: str | os.PathLike, statistics: FeatureStatistics, settings: dict[str, Any], shape: tuple[int, ...] = ()
) -> None:
    """Write mu and sigma in float64, with num_images and the settings, to an .npz.

    Args:
        settings: see `Suite.settings`. shape: of one image, [C, H, W]; () if unknown.

    Raises:
        MetricError: the file cannot be written.
    """
    mean, covariance = statistics.moments()
    arrays = {"mu": mean.numpy(), "sigma": covariance.numpy(), "num_images": np.array(statistics.count)}
    arrays["shape"] = np.array(shape, np.int64)
    try:
        save_arrays(Path(path), arrays | {name: np.array(value) for name, value in settings.items()})
    except OSError as error:
        raise MetricError(f"cannot write {path}: {error.strerror}") from None


def has_statistics(path: str | os.PathLike) -> bool:
    """Return whether a file is an .npz with mu and sigma."""
    try:
        # "": opening it fails like a missing file, where a folder or pipe would not
        with zipfile.ZipFile(path if Path(path).is_file() else "") as archive:
            return {"mu.npy", "sigma.npy"} <= set(archive.namelist())
    except DAMAGED:
        return False


def read_statistics(path: str | os.PathLike) -> StoredStatistics:
    """Read mean, covariance and settings from a file. Raises MetricError if it is damaged or something else.

    Images in the file, as in OpenAI's reference batches, are not read. Those files are recognized by their statistics
    of spatial features, mu_s and sigma_s, and were made with the 2015 graph's own resize.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
        # besides mu and sigma only what has the size of a number, a short text, or a shape, with a header of 128 bytes
        names = [name for name, size in sizes.items() if name in ("mu", "sigma") or size <= MAX_SETTING_BYTES]
        if sum(sizes[name] for name in names) > MAX_BYTES:
            raise ValueError(f"mu and sigma unpack to more than {MAX_BYTES >> 20} MiB, too much for statistics")
        with np.load(path, allow_pickle=False) as file:  # no pickles: the file may be anyone's
            arrays = {name: file[name] for name in names if name in file.files}
            mean, covariance = (arrays.pop(name).astype(np.float64, casting="same_kind") for name in ("mu", "sigma"))
            count = int(arrays.pop("num_images")) if "num_images" in arrays else None
            shape = tuple(map(int, arrays.pop("shape"))) if "shape" in arrays else ()
            how = {name: array.item() for name, array in arrays.items() if array.ndim == 0}
        if {"mu_s", "sigma_s"} <= sizes.keys():
            how.setdefault("resize", "tf1")
    except DAMAGED as error:
        raise MetricError(f"cannot read statistics from {path}: {error}") from None
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not np.isfinite(mean).all():
        raise MetricError(f"{path}: mu and sigma are not a finite mean [D] and a covariance [D, D]")
    # tolerances for covariances that other tools computed in float32
    if not np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6):
        raise MetricError(f"{path}: sigma is not a covariance: not symmetric")
    try:  # the factorization is the test for positive semidefiniteness
        square_root(torch.from_numpy(covariance))
    except MetricError:
        raise MetricError(f"{path}: sigma is not a covariance: not finite or not positive semidefinite") from None
    return StoredStatistics(torch.from_numpy(mean), torch.from_numpy(covariance), count, shape, how)
