"""Run directories and checkpoint files: written atomically, safe to load, made of tensors and plain data only."""

import signal
import sys

# Importing torch takes seconds. Under `python -m`, let Ctrl-C during that time end the process without a traceback.
if sys.argv[:1] == ["-m"]:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from .describe import describe
from .file import CheckpointError, resolve_checkpoint, save
from .formats import load
from .run_directory import RunDirectory
from .safetensors_file import save_safetensors

__all__ = ["CheckpointError", "RunDirectory", "describe", "load", "resolve_checkpoint", "save", "save_safetensors"]
