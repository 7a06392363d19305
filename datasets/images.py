"""From an image as it was found to a square of pixels: opened safely, upright, 8 bits, so many channels, one size."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from .base import DataError

SUFFIXES = set(".jpg .jpeg .jfif .png .apng .webp .bmp .tif .tiff .gif .avif .jp2 .ppm .pgm .pbm .tga".split())
# What strangers' files may be: no format that runs a program (EPS) or holds many things (PDF, PSD, FPX)
Image.init()
FORMATS = [f for f in "JPEG PNG WEBP BMP TIFF GIF AVIF JPEG2000 PPM TGA".split() if f in Image.OPEN]
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
GRAYS = {"1", "L", "LA", "La", "I", "F"}
FITS = ("center-crop", "pad", "stretch")
MAX_FILE_BYTES = 1 << 29
MAX_PIXELS = 178_000_000  # just below Pillow's own limit
TIFF_BITS, TIFF_PHOTOMETRIC, ORIENTATION = 258, 262, 274
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `open_picture` refuses by MAX_PIXELS
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of damaged tags; the pixels are what counts


def open_picture(file: str | IO[bytes]) -> Image.Image:
    """An image file's first frame, its pixels not decoded yet.

    Raises:
        ValueError: an empty file, no image, or one of more than 178 megapixels. OSError: a file that cannot be read.
    """
    if isinstance(file, str) and os.path.exists(file) and not os.path.isfile(file):
        raise ValueError("not a plain file")
    try:
        picture = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"{'empty file' if is_empty(file) else 'not an image, or one of an unknown kind'}") from None
    except Image.DecompressionBombError:
        raise ValueError(f"more than {MAX_PIXELS // 10**6} megapixels") from None
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise ValueError(f"{picture.width}x{picture.height}: more than {MAX_PIXELS // 10**6} megapixels")
    return picture


def is_empty(file: str | IO[bytes]) -> bool:
    """Whether a file, by path or open, has no bytes."""
    return os.path.getsize(file) == 0 if isinstance(file, str) else file.seek(0, 2) == 0


@dataclass(frozen=True)
class Preparation:
    """How pictures of any size and kind become arrays of one shape.

    Args:
        resolution: side of the square, in pixels. channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA.
        fit: "center-crop" takes the square in the middle, "pad" adds bars of the background, "stretch" changes the
            aspect. background: a colour's name or #rrggbb, under transparency (where no channel is left for it) and
            beside padded images.

    Raises:
        DataError: a resolution, a fit or a colour that does not exist.
    """

    resolution: int
    channels: int
    fit: str = "center-crop"
    background: str = "white"

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise DataError(f"--fit: {self.fit!r} is not one of {', '.join(FITS)}")
        if self.resolution not in [1 << level for level in range(2, 11)]:
            raise DataError(f"--resolution: {self.resolution} is not a power of two from 4 to 1024")
        if self.channels not in MODES:
            raise DataError(f"--channels: {self.channels} is not one of 1, 2, 3, 4")
        try:
            if max(ImageColor.getrgb(self.background)) > 255:
                raise ValueError
        except ValueError:
            raise DataError(f"--background: {self.background!r} is neither a colour's name nor #rrggbb") from None

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """uint8 [channels, resolution, resolution]."""
        image = with_channels(upright(picture), self.channels, self.background)
        if image.size != (self.resolution, self.resolution):
            image = self.squared(image)
        pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def squared(self, image: Image.Image) -> Image.Image:
        """Resized by Lanczos' filter, after a box filter where an image is to become smaller than a sixth."""
        resolution, (width, height), box = self.resolution, image.size, None
        inner = (resolution, resolution)
        if self.fit == "center-crop":
            x, y = (max(side - min(width, height), 0) / 2 for side in (width, height))
            box = (x, y, width - x, height - y)
        elif self.fit == "pad":
            longest = max(width, height)
            inner = (max(round(width * resolution / longest), 1), max(round(height * resolution / longest), 1))
        resized = image.resize(inner, Image.Resampling.LANCZOS, box, reducing_gap=3.0)
        if inner == (resolution, resolution):
            return resized
        square = Image.new(image.mode, (resolution, resolution), self.padding())
        square.paste(resized, ((resolution - inner[0]) // 2, (resolution - inner[1]) // 2))
        return square

    def padding(self) -> str:
        """The background, transparent where there is an alpha channel, as Pillow reads colours."""
        red, green, blue, *_ = ImageColor.getrgb(self.background)
        return f"#{red:02x}{green:02x}{blue:02x}00"

    def enlarges(self, width: int, height: int) -> bool:
        """Whether an image of these sides, the long one where it is padded, is smaller than the resolution."""
        return (max if self.fit == "pad" else min)(width, height) < self.resolution


def upright(picture: Image.Image) -> Image.Image:
    """In 8 bits, and turned as its EXIF orientation says, where that can be read."""
    image = eight_bits(picture)
    try:
        orientation = picture.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF, of which Pillow raises many kinds
        orientation = None
    return image.transpose(TURNED[orientation]) if orientation in TURNED else image


def eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grayscale as 8-bit; other modes as they are. Raises ValueError for what has no known range."""
    image.load()
    if not image.mode.startswith(("I", "F")):
        return image
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F" or 32 in tags.get(TIFF_BITS, ()):
        raise ValueError("32-bit grayscale has no range of its own; convert it to 8 or 16 bits")
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("grayscale below 0 or above 65535 has no range of its own; convert it to 8 or 16 bits")
    gray = np.rint(pixels / 257).astype(np.uint8)
    eight = Image.fromarray(255 - gray if tags.get(TIFF_PHOTOMETRIC) == 0 else gray)
    if isinstance(clear := image.info.get("transparency"), int):
        eight.putalpha(Image.fromarray(np.where(pixels == clear, 0, 255).astype(np.uint8)))
    return eight


def with_channels(image: Image.Image, channels: int, background: str = "white") -> Image.Image:
    """The image in the mode for so many channels; transparency that has no channel is laid on the background."""
    if image.mode == MODES[channels] and not image.has_transparency_data:
        return image
    if image.mode in ("LAB", "HSV", "YCbCr"):  # Pillow converts these to RGB only
        image = image.convert("RGB")
    if "A" not in MODES[channels] and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, ImageColor.getcolor(background, "RGB")), image)
    return image.convert(MODES[channels])


def from_pixels(pixels: np.ndarray) -> Image.Image:
    """uint8 [H, W] or [H, W, 1..4] as a Pillow image."""
    return Image.fromarray(
        np.ascontiguousarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    )
