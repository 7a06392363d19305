"""Checkpoint files: written atomically, and read without executing code in them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from pggan.untrusted.files import START, identify
from pggan.untrusted.pickles import UntrustedFileError
from pggan.untrusted.torch_files import read_torch_file

FORMAT, VERSION = "pggan-checkpoint", 1  # VERSION is increased by incompatible changes
# Entries without which no command can use a checkpoint; writers may add others
REQUIRED = ("images", "stage", "config", "networks", "state")

# Errors of fsync on a folder if the file system does not support it: EINVAL on VirtualBox's shared folders, EOPNOTSUPP
# and ENOSYS on FUSE, EIO on Windows drives in WSL over SMB, EBADF and EISDIR if the descriptor must be writable, EPERM
# and EACCES in sandboxes and for folders with write but no read permission.
NO_FOLDER_SYNC = {
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
    errno.ENOSYS,
    errno.EIO,
    errno.EBADF,
    errno.EPERM,
    errno.EACCES,
    errno.EISDIR,
    errno.ENOTTY,
}


class CheckpointError(ValueError):
    """A checkpoint or run directory cannot be read or used. The message is one sentence with the reason."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint file is truncated, corrupt or malicious."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain data atomically.

    Args:
        path: file to write or replace.
        content: "images" seen; "stage" {"resolution", "alpha"} last trained; "config" and "networks" (plain data);
            "state" (state dicts); further entries of the caller.

    Raises:
        OSError: the file cannot be written.
    """
    with write_atomically(path) as file:
        try:
            torch.save({"format": FORMAT, "version": VERSION, **content}, file)
        except RuntimeError as error:  # torch raises it while handling the OSError of a failed write
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that is renamed to `path` once it is completely on the disk, or deleted after an error."""
    # in the same folder, because a rename is atomic only within one file system
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # before the rename: otherwise a power loss can leave an empty file with the name
        os.replace(temporary, path)
    except BaseException:  # also KeyboardInterrupt
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> bool:
    """Make renames in a folder survive a power loss; return False if the file system, or Windows, does not support it.

    Only the name is at stake: the file's content was synced before. Without this, a power loss may bring back the file
    that had the name before.

    Raises:
        OSError: another error, such as a full disk.
    """
    if os.name != "posix":
        return False
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
        return False
    return True


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint's tensors (onto the CPU) and plain data, without executing code in it.

    Raises:
        CheckpointError: the file does not exist, is not a checkpoint, or has another version.
        DamagedCheckpoint: the file is truncated, malicious, or differs in a single bit from what was written.
    """
    path = Path(path)
    try:
        content = read_torch_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder, not a checkpoint") from None
    except PermissionError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except OSError as error:
        raise DamagedCheckpoint(f"cannot read {path}: {error.strerror or error}") from None
    except UntrustedFileError:
        raise DamagedCheckpoint(explain_unreadable(path)) from None
    return check_content(path, content)


def check_content(path: Path, content: Any) -> dict[str, Any]:
    """Return a file's content after checking that it is a checkpoint of this version.

    Raises:
        CheckpointError: it is something else, has another version, or lacks an entry.
        DamagedCheckpoint: an entry has the wrong type.
    """
    if not isinstance(content, dict) or not isinstance(content.get("format"), str) or content["format"] != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this project; pass a checkpoint or a run directory")
    # `type` instead of isinstance, here and below: True is an int
    version = content["version"] if type(content.get("version")) is int else None
    if version != VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, but this code reads version {VERSION}; use the code that wrote it"
        )
    if missing := [key for key in REQUIRED if key not in content]:
        raise CheckpointError(f"{path} is incomplete: it lacks {missing[0]!r}")
    types = {"images": int} | dict.fromkeys(REQUIRED[1:], dict)
    # tensors outside "state" would surprise the callers, which print these entries or write them as JSON
    others = {name: part for name, part in content.items() if name != "state"}
    if (
        any(type(content[name]) is not expected for name, expected in types.items())
        or next(iterate_tensors(others), None) is not None
    ):
        raise DamagedCheckpoint(f"{path} is damaged, or not a checkpoint of this project")
    return content


def iterate_tensors(part: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor in nested dicts, lists and tuples."""
    if isinstance(part, torch.Tensor):
        yield part
    elif isinstance(part, (dict, list, tuple)):
        for value in part.values() if isinstance(part, dict) else part:
            yield from iterate_tensors(value)


def explain_unreadable(path: Path) -> str:
    """Return the message for a file that is no checkpoint: what it is, if it is a web page or Git LFS pointer."""
    start = b""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(START)
    return f"{path} is {identify(start) or 'damaged, or not a checkpoint of this project'}"


def resolve_checkpoint(path: str | os.PathLike) -> Path:
    """Return the checkpoint file for a path: the path itself if it is a file, or a run directory's latest checkpoint.

    A folder for the Hugging Face Hub works too, with its model.safetensors.

    Raises:
        CheckpointError: the path does not exist, or contains no checkpoint.
    """
    path = Path(path)
    if path.is_file():
        return path
    for file in (path / "checkpoints" / "latest.pt", path / "model.safetensors"):
        if file.is_file():
            return file
    problem = "contains no checkpoints/latest.pt" if path.is_dir() else "does not exist"
    raise CheckpointError(f"{path} {problem}; pass a checkpoint or a run directory")
