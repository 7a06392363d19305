import os

import numpy as np
import pytest
from PIL import Image

from datasets import DataError, Format, SyntheticShapes, open_source


def plain(mode, colour, size=(16, 16)):
    return Image.new(mode, size, colour)


def palette(colour, **options):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([9, 9, 9, *colour])
    return image, options


SIXTEEN_BITS = Image.fromarray(np.full((16, 16), 257 * 250, np.uint16))
CASES = {  # name: (image, save options, expected with 1, 3 and 4 channels)
    "rgb.png": (plain("RGB", (200, 100, 50)), {}, [124], [200, 100, 50], [200, 100, 50, 255]),
    "gray.png": (plain("L", 70), {}, [70], [70] * 3, [70, 70, 70, 255]),
    "binary.png": (plain("1", 1), {}, [255], [255] * 3, [255] * 4),
    "palette.png": (*palette((200, 100, 50)), [124], [200, 100, 50], [200, 100, 50, 255]),
    "clear_palette.png": (*palette((200, 100, 50), transparency=1), [255], [255] * 3, [200, 100, 50, 0]),
    "rgba.png": (plain("RGBA", (255, 0, 0, 51)), {}, [219], [255, 204, 204], [255, 0, 0, 51]),
    "la.png": (plain("LA", (100, 0)), {}, [255], [255] * 3, [100, 100, 100, 0]),
    "cmyk.jpg": (plain("CMYK", (0, 255, 255, 0)), {"quality": 100}, [76], [255, 0, 0], [255, 0, 0, 255]),
    "sixteen.png": (SIXTEEN_BITS, {}, [250], [250] * 3, [250, 250, 250, 255]),
    "sixteen.tif": (SIXTEEN_BITS, {}, [250], [250] * 3, [250, 250, 250, 255]),
    "UPPER.BMP": (plain("RGB", (200, 100, 50)), {}, [124], [200, 100, 50], [200, 100, 50, 255]),
    "photo.webp": (plain("RGB", (200, 100, 50)), {"lossless": True}, [124], [200, 100, 50], [200, 100, 50, 255]),
}


@pytest.mark.parametrize("resolution", [8, 16])
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_image_comes_in_the_channels_asked_for(tmp_path, name, resolution):
    image, options, *expected = CASES[name]
    image.save(tmp_path / name, **options)
    source = open_source(str(tmp_path))
    for channels, values in zip((1, 3, 4), expected, strict=True):
        pixels = source.image(0, resolution, channels)
        assert pixels.shape == (channels, resolution, resolution) and pixels.dtype == np.uint8
        if channels == 4 and values[3] == 0 and resolution == 8:  # resizing leaves no colour where nothing is seen
            assert not pixels[3].any()
        else:
            assert np.abs(pixels.astype(int) - np.reshape(values, (-1, 1, 1))).max() <= (name == "cmyk.jpg")


def test_orientation_from_exif_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # to be shown turned by 90 degrees clockwise
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    turned = open_source(str(tmp_path)).image(0, 16, 1)[0]
    assert turned[:4].max() < 20 and turned[-4:].min() > 235


@pytest.mark.parametrize(("size", "outside"), [((64, 16), np.s_[:, 24:40]), ((16, 64), np.s_[24:40])])
def test_the_square_in_the_middle_is_taken(tmp_path, size, outside):
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[outside] = (10, 200, 30)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    source = open_source(str(tmp_path))
    assert (source.image(0, 16, 3) == np.reshape((10, 200, 30), (3, 1, 1))).all()
    assert source.native_format() == Format(16, 3)


def fill(folder, *names, size=(8, 8), mode="RGB"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        plain(mode, 0, size).save(folder / name)


def test_images_are_found_in_all_subfolders_in_a_fixed_order(tmp_path):
    fill(tmp_path, "b/c/3.png", "a.JPG", "b/2.webp", "1.jpeg")
    (tmp_path / "notes.txt").write_text("no image")
    source = open_source(str(tmp_path))
    assert [source.describe(i) for i in range(len(source))] == [
        str(tmp_path / name) for name in ("1.jpeg", "a.JPG", "b/2.webp", "b/c/3.png")
    ]
    assert source.name == tmp_path.name and source.labels is None and source.classes == []


def test_linked_folders_are_followed_once_and_hidden_files_left_out(tmp_path):
    fill(tmp_path, "photos/1.png", "elsewhere/2.png", "photos/.3.png")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "back").symlink_to(tmp_path / "photos")
    source = open_source(str(tmp_path / "photos"))
    assert [source.paths[i].relative_to(tmp_path / "photos").as_posix() for i in range(len(source))] == [
        "1.png",
        "linked/2.png",
    ]


def test_first_level_subfolders_are_the_classes(tmp_path):
    fill(tmp_path, "dog/1.png", "cat/deeper/2.png", "cat/1.png", "owl/0.png")
    source = open_source(str(tmp_path), labels=True)
    assert source.classes == ["cat", "dog", "owl"]
    assert [source.classes[i] for i in source.labels] == [p.relative_to(tmp_path).parts[0] for p in source.paths]
    assert source.labels.dtype == np.int64


def test_a_loose_image_is_refused_where_labels_are_asked_for(tmp_path):
    fill(tmp_path, "cat/1.png", "loose.png")
    with pytest.raises(DataError, match=r"--labels needs every image in a class subfolder .* loose\.png is in none"):
        open_source(str(tmp_path), labels=True)


def test_a_missing_folder_a_file_and_a_folder_without_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist; name a folder of images, or 'synthetic'"):
        open_source(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"holds no images \(\.bmp, .*\.webp\), nor do its subfolders"):
        open_source(str(tmp_path))
    fill(tmp_path, "one.png")
    with pytest.raises(DataError, match=r"one\.png is a file, not a folder"):
        open_source(str(tmp_path / "one.png"))


@pytest.mark.parametrize(
    ("sizes", "resolution"), [([(100, 70), (300, 65)], 64), ([(64, 64)], 64), ([(63, 500)], 32), ([(3000, 2050)], 1024)]
)
def test_native_resolution_is_the_power_of_two_below_the_smallest_side(tmp_path, sizes, resolution):
    for i, size in enumerate(sizes):
        fill(tmp_path, f"{i}.png", size=size)
    assert open_source(str(tmp_path)).native_format() == Format(resolution, 3)


def test_native_channels_are_one_only_where_every_image_is_gray(tmp_path):
    fill(tmp_path, "1.png", mode="L")
    fill(tmp_path, "2.png", mode="1")
    SIXTEEN_BITS.save(tmp_path / "3.png")
    fill(tmp_path, "la.png", mode="LA")
    assert open_source(str(tmp_path)).native_format() == Format(8, 1)
    fill(tmp_path, "4.png", mode="RGB")
    assert open_source(str(tmp_path)).native_format() == Format(8, 3)


def test_native_format_passes_over_broken_files_but_needs_one_that_can_be_used(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    with pytest.raises(DataError, match=r"none of the 1 images in .* can be read"):
        open_source(str(tmp_path)).native_format()
    fill(tmp_path, "good.png")
    assert open_source(str(tmp_path)).native_format() == Format(8, 3)
    fill(tmp_path, "tiny.png", size=(3, 9))
    with pytest.raises(DataError, match="smaller than 4x4"):
        open_source(str(tmp_path)).native_format()


def add(folder):
    fill(folder, "c.png")


def remove(folder):
    (folder / "a.png").unlink()


def rename(folder):
    (folder / "a.png").rename(folder / "aa.png")


def grow(folder):
    before = (folder / "a.png").stat().st_mtime_ns
    fill(folder, "a.png", size=(90, 90))
    os.utime(folder / "a.png", ns=(before, before))


def touch(folder):
    later = (folder / "a.png").stat().st_mtime_ns + 1_000_000
    os.utime(folder / "a.png", ns=(later, later))


@pytest.mark.parametrize("change", [add, remove, rename, grow, touch])
def test_fingerprint_changes_with_the_files(tmp_path, change):
    fill(tmp_path, "a.png", "b.png")
    before = open_source(str(tmp_path)).fingerprint()
    assert open_source(str(tmp_path)).fingerprint() == before
    change(tmp_path)
    assert open_source(str(tmp_path)).fingerprint() != before


def test_fingerprint_tells_labelled_sets_from_others(tmp_path):
    fill(tmp_path, "cat/a.png")
    assert open_source(str(tmp_path)).fingerprint() != open_source(str(tmp_path), labels=True).fingerprint()


def test_a_broken_link_is_an_image_that_cannot_be_read(tmp_path):
    fill(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    source = open_source(str(tmp_path))
    assert len(source) == 2 and source.fingerprint() and source.native_format() == Format(8, 3)
    with pytest.raises(OSError):
        source.image(1, 8, 3)


@pytest.mark.parametrize("values", [np.full((8, 8), 70_000, np.int32), np.full((8, 8), 0.5, np.float32)])
def test_gray_images_without_a_known_range_cannot_be_read(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match="has no range of its own"):
        open_source(str(tmp_path)).image(0, 8, 1)


@pytest.mark.parametrize("labels", [False, True])
def test_synthetic_is_the_embedded_set(labels):
    source = open_source("synthetic", labels)
    assert isinstance(source, SyntheticShapes) and bool(source.classes) == labels
