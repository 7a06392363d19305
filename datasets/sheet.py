"""Arrange many images in one grid."""

import numpy as np
from PIL import Image

from .images import to_pillow


def make_grid(images: np.ndarray, side: int = 512, columns: int | None = None) -> Image.Image:
    """Return images, uint8 [N, C, r, r], as one grid, nearly square by default.

    Args:
        side: grids narrower than this many pixels are enlarged by an integer factor, repeating pixels.
        columns: images per row; the last row is filled up with black.
    """
    n, channels, height, width = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    cells = np.zeros((rows * columns, channels, height, width), np.uint8)
    cells[:n] = images
    pixels = cells.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    grid = to_pillow(pixels.reshape(rows * height, columns * width, channels))
    factor = max(side // (columns * width), 1)
    return grid.resize((grid.width * factor, grid.height * factor), Image.Resampling.NEAREST)
