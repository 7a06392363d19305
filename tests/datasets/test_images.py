import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from helpers import read_pixels
from PIL import Image, ImageOps

from pggan.datasets import DataError, Preparation, open_source
from pggan.datasets.images import MAX_PIXELS, open_image


def make_image(mode, color, size=(16, 16)):
    return Image.new(mode, size, color)


def make_palette_image(color, **options):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([9, 9, 9, *color])
    return image, options


def encode_rgb16():
    """Return a 16-bit RGB PNG, which Pillow can read but not write."""
    rows = b"".join(b"\0" + struct.pack(">3H", 200 * 257, 100 * 257, 50 * 257) * 16 for _ in range(16))
    parts = (b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


SIXTEEN_BITS = Image.fromarray(np.full((16, 16), 257 * 250, np.uint16))
FRAMES = [make_image("RGB", (200, 100, 50)), make_image("RGB", (0, 0, 255))]
ORANGE = [124], [200, 100, 50], [200, 100, 50, 255]
CASES = {  # name: (image or file, save options, expected with 1, 3 and 4 channels)
    "rgb.png": (make_image("RGB", (200, 100, 50)), {}, *ORANGE),
    "gray.png": (make_image("L", 70), {}, [70], [70] * 3, [70, 70, 70, 255]),
    "binary.png": (make_image("1", 1), {}, [255], [255] * 3, [255] * 4),
    "palette.png": (*make_palette_image((200, 100, 50)), *ORANGE),
    "palette.gif": (*make_palette_image((200, 100, 50)), *ORANGE),
    "clear_palette.png": (*make_palette_image((200, 100, 50), transparency=1), [255], [255] * 3, [200, 100, 50, 0]),
    "rgba.png": (make_image("RGBA", (255, 0, 0, 51)), {}, [219], [255, 204, 204], [255, 0, 0, 51]),
    "la.png": (make_image("LA", (100, 0)), {}, [255], [255] * 3, [100, 100, 100, 0]),
    "cmyk.jpg": (make_image("CMYK", (0, 255, 255, 0)), {"quality": 100}, [76], [255, 0, 0], [255, 0, 0, 255]),
    "cmyk.tif": (make_image("CMYK", (0, 255, 255, 0)), {}, [76], [255, 0, 0], [255, 0, 0, 255]),
    "sixteen.png": (SIXTEEN_BITS, {}, [250], [250] * 3, [250, 250, 250, 255]),
    "sixteen.tif": (SIXTEEN_BITS, {}, [250], [250] * 3, [250, 250, 250, 255]),
    "sixteen_rgb.png": (encode_rgb16(), {}, *ORANGE),
    "UPPER.BMP": (make_image("RGB", (200, 100, 50)), {}, *ORANGE),
    "photo.webp": (make_image("RGB", (200, 100, 50)), {"lossless": True}, *ORANGE),
    "moving.gif": (FRAMES[0], {"save_all": True, "append_images": FRAMES[1:]}, *ORANGE),
    "moving.png": (FRAMES[0], {"save_all": True, "append_images": FRAMES[1:]}, *ORANGE),
    "moving.webp": (FRAMES[0], {"save_all": True, "append_images": FRAMES[1:], "lossless": True}, *ORANGE),
    "pages.tif": (FRAMES[0], {"save_all": True, "append_images": FRAMES[1:]}, *ORANGE),
    "a_png_in_truth.jpg": (make_image("RGB", (200, 100, 50)), {"format": "PNG"}, *ORANGE),
}


@pytest.mark.parametrize("resolution", [8, 16])
@pytest.mark.parametrize("name", CASES)
def test_every_image_format_is_converted_to_the_requested_channels(tmp_path, name, resolution):
    image, options, *expected = CASES[name]
    if isinstance(image, bytes):
        (tmp_path / name).write_bytes(image)
    else:
        image.save(tmp_path / name, **options)
    source = open_source(str(tmp_path))
    for channels, values in zip((1, 3, 4), expected, strict=True):
        found = read_pixels(source, 0, resolution, channels)
        assert found.shape == (channels, resolution, resolution) and found.dtype == np.uint8
        if channels == 4 and values[3] == 0 and resolution == 8:  # resizing leaves no color under full transparency
            assert not found[3].any()
        else:
            assert np.abs(found.astype(int) - np.reshape(values, (-1, 1, 1))).max() <= (name[:4] in ("cmyk", "movi"))


def test_orientation_from_exif_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # rotate by 90 degrees clockwise for display
    array = np.zeros((16, 32, 3), np.uint8)
    array[:, 16:] = 255
    Image.fromarray(array).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    rotated = read_pixels(open_source(str(tmp_path)), 0, 16, 1)[0]
    assert rotated[:4].max() < 20 and rotated[-4:].min() > 235


WIDE = np.zeros((16, 64, 3), np.uint8)
WIDE[:, 16:48] = (10, 200, 30)


def fit_image(array, fit, **options):
    return Preparation(16, 3, fit, **options)(Image.fromarray(array)).transpose(1, 2, 0)


def is_close(found, expected):
    """Return whether the pixels are equal up to Lanczos's overshoot beside edges."""
    return np.abs(found.astype(int) - expected).max() <= 8


@pytest.mark.parametrize("orient", [lambda x: x, lambda x: x.transpose(1, 0, 2)])
def test_center_crop_keeps_the_middle_square(orient):
    assert (fit_image(orient(WIDE), "center-crop") == (10, 200, 30)).all()


@pytest.mark.parametrize("orient", [lambda x: x, lambda x: x.transpose(1, 0, 2)])
def test_pad_keeps_the_whole_image_between_bars(orient):
    found = orient(fit_image(orient(WIDE), "pad", background="#0000ff"))
    assert (found[:6] == (0, 0, 255)).all() and (found[10:] == (0, 0, 255)).all()
    middle = found[6:10]
    assert is_close(middle[:, 7:9], (10, 200, 30)) and is_close(middle[:, [0, -1]], 0)


@pytest.mark.parametrize(("size", "difference"), [((91, 60), 0), ((60, 91), 0), ((300, 200), 1), ((201, 900), 1)])
def test_images_are_center_cropped_and_resized_with_a_lanczos_filter(size, difference):
    coarse = Image.effect_noise((size[0] // 4, size[1] // 4), 60).convert("RGB")
    image = coarse.resize(size, Image.Resampling.BICUBIC)
    expected = ImageOps.fit(image, (16, 16), Image.Resampling.LANCZOS)
    found = Preparation(16, 3)(image).transpose(1, 2, 0).astype(int)
    assert np.abs(found - np.asarray(expected)).mean() <= difference  # much larger ones go through a box filter first


def test_stretch_keeps_the_whole_image_and_changes_the_aspect():
    found = fit_image(WIDE, "stretch")
    assert is_close(found[:, 7:9], (10, 200, 30)) and is_close(found[:, [0, 1, -2, -1]], 0)


@pytest.mark.parametrize(("channels", "bar"), [(1, [76]), (2, [76, 0]), (3, [255, 0, 0]), (4, [255, 0, 0, 0])])
def test_bars_have_the_background_color_and_are_transparent_if_possible(channels, bar):
    found = Preparation(16, channels, "pad", "red")(Image.fromarray(WIDE))
    assert found[:, 0, 0].tolist() == bar


def test_transparent_images_are_composited_on_the_background():
    transparent = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (Preparation(8, 3, background="#102030")(transparent) == np.reshape([16, 32, 48], (3, 1, 1))).all()


@pytest.mark.parametrize(
    ("fit", "size", "enlarged"),
    [
        ("center-crop", (100, 15), True),
        ("center-crop", (16, 16), False),
        ("stretch", (15, 100), True),
        ("pad", (100, 15), False),
        ("pad", (15, 15), True),
    ],
)
def test_which_images_are_enlarged_depends_on_the_fit(fit, size, enlarged):
    assert Preparation(16, 3, fit).is_enlarged(*size) == enlarged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((24, 3), "--resolution: 24 is not a power of two"),
        ((2048, 3), "--resolution"),
        ((16, 5), "--channels"),
        ((16, 3, "zoom"), "--fit: 'zoom'"),
        ((16, 3, "pad", "blurple"), "--background: 'blurple'"),
        ((16, 3, "pad", "rgb(300,0,0)"), "--background: 'rgb"),
    ],
)
def test_invalid_preparations_are_rejected(options, message):
    with pytest.raises(DataError, match=message):
        Preparation(*options)


def make_bomb(width, height):
    """Return a PNG of a few bytes with this size in its header."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [60_000, int(MAX_PIXELS**0.5) + 1])
def test_images_with_too_many_pixels_are_not_decoded(side):
    with pytest.raises(ValueError, match="more than 178 megapixels"):
        open_image(io.BytesIO(make_bomb(side, side)))


def test_large_photographs_are_not_rejected_as_bombs():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert open_image(io.BytesIO(make_bomb(12_000, 9_000))).size == (12_000, 9_000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"just text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "not an image"),  # would run a program
        (b"8BPS\0\1" + bytes(60), "not an image"),
    ],
)
def test_files_of_other_formats_are_not_opened(tmp_path, content, message):
    path = tmp_path / "file.png"
    path.write_bytes(content)
    for file in (str(path), io.BytesIO(content)):
        with pytest.raises(ValueError, match=message):
            open_image(file)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tif"])
def test_truncated_files_are_rejected(tmp_path, suffix):
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / "cut"
    Image.effect_noise((64, 64), 90).convert("RGB").save(whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises((OSError, ValueError, SyntaxError)):
        Preparation(16, 3)(open_image(str(cut)))


@pytest.mark.parametrize("values", [np.full((8, 8), 70_000, np.int32), np.full((8, 8), 0.5, np.float32)])
def test_gray_images_without_a_defined_range_are_rejected(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match="has no defined range"):
        read_pixels(open_source(str(tmp_path)), 0, 8, 1)


def test_a_16_bit_tiff_with_white_as_zero_is_inverted(tmp_path):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(values).save(tmp_path / "deep.tif", tiffinfo={262: 0})
    assert Image.open(tmp_path / "deep.tif").tag_v2[262] == 0
    found = read_pixels(open_source(str(tmp_path)), 0, 8, 1)[0]
    assert (found == 255 - np.rint(values / 257)).all()


def test_a_16_bit_gray_value_may_be_transparent(tmp_path):
    values = np.full((8, 8), 30_000, np.uint16)
    values[:, :4] = 15_000
    Image.fromarray(values).save(tmp_path / "deep.png", transparency=15_000)
    source = open_source(str(tmp_path))
    assert source.header(0).transparent
    with source.read_image(0) as image:
        found = Preparation(8, 3, background="red")(image)
    assert (found[:, :, :4].transpose(1, 2, 0) == (255, 0, 0)).all() and (found[:, :, 4:] == 117).all()


def test_32_bit_grayscale_is_rejected_whatever_its_values(tmp_path):
    Image.fromarray(np.full((8, 8), 200, np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match="32-bit grayscale has no defined range"):
        read_pixels(open_source(str(tmp_path)), 0, 8, 1)
