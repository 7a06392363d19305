"""Many images in one picture."""

import numpy as np
from PIL import Image

from .images import from_pixels


def contact_sheet(images: np.ndarray, side: int = 512, columns: int | None = None) -> Image.Image:
    """Images [N, C, r, r] in a grid, near-square by default, small ones enlarged by whole factors to about `side`."""
    n, channels, height, width = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    sheet = np.zeros((rows * columns, channels, height, width), np.uint8)
    sheet[:n] = images
    sheet = sheet.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    picture = from_pixels(sheet.reshape(rows * height, columns * width, channels))
    factor = max(side // (columns * width), 1)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
