"""The run directory and the checkpoint file: atomic, safe to load. Knows tensors and plain data, not networks."""

from .file import CheckpointError, load, newest, save
from .run_directory import RunDirectory

__all__ = ["CheckpointError", "RunDirectory", "load", "newest", "save"]
