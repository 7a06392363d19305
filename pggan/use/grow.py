"""python -m pggan grow: video of a run's training progress."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from pggan.checkpoints import CheckpointError, RunDirectory
from pggan.checkpoints.run_directory import read_lines
from pggan.datasets.images import open_image

from ..training.tracking import choose_grid_size
from .film import SUFFIXES, add_caption, add_fps, check_film, write_film
from .options import Commands, add_command, add_out
from .output import Output

PAUSE_SECONDS = 2  # seconds for which the last frame stays, so that the result can be seen
MAX_SIDE = 2048  # pixels; larger grids are box-averaged: 4096x4096 exceeds level 5.2 of H.264

TEXT = """\
Make a video of a run's sample grids, from 4x4 to the last one.

Each tick is one frame, read from RUN/samples/. The latents are the same throughout; small images are enlarged by
repeating pixels.
"""
EXAMPLES = """\
  python -m pggan grow runs/faces-128
  python -m pggan grow runs/faces-128 --fps 24 --out growing.gif
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "grow", run, "video of a run's samples from 4x4 to the end", TEXT, EXAMPLES)
    p.add_argument("folder", metavar="RUN", help="run directory, finished or still training")
    add_fps(p, 10)
    add_out(p, "an .mp4, .gif or .webp video")


def run(arguments: argparse.Namespace) -> None:
    directory = RunDirectory(arguments.folder)
    grids = sorted(p for p in directory.samples.glob("fakes-*.png") if p.stem.removeprefix("fakes-").isdecimal())
    if not grids:
        raise CheckpointError(
            f"{directory.folder} has no samples/fakes-*.png; specify a run directory, such as runs/faces-128"
        )
    stages = {line["images"]: line for line in read_lines(directory.log)}
    # In the default name, so that a later video of the same run gets another one.
    last = grids[-1].stem.removeprefix("fakes-").lstrip("0")
    path = arguments.out or directory.folder / "outputs" / f"grow-{last}.mp4"
    output = Output(path, arguments.force, SUFFIXES)
    check_film(output.suffix)
    pauses = PAUSE_SECONDS * arguments.fps  # repeated frames, since GIF and MP4 have no common way to hold one
    with output.write_atomically() as temporary:
        write_film(temporary, draw_frames(grids, stages, pauses), len(grids) + pauses, arguments.fps)


def draw_frames(grids: list[Path], stages: dict[int, dict[str, Any]], pauses: int) -> Iterator[Image.Image]:
    """Yield the run's sample grids, captioned and all of one size, then the last one `pauses` more times.

    Args:
        grids: paths of samples/fakes-IMAGES.png, in order.
        stages: log lines by number of images seen.
    """
    size = read_grid(grids[-1]).size
    # a log without lines, of a run stopped in its first tick, has no resolutions: nothing is cropped then
    kept = choose_grid_size(max((line["resolution"] for line in stages.values()), default=4))
    shrink = -(-max(size) // MAX_SIDE)  # rounded up
    for path in grids:
        image, seen = read_grid(path), int(path.stem.removeprefix("fakes-"))
        line = stages.get(seen)
        # Training shows fewer images per grid at high resolutions: keep those that every grid shows.
        if line and (there := choose_grid_size(line["resolution"])) > kept:
            image = crop_grid(image, there, kept)
        # Once cropped, all grids have the same number of cells, whose sides are powers of two: nearest-neighbor
        # resizing repeats whole pixels.
        image = image.resize(size, Image.Resampling.NEAREST).reduce(shrink)
        frame = add_caption(image, format_caption(seen, line))
        yield frame
    for _ in range(pauses):
        yield frame  # the last one


def crop_grid(grid: Image.Image, count: int, kept: int) -> Image.Image:
    """Return a square grid of the first `kept` images of a square grid of `count` images."""
    columns, new_columns = math.isqrt(count), math.isqrt(kept)
    cell = grid.width // columns
    page = Image.new(grid.mode, (new_columns * cell, new_columns * cell))
    for i in range(kept):
        left, top = i % columns * cell, i // columns * cell
        part = grid.crop((left, top, left + cell, top + cell))
        page.paste(part, (i % new_columns * cell, i // new_columns * cell))
    return page


def read_grid(path: Path) -> Image.Image:
    """Return a saved sample grid as an RGB image. Raises CheckpointError if it cannot be read."""
    try:
        with open_image(str(path)) as image:
            return image.convert("RGB")
    except Exception:  # Pillow's decoders raise many types
        raise CheckpointError(f"{path} is not a readable image; delete it to make the video without it") from None


def format_caption(seen: int, line: dict[str, Any] | None) -> str:
    """Return a frame's caption, such as "16x16  alpha 0.25  12.5 kimg"; `line` is its log line, if there is one."""
    if line is None:
        return f"{seen / 1000:.1f} kimg"
    alpha = f"alpha {line['alpha']:.2f}  " if line["alpha"] != 1 else ""
    return f"{line['resolution']}x{line['resolution']}  {alpha}{seen / 1000:.1f} kimg"
