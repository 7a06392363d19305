"""Where on the disk caches live."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$PGGAN_CACHE, or pggan in the user's cache folder."""
    base = os.environ.get("PGGAN_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pggan"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, also after the power was lost."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
