"""Find a run's sample grids and compress them for embedding in a page."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

MAX_FILE_BYTES = 250_000  # bytes of one grid: 40 generated and 9 real ones, as base64, keep the page below 20 MB
MAX_GRID_PIXELS = 1 << 25  # pixels, twice the 4096 x 4096 that training writes at most: larger files are not decoded
# Maximum side in pixels and WebP quality (None: lossless), tried in this order until a grid fits in MAX_FILE_BYTES.
SIDES_AND_QUALITIES = ((1024, None), (1024, 90), (1024, 70), (768, 60), (512, 50), (256, 40))


def find_grids(samples: Path, kind: str) -> dict[int, Path]:
    """Return the files samples/KIND-NUMBER.png by number, in ascending order.

    The number is images seen for kind "fakes", and the resolution for "reals".
    """
    # 12 digits: more images than any run sees, and no number that would be slow to parse
    matches = ((re.fullmatch(rf"{kind}-([0-9]{{1,12}})\.png", path.name), path) for path in list_folder(samples))
    return dict(sorted((int(match[1]), path) for match, path in matches if match and path.is_file()))


def list_folder(folder: Path) -> Iterable[Path]:
    """Return the contents of a folder, or nothing if it does not exist."""
    return folder.iterdir() if folder.is_dir() else ()


def thin_numbers(numbers: list[int], keep: set[int], count: int) -> list[int]:
    """Select at most `count` of the sorted numbers: the last ones in `keep`, then others evenly spaced."""
    kept = sorted(keep)[-count:]
    others = [n for n in numbers if n not in keep]
    room = min(count - len(kept), len(others))
    return sorted(kept + [others[i * len(others) // room] for i in range(room)])


@contextmanager
def silence_pillow() -> Iterator[None]:
    """Suppress Pillow's warning about large images: `encode_data_uri` has a limit of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def encode_data_uri(path: Path) -> str | None:
    """Return a PNG as a data URI of a WebP of at most MAX_FILE_BYTES bytes, or None if it cannot be read.

    Only the last of SIDES_AND_QUALITIES may exceed the limit.
    """
    try:
        with silence_pillow(), Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > MAX_GRID_PIXELS:
                return None
            # WebP has no gray or palette mode
            mode = "RGBA" if image.has_transparency_data else "RGB"
            image = image.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises for damaged files
        return None
    for side, quality in SIDES_AND_QUALITIES:
        # thumbnail() only ever shrinks; box averaging keeps the edges of enlarged pixels sharp
        image.thumbnail((side, side), Image.Resampling.BOX)
        buffer = io.BytesIO()
        image.save(buffer, "WebP", lossless=quality is None, quality=quality or 60, method=3)  # 60: effort if lossless
        if buffer.tell() <= MAX_FILE_BYTES:
            break
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
