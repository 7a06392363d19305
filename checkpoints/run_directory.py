"""The run directory runs/NAME/: config.json, log.jsonl, metrics.jsonl, evaluations.jsonl, samples/, checkpoints/."""

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

# Our choices, far above what any run writes: a damaged or foreign file is refused instead of exhausting the memory
MAX_FILE_BYTES = 64 << 20  # size of config.json, log.jsonl and metrics.jsonl
MAX_IMAGES = 10**12  # images seen


class RunDirectory:
    """The paths of a run, its lock, and its checkpoints. Nothing is written before `lock` is called.

    checkpoints/ contains latest.pt, the state of the run; earlier-00012304.pt, former latest ones by images seen;
    stage-0016.pt, the last one of each stage; best.pt, the one with the lowest FID. A checkpoint with several of these
    names is stored once, with hard links.

    Attributes:
        folder, config, log, metrics, evaluations, samples, checkpoints, latest, best: paths.
        images_of_latest: images seen by latest.pt; None before it is saved or loaded.
        directory_lock: the lock, once `lock` was called.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.config = self.folder / "config.json"
        self.log = self.folder / "log.jsonl"
        self.metrics = self.folder / "metrics.jsonl"
        self.evaluations = self.folder / "evaluations.jsonl"  # written by `evaluate`, not by training
        self.samples = self.folder / "samples"
        self.checkpoints = self.folder / "checkpoints"
        self.latest = self.checkpoints / "latest.pt"
        self.best = self.checkpoints / "best.pt"
        self.images_of_latest: int | None = None
        self.directory_lock: DirectoryLock | None = None

    def exists(self) -> bool:
        """Return whether the folder contains a run."""
        return self.config.is_file()

    def lock(self, log: Callable[[str], Any] = warnings.warn) -> None:
        """Create the folder and lock it against other processes, until `release` or the end of this process.

        Args:
            log: called with a warning for each feature that the file system lacks: locks, syncing of folders.

        Raises:
            CheckpointError: another process has the lock, or the folder cannot be written.
        """
        with self.explain_write_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.directory_lock = DirectoryLock(self.folder)
            if not self.directory_lock.acquire():
                log(
                    f"warning: the file system of {self.folder} has no locks: do not start a second process on this run"
                )
            if not sync_folder(self.folder):
                log(
                    f"warning: the file system of {self.folder} cannot sync folders: after a power loss, the run may "
                    "resume from an earlier checkpoint"
                )

    def release(self) -> None:
        """Release the lock if this process holds it."""
        if self.directory_lock:
            self.directory_lock.release()

    def create(self, config: dict[str, Any]) -> None:
        """Create the folders, and write the config atomically.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        with self.explain_write_errors():
            for folder in (self.samples, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            write_text(self.config, json.dumps(config, indent=2) + "\n")

    @contextmanager
    def explain_write_errors(self) -> Iterator[None]:
        """Turn the operating system's errors into a CheckpointError with the folder's name."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"cannot write the run directory {self.folder}: {error.strerror}") from None

    def read_config(self) -> dict[str, Any]:
        """Return the content of config.json. Raises CheckpointError if it is missing or damaged."""
        with explain_read_errors(self.config):
            try:
                config = json.loads(self.config.read_text(encoding="utf-8"))
            except ValueError as error:
                raise CheckpointError(f"{self.config} cannot be read: {error}") from None
        if not isinstance(config, dict):
            raise CheckpointError(f"{self.config} contains no options; restore it, or use another run directory")
        return config

    def save(self, content: dict[str, Any], keep_last: int = 1) -> None:
        """Save the latest checkpoint, and keep the previous ones, `keep_last` in total. Raises OSError."""
        if keep_last > 1 and self.images_of_latest is not None and self.latest.exists():
            hard_link(self.latest, self.earlier_path(self.images_of_latest))
        save(self.latest, content)
        self.images_of_latest = content["images"]
        # after the save: a full disk must not cost a checkpoint that could be resumed from
        for old in self.earlier_paths()[keep_last - 1 :]:
            old.unlink(missing_ok=True)

    def keep_stage(self, resolution: int) -> Path:
        """Keep the latest checkpoint as the last one of its stage. Raises OSError."""
        return hard_link(self.latest, self.stage_path(resolution))

    def keep_best(self) -> Path:
        """Keep the latest checkpoint as the best one so far. Raises OSError."""
        return hard_link(self.latest, self.best)

    def stage_path(self, resolution: int) -> Path:
        """Return the path of a stage's last checkpoint."""
        return self.checkpoints / f"stage-{resolution:04d}.pt"

    def earlier_path(self, images: int) -> Path:
        """Return the path of a former latest checkpoint, by images seen."""
        return self.checkpoints / f"earlier-{images:08d}.pt"

    def earlier_paths(self) -> list[Path]:
        """Return the former latest checkpoints, the newest first."""
        # by length first: numbers of more than eight digits are longer, and would sort before shorter ones
        return sorted(self.checkpoints.glob("earlier-*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)

    def load_newest(
        self, log: Callable[[str], None], is_usable: Callable[[dict[str, Any]], bool] = lambda content: True
    ) -> dict[str, Any] | None:
        """Load the newest usable checkpoint and make it the latest one; return None if there are no checkpoints.

        Newer checkpoints, which are unusable, are renamed to NAME.unusable.

        Args:
            log: called with a warning if latest.pt is missing or unusable.
            is_usable: returns whether the run can resume from a checkpoint's content.

        Raises:
            CheckpointError: there are checkpoints, but none is usable.
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

    def average_path(self, images: int) -> Path:
        """Return the path of a snapshot of the power-function averages, by images seen."""
        return self.checkpoints / f"average-{images:08d}.pt"

    def average_paths(self) -> list[Path]:
        """Return the snapshots of the power-function averages, in no order."""
        return list(self.checkpoints.glob("average-*.pt"))

    def find_newest(
        self, is_usable: Callable[[dict[str, Any]], bool] = lambda content: True
    ) -> tuple[Path, dict[str, Any], list[Path], str] | None:
        """Find the checkpoint that `load_newest` would load, without changing any file.

        Returns:
            Its path, its content, the unusable newer checkpoints, and a warning or ""; None without checkpoints.

        Raises:
            CheckpointError: see `load_newest`.
        """
        stages = sorted(self.checkpoints.glob("stage-*.pt"), reverse=True)
        existing = [p for p in (self.latest, *self.earlier_paths(), *stages, self.best) if p.exists()]
        unusable = {}
        for path in existing:
            try:
                content = load(path)
                if not is_usable(content):
                    raise DamagedCheckpoint(
                        f"{path} was saved after a skipped step, or contains infinite or NaN values"
                    )
            except DamagedCheckpoint as error:  # not CheckpointError: a file of another version must stop the run
                unusable[path] = str(error)
                continue
            missing = [] if self.latest in existing else [f"{self.latest} is missing"]
            reasons = [*missing, *unusable.values(), f"using {path} instead"] if path != self.latest else []
            return path, content, list(unusable), "; ".join(reasons)
        if unusable:
            raise CheckpointError(
                f"none of the {len(unusable)} checkpoints in {self.checkpoints} is usable: "
                f"{next(iter(unusable.values()))}; start a new run in another folder"
            )
        return None

    def set_aside(self, paths: list[Path]) -> None:
        """Rename checkpoints to NAME.unusable. Raises OSError."""
        for path in paths:
            os.replace(path, path.with_name(f"{path.name}.unusable"))

    def cut_logs(self, images: int) -> None:
        """Remove the log lines after a checkpoint, and a truncated last line: the resumed run writes them again.

        Args:
            images: images seen by the checkpoint.

        Raises:
            CheckpointError: a log is damaged. OSError: it cannot be written.
        """
        for path in (self.log, self.metrics):
            kept = [line for line in read_lines(path) if line["images"] <= images]
            if path.exists():
                write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Append a line of JSON to a file, completely or not at all, and sync it to the disk. Raises OSError."""
    line = memoryview((json.dumps(values) + "\n").encode())
    with path.open("ab", buffering=0) as file:  # unbuffered, so that errors are raised here and not at close
        start = file.tell()
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(start)
            raise


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, each a dict with "images", the images seen; [] if the file does not exist.

    A truncated last line, from an interrupted write, is skipped.

    Raises:
        CheckpointError: the file is damaged, or not a run's log.
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
                raise CheckpointError(f"{path}, line {number + 1} is not JSON; correct or delete the line") from None
            break
        images = value.get("images") if isinstance(value, dict) else None
        if type(images) is not int or not 0 <= images < MAX_IMAGES:
            raise CheckpointError(f'{path}, line {number + 1} has no number of "images"; correct or delete the line')
        values.append(value)
    return values


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Raise CheckpointError if a file is larger than any run's, or if the block cannot read it."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB, more than any run writes")
        yield
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. Raises OSError."""
    with write_atomically(path) as file:
        file.write(text.encode())


def hard_link(path: Path, name: Path) -> Path:
    """Add a name for a file, replacing the file with that name; copy it if the file system has no hard links.

    Raises:
        OSError: the folder cannot be written.
    """
    if name.exists() and name.samefile(path):
        return name
    # os.link refuses to replace a file, so link under another name and rename, which replaces it atomically
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
