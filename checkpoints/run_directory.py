"""runs/NAME/: config.json, log.jsonl, metrics.jsonl, samples/, checkpoints/."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .file import CheckpointError, DamagedCheckpoint, load, save, sync_folder, write_atomically
from .lock import DirectoryLock

MAX_FILE_BYTES = 64 << 20  # bytes of config.json, log.jsonl and metrics.jsonl; no run writes that much
MAX_IMAGES = 10**12


class RunDirectory:
    """Where a run keeps everything. Nothing is written before `lock`.

    In checkpoints/ latest.pt is the state of the run. earlier-00012304.pt, named by images seen, were the latest before
    it, stage-0016.pt ended a stage, best.pt had the lowest FID. A file that serves as two of these is on the disk once.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.config = self.folder / "config.json"
        self.log = self.folder / "log.jsonl"
        self.metrics = self.folder / "metrics.jsonl"
        self.samples = self.folder / "samples"
        self.checkpoints = self.folder / "checkpoints"
        self.latest = self.checkpoints / "latest.pt"
        self.best = self.checkpoints / "best.pt"
        self.images_of_latest: int | None = None
        self.directory_lock: DirectoryLock | None = None

    def exists(self) -> bool:
        return self.config.is_file()

    def lock(self, say: Callable[[str], Any] = warnings.warn) -> None:
        """Keep other processes off until this one ends or `release`s it, making the folder.

        say: told, once, of what the folder's file system cannot do and a run does without.

        Raises:
            CheckpointError: another process has it, or the folder cannot be written.
        """
        with self.explain_write_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.directory_lock = DirectoryLock(self.folder)
            if not self.directory_lock.acquire():
                say(
                    f"warning: the file system of {self.folder} has no locks: do not start a second process on this run"
                )
            if not sync_folder(self.folder):
                say(
                    f"warning: the file system of {self.folder} cannot sync folders: after a power loss the latest "
                    "checkpoint may be an earlier one"
                )

    def release(self) -> None:
        if self.directory_lock:
            self.directory_lock.release()

    def create(self, config: dict[str, Any]) -> None:
        """Make the folders and write the config, atomically.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        with self.explain_write_errors():
            for folder in (self.samples, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            write_text(self.config, json.dumps(config, indent=2) + "\n")

    @contextmanager
    def explain_write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"cannot write the run directory {self.folder}: {error.strerror}") from None

    def read_config(self) -> dict[str, Any]:
        with explain_read_errors(self.config):
            try:
                config = json.loads(self.config.read_text(encoding="utf-8"))
            except ValueError as error:
                raise CheckpointError(f"{self.config} cannot be read: {error}") from None
        if not isinstance(config, dict):
            raise CheckpointError(f"{self.config} holds no options")
        return config

    def save(self, content: dict[str, Any], keep_last: int = 1) -> None:
        """Make this the latest checkpoint, and keep those before it, `keep_last` with it. Raises OSError."""
        if keep_last > 1 and self.images_of_latest is not None and self.latest.exists():
            hard_link(self.latest, self.earlier_path(self.images_of_latest))
        save(self.latest, content)
        self.images_of_latest = content["images"]
        for old in self.earlier_paths()[keep_last - 1 :]:
            old.unlink(missing_ok=True)

    def keep_stage(self, resolution: int) -> Path:
        """Keep the latest checkpoint under the stage's own name. Raises OSError."""
        return hard_link(self.latest, self.stage_path(resolution))

    def keep_best(self) -> Path:
        """Keep the latest checkpoint as the best one so far. Raises OSError."""
        return hard_link(self.latest, self.best)

    def stage_path(self, resolution: int) -> Path:
        return self.checkpoints / f"stage-{resolution:04d}.pt"

    def earlier_path(self, images: int) -> Path:
        return self.checkpoints / f"earlier-{images:08d}.pt"

    def earlier_paths(self) -> list[Path]:
        """The newest first."""
        return sorted(self.checkpoints.glob("earlier-*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)

    def load_newest(
        self, log: Callable[[str], None], is_usable: Callable[[dict[str, Any]], bool] = lambda content: True
    ) -> dict[str, Any] | None:
        """The newest checkpoint that is whole and usable, which is the latest from now on; None before the first.

        Newer ones are renamed to NAME.unusable, and this is said.

        Raises:
            CheckpointError: there are checkpoints, and none of them can be used.
        """
        if (found := self.find_newest(is_usable)) is None:
            return None
        path, content, unusable, note = found
        if note:
            log(note)
        if path != self.latest:
            self.set_aside(unusable)
            hard_link(path, self.latest)
        self.images_of_latest = content["images"]
        return content

    def find_newest(
        self, is_usable: Callable[[dict[str, Any]], bool] = lambda content: True
    ) -> tuple[Path, dict[str, Any], list[Path], str] | None:
        """What `load_newest` takes, which newer ones it cannot use, and what it says; nothing is changed."""
        stages = sorted(self.checkpoints.glob("stage-*.pt"), reverse=True)
        existing = [p for p in (self.latest, *self.earlier_paths(), *stages, self.best) if p.exists()]
        unusable = {}
        for path in existing:
            try:
                content = load(path)
                if not is_usable(content):
                    raise DamagedCheckpoint(f"{path} holds numbers that are not finite")
            except DamagedCheckpoint as error:
                unusable[path] = str(error)
                continue
            missing = [] if self.latest in existing else [f"{self.latest} is missing"]
            why = [*missing, *unusable.values(), f"taking {path} instead"] if path != self.latest else []
            return path, content, list(unusable), "; ".join(why)
        if unusable:
            raise CheckpointError(f"none of {len(unusable)} checkpoints can be used: {next(iter(unusable.values()))}")
        return None

    def set_aside(self, paths: list[Path]) -> None:
        for path in paths:
            os.replace(path, path.with_name(f"{path.name}.unusable"))

    def cut_logs(self, images: int) -> None:
        """Drop the lines written after a checkpoint, and a last line cut short: they will be written again."""
        for path in (self.log, self.metrics):
            kept = [line for line in read_lines(path) if line["images"] <= images]
            if path.exists():
                write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def append_line(path: Path, values: dict[str, Any]) -> None:
    """One more line of JSON on the disk, the whole of it or nothing. Raises OSError."""
    line = memoryview((json.dumps(values) + "\n").encode())
    with path.open("ab", buffering=0) as file:
        start = file.tell()
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(start)
            raise


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file, each with the images seen; a last line that was cut short is left out.

    Raises:
        CheckpointError: a damaged file, or none of a run.
    """
    if not path.exists():
        return []
    with explain_read_errors(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    values = []
    for number, line in enumerate(lines):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            if number < len(lines) - 1:
                raise CheckpointError(f"{path}, line {number + 1} is not JSON") from None
            break
        images = value.get("images") if isinstance(value, dict) else None
        if type(images) is not int or not 0 <= images < MAX_IMAGES:
            raise CheckpointError(f"{path}, line {number + 1} does not say a number of images")
        values.append(value)
    return values


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Refuses a file that is too large to be a run's, and says what kept it from being read."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MB; no run writes that much")
        yield
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises OSError."""
    with write_atomically(path) as file:
        file.write(text.encode())


def hard_link(path: Path, name: Path) -> Path:
    """Give a file a second name, in place of what has that name; a copy where the disk knows no links."""
    if name.exists() and name.samefile(path):
        return name
    temporary = name.with_name(f".{name.name}.writing")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        with write_atomically(name) as file, path.open("rb") as original:
            shutil.copyfileobj(original, file)
    else:
        os.replace(temporary, name)
        sync_folder(name.parent)
    return name
