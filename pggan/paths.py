"""Record a run's paths as absolute ones, find them again after a move, and choose the default run directory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pggan.datasets.torchvision_sets import is_torchvision_name

RECORDED = ("data", "resume", "inception_weights")  # options that are paths; config.json has them absolute


def make_absolute(path: str) -> str:
    """Return an existing path as an absolute one, and anything else, such as a dataset name, unchanged."""
    return os.path.abspath(path) if path != "synthetic" and os.path.exists(path) else path


def find_run_folder(checkpoint: Path) -> Path | None:
    """Return the run directory of a checkpoint file, or None if it is not in one."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None


def relocate_path(path: str, out: Any, run: Path | None) -> str:
    """Return the present location of a path that a run recorded.

    A relative path, as recorded by earlier versions, is resolved against the folder in which the run was started. If
    an absolute path no longer exists, its last parts are resolved likewise: the run may have been moved with its
    images, or be mounted elsewhere.

    Args:
        out: the run's recorded --out; if relative, it tells that folder. run: present location of the run directory.

    Returns:
        An existing path, or `path` unchanged.
    """
    if path == "synthetic" or run is None or not isinstance(out, str) or (os.path.isabs(path) and os.path.exists(path)):
        return path
    run, tail = Path(os.path.abspath(run)), Path(os.path.normpath(out)).parts
    if os.path.isabs(out) or ".." in tail or run.parts[-len(tail) :] != tail:
        return path
    start, parts = Path(*run.parts[: -len(tail)]), Path(path).parts
    shortened = range(1, len(parts)) if os.path.isabs(path) else (0,)
    return next((str(found) for i in shortened if (found := start.joinpath(*parts[i:])).exists()), path)


def is_same_path(a: str, b: str) -> bool:
    """Return whether two paths are the same file or folder, or two dataset names are equal."""
    if "\0" in a + b:  # from a damaged config.json; os.path.realpath refuses it
        return a == b
    return os.path.realpath(a) == os.path.realpath(b)


def is_missing(data: str) -> bool:
    """Return whether a dataset is a path that does not exist, rather than a name such as cifar10."""
    return data != "synthetic" and not is_torchvision_name(data) and not os.path.exists(data)


def read_options(run: Path) -> dict[str, Any]:
    """Return the options in a run directory's config.json, with present paths; {} if it is missing or damaged."""
    try:
        options = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return relocate_paths(options, run) if isinstance(options, dict) else {}


def relocate_paths(options: Mapping[str, Any], run: Path | None) -> dict[str, Any]:
    """Return a run's recorded options with each path replaced by its present location."""
    paths = {name: options[name] for name in RECORDED if isinstance(options.get(name), str)}
    return {**options, **{name: relocate_path(path, options.get("out"), run) for name, path in paths.items()}}


def choose_out(data: str, kind: int | str) -> tuple[str, str]:
    """Choose the default run directory: runs/DATA-KIND, or another name if that has a run on other images.

    Args:
        kind: the run's resolution or time budget.

    Returns:
        The run directory, and a console line if the name is not the usual one, else "".
    """
    path = Path(os.path.realpath(data))
    tag = hashlib.blake2b(os.fsencode(path), digest_size=3).hexdigest()  # 3: six characters, for one user's folders
    names = [path.name, f"{path.parent.name}-{path.name}", f"{path.name}-{tag}"]
    owners = {out: read_options(Path(out)).get("data") for out in (f"runs/{name}-{kind}" for name in names)}
    mine = [out for out, owner in owners.items() if isinstance(owner, str) and is_same_path(owner, data)]
    moved = [out for out, owner in owners.items() if isinstance(owner, str) and is_missing(owner)]  # perhaps to `data`
    free = [out for out, owner in owners.items() if owner is None]
    usual, *_, last = owners
    out = [*mine, *moved, *free, last][0]
    note = f"{usual} has a run on {owners[usual]}; this run is in {out} (change this with --out)"
    if owners[usual] is None:  # the folder with the usual name is gone
        note = f"this run is in {out}, which has a run on these images (change this with --out)"
    return out, "" if out == usual else note


def find_run_started_from(data: str, checkpoint: str, resolution: int | None) -> dict[str, Any]:
    """Return the options of the run in runs/ on these images that started from this checkpoint; {} if not exactly one.

    resolution: the run's, or None for any.
    """
    found = []
    for file in sorted(Path("runs").glob("*/config.json")):
        options = read_options(file.parent)
        begun, images = options.get("resume"), options.get("data")
        if (
            not isinstance(begun, str)
            or not isinstance(images, str)
            or resolution not in (None, options.get("resolution"))
        ):
            continue
        if is_same_path(images, data) and is_same_checkpoint(begun, checkpoint):
            found.append(options)
    return found[0] if len(found) == 1 else {}


def is_same_checkpoint(a: str, b: str) -> bool:
    """Return whether two paths are the same checkpoint; a run directory stands for its latest one."""
    return resolve_checkpoint_file(a) == resolve_checkpoint_file(b)


def resolve_checkpoint_file(path: str) -> Path:
    """Return the checkpoint file of a path, a file or a run directory; it need not exist."""
    real = Path(os.path.realpath(path))
    return real if real.suffix and not real.is_dir() else real / "checkpoints" / "latest.pt"
