"""The run directory and the checkpoint file: atomic, safe to load. Knows tensors and plain data, not networks."""

from .describe import describe
from .file import CheckpointError, newest, save
from .formats import load
from .run_directory import RunDirectory
from .safetensors_file import save_safetensors

__all__ = ["CheckpointError", "RunDirectory", "describe", "load", "newest", "save", "save_safetensors"]
