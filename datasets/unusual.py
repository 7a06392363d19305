"""Decode files that Pillow decodes wrongly, or refuses although all their pixels are there."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import IO, Any, cast

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little and big endian, of TIFF and BigTIFF
TIFF_BITS, TIFF_COMPRESSION, TIFF_PLANAR, ORIENTATION = 258, 259, 284, 274  # tag numbers (TIFF 6.0, section 8)
ASSOCIATED, UNASSOCIATED = 1, 2  # ExtraSamples: alpha that the colors are multiplied by, or not (TIFF 6.0, section 18)
# Continuations of a JPEG's compressed data, any bytes but FF: decoders read past the missing end if pixels are missing.
JPEG_FILLERS = (b"", b"\x55\xaa" * 64, b"\x9c\x13\x71" * 64)


def read_all(file: str | IO[bytes]) -> bytes:
    """Return the content of a file, given by path or open."""
    if isinstance(file, str):
        with open(file, "rb") as opened:
            return opened.read()
    file.seek(0)
    return file.read()


def iterate_png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield (type, data, the whole chunk) of each chunk of a PNG."""
    place = len(PNG_SIGNATURE)
    while place + 12 <= len(content):
        size, name = struct.unpack(">I4s", content[place : place + 8])
        yield name, content[place + 8 : place + 8 + size], content[place : place + 12 + size]
        place += 12 + size


def drop_png_text(content: bytes) -> bytes | None:
    """Return a PNG without its text, which Pillow refuses if it is large or its checksum wrong; None if it has none."""
    if not content.startswith(PNG_SIGNATURE):
        return None
    chunks = list(iterate_png_chunks(content))
    kept = [whole for name, _, whole in chunks if name not in TEXT_CHUNKS]
    return PNG_SIGNATURE + b"".join(kept) if len(kept) < len(chunks) else None


def find_png_alpha(picture: Image.Image) -> Image.Image | None:
    """Return the alpha channel of a PNG whose transparent color Pillow compares wrongly; None for other images.

    The tRNS chunk holds a sample value in the file's depth (PNG, section 11.3.2.1). Pillow compares it with the 8 bits
    to which it scales samples of 1, 2 and 4 bits, and cuts those of 16-bit colors.
    """
    if not isinstance(picture, PngImagePlugin.PngImageFile) or picture.fp is None:
        return None
    if picture.mode not in ("1", "L", "RGB") or "transparency" not in picture.info:
        return None
    place = picture.fp.tell()
    content = read_all(picture.fp)
    picture.fp.seek(place)
    found = {name: data for name, data, _ in iterate_png_chunks(content) if name in (b"IHDR", b"tRNS")}
    depth, color = found[b"IHDR"][8:10]
    clear = struct.unpack(f">{3 if color == 2 else 1}H", found[b"tRNS"])
    if color == 0 and depth < 8:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as again:
            again.load()
            is_clear = np.asarray(again.convert("L")) == clear[0] * 255 // ((1 << depth) - 1)
    elif color == 2 and depth == 16:
        high, low = (decode_png_bytes(content, rawmode) for rawmode in ("RGB;16B", "RGB;16L"))
        is_clear = (256 * high.astype(int) + low == clear).all(axis=2)
    else:
        return None
    return Image.fromarray(np.where(is_clear, 0, 255).astype(np.uint8))


def decode_png_bytes(content: bytes, rawmode: str) -> np.ndarray:
    """Return the upper bytes ("RGB;16B") or lower bytes ("RGB;16L") of a 16-bit color PNG, uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        (tile,) = picture.tile  # Pillow's description of the data: decoder, extent, place in the file, layout
        picture.tile = cast(Any, [(*tile[:3], rawmode)])
        picture.load()
        return np.asarray(picture)


def complete_jpeg(picture: Image.Image) -> Image.Image | None:
    """Return a JPEG whose data ends without the end marker; None if pixels are missing.

    Some cameras omit the marker. All pixels are there if they do not depend on what follows the data. A progressive
    JPEG may lack whole scans, which would not show.
    """
    if not isinstance(picture, JpegImagePlugin.JpegImageFile) or picture.fp is None:
        return None
    if picture.info.get("progressive"):
        return None
    content = read_all(picture.fp).rstrip(b"\xff")
    images = []
    for filler in JPEG_FILLERS:
        try:
            with Image.open(io.BytesIO(content + filler + b"\xff\xd9"), formats=["JPEG"]) as image:
                image.load()
                images.append(image)
        except OSError:
            return None
    return images[0] if len({image.tobytes() for image in images}) == 1 else None


def is_misread_tiff(picture: Image.Image) -> bool:
    """Return whether Pillow 13 decodes a TIFF wrongly: in separate planes, gray with alpha, or deep and raw."""
    tags = getattr(picture, "tag_v2", {})
    bits = tags.get(TIFF_BITS, ())
    is_planar = tags.get(TIFF_PLANAR) == 2 and len(bits) > 1
    return bool(is_planar and (len(bits) == 2 or (tags.get(TIFF_COMPRESSION, 1) == 1 and max(bits) > 8)))


def decode_tiff(file: str | IO[bytes], max_pixels: int) -> Image.Image:
    """Decode a TIFF by the package tifffile, in 8 bits.

    Raises:
        ValueError: tifffile is not installed, or the TIFF has samples of unknown meaning.
    """
    try:
        import tifffile
    except ImportError:
        raise ValueError("a TIFF that Pillow cannot decode; pip install tifffile imagecodecs") from None
    if not isinstance(file, str):
        file.seek(0)
    try:
        with tifffile.TiffFile(file) as tiff:
            page = tiff.pages.first
            extra = [int(kind) for kind in page.extrasamples]
            what = f"{page.dtype} {page.photometric.name.lower()}"
            colors = {0: 1, 1: 1, 2: 3}.get(int(page.photometric))  # white is zero, black is zero, RGB
            if page.imagewidth * page.imagelength > max_pixels:
                raise ValueError(f"{page.imagewidth}x{page.imagelength}: more than {max_pixels // 10**6} megapixels")
            if (
                page.dtype not in (np.uint8, np.uint16)
                or set(np.atleast_1d(page.bitspersample).tolist()) != {8 * page.dtype.itemsize}
                or colors is None
                or page.samplesperpixel != colors + len(extra)
                or (extra and extra not in ([ASSOCIATED], [UNASSOCIATED]))
                or page.imagedepth != 1
            ):
                raise ValueError(f"unsupported type ({what}, {page.samplesperpixel} samples); convert it to 8-bit RGB")
            pixels = page.asarray()
            is_planar, white_is_zero = int(page.planarconfig) == 2, int(page.photometric) == 0
            orientation = page.tags.valueof(ORIENTATION, default=1)
    except Exception as error:  # tifffile raises many types for damaged files
        raise ValueError(f"TIFF: {error}") from None
    pixels = pixels[..., None] if pixels.ndim == 2 else np.moveaxis(pixels, 0, -1) if is_planar else pixels
    if white_is_zero:
        pixels = np.concatenate([np.iinfo(pixels.dtype).max - pixels[..., :1], pixels[..., 1:]], axis=2)
    eight = np.rint(pixels / 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    if extra == [ASSOCIATED]:
        alpha = eight[..., -1:].astype(float)
        eight[..., :-1] = np.minimum(np.rint(eight[..., :-1] * 255 / np.maximum(alpha, 1)), 255)
    image = Image.fromarray(np.ascontiguousarray(eight if eight.shape[2] > 1 else eight[..., 0]))
    image.getexif()[ORIENTATION] = int(orientation)
    return image
