"""Arrange many images in one grid."""

import numpy as np
from PIL import Image

from .images import to_pillow


def make_grid(images: np.ndarray, side: int = 512, columns: int | None = None) -> Image.Image:
    """Return images [N, C, r, r] as one grid, nearly square by default.

    Small grids are enlarged by an integer factor to about `side` pixels.
    """
    n, channels, height, width = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    sheet = np.zeros((rows * columns, channels, height, width), np.uint8)
    sheet[:n] = images
    sheet = sheet.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    picture = to_pillow(sheet.reshape(rows * height, columns * width, channels))
    factor = max(side // (columns * width), 1)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
