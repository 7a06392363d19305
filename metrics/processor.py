"""What this machine's processor can do, tried out where asking is not enough."""

from __future__ import annotations

import subprocess
import sys


def survives(code: str) -> bool:
    """Whether another Python process runs the code to its end.

    Under some hypervisors a processor announces instructions, such as AMX's, that then end the process.
    """
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
