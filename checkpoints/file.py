"""One checkpoint in one file, written whole or not at all, and read without running anything in it."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from .validation import check_plain, iterate_tensors

FORMAT, VERSION = "pggan-checkpoint", 1
REQUIRED = ("images", "stage", "config", "networks", "state")
MAX_STRUCTURE_BYTES = 8 << 20  # bytes of what is not numbers in tensors; 0.1 MB for a run at 1024x1024

# Errors of fsync on a folder where the file system has no such thing: EINVAL on VirtualBox's shared folders, EOPNOTSUPP
# and ENOSYS on FUSE, EIO on Windows drives in WSL over SMB, EBADF and EISDIR where only a descriptor for writing would
# do, EPERM and EACCES in sandboxes and for folders that may be written but not read.
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
    """A checkpoint that cannot be read or used, in one sentence."""


class DamagedCheckpoint(CheckpointError):
    """A file that is not as any run wrote it."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain data, atomically. Raises OSError.

    Args:
        content: "images" seen; "stage" {"resolution", "alpha"} last trained; "config" and "networks" (plain data);
            "state" (state dicts); whatever else the writer needs.
    """
    with write_atomically(path) as file:
        try:
            torch.save({"format": FORMAT, "version": VERSION, **content}, file)
        except RuntimeError as error:  # of torch's writer, on top of what the disk said
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when all of it is on the disk; where that fails nothing of it stays."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> bool:
    """Make renames in a folder last through a power loss; return False on file systems that cannot (as Windows').

    Nothing but the name is at stake: the file's own fsync came before and must succeed. Without the folder's, a power
    loss may bring back the file that had the name before. Other errors, such as a full disk, are raised as OSError.
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
    """Read a checkpoint onto the CPU; only tensors and plain data can come out of it.

    Raises:
        CheckpointError: no such file, no checkpoint, or one of another version.
        DamagedCheckpoint: a file that is cut short, changed by as much as a bit, or made to harm.
    """
    path = Path(path)
    try:
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        check_plain(content, path.stat().st_size)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder, not a checkpoint") from None
    except PermissionError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except OSError as error:
        raise DamagedCheckpoint(f"cannot read {path}: {error.strerror or error}") from None
    except Exception:  # torch raises many kinds, with pages of text
        raise DamagedCheckpoint(f"{path} is damaged, or no checkpoint of this project") from None
    return check_content(path, content)


def check_content(path: Path, content: Any) -> dict[str, Any]:
    """What was read, if it is a checkpoint of this version.

    Raises:
        CheckpointError: it is not.
    """
    if not isinstance(content, dict) or not isinstance(content.get("format"), str) or content["format"] != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this project")
    version = content["version"] if type(content.get("version")) is int else None
    if version != VERSION:
        raise CheckpointError(f"{path} is of version {version}; this code reads version {VERSION}")
    if missing := [key for key in REQUIRED if key not in content]:
        raise CheckpointError(f"{path} is incomplete: it has no {missing[0]!r}")
    kinds = {"images": int} | dict.fromkeys(REQUIRED[1:], dict)
    others = {name: part for name, part in content.items() if name != "state"}
    if (
        any(type(content[name]) is not kind for name, kind in kinds.items())
        or next(iterate_tensors(others), None) is not None
    ):
        raise DamagedCheckpoint(f"{path} is damaged, or no checkpoint of this project")
    return content


def check_archive(path: Path) -> None:
    """Compare the checksums that torch writes into its files, which it does not look at itself.

    Raises:
        zipfile.BadZipFile: damage, or an archive that torch does not write: packed, or with a large structure.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            large = member.filename.endswith("data.pkl") and member.file_size > MAX_STRUCTURE_BYTES
            if member.compress_type != zipfile.ZIP_STORED or large:
                raise zipfile.BadZipFile
        if archive.testzip() is not None:
            raise zipfile.BadZipFile


def resolve_checkpoint(path: str | os.PathLike) -> Path:
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
