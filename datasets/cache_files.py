"""Where on the disk caches live."""

import functools
import os
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm


def find_cache_folder() -> Path:
    """Return $PGGAN_CACHE, or pggan in $XDG_CACHE_HOME, in ~/.cache or, without a home folder, in the temporary one.

    metrics.cache.default_folder follows the same rule.
    """
    if chosen := os.environ.get("PGGAN_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pggan")
    except RuntimeError:  # HOME is not set, and the system does not know the user, as in some containers
        return temporary_folder()


@functools.cache
def temporary_folder() -> Path:
    """Return the user's own cache folder among the temporary files, and warn once that it may not last."""
    folder = Path(tempfile.gettempdir(), f"pggan-{os.getuid()}")
    tqdm.write(f"there is no home folder: caches are kept in {folder}; set PGGAN_CACHE to keep them", file=sys.stderr)
    return folder


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, also after the power was lost."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
