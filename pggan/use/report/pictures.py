"""Sample grids of a run directory, small enough to go into a page."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

LARGEST_FILE = 250_000  # bytes of one picture in the page
LARGEST_GRID = 1 << 25  # pixels; the largest that training writes is 4096 x 4096
SIDES_AND_QUALITIES = ((1024, None), (1024, 90), (1024, 70), (768, 60), (512, 50), (256, 40))  # None: lossless


def grids(samples: Path, kind: str) -> dict[int, Path]:
    """samples/KIND-NUMBER.png by number, in order."""
    matches = ((re.fullmatch(rf"{kind}-([0-9]{{1,12}})\.png", path.name), path) for path in listed(samples))
    return dict(sorted((int(match[1]), path) for match, path in matches if match and path.is_file()))


def listed(folder: Path) -> Iterable[Path]:
    """What is in a folder; nothing where there is none."""
    return folder.iterdir() if folder.is_dir() else ()


def spread(numbers: list[int], keep: set[int], count: int) -> list[int]:
    """At most `count` of the sorted numbers: those to keep, the last ones first, and of the others evenly many."""
    kept = sorted(keep)[-count:]
    others = [n for n in numbers if n not in keep]
    room = min(count - len(kept), len(others))
    return sorted(kept + [others[i * len(others) // room] for i in range(room)])


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warning of large pictures, which are left out anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def data_uri(path: Path) -> str | None:
    """The picture as WebP of at most LARGEST_FILE bytes; None where it cannot be read."""
    try:
        with quiet(), Image.open(path, formats=("PNG",)) as picture:
            if picture.width * picture.height > LARGEST_GRID:
                return None
            mode = "RGBA" if picture.has_transparency_data else "RGB"
            picture = picture.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises for damaged files
        return None
    for side, quality in SIDES_AND_QUALITIES:
        picture.thumbnail((side, side), Image.Resampling.BOX)
        buffer = io.BytesIO()
        picture.save(buffer, "WebP", lossless=quality is None, quality=quality or 60, method=3)
        if buffer.tell() <= LARGEST_FILE:
            break
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
