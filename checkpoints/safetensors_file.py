"""Checkpoints as safetensors files: the networks' tensors, and all other data as JSON in the metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .file import FORMAT, VERSION, CheckpointError, explain_unreadable, sync_folder

MAX_METADATA_BYTES = 16 << 20  # our choice, twice the limit for pickles in `untrusted.torch_files`: JSON may be longer
SUFFIX = ".safetensors"


def import_safetensors() -> Any:
    """Return the package safetensors, with its module for torch. Raises CheckpointError if it is not installed."""
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError(f"{SUFFIX} files require the package safetensors; run pip install safetensors") from None
    return safetensors


def save_safetensors(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint's networks and plain data atomically.

    Args:
        content: see `checkpoints.file.save`; "state" holds only state dicts of networks.

    Raises:
        CheckpointError: the package is missing.
        OSError: the file cannot be written.
    """
    package = import_safetensors()
    tensors = {
        f"{network}.{name}": tensor.contiguous()  # safetensors refuses other memory formats, such as channels_last
        for network, part in content["state"].items()
        for name, tensor in part.items()
    }
    plain = {key: value for key, value in content.items() if key != "state"}
    # "format": "pt" is what Hugging Face's loaders expect; metadata values must be strings, hence the JSON
    metadata = {"format": "pt", FORMAT: json.dumps({"version": VERSION, **plain})}
    temporary = path.with_name(f".{path.name}.writing")
    try:
        # safetensors creates files that only their owner can read; a file that Python creates respects the umask
        temporary.touch()
        mode = temporary.stat().st_mode
        package.torch.save_file(tensors, temporary, metadata)
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def load_safetensors(path: Path) -> dict[str, Any]:
    """Read a file of `save_safetensors` in the form that `checkpoints.file.load` returns.

    Raises:
        CheckpointError: the package is missing, or the file is damaged or was not written by this project.
        OSError: the file cannot be read.
    """
    package = import_safetensors()
    state: dict[str, dict[str, Any]] = {}
    try:
        with package.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(FORMAT, "")
            if not text or len(text) > MAX_METADATA_BYTES:
                raise CheckpointError(
                    f"{path} is not a checkpoint of this project; export one with python -m pggan export"
                )
            for full_name in file.keys():  # noqa: SIM118 (not a dict)
                network, _, name = full_name.partition(".")  # networks' names, "G" or "D", have no dot
                state.setdefault(network, {})[name] = file.get_tensor(full_name)
        return {"format": FORMAT, **json.loads(text), "state": state}
    except (CheckpointError, OSError):
        raise
    except Exception:  # the package and json raise different types
        raise CheckpointError(explain_unreadable(path)) from None
