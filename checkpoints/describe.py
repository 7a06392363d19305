"""Describe a checkpoint in lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pggan.console import escape_for_terminal

from .file import CheckpointError, iterate_tensors


def describe(path: Path, content: dict[str, Any]) -> list[str]:
    """Return lines with a loaded checkpoint's stage, images seen, classes, versions, tensors, networks and options.

    Args:
        path: the file, for its name and size.
        content: the checkpoint, see `load`.

    Raises:
        CheckpointError: a part has another type than this project writes.
    """
    try:
        return [escape_for_terminal(line) for line in describe_lines(path, content)]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):  # the loader does not check inner types
        raise CheckpointError(f"{path} is damaged, or not a checkpoint of this project") from None


def describe_lines(path: Path, content: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of `describe`, which may contain control characters."""
    stage = content["stage"]
    moment = "stabilizing" if stage["alpha"] == 1 else f"fading in, alpha {stage['alpha']:.3f}"
    yield f"{path}  ({path.stat().st_size / 1e6:.1f} MB)"
    yield f"seen    {content['images'] / 1000:g} kimg"
    yield f"stage   {stage['resolution']}x{stage['resolution']}, {moment}"
    if content.get("classes"):
        yield f"classes {', '.join(content['classes'])}"
    if content.get("origin"):
        yield f"origin  {content['origin']}"
    yield "made by " + ", ".join(f"{name} {version}" for name, version in content.get("versions", {}).items())
    yield "tensors"
    for name, part in content["state"].items():
        tensors = list(iterate_tensors(part))
        if tensors:
            numbers = sum(t.numel() for t in tensors)
            yield f"  {name:<18}{len(tensors):>4} tensors {numbers:>12,} numbers"
    yield "networks"
    for name, arguments in content["networks"].items():
        yield f"  {name}: " + ", ".join(f"{key} {value}" for key, value in arguments.items())
    yield "options"
    for key, value in content["config"].items():
        yield f"  {key}: {value}"
