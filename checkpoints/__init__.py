"""Run directories and checkpoint files: written atomically, safe to load, made of tensors and plain data only."""

from pggan.checkpoints.describe import describe
from pggan.checkpoints.file import CheckpointError, resolve_checkpoint, save
from pggan.checkpoints.formats import load
from pggan.checkpoints.run_directory import RunDirectory
from pggan.checkpoints.safetensors_file import save_safetensors
from pggan.clone import prefer_other_package

__all__ = ["CheckpointError", "RunDirectory", "describe", "load", "resolve_checkpoint", "save", "save_safetensors"]

prefer_other_package(__name__, __file__)  # where `import checkpoints` means another project's
