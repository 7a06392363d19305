"""Where on the disk caches live."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$PGGAN_CACHE, or pggan in the user's cache folder."""
    base = os.environ.get("PGGAN_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pggan"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(text, "utf-8", "surrogateescape")
    temporary.replace(path)
