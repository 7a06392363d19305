"""Lock a run directory, so that only one process writes to it."""

from __future__ import annotations

import errno
import json
import os
import platform
import warnings
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from .file import CheckpointError

# Errors of flock on file systems without locks: ENOLCK and EIO on NFS without its lock daemon, EOPNOTSUPP and ENOSYS on
# FUSE and on Lustre mounted without flock, EINVAL on shared folders of virtual machines. If EIO means a failing disk,
# the next write fails too.
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EIO, errno.EINVAL}

warnings.filterwarnings("ignore", "flock not supported", module="filelock")  # its fallback, a soft lock, is sufficient


class DirectoryLock:
    """A lock on a folder. The system releases it when its process ends, even if the process was killed.

    Attributes:
        folder: the folder.
        holder: a JSON file, running.json, with the process id, host and start time of the process that has the lock.
    """

    def __init__(self, folder: Path):
        self.folder, self.holder = folder, folder / "running.json"
        self.lock = FileLock(folder / ".lock")

    def acquire(self) -> bool:
        """Acquire the lock without waiting; return False, without the lock, if the file system does not support locks.

        Raises:
            CheckpointError: another process holds the lock.
            OSError: the folder cannot be written.
        """
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise CheckpointError(
                f"{self.folder} is in use by {self.read_holder()}; wait until it ends, or stop it"
            ) from None
        except (NotImplementedError, OSError) as error:
            if getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS:
                raise
            return False
        # written after the lock is held, for the message that another process prints
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": platform.node(), "started": started}
        self.holder.write_text(json.dumps(holder) + "\n")
        return True

    def read_holder(self) -> str:
        """Return a description of the process that holds the lock, for messages."""
        try:
            holder = json.loads(self.holder.read_text())
            return f"process {holder['pid']} on {holder['host']}, started {holder['started']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def release(self) -> None:
        """Release the lock if this process holds it."""
        if self.lock.is_locked:
            self.holder.unlink(missing_ok=True)  # before the release, or it might be the next holder's
            self.lock.release()
