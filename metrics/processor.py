"""Find out what this machine's processor can do by trying it in another process."""

from __future__ import annotations

import subprocess
import sys


def survives(code: str) -> bool:
    """Return whether another Python process runs the code to its end.

    Under some hypervisors a processor announces instructions, such as AMX, that then kill the process that uses them.
    """
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
