"""Output files and folders of the commands.

Existing files are overwritten with --force only, and output appears under its final name only once it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pggan.checkpoints import resolve_checkpoint

from ..config import ConfigError
from ..paths import find_run_folder
from .trained import Trained

# Every folder these commands write contains one of these files, with an entry "made_by"; --force replaces no others.
INDEX, FOUND, CONFIG = "dataset.json", "found.json", "config.json"


class Output:
    """A file or folder to be written.

    Args:
        path: final path, ending in one of `suffixes`.
        force: overwrite an existing file, or an existing folder that these commands wrote.
        suffixes: accepted file suffixes, in lower case with their dot; "" stands for a folder.

    Raises:
        ConfigError: `path` exists and may not be overwritten, or has another suffix.
    """

    def __init__(self, path: Path, force: bool, suffixes: tuple[str, ...]):
        # A command that writes folders only accepts any name, also one such as "face.v2".
        self.path, self.suffix = path, "" if suffixes == ("",) else path.suffix.lower()
        if self.suffix not in suffixes:
            known = [suffix for suffix in suffixes if suffix]
            folder = ", and a folder's name has no suffix" if "" in suffixes else ""
            raise ConfigError(f"--out: {path} does not end in {' or '.join(known)}{folder}")
        if not (path.exists() or path.is_symlink()):
            return
        # Checked even with --force: nobody means to replace a folder of photos by one of samples.
        if path.is_dir() and (self.suffix or not self.is_ours()):
            reason = (
                "is a folder, not a file" if self.suffix else "is a folder with other contents, which --force keeps"
            )
            raise ConfigError(f"--out: {path} {reason}; choose another name")
        if not force:
            raise ConfigError(f"--out: {path} already exists; choose another name, or add --force to overwrite it")
        if not self.suffix and not path.is_dir():
            raise ConfigError(f"--out: {path} is a file, not a folder; choose another name")

    def is_ours(self) -> bool:
        """Return whether the folder is empty or was written by one of these commands."""
        for name in (INDEX, FOUND, CONFIG):
            try:
                if "made_by" in json.loads((self.path / name).read_text()):
                    return True
            except (
                OSError,
                ValueError,
                TypeError,
                RecursionError,
            ):  # no such file, not JSON, or JSON that is not an object
                continue
        return not any(self.path.iterdir())

    @contextmanager
    def write_atomically(self) -> Iterator[Path]:
        """Yield a temporary path to write to, and move it to the final path if the block raises nothing.

        The temporary path is in the same folder, hence on the same file system, where a rename is atomic. An existing
        folder is first moved aside, since a rename cannot replace a folder with contents. Prints the final path.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary, old = (self.path.with_name(f".{word}-{self.path.name}") for word in ("writing", "old"))
        remove_path(temporary)  # left over if an earlier command was killed
        try:
            yield temporary
            if self.path.is_dir():
                remove_path(old)
                os.replace(self.path, old)
            os.replace(temporary, self.path)
            remove_path(old)  # only now: until the new output is in place, the old one still exists
        finally:
            remove_path(temporary)
        print(f"wrote {self.path}")


def remove_path(path: Path) -> None:
    """Delete a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def default_path(checkpoint: str, trained: Trained, command: str, *parts: str, suffix: str) -> Path:
    """Return the output path of a command without --out, such as RUN/outputs/sample-32x32-72kimg-seeds-0-63.png.

    For a checkpoint outside a run directory, outputs/ is created next to it and the name includes the checkpoint's.
    """
    file = resolve_checkpoint(checkpoint)
    folder = find_run_folder(file)
    # Several checkpoints may share a folder outside of runs, but a run's checkpoints differ in stage or kimg.
    origin = [] if folder else [file.stem]
    alpha = [f"alpha-{trained.alpha:g}"] if trained.alpha != 1 else []
    stage = [f"{trained.resolution}x{trained.resolution}", f"{round(trained.images / 1000)}kimg", *alpha]
    # A class name, which is one of the parts with --labels, may contain a slash.
    name = "-".join([command, *origin, *stage, *(part for part in parts if part)]).replace("/", "_")
    return (folder or file.parent) / "outputs" / (name + suffix)
