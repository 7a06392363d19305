"""Find the cache folder, and write files in it atomically."""

import functools
import os
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm


def find_cache_folder() -> Path:
    """Return $PGGAN_CACHE, or pggan in $XDG_CACHE_HOME, in ~/.cache or, without a home folder, in the temporary folder.

    metrics.cache.default_folder follows the same rule.
    """
    if chosen := os.environ.get("PGGAN_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pggan")
    except RuntimeError:  # HOME is not set, and the system does not know the user, as in some containers
        return find_temporary_folder()


@functools.cache
def find_temporary_folder() -> Path:
    """Return the user's cache folder in the temporary folder; warn, once per process, that it may not last."""
    folder = Path(tempfile.gettempdir(), f"pggan-{os.getuid()}")
    tqdm.write(
        f"warning: there is no home folder, so caches are written to {folder}, which the system may delete; "
        "set PGGAN_CACHE to a permanent folder",
        file=sys.stderr,
    )
    return folder


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it exists completely or not at all, even after a power loss. Raises OSError."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        # surrogateescape: file names in the text may contain bytes that are not UTF-8
        with open(temporary, "wb") as file:
            file.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
