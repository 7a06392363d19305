"""Preprocess an image: open it safely, rotate it upright, convert it to 8 bits and the right channels, resize it."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from pggan.untrusted.files import START, identify

from .base import DataError, Header

SUFFIXES = set(".jpg .jpeg .jfif .png .apng .webp .bmp .tif .tiff .gif .avif .jp2 .ppm .pgm .pbm .tga".split())
# Formats that are opened at all: none that starts a program (EPS) or holds several documents (PDF, PSD, FPX)
Image.init()
FORMATS = [f for f in "JPEG PNG WEBP BMP TIFF GIF AVIF JPEG2000 PPM TGA".split() if f in Image.OPEN]
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
GRAY_MODES = {"1", "L", "LA", "La", "I", "F"}
FITS = ("center-crop", "pad", "stretch")
MAX_FILE_BYTES = 1 << 29  # 512 MiB: MAX_PIXELS of uncompressed 8-bit RGB fit
MAX_PIXELS = 178_000_000  # just below 2 x Image.MAX_IMAGE_PIXELS, from which Pillow refuses a "decompression bomb"
TIFF_BITS, TIFF_PHOTOMETRIC, ORIENTATION = 258, 262, 274  # tag numbers (TIFF 6.0, section 8)
TRANSPOSES = {  # EXIF orientation -> what makes the image upright; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `open_image` refuses by MAX_PIXELS
warnings.filterwarnings(
    "ignore", category=UserWarning, module=r"PIL\."
)  # about damaged tags, which do not affect the pixels


def open_image(file: str | IO[bytes], resolution: int = 0) -> Image.Image:
    """Open an image file's first frame without decoding its pixels.

    Args:
        resolution: a JPEG of more than six times this size in pixels is reduced while it is decoded; 0: none is.

    Raises:
        ValueError: the file is empty, not an image, or larger than 178 megapixels. OSError: it cannot be read.
    """
    if isinstance(file, str) and os.path.exists(file) and not os.path.isfile(file):
        raise ValueError("not a plain file")
    try:
        picture = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(explain_unknown(file)) from None
    except Image.DecompressionBombError:
        raise ValueError(f"more than {MAX_PIXELS // 10**6} megapixels") from None
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise ValueError(f"{picture.width}x{picture.height}: more than {MAX_PIXELS // 10**6} megapixels")
    if resolution:
        # To no less than 3 times the final size, the same margin as `Preparation.make_square`'s reducing_gap. libjpeg
        # skips most of the work for images reduced by 2, 4 or 8.
        picture.draft(picture.mode, (3 * resolution, 3 * resolution))
    return picture


def read_header(picture: Image.Image) -> Header:
    """Return the header of an open image."""
    return Header(*picture.size, picture.mode, picture.has_transparency_data)


def explain_unknown(file: str | IO[bytes]) -> str:
    """Return the reason why a file, given by path or open, is no image that `open_image` reads."""
    if isinstance(file, str):
        with open(file, "rb") as opened:
            start = opened.read(START)
    else:
        file.seek(0)
        start = file.read(START)
    return (identify(start) or "not an image, or in an unknown format") if start else "empty file"


@dataclass(frozen=True)
class Preparation:
    """Turns images of any size and mode into arrays of one shape.

    Args:
        resolution: side of the square in pixels. channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA.
        fit: "center-crop" takes the central square, "pad" adds bars in the background color, "stretch" changes the
            aspect ratio.
        background: color under transparent pixels (if there is no alpha channel) and around padded images, a name or
            #rrggbb.

    Raises:
        DataError: an invalid resolution, number of channels, fit or color.
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
            raise DataError(f"--background: {self.background!r} is neither a color name nor #rrggbb") from None

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Return the image as uint8 [channels, resolution, resolution]."""
        image = convert_channels(apply_orientation(picture), self.channels, self.background)
        if image.size != (self.resolution, self.resolution):
            image = self.make_square(image)
        pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def make_square(self, image: Image.Image) -> Image.Image:
        """Return the image as a square, resized with a Lanczos filter.

        Images that shrink more than sixfold are first reduced by a box filter to three times the final size
        (reducing_gap=3): Pillow documents the result as indistinguishable, at a fraction of the work on photographs.
        """
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
        square = Image.new(image.mode, (resolution, resolution), self.padding_color())
        square.paste(resized, ((resolution - inner[0]) // 2, (resolution - inner[1]) // 2))
        return square

    def padding_color(self) -> str:
        """Return the background as a Pillow color, transparent if there is an alpha channel."""
        red, green, blue, *_ = ImageColor.getrgb(self.background)
        return f"#{red:02x}{green:02x}{blue:02x}00"

    def is_enlarged(self, width: int, height: int) -> bool:
        """Return whether an image of this size would be enlarged, by its short side, or by its long one with "pad"."""
        return (max if self.fit == "pad" else min)(width, height) < self.resolution


def apply_orientation(picture: Image.Image) -> Image.Image:
    """Return the image in 8 bits, rotated according to its EXIF orientation if that is readable."""
    image = to_8_bits(picture)
    try:
        orientation = picture.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF, for which Pillow raises many types of error
        orientation = None
    return image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image


def to_8_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit grayscale as 8-bit, other modes unchanged. Raises ValueError if the range of values is unknown."""
    image.load()
    if not image.mode.startswith(("I", "F")):
        return image
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F" or 32 in tags.get(TIFF_BITS, ()):
        raise ValueError("32-bit grayscale has no defined range; convert it to 8 or 16 bits")
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("grayscale below 0 or above 65535 has no defined range; convert it to 8 or 16 bits")
    gray = np.rint(pixels / 257).astype(np.uint8)
    eight = Image.fromarray(255 - gray if tags.get(TIFF_PHOTOMETRIC) == 0 else gray)
    if isinstance(clear := image.info.get("transparency"), int):
        eight.putalpha(Image.fromarray(np.where(pixels == clear, 0, 255).astype(np.uint8)))
    return eight


def convert_channels(image: Image.Image, channels: int, background: str = "white") -> Image.Image:
    """Convert an image to `channels` channels; without alpha, transparency is blended onto the background."""
    if image.mode == MODES[channels] and not image.has_transparency_data:
        return image
    if image.mode in ("LAB", "HSV", "YCbCr"):  # Pillow converts these to RGB only
        image = image.convert("RGB")
    if "A" not in MODES[channels] and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, ImageColor.getcolor(background, "RGB")), image)
    return image.convert(MODES[channels])


def to_pillow(pixels: np.ndarray) -> Image.Image:
    """Return uint8 pixels [H, W] or [H, W, 1..4] as a Pillow image."""
    return Image.fromarray(
        np.ascontiguousarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    )
