"""Convert images with a color profile to sRGB, in which displays and other tools expect pixels without one."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any, cast

import numpy as np
from PIL import Image, ImageCms

BLACK_POINT_COMPENSATION = 0x2000  # cmsFLAGS_BLACKPOINTCOMPENSATION in lcms2.h
CLOSE = 2  # levels; our choice: the many versions of sRGB's own profile differ by this much, and stay as they are
SPACES = {"RGB": "RGB ", "CMYK": "CMYK", "L": "GRAY"}  # mode -> color space in a profile (ICC.1, section 7.2.6)


@lru_cache(maxsize=64)  # datasets have a few profiles, one for each camera or program
def make_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB; None if it changes no color, or the profile is unusable."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if opened.profile.xcolor_space != SPACES[mode]:
            return None
        # as browsers do: relative colorimetric, with black point compensation
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            cast(Any, BLACK_POINT_COMPENSATION),
        )
    except (ImageCms.PyCMSError, OSError, ValueError, ImportError):  # ImportError: Pillow was built without it
        return None
    if mode == "CMYK":
        return transform
    grid = make_test_colors(mode)
    found = transform.apply(grid)
    off = np.abs(np.asarray(found).astype(int) - np.asarray(grid.convert("RGB")))
    return transform if off.max() > CLOSE else None


def make_test_colors(mode: str) -> Image.Image:
    """Return an image of 9 levels of each channel in all combinations, or of all 256 gray levels."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3))


def convert_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an 8-bit image in sRGB, in a mode that keeps its alpha; unchanged without a usable profile."""
    if not profile:
        return image
    if image.mode == "P" or (image.mode in ("L", "RGB") and image.has_transparency_data):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    mode = image.mode.removesuffix("A")
    if mode not in SPACES or (transform := make_transform(profile, mode)) is None:
        return image
    converted: Image.Image = transform.apply(image.convert(mode)).convert("L" if mode == "L" else "RGB")
    if image.mode != mode:
        converted.putalpha(image.getchannel("A"))
    return converted
