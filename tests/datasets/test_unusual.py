"""Files that Pillow decodes wrongly or refuses: right pixels, or a refusal, never wrong pixels."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from pggan.datasets.images import Preparation, open_image

RNG = np.random.default_rng(0)


def decode(content, channels=3):
    with open_image(io.BytesIO(content)) as picture:
        return Preparation(16, channels)(picture)


def save(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def make_png(depth, color, samples, clear, *more):
    """Return a PNG of integer samples [16, 16, C] with a transparent color, and further (type, data, checksum)."""
    if depth == 16:
        lines = samples.astype(">u2").reshape(16, -1).view(np.uint8)
    else:
        bits = (samples.reshape(16, -1, 1) >> np.arange(depth - 1, -1, -1)) & 1
        lines = np.packbits(bits.reshape(16, -1).astype(np.uint8), axis=1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 16, 16, depth, color, 0, 0, 0), None),
        *more,
        (b"tRNS", struct.pack(f">{len(clear)}H", *clear), None),
        (b"IDAT", zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines)), None),
        (b"IEND", b"", None),
    ]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", check or zlib.crc32(name + data))
        for name, data, check in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(("depth", "color"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)])
def test_a_pngs_transparent_color_is_compared_in_the_files_depth(depth, color):
    most = (1 << depth) - 1
    samples = RNG.integers(0, most + 1, (16, 16, 3 if color else 1))
    clear = samples[3, 3].copy()
    samples[8:] = clear
    samples[12:] ^= 1  # differs in the lowest bit only
    found = decode(make_png(depth, color, samples, tuple(clear)), 4)
    assert (found[3] == np.where((samples == clear).all(axis=2), 0, 255)).all()
    exact = samples.transpose(2, 0, 1) * 255 / most
    assert np.abs(found[:3] - exact).max() <= 1


def test_a_png_with_text_that_pillow_refuses_is_read_without_the_text():
    samples = RNG.integers(0, 256, (16, 16, 3))
    large = zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1))
    for chunk in ((b"zTXt", b"key\0\0" + large, None), (b"tEXt", b"key\0value", 1234)):
        found = decode(make_png(8, 2, samples, (1, 2, 3), chunk), 4)
        assert (found[:3] == samples.transpose(2, 0, 1)).all()


def test_a_png_with_a_wrong_checksum_of_its_pixels_is_refused():
    content = bytearray(make_png(8, 2, RNG.integers(0, 256, (16, 16, 3)), (1, 2, 3), (b"tEXt", b"key\0value", None)))
    content[content.index(b"IDAT") + 20] ^= 1
    with pytest.raises((OSError, ValueError, SyntaxError)):
        decode(bytes(content))


@pytest.mark.parametrize("lost", [1, 2])
def test_a_jpeg_without_its_end_marker_is_read(lost):
    content = save(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8), "JPEG")
    assert (decode(content[:-lost]) == decode(content)).all()


@pytest.mark.parametrize(("lost", "options"), [(3, {}), (8, {}), (200, {}), (2, {"progressive": True})])
def test_a_jpeg_that_lacks_pixels_is_refused(lost, options):
    content = save(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8), "JPEG", **options)
    with pytest.raises(OSError, match=r"(?i)truncated"):
        decode(content[:-lost])


def make_planar_tiff(pixels):
    """Return an uncompressed big-endian TIFF of uint16 [C, 16, 16] in separate planes."""
    count = len(pixels)
    values = 8 + 2 + 12 * 9 + 4  # of the fields that need more than 4 bytes, behind the directory
    data = values + 2 * count + 8 * count
    fields = [
        (256, 3, 1, struct.pack(">HH", 16, 0)),
        (257, 3, 1, struct.pack(">HH", 16, 0)),
        (258, 3, count, struct.pack(">I", values)),
        (259, 3, 1, struct.pack(">HH", 1, 0)),
        (262, 3, 1, struct.pack(">HH", 2, 0)),
        (273, 4, count, struct.pack(">I", values + 2 * count)),
        (277, 3, 1, struct.pack(">HH", count, 0)),
        (279, 4, count, struct.pack(">I", values + 6 * count)),
        (284, 3, 1, struct.pack(">HH", 2, 0)),
    ]
    directory = struct.pack(">H", 9) + b"".join(struct.pack(">HHI", *f[:3]) + f[3] for f in fields) + bytes(4)
    more = struct.pack(f">{count}H", *[16] * count)
    more += struct.pack(f">{count}I", *(data + 512 * i for i in range(count))) + struct.pack(
        f">{count}I", *[512] * count
    )
    return b"MM\0*" + struct.pack(">I", 8) + directory + more + pixels.astype(">u2").tobytes()


def test_16_bit_planar_tiffs_are_decoded_by_tifffile():
    pytest.importorskip("tifffile")
    pixels = RNG.integers(0, 65536, (3, 16, 16))
    assert (decode(make_planar_tiff(pixels)) == np.rint(pixels / 257)).all()


def test_without_tifffile_16_bit_planar_tiffs_are_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ValueError, match="a TIFF that Pillow cannot decode; pip install tifffile imagecodecs"):
        decode(make_planar_tiff(RNG.integers(0, 65536, (3, 16, 16))))


def make_swapped_profile():
    """Return an sRGB profile whose red and green primaries are exchanged: a large change that is easy to predict."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = content.index(b"rXYZ"), content.index(b"gXYZ")
    content[red : red + 4], content[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(content)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colors_are_converted_to_srgb(mode):
    image = Image.new("RGB", (16, 16), (250, 40, 10))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG", icc_profile=make_swapped_profile())
    assert np.abs(decode(file.getvalue(), 4)[:, 5, 5].astype(int) - [40, 250, 10, 255]).max() <= 3


def test_images_with_the_srgb_profile_or_a_damaged_one_stay_as_they_are():
    pixels = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (profile, profile[:100]):
        assert (decode(save(pixels, "PNG", icc_profile=icc)) == pixels.transpose(2, 0, 1)).all()


def test_heic_is_read_if_pillow_heif_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (32, 32), (200, 100, 50))
    heif.from_pillow(image).save(tmp_path / "a.heic")
    with open_image(str(tmp_path / "a.heic")) as picture:
        assert np.abs(Preparation(16, 3)(picture)[:, 8, 8].astype(int) - (200, 100, 50)).max() < 6
