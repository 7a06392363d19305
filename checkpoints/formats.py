"""Read checkpoints in both formats: torch's and safetensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from . import file
from .safetensors_file import SUFFIX, load_safetensors


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint in either format onto the CPU, without executing code in it.

    Args:
        path: a file; .safetensors files are recognized by their suffix.

    Raises:
        CheckpointError: see `checkpoints.file.load`; or the package safetensors is missing.
    """
    path = Path(path)
    if path.suffix == SUFFIX and path.is_file():
        return file.check_content(path, load_safetensors(path))
    return file.load(path)
