"""A checkpoint as a safetensors file: networks as tensors, everything else as JSON in the metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .file import FORMAT, VERSION, CheckpointError, sync_folder

MAX_METADATA_BYTES = 16 << 20
SUFFIX = ".safetensors"


def import_safetensors() -> Any:
    """The safetensors package.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError(f"{SUFFIX} files need the package safetensors: pip install safetensors") from None
    return safetensors


def save_safetensors(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint's networks and plain data, atomically.

    Args:
        content: as for `save`; only the state dicts of networks in "state" are written.

    Raises:
        CheckpointError: the package is missing.
    """
    package = import_safetensors()
    tensors = {
        f"{network}.{name}": tensor.contiguous()
        for network, part in content["state"].items()
        for name, tensor in part.items()
    }
    plain = {key: value for key, value in content.items() if key != "state"}
    metadata = {"format": "pt", FORMAT: json.dumps({"version": VERSION, **plain})}
    temporary = path.with_name(f".{path.name}.writing")
    try:
        package.torch.save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def load_safetensors(path: Path) -> dict[str, Any]:
    """What `save_safetensors` wrote, as `load` returns a checkpoint.

    Raises:
        CheckpointError: the package is missing, or the file is damaged or was not written by this project.
    """
    package = import_safetensors()
    state: dict[str, dict[str, Any]] = {}
    try:
        with package.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(FORMAT, "")
            if not text or len(text) > MAX_METADATA_BYTES:
                raise CheckpointError(f"{path} is no checkpoint of this project")
            for full_name in file.keys():  # noqa: SIM118 (not a dict)
                network, _, name = full_name.partition(".")
                state.setdefault(network, {})[name] = file.get_tensor(full_name)
        return {"format": FORMAT, **json.loads(text), "state": state}
    except (CheckpointError, OSError):
        raise
    except Exception:  # the package has an exception of its own, json others
        raise CheckpointError(f"{path} is damaged, or no checkpoint of this project") from None
