"""Where the commands write: never over something that exists unless told to, and whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoints import newest

from ..config import ConfigError
from ..paths import run_folder
from .trained import Trained

INDEX, FOUND, CONFIG = "dataset.json", "found.json", "config.json"  # one is in every folder written, with "made_by"


class Output:
    """A file or folder to be written.

    Args:
        path: with one of `suffixes`; "" among them stands for a folder.

    Raises:
        ConfigError: it exists and `force` is not set, or its suffix is none of those.
    """

    def __init__(self, path: Path, force: bool, suffixes: tuple[str, ...]):
        self.path, self.suffix = path, "" if suffixes == ("",) else path.suffix.lower()
        if self.suffix not in suffixes:
            known = [suffix for suffix in suffixes if suffix]
            folder = ", or a folder without a suffix" if "" in suffixes else ""
            raise ConfigError(f"--out: {path} does not end in {' '.join(known)}{folder}")
        if not (path.exists() or path.is_symlink()):
            return
        if path.is_dir() and (self.suffix or not self.is_ours()):
            what = "is a folder" if self.suffix else "is a folder of other things"
            raise ConfigError(f"--out: {path} {what}; name something new")
        if not force:
            raise ConfigError(f"--out: {path} exists; name another, or overwrite it with --force")
        if not self.suffix and not path.is_dir():
            raise ConfigError(f"--out: {path} is a file, not a folder; name something new")

    def is_ours(self) -> bool:
        """Whether a folder is empty, or one that these commands wrote."""
        for name in (INDEX, FOUND, CONFIG):
            try:
                if "made_by" in json.loads((self.path / name).read_text()):
                    return True
            except (OSError, ValueError, TypeError):
                continue
        return not any(self.path.iterdir())

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """A path beside the final one to write to; it is moved there, and said to be, when all went well."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary, old = (self.path.with_name(f".{word}-{self.path.name}") for word in ("writing", "old"))
        remove(temporary)
        try:
            yield temporary
            if self.path.is_dir():
                remove(old)
                os.replace(self.path, old)
            os.replace(temporary, self.path)
            remove(old)
        finally:
            remove(temporary)
        print(f"wrote {self.path}")


def remove(path: Path) -> None:
    """A file or a folder; nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def default_path(checkpoint: str, trained: Trained, command: str, *parts: str, suffix: str) -> Path:
    """As in RUN/outputs/sample-32x32-72kimg-seeds-0-63.png; beside a checkpoint that lies in no run directory."""
    file = newest(checkpoint)
    folder = run_folder(file)
    origin = [] if folder else [file.stem]
    alpha = [f"alpha-{trained.alpha:g}"] if trained.alpha != 1 else []
    stage = [f"{trained.resolution}x{trained.resolution}", f"{round(trained.images / 1000)}kimg", *alpha]
    name = "-".join([command, *origin, *stage, *(part for part in parts if part)]).replace("/", "_")
    return (folder or file.parent) / "outputs" / (name + suffix)
