"""Split files into parts that fit size limits, join them, and pack what a run needs to resume."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import time
from pathlib import Path

from .results import write_atomically

PART_BYTES = 15 << 20  # below limits of 16 MiB per file
PART_NAME = re.compile(r"(?P<name>.+)\.(?P<digest>[0-9a-f]{8})\.(?P<index>\d+)of(?P<count>\d+)")
KEPT = ("config.json", "log.jsonl", "metrics.jsonl", "checkpoints/latest.pt")  # what a run needs to resume


def split(name: str, content: bytes, folder: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """Write content as parts NAME.DIGEST.IofN, each atomically; delete other contents' parts of the same kind.

    Two contents are of the same kind if their names agree up to the first dash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest, count = hashlib.sha256(content).hexdigest()[:8], max(-(-len(content) // part_bytes), 1)
    paths = [folder / f"{name}.{digest}.{i}of{count}" for i in range(count)]
    for i, path in enumerate(paths):
        write_atomically(path, content[i * part_bytes : (i + 1) * part_bytes])
    kind = name.split("-")[0]
    for other in folder.iterdir():  # only now: until here, the old parts are the only complete ones
        match = PART_NAME.fullmatch(other.name)
        if match and match["name"].split("-")[0] == kind and other not in paths:
            other.unlink()
    return paths


def join(folder: Path) -> tuple[str, bytes]:
    """Return name and content of the file whose parts are in a folder; of several files, the last by name.

    Raises:
        ValueError: the folder has no complete file, or its checksum is wrong.
    """
    found: dict[tuple[str, str, int], dict[int, Path]] = {}
    for path in folder.iterdir():
        if match := PART_NAME.fullmatch(path.name):
            key = match["name"], match["digest"], int(match["count"])
            found.setdefault(key, {})[int(match["index"])] = path
    complete = [key for key, parts in found.items() if sorted(parts) == list(range(key[2]))]
    if not complete:
        raise ValueError(f"{folder} has no complete set of parts NAME.DIGEST.0ofN to NAME.DIGEST.(N-1)ofN")
    name, digest, count = max(complete)
    content = b"".join(found[name, digest, count][i].read_bytes() for i in range(count))
    if hashlib.sha256(content).hexdigest()[:8] != digest:
        raise ValueError(f"the parts of {name} in {folder} are damaged: their checksum is not {digest}")
    return name, content


def pack_run(run: Path, folder: Path) -> list[Path]:
    """Pack a run directory's options, logs, latest checkpoint and newest samples, and split the archive."""
    buffer = io.BytesIO()
    samples = sorted(run.glob("samples/fakes-*.png"))[-1:]
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in [*(run / name for name in KEPT), *samples]:
            if path.exists():
                with path.open("rb") as file:  # stays the same file if training replaces it meanwhile
                    archive.addfile(archive.gettarinfo(arcname=path.relative_to(run).as_posix(), fileobj=file), file)
    return split(time.strftime("run-%Y%m%d-%H%M%S.tar", time.gmtime()), buffer.getvalue(), folder)


def unpack_run(folder: Path, run: Path) -> None:
    """Restore a run directory from the parts that `pack_run` wrote. Raises ValueError."""
    _, content = join(folder)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive.getmembers():
            path = run / member.name
            if member.name not in KEPT and path.parent != run / "samples":
                raise ValueError(f"{folder} is not an archive of a run: it contains {member.name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
