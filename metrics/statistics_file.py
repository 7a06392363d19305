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

MAX_BYTES = 512 << 20  # bytes, unpacked; mu and sigma of 2048 dimensions are 34 MB in float64


class StoredStatistics(NamedTuple):
    """Mean and covariance from a file, used in place of `FeatureStatistics`.

    Attributes:
        mean: [D], float64.
        covariance: [D, D], float64.
        count: number of images, or None if the file does not record it.
        settings: recorded settings, as in `Suite.settings()`; {} if the file records none.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None  # type: ignore[assignment]
    settings: dict[str, str]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean [D] and the covariance [D, D]."""
        return self.mean, self.covariance


def write_statistics(path: str | os.PathLike, statistics: FeatureStatistics, settings: dict[str, Any]) -> None:
    """Write mu and sigma in float64, with num_images and the settings `settings`, to an .npz. Raises MetricError."""
    mean, covariance = statistics.moments()
    arrays = {"mu": mean.numpy(), "sigma": covariance.numpy(), "num_images": np.array(statistics.count)}
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
    """Read mean, covariance and settings from a file. Raises MetricError if it is damaged or something else."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_BYTES >> 20} MiB, too much for statistics")
        with np.load(path, allow_pickle=False) as file:  # no pickles: the file may be anyone's
            arrays = {name: file[name] for name in file.files}
            mean, covariance = (arrays.pop(name).astype(np.float64, casting="same_kind") for name in ("mu", "sigma"))
            count = int(arrays.pop("num_images")) if "num_images" in arrays else None
            how = {name: array.item() for name, array in arrays.items() if array.ndim == 0}
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
    return StoredStatistics(torch.from_numpy(mean), torch.from_numpy(covariance), count, how)
