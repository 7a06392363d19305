"""Statistics of features in pytorch-fid's format: an .npz with mu [D] and sigma [D, D]."""

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

LARGEST = 512 << 20  # bytes; mu and sigma are 34 MB


class StoredStatistics(NamedTuple):
    """Mean and covariance read from a file, in place of a `FeatureStatistics`.

    `count` is None and `how` is {} where the file does not say.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None  # type: ignore[assignment]
    how: dict[str, str]

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.mean, self.covariance


def write_statistics(path: str | os.PathLike, statistics: FeatureStatistics, how: dict[str, Any]) -> None:
    """Write mu and sigma, float64, and beside them num_images and `how` they were made. Raises MetricError."""
    mean, covariance = statistics.moments()
    arrays = {"mu": mean.numpy(), "sigma": covariance.numpy(), "num_images": np.array(statistics.count)}
    try:
        save_arrays(Path(path), arrays | {name: np.array(value) for name, value in how.items()})
    except OSError as error:
        raise MetricError(f"cannot write {path}: {error.strerror}") from None


def holds_statistics(path: str | os.PathLike) -> bool:
    """Whether a file is an .npz with mu and sigma."""
    try:
        with zipfile.ZipFile(path if Path(path).is_file() else "") as archive:
            return {"mu.npy", "sigma.npy"} <= set(archive.namelist())
    except DAMAGED:
        return False


def read_statistics(path: str | os.PathLike) -> StoredStatistics:
    """Raises MetricError for a file that is damaged or holds something else."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > LARGEST:
                raise ValueError(f"it unpacks to more than {LARGEST >> 20} MiB")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
            mean, covariance = (arrays.pop(name).astype(np.float64, casting="same_kind") for name in ("mu", "sigma"))
            count = int(arrays.pop("num_images")) if "num_images" in arrays else None
            how = {name: array.item() for name, array in arrays.items() if array.ndim == 0}
    except DAMAGED as error:
        raise MetricError(f"cannot read statistics from {path}: {error}") from None
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not np.isfinite(mean).all():
        raise MetricError(f"{path}: mu and sigma are not a mean and a covariance")
    if not np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6):
        raise MetricError(f"{path}: sigma is not a covariance: it is not symmetric")
    try:
        square_root(torch.from_numpy(covariance))
    except MetricError:
        raise MetricError(f"{path}: sigma is not a covariance: it is not finite or not positive") from None
    return StoredStatistics(torch.from_numpy(mean), torch.from_numpy(covariance), count, how)
