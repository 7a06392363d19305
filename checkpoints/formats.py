"""A checkpoint in either of its two forms: torch's own, or safetensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from . import file
from .safetensors_file import SUFFIX, load_safetensors


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint or a .safetensors file of one onto the CPU; only tensors and plain data can come out of it.

    Raises:
        CheckpointError: no such file, no checkpoint, one of another version, damaged, or safetensors not installed.
    """
    path = Path(path)
    if path.suffix == SUFFIX and path.is_file():
        return file.check_content(path, load_safetensors(path))
    return file.load(path)
