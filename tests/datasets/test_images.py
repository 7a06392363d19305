import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from helpers import pixels
from PIL import Image, ImageOps

from datasets import DataError, Preparation, open_source
from datasets.images import MAX_PIXELS, open_image


def plain(mode, colour, size=(16, 16)):
    return Image.new(mode, size, colour)


def palette(colour, **options):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([9, 9, 9, *colour])
    return image, options


def rgb16():
    """A 16-bit RGB PNG, which Pillow reads and cannot write."""
    rows = b"".join(b"\0" + struct.pack(">3H", 200 * 257, 100 * 257, 50 * 257) * 16 for _ in range(16))
    parts = (b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


SIXTEEN_BITS = Image.fromarray(np.full((16, 16), 257 * 250, np.uint16))
FRAMES = [plain("RGB", (200, 100, 50)), plain("RGB", (0, 0, 255))]
ORANGE = [124], [200, 100, 50], [200, 100, 50, 255]
CASES = {  # name: (image or file, save options, expected with 1, 3 and 4 channels)
    "rgb.png": (plain("RGB", (200, 100, 50)), {}, *ORANGE),
    "gray.png": (plain("L", 70), {}, [70], [70] * 3, [70, 70, 70, 255]),
    "binary.png": (plain("1", 1), {}, [255], [255] * 3, [255] * 4),
    "palette.png": (*palette((200, 100, 50)), *ORANGE),
    "palette.gif": (*palette((200, 100, 50)), *ORANGE),
    "clear_palette.png": (*palette((200, 100, 50), transparency=1), [255], [255] * 3, [200, 100, 50, 0]),
    "rgba.png": (plain("RGBA", (255, 0, 0, 51)), {}, [219], [255, 204, 204], [255, 0, 0, 51]),
    "la.png": (plain("LA", (100, 0)), {}, [255], [255] * 3, [100, 100, 100, 0]),
    "cmyk.jpg": (plain("CMYK", (0, 255, 255, 0)), {"quality": 100}, [76], [255, 0, 0], [255, 0, 0, 255]),
    "cmyk.tif": (plain("CMYK", (0, 255, 255, 0)), {}, [76], [255, 0, 0], [255, 0, 0, 255]),
    "sixteen.png": (SIXTEEN_BITS, {}, [250], [250] * 3, [250, 250, 250, 255]),
    "sixteen.tif": (SIXTEEN_BITS, {}, [250], [250] * 3, [250, 250, 250, 255]),
    "sixteen_rgb.png": (rgb16(), {}, *ORANGE),
    "UPPER.BMP": (plain("RGB", (200, 100, 50)), {}, *ORANGE),
    "photo.webp": (plain("RGB", (200, 100, 50)), {"lossless": True}, *ORANGE),
    "moving.gif": (FRAMES[0], {"save_all": True, "append_images": FRAMES[1:]}, *ORANGE),
    "moving.png": (FRAMES[0], {"save_all": True, "append_images": FRAMES[1:]}, *ORANGE),
    "moving.webp": (FRAMES[0], {"save_all": True, "append_images": FRAMES[1:], "lossless": True}, *ORANGE),
    "pages.tif": (FRAMES[0], {"save_all": True, "append_images": FRAMES[1:]}, *ORANGE),
    "a_png_in_truth.jpg": (plain("RGB", (200, 100, 50)), {"format": "PNG"}, *ORANGE),
}


@pytest.mark.parametrize("resolution", [8, 16])
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_image_comes_in_the_channels_asked_for(tmp_path, name, resolution):
    image, options, *expected = CASES[name]
    if isinstance(image, bytes):
        (tmp_path / name).write_bytes(image)
    else:
        image.save(tmp_path / name, **options)
    source = open_source(str(tmp_path))
    for channels, values in zip((1, 3, 4), expected, strict=True):
        found = pixels(source, 0, resolution, channels)
        assert found.shape == (channels, resolution, resolution) and found.dtype == np.uint8
        if channels == 4 and values[3] == 0 and resolution == 8:  # resizing leaves no colour where nothing is seen
            assert not found[3].any()
        else:
            assert np.abs(found.astype(int) - np.reshape(values, (-1, 1, 1))).max() <= (name[:4] in ("cmyk", "movi"))


def test_orientation_from_exif_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # to be shown turned by 90 degrees clockwise
    array = np.zeros((16, 32, 3), np.uint8)
    array[:, 16:] = 255
    Image.fromarray(array).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    turned = pixels(open_source(str(tmp_path)), 0, 16, 1)[0]
    assert turned[:4].max() < 20 and turned[-4:].min() > 235


WIDE = np.zeros((16, 64, 3), np.uint8)
WIDE[:, 16:48] = (10, 200, 30)


def fitted(array, fit, **options):
    return Preparation(16, 3, fit, **options)(Image.fromarray(array)).transpose(1, 2, 0)


def near(found, expected):
    """Equal but for the overshoot of Lanczos beside edges."""
    return np.abs(found.astype(int) - expected).max() <= 8


@pytest.mark.parametrize("turn", [lambda x: x, lambda x: x.transpose(1, 0, 2)])
def test_center_crop_takes_the_square_in_the_middle(turn):
    assert (fitted(turn(WIDE), "center-crop") == (10, 200, 30)).all()


@pytest.mark.parametrize("turn", [lambda x: x, lambda x: x.transpose(1, 0, 2)])
def test_pad_keeps_the_whole_image_between_bars(turn):
    found = turn(fitted(turn(WIDE), "pad", background="#0000ff"))
    assert (found[:6] == (0, 0, 255)).all() and (found[10:] == (0, 0, 255)).all()
    middle = found[6:10]
    assert near(middle[:, 7:9], (10, 200, 30)) and near(middle[:, [0, -1]], 0)


@pytest.mark.parametrize(("size", "difference"), [((91, 60), 0), ((60, 91), 0), ((300, 200), 1), ((201, 900), 1)])
def test_images_are_resized_by_lanczos_filter_from_the_middle(size, difference):
    coarse = Image.effect_noise((size[0] // 4, size[1] // 4), 60).convert("RGB")
    image = coarse.resize(size, Image.Resampling.BICUBIC)
    expected = ImageOps.fit(image, (16, 16), Image.Resampling.LANCZOS)
    found = Preparation(16, 3)(image).transpose(1, 2, 0).astype(int)
    assert np.abs(found - np.asarray(expected)).mean() <= difference  # much larger ones go through a box filter first


def test_stretch_keeps_the_whole_image_and_changes_the_aspect():
    found = fitted(WIDE, "stretch")
    assert near(found[:, 7:9], (10, 200, 30)) and near(found[:, [0, 1, -2, -1]], 0)


@pytest.mark.parametrize(("channels", "bar"), [(1, [76]), (2, [76, 0]), (3, [255, 0, 0]), (4, [255, 0, 0, 0])])
def test_bars_are_of_the_background_and_transparent_where_that_can_be(channels, bar):
    found = Preparation(16, channels, "pad", "red")(Image.fromarray(WIDE))
    assert found[:, 0, 0].tolist() == bar


def test_transparency_is_laid_on_the_background():
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (Preparation(8, 3, background="#102030")(clear) == np.reshape([16, 32, 48], (3, 1, 1))).all()


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
    ("options", "says"),
    [
        ((24, 3), "--resolution: 24 is not a power of two"),
        ((2048, 3), "--resolution"),
        ((16, 5), "--channels"),
        ((16, 3, "zoom"), "--fit: 'zoom'"),
        ((16, 3, "pad", "blurple"), "--background: 'blurple'"),
        ((16, 3, "pad", "rgb(300,0,0)"), "--background: 'rgb"),
    ],
)
def test_preparations_that_do_not_exist_are_refused(options, says):
    with pytest.raises(DataError, match=says):
        Preparation(*options)


def bomb(width, height):
    """A PNG of a few bytes that says to be so large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [60_000, int(MAX_PIXELS**0.5) + 1])
def test_images_of_too_many_pixels_are_not_decoded(side):
    with pytest.raises(ValueError, match="more than 178 megapixels"):
        open_image(io.BytesIO(bomb(side, side)))


def test_large_photographs_are_no_bombs():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert open_image(io.BytesIO(bomb(12_000, 9_000))).size == (12_000, 9_000)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty file"),
        (b"just text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "not an image"),  # runs a program
        (b"8BPS\0\1" + bytes(60), "not an image"),
    ],
)
def test_what_is_no_image_of_the_kinds_wanted_is_not_opened(tmp_path, content, says):
    path = tmp_path / "file.png"
    path.write_bytes(content)
    for file in (str(path), io.BytesIO(content)):
        with pytest.raises(ValueError, match=says):
            open_image(file)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tif"])
def test_truncated_files_cannot_be_read(tmp_path, suffix):
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / "cut"
    Image.effect_noise((64, 64), 90).convert("RGB").save(whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises((OSError, ValueError, SyntaxError)):
        Preparation(16, 3)(open_image(str(cut)))


@pytest.mark.parametrize("values", [np.full((8, 8), 70_000, np.int32), np.full((8, 8), 0.5, np.float32)])
def test_gray_images_without_a_known_range_cannot_be_read(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match="has no defined range"):
        pixels(open_source(str(tmp_path)), 0, 8, 1)


def test_a_16_bit_tiff_whose_white_is_zero_is_turned_round(tmp_path):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(values).save(tmp_path / "deep.tif", tiffinfo={262: 0})
    assert Image.open(tmp_path / "deep.tif").tag_v2[262] == 0
    found = pixels(open_source(str(tmp_path)), 0, 8, 1)[0]
    assert (found == 255 - np.rint(values / 257)).all()


def test_one_gray_of_16_bits_may_be_transparent(tmp_path):
    values = np.full((8, 8), 30_000, np.uint16)
    values[:, :4] = 15_000
    Image.fromarray(values).save(tmp_path / "deep.png", transparency=15_000)
    source = open_source(str(tmp_path))
    assert source.header(0).transparent
    with source.read_image(0) as picture:
        found = Preparation(8, 3, background="red")(picture)
    assert (found[:, :, :4].transpose(1, 2, 0) == (255, 0, 0)).all() and (found[:, :, 4:] == 117).all()


def test_32_bit_grayscale_cannot_be_read_whatever_its_values(tmp_path):
    Image.fromarray(np.full((8, 8), 200, np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match="32-bit grayscale has no defined range"):
        pixels(open_source(str(tmp_path)), 0, 8, 1)
