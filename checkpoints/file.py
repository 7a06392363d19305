"""One checkpoint in one file, written whole or not at all, and read without running anything in it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

FORMAT, VERSION = "pggan-checkpoint", 1
REQUIRED = ("images", "stage", "config", "networks", "state")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or used, in one sentence."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain data, atomically.

    Args:
        content: "images" seen; "stage" {"resolution", "alpha"} last trained; "config" and "networks" (plain data);
            "state" (state dicts); whatever else the writer needs.
    """
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, "version": VERSION, **content}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power loss (not a thing on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; only tensors and plain data can come out of it.

    Raises:
        CheckpointError: no such file, no checkpoint, one of another version, or damaged.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums into its files but does not look at them
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder, not a checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception:  # torch raises many kinds, with pages of text
        raise CheckpointError(f"{path} is damaged, or no checkpoint of this project") from None
    return check_content(path, content)


def check_content(path: Path, content: Any) -> dict[str, Any]:
    """What was read, if it is a checkpoint of this version.

    Raises:
        CheckpointError: it is not.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this project")
    if content.get("version") != VERSION:
        raise CheckpointError(f"{path} is of version {content.get('version')}; this code reads version {VERSION}")
    if missing := [key for key in REQUIRED if key not in content]:
        raise CheckpointError(f"{path} is incomplete: it has no {missing[0]!r}")
    return content


def newest(path: str | os.PathLike) -> Path:
    """The checkpoint that a path stands for: itself, or a run directory's latest.

    Raises:
        CheckpointError: neither.
    """
    path = Path(path)
    if path.is_file():
        return path
    latest = path / "checkpoints" / "latest.pt"
    for file in (latest, path / "model.safetensors"):  # of a run; of a folder for the Hugging Face Hub
        if file.is_file():
            return file
    what = "holds no checkpoints/latest.pt" if path.is_dir() else "does not exist"
    raise CheckpointError(f"{path} {what}; name a checkpoint or a run directory")
