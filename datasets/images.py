"""Preprocess an image: open it safely, rotate it upright, convert it to 8 bits and the right channels, resize it."""

from __future__ import annotations

import io
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image, ImageColor, PngImagePlugin, UnidentifiedImageError

from pggan.untrusted.files import START, identify

from .base import DataError, Header
from .color import convert_to_srgb
from .unusual import (
    ORIENTATION,
    PNG_SIGNATURE,
    TIFF_BITS,
    TIFF_SIGNATURES,
    complete_jpeg,
    decode_tiff,
    drop_png_text,
    find_png_alpha,
    is_misread_tiff,
    read_all,
)

SUFFIXES = set(".jpg .jpeg .jfif .png .apng .webp .bmp .tif .tiff .gif .avif .jp2 .ppm .pgm .pbm .tga".split())
HEIC_SUFFIXES = {".heic", ".heif", ".hif"}  # read if the package pillow-heif is installed
# Formats that are opened at all: none that starts a program (EPS) or holds several documents (PDF, PSD, FPX)
Image.init()
with suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()
    SUFFIXES |= HEIC_SUFFIXES
FORMATS = [f for f in "JPEG PNG WEBP BMP TIFF GIF AVIF JPEG2000 PPM TGA HEIF".split() if f in Image.OPEN]
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
GRAY_MODES = {"1", "L", "LA", "La", "I", "F"}
FITS = ("center-crop", "pad", "stretch")
MAX_FILE_BYTES = 1 << 29  # 512 MiB: MAX_PIXELS of uncompressed 8-bit RGB fit
MAX_PIXELS = 178_000_000  # just below 2 x Image.MAX_IMAGE_PIXELS, from which Pillow refuses a "decompression bomb"
TIFF_PHOTOMETRIC = 262  # tag number (TIFF 6.0, section 8)
TRANSPOSES = {  # EXIF orientation -> what makes the image upright; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

PngImagePlugin.MAX_TEXT_CHUNK = 1 << 24  # bytes; Pillow's 1 MB is less than some color profiles, refused with the image

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
        picture = open_by_pillow(file)
    except UnidentifiedImageError:
        if (start := read_start(file)).startswith(TIFF_SIGNATURES):
            picture = decode_tiff(file, MAX_PIXELS)
        else:
            reason = (identify(start) or "not an image, or in an unknown format") if start else "empty file"
            raise ValueError(reason) from None
    except Image.DecompressionBombError:
        raise ValueError(f"more than {MAX_PIXELS // 10**6} megapixels") from None
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise ValueError(f"{picture.width}x{picture.height}: more than {MAX_PIXELS // 10**6} megapixels")
    if is_misread_tiff(picture):
        return decode_tiff(file, MAX_PIXELS)
    if resolution:
        # To no less than 3 times the final size, the same margin as `Preparation.make_square`'s reducing_gap. libjpeg
        # skips most of the work for images reduced by 2, 4 or 8.
        picture.draft(picture.mode, (3 * resolution, 3 * resolution))
    return picture


def open_by_pillow(file: str | IO[bytes]) -> Image.Image:
    """Open an image by Pillow; a PNG with text that Pillow refuses, without the text. Raises as Image.open."""
    try:
        return Image.open(file, formats=FORMATS)
    except (UnidentifiedImageError, ValueError):
        if not read_start(file).startswith(PNG_SIGNATURE) or (content := drop_png_text(read_all(file))) is None:
            raise
    return Image.open(io.BytesIO(content), formats=FORMATS)


def read_start(file: str | IO[bytes]) -> bytes:
    """Return the first bytes of a file, given by path or open: enough to recognize it."""
    if isinstance(file, str):
        with open(file, "rb") as opened:
            return opened.read(START)
    file.seek(0)
    return file.read(START)


def read_header(picture: Image.Image) -> Header:
    """Return the header of an open image."""
    return Header(*picture.size, picture.mode, picture.has_transparency_data)


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
    """Return the image in 8 bits and sRGB, rotated according to its EXIF orientation if that is readable."""
    image = convert_to_srgb(to_8_bits(picture), picture.info.get("icc_profile"))
    try:
        orientation = picture.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF, for which Pillow raises many types of error
        orientation = None
    return image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image


def to_8_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit grayscale as 8-bit, other modes unchanged. Raises ValueError if the range of values is unknown."""
    alpha = find_png_alpha(image)
    image = load_pixels(image)
    if alpha:
        image = image.convert("L" if image.mode == "1" else image.mode)
        del image.info["transparency"]
        image.putalpha(alpha)
        return image
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


def load_pixels(image: Image.Image) -> Image.Image:
    """Return the image with decoded pixels. Raises as Image.load."""
    try:
        image.load()
        return image
    except OSError:
        if completed := complete_jpeg(image):
            return completed
        raise


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
