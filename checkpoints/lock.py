"""One process at a time."""

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

# Errors of flock on file systems without it: ENOLCK and EIO on NFS without its lock daemon, EOPNOTSUPP and ENOSYS on
# FUSE and on Lustre mounted without flock, EINVAL on shared folders of virtual machines. If the disk itself fails with
# EIO, the next write fails too.
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EIO, errno.EINVAL}

warnings.filterwarnings("ignore", "flock not supported", module="filelock")  # it locks by another way, which serves


class DirectoryLock:
    """Held by one process on a folder until it lets go or ends, however that happens: a dead one's is no obstacle.

    `holder` is a file that says who holds it.
    """

    def __init__(self, folder: Path):
        self.folder, self.holder = folder, folder / "running.json"
        self.lock = FileLock(folder / ".lock")

    def acquire(self) -> bool:
        """Take the lock; return False, without it, on file systems that have none.

        Raises:
            CheckpointError: another process holds it. OSError: the folder cannot be written.
        """
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise CheckpointError(f"{self.folder} is in use by {self.read_holder()}; wait for it, or stop it") from None
        except (NotImplementedError, OSError) as error:
            if getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS:
                raise
            return False
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": platform.node(), "started": started}
        self.holder.write_text(json.dumps(holder) + "\n")
        return True

    def read_holder(self) -> str:
        try:
            known = json.loads(self.holder.read_text())
            return f"process {known['pid']} on {known['host']}, started {known['started']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def release(self) -> None:
        if self.lock.is_locked:
            self.holder.unlink(missing_ok=True)
            self.lock.release()
