"""The run directory and the checkpoint file: atomic, safe to load. Knows tensors and plain data, not networks."""

from .describe import describe
from .file import CheckpointError, load, newest, save
from .run_directory import RunDirectory

__all__ = ["CheckpointError", "RunDirectory", "describe", "load", "newest", "save"]
