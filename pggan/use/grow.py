"""python -m pggan grow: a film of training itself."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from checkpoints import CheckpointError, RunDirectory
from checkpoints.run_directory import read_lines

from ..training.tracking import samples_in_grid
from .film import SUFFIXES, add_fps, captioned, check_film, write_film
from .options import Commands, add_command, add_out
from .output import Output

HOLD = 2  # seconds that the last picture stays
MAX_SIDE = 2048  # pixels; larger samples are averaged down

TEXT = """\
Film a run's fixed latents from 4x4 to the end, out of its samples/: a frame for each tick, small images enlarged by
repeating pixels.
"""
EXAMPLES = """\
  python -m pggan grow runs/faces-128
  python -m pggan grow runs/faces-128 --fps 24 --out growing.gif
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "grow", run, "film a run from 4x4 to the end", TEXT, EXAMPLES)
    p.add_argument("folder", metavar="RUN", help="a run directory")
    add_fps(p, 10)
    add_out(p, "an .mp4, .gif or .webp")


def run(arguments: argparse.Namespace) -> None:
    directory = RunDirectory(arguments.folder)
    grids = sorted(p for p in directory.samples.glob("fakes-*.png") if p.stem.removeprefix("fakes-").isdecimal())
    if not grids:
        raise CheckpointError(f"{directory.folder} holds no samples/fakes-*.png; name a run directory")
    stages = {line["images"]: line for line in read_lines(directory.log)}
    last = grids[-1].stem.removeprefix("fakes-").lstrip("0")
    path = arguments.out or directory.folder / "outputs" / f"grow-{last}.mp4"
    output = Output(path, arguments.force, SUFFIXES)
    check_film(output.suffix)
    pauses = HOLD * arguments.fps
    with output.writing() as temporary:
        write_film(temporary, frames(grids, stages, pauses), len(grids) + pauses, arguments.fps)


def frames(grids: list[Path], stages: dict[int, dict[str, Any]], pauses: int) -> Iterator[Image.Image]:
    """Every grid at the size of the last one, with its stage and kimg under it; the last one `pauses` times more."""
    size = read(grids[-1]).size
    kept = samples_in_grid(max((line["resolution"] for line in stages.values()), default=4))
    shrink = -(-max(size) // MAX_SIDE)
    for path in grids:
        picture, seen = read(path), int(path.stem.removeprefix("fakes-"))
        line = stages.get(seen)
        if line and (there := samples_in_grid(line["resolution"])) > kept:
            picture = first_of(picture, there, kept)
        # every grid has the same cells, of powers of two: nearest repeats whole pixels
        picture = picture.resize(size, Image.Resampling.NEAREST).reduce(shrink)
        frame = captioned(picture, caption(seen, line))
        yield frame
    for _ in range(pauses):
        yield frame


def first_of(sheet: Image.Image, count: int, kept: int) -> Image.Image:
    """A square grid of the first `kept` of a square grid of `count` images."""
    columns, new_columns = math.isqrt(count), math.isqrt(kept)
    cell = sheet.width // columns
    page = Image.new(sheet.mode, (new_columns * cell, new_columns * cell))
    for i in range(kept):
        left, top = i % columns * cell, i // columns * cell
        part = sheet.crop((left, top, left + cell, top + cell))
        page.paste(part, (i % new_columns * cell, i // new_columns * cell))
    return page


def read(path: Path) -> Image.Image:
    """A saved picture as RGB. Raises CheckpointError where it cannot be read."""
    try:
        return Image.open(path).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        raise CheckpointError(f"{path} cannot be read as an image; remove it") from None


def caption(seen: int, line: dict[str, Any] | None) -> str:
    """As in "16x16  alpha 0.25  12.5 kimg"."""
    if line is None:
        return f"{seen / 1000:.1f} kimg"
    alpha = f"alpha {line['alpha']:.2f}  " if line["alpha"] != 1 else ""
    return f"{line['resolution']}x{line['resolution']}  {alpha}{seen / 1000:.1f} kimg"
