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
from .errors import MetricError
from .features import FeatureStatistics


class StoredStatistics(NamedTuple):
    """Mean and covariance read from a file, in place of a `FeatureStatistics`.

    `count` is None and `how` is {} where the file does not say.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None
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
        with zipfile.ZipFile(path) as archive:
            return {"mu.npy", "sigma.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_statistics(path: str | os.PathLike) -> StoredStatistics:
    """Raises MetricError for a file that is damaged or holds something else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (np.asarray(file[name], np.float64) for name in ("mu", "sigma"))
            count = int(file["num_images"]) if "num_images" in file.files else None
            how = {name: file[name].item() for name in file.files if name not in ("mu", "sigma", "num_images")}
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise MetricError(f"cannot read statistics from {path}: {error}") from None
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not np.isfinite(covariance).all():
        raise MetricError(f"{path}: mu and sigma are not a mean and a covariance")
    return StoredStatistics(torch.from_numpy(mean), torch.from_numpy(covariance), count, how)
