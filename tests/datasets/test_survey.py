import numpy as np
import pytest
from helpers import save_blanks
from PIL import Image

from pggan.datasets import DataError, Format, open_source, read_native_format
from pggan.datasets.survey import survey_all


def read_native(folder, *options):
    return read_native_format(open_source(str(folder)), *options)


@pytest.mark.parametrize(
    ("sizes", "fit", "resolution"),
    [
        ([(100, 70), (300, 65)], "center-crop", 64),
        ([(64, 64)], "center-crop", 64),
        ([(63, 500)], "stretch", 32),
        ([(63, 500)], "pad", 256),
        ([(3000, 2050)], "center-crop", 1024),
    ],
)
def test_native_resolution_is_the_power_of_two_that_the_smallest_image_allows(tmp_path, sizes, fit, resolution):
    for i, size in enumerate(sizes):
        save_blanks(tmp_path, f"{i}.png", size=size)
    assert read_native(tmp_path, fit) == Format(resolution, 3)


def test_native_channels_are_one_only_if_every_image_is_gray(tmp_path):
    save_blanks(tmp_path, "1.png", mode="L")
    save_blanks(tmp_path, "2.png", mode="1")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "3.png")
    assert read_native(tmp_path) == Format(8, 1) and read_native(tmp_path).note == ""
    save_blanks(tmp_path, "la.png", mode="LA")
    assert read_native(tmp_path) == Format(8, 1) and "1 of 4 images have transparency" in read_native(tmp_path).note
    save_blanks(tmp_path, "4.png", mode="RGB")
    assert read_native(tmp_path) == Format(8, 3) and "4 of 5 images are gray" in read_native(tmp_path).note


def test_one_small_image_among_large_ones_is_reported(tmp_path):
    save_blanks(tmp_path, *(f"{i}.png" for i in range(5)), size=(70, 70))
    assert read_native(tmp_path).note == ""
    save_blanks(tmp_path, "small.png", size=(9, 30))
    assert "small.png with 9x30 pixels limits the resolution; all but 1 images allow 64" in read_native(tmp_path).note
    assert read_native(tmp_path).resolution == 8


def test_broken_files_are_skipped_but_one_must_be_usable(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    with pytest.raises(DataError, match=r"none of the 1 images in .* can be read"):
        read_native(tmp_path)
    save_blanks(tmp_path, "good.png")
    assert read_native(tmp_path) == Format(8, 3)
    assert list(survey_all(open_source(str(tmp_path))).unreadable) == [0]


def test_an_image_too_small_for_any_network_is_rejected_unless_the_size_is_specified(tmp_path):
    save_blanks(tmp_path, "tiny.png", size=(3, 9))
    with pytest.raises(DataError, match=r"tiny\.png is smaller than 4x4"):
        read_native(tmp_path)
    assert read_native(tmp_path, "center-crop", False).channels == 3
