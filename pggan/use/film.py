"""Pictures one after another as .mp4, .gif or .webp."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from ..config import ConfigError
from .options import whole_number

SUFFIXES = (".mp4", ".gif", ".webp")
MEMORY = 2**31  # bytes of frames that the writers of .gif and .webp, which hold them all, may take
BAR = 28  # pixels under a picture for its caption


def add_fps(p: argparse.ArgumentParser, default: int) -> None:
    """The option of a film's frames a second."""
    p.add_argument("--fps", type=whole_number(1, 60), default=default, help="frames a second (default: %(default)s)")


def check_film(suffix: str) -> None:
    """Raise ConfigError where a film of this kind cannot be written here."""
    if suffix == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError:
            raise ConfigError("--out: an .mp4 needs PyAV; pip install av, or name a .gif or .webp") from None


def write_film(path: Path, frames: Iterator[Image.Image], count: int, fps: int) -> None:
    """Write `count` pictures of one size, with even sides for .mp4, at `fps` frames a second; .gif and .webp loop.

    Raises:
        ConfigError: a .gif or .webp too large for memory.
    """
    frames = iter(tqdm(frames, desc="filming", total=count, unit="frame", disable=None, leave=False))
    if path.suffix.lower() == ".mp4":
        write_mp4(path, frames, fps)
        return
    frames = (frame.convert("RGB") for frame in frames)
    first = next(frames)
    if count * 3 * first.width * first.height > MEMORY:
        raise ConfigError(
            f"--out: {count} frames of {first.width}x{first.height} are too many for {path.suffix[1:]}; "
            "name an .mp4, or take fewer"
        )
    options: dict[str, Any] = {"quality": 90} if path.suffix.lower() == ".webp" else {}
    first.save(path, save_all=True, append_images=frames, duration=round(1000 / fps), loop=0, **options)


def write_mp4(path: Path, frames: Iterator[Image.Image], fps: int) -> None:
    """H.264 that every player and browser shows, with an index at the front."""
    import av

    first = next(frames)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as film:
        stream = film.add_stream("libx264", rate=fps, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = *first.size, "yuv420p"
        for frame in chain([first], frames):
            film.mux(stream.encode(av.VideoFrame.from_image(frame.convert("RGB"))))
        film.mux(stream.encode(None))


def captioned(picture: Image.Image, text: str) -> Image.Image:
    """The picture with a line of text under it."""
    page = Image.new("RGB", (picture.width, picture.height + BAR), "black")
    page.paste(picture, (0, 0))
    ImageDraw.Draw(page).text((8, picture.height + BAR // 2), text, "white", ImageFont.load_default(16), anchor="lm")
    return page
