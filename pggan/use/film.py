"""Videos as .mp4, .gif or .webp files, written frame by frame."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from ..config import ConfigError
from .options import int_parser

SUFFIXES = (".mp4", ".gif", ".webp")
MAX_BYTES = (
    2**31
)  # bytes of RGB frames; Pillow's GIF and WebP writers hold all frames in memory, and 2 GiB fit anywhere
CAPTION_HEIGHT = (
    28  # pixels of the caption below a frame: 16-pixel type with 6 above and below; even, as H.264 requires
)


def add_fps(p: argparse.ArgumentParser, default: int) -> None:
    """Add --fps."""
    p.add_argument(
        "--fps",
        type=int_parser(1, 60),
        default=default,
        metavar="N",
        help="frames per second, 1 to 60 (default: %(default)s)",
    )


def check_film(suffix: str) -> None:
    """Raise ConfigError if the package that writes videos with this suffix is not installed."""
    if suffix == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError:
            raise ConfigError("--out: writing .mp4 needs PyAV: pip install av, or choose a .gif or .webp") from None


def write_film(path: Path, frames: Iterator[Image.Image], count: int, fps: int) -> None:
    """Write a video of `count` frames at `fps` frames per second; .gif and .webp loop forever.

    Args:
        path: ending in one of SUFFIXES.
        frames: images of one size, drawn one at a time; width and height must be even for .mp4.

    Raises:
        ConfigError: a .gif or .webp of that many frames would need more than MAX_BYTES bytes.
    """
    # disable=None: no progress bar unless stderr is a terminal
    frames = iter(tqdm(frames, desc="writing video", total=count, unit="frame", disable=None, leave=False))
    if path.suffix.lower() == ".mp4":
        write_mp4(path, frames, fps)
        return
    frames = (frame.convert("RGB") for frame in frames)
    first = next(frames)
    # Known only with the first frame, but still before the others are drawn.
    if count * 3 * first.width * first.height > MAX_BYTES:
        raise ConfigError(
            f"--out: {count} frames of {first.width}x{first.height} do not fit in memory as {path.suffix.lower()}; "
            "choose an .mp4, or fewer frames"
        )
    # 90 of 100: a little finer than Pillow's default of 80, for captions and small images
    options: dict[str, Any] = {"quality": 90} if path.suffix.lower() == ".webp" else {}
    # duration is in milliseconds, and loop=0 means forever
    first.save(path, save_all=True, append_images=frames, duration=round(1000 / fps), loop=0, **options)


def write_mp4(path: Path, frames: Iterator[Image.Image], fps: int) -> None:
    """Write an H.264 video that browsers and common players can show.

    They need 4:2:0 chroma (yuv420p), and the index at the front of the file (faststart) to begin before the end of a
    download.
    """
    import av

    first = next(frames)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as film:
        stream = film.add_stream(
            "libx264", rate=fps, options={"crf": "16"}
        )  # finer than x264's default of 23: frames are small
        stream.width, stream.height, stream.pix_fmt = *first.size, "yuv420p"
        for frame in chain([first], frames):
            film.mux(stream.encode(av.VideoFrame.from_image(frame.convert("RGB"))))
        film.mux(stream.encode(None))  # flush frames that the encoder still holds back


def add_caption(image: Image.Image, text: str) -> Image.Image:
    """Return a copy of the image with a line of text in a black bar of CAPTION_HEIGHT pixels below it."""
    page = Image.new("RGB", (image.width, image.height + CAPTION_HEIGHT), "black")
    page.paste(image, (0, 0))
    ImageDraw.Draw(page).text(
        (8, image.height + CAPTION_HEIGHT // 2), text, "white", ImageFont.load_default(16), anchor="lm"
    )
    return page
