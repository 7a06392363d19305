"""The run directory and the checkpoint file: atomic, safe to load. Knows tensors and plain data, not networks."""

import signal
import sys

if sys.argv[:1] == ["-m"]:  # Ctrl-C while `python -m` imports what is below, which takes seconds: no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from .describe import describe
from .file import CheckpointError, resolve_checkpoint, save
from .formats import load
from .run_directory import RunDirectory
from .safetensors_file import save_safetensors

__all__ = ["CheckpointError", "RunDirectory", "describe", "load", "resolve_checkpoint", "save", "save_safetensors"]
