import json

import numpy as np
import pytest
from helpers import save_blanks, save_noise
from PIL import Image

from pggan.datasets import (
    DataError,
    Preparation,
    check_sizes,
    open_source,
    read_native_format,
    summarize,
)


def summarize_path(path, labels=False):
    return summarize(open_source(str(path), labels))


def test_a_folder_is_summarized_in_one_line_and_its_classes_in_another(tmp_path):
    save_noise(tmp_path / "set" / "cat", 3)
    save_noise(tmp_path / "set" / "dog", 2)
    assert summarize_path(tmp_path / "set") == ["5 images in set, all 16x16"]
    assert summarize_path(tmp_path / "set", labels=True)[1:] == ["2 classes: cat (3), dog (2)"]


def test_sizes_are_summarized_by_smallest_largest_and_median(tmp_path):
    for i, size in enumerate([(8, 8), (30, 20), (20, 16)]):
        save_blanks(tmp_path / "set", f"{i}.png", size=size)
    assert summarize_path(tmp_path / "set") == ["3 images in set, 8x8 to 30x20 pixels, median 20x16"]


@pytest.mark.parametrize(
    "fit, channels, expected",
    [
        ("center-crop", 3, ["2 of 4 images are not square"]),
        ("pad", 3, []),
        ("pad", 1, ["3 of 4 images are in color and become grayscale"]),
        ("stretch", 4, []),
    ],
)
def test_what_preparing_images_loses_is_reported(tmp_path, fit, channels, expected):
    for i, (mode, size) in enumerate([("RGB", (8, 8)), ("RGB", (30, 20)), ("RGBA", (20, 16)), ("L", (9, 9))]):
        (tmp_path / "set").mkdir(exist_ok=True)
        Image.new(mode, size).save(tmp_path / "set" / f"{i}.png")
    found = summarize(open_source(str(tmp_path / "set")), Preparation(8, channels, fit, "white"))[1:]
    assert [line.split(" and ")[0] if "square" in line else line.split(",")[0] for line in found] == expected


def test_gray_images_for_color_networks_and_unreadable_ones_are_reported(tmp_path):
    (tmp_path / "set").mkdir()
    for i in range(3):
        Image.new("L", (8, 8)).save(tmp_path / "set" / f"{i}.png")
    (tmp_path / "set" / "3.png").write_text("no image")
    _, unreadable, gray = summarize(open_source(str(tmp_path / "set")), Preparation(8, 3, "center-crop", "white"))
    assert unreadable.startswith("1 of 4 images cannot be read") and gray.startswith("all images are gray")


def test_headers_are_read_once_and_only_a_sample_of_many(tmp_path, monkeypatch):
    save_noise(tmp_path / "set", 50)
    monkeypatch.setattr("pggan.datasets.summary.MAX_HEADERS", 10)
    assert summarize_path(tmp_path / "set") == ["50 images in set, all 16x16 (in a sample of 10)"]
    source = open_source(str(tmp_path / "set"))
    read_native_format(source)
    monkeypatch.setattr(type(source), "header", None)
    assert summarize_path(tmp_path / "set") == ["50 images in set, all 16x16"]


def test_skipped_files_are_counted_by_extension_with_a_remedy(tmp_path):
    save_blanks(tmp_path / "set", "1.JPG")
    for name in ("2.HEIC", "3.heic", "notes.txt", "Thumbs.db"):
        (tmp_path / "set" / name).write_text("no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / "x", "JPEG")
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / "4.jpg_large", "JPEG")
    (line,) = summarize_path(tmp_path / "set")[1:]
    rename = "(images according to their content: rename them to end in .jpg or .png)"
    assert "skipped files: 2 .heic (not supported: pip install pillow-heif, or convert them to .jpg or .png), " in line
    assert f"1 without an extension {rename}" in line and f"1 .jpg_large {rename}" in line
    assert "1 .txt" in line and "1 .db" in line and line.count("(") == 3


def test_many_file_extensions_are_summed_up(tmp_path):
    save_blanks(tmp_path / "set", "1.png")
    for i in range(9):
        (tmp_path / "set" / f"x.{i}").write_text("")
    assert summarize_path(tmp_path / "set")[1].endswith(", 4 of 4 other types")


def test_classes_without_images_are_reported(tmp_path):
    save_blanks(tmp_path, "1.png", "2.png")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["1.png", 1], ["2.png", 4]]}))
    found = summarize_path(tmp_path, labels=True)
    assert found[1:3] == ["2 classes: 1 (1), 4 (1)", "classes without images, never generated in training: 0, 2, 3"]


def test_many_classes_are_summarized_by_smallest_and_largest(tmp_path):
    labels = np.repeat(np.arange(1000), 2)[1:]
    np.savez(tmp_path / "set.npz", images=np.zeros((1999, 8, 8, 3), np.uint8), labels=labels)
    assert summarize_path(tmp_path / "set.npz", labels=True)[1] == "1,000 classes: 1 (0) to 2 (1) images in each"


def test_many_classes_of_equal_size_are_summed_up(tmp_path):
    save_blanks(tmp_path, *(f"{i:02}/1.png" for i in range(11)))
    assert summarize_path(tmp_path, labels=True)[1] == "11 classes: 1 image in each"


@pytest.mark.parametrize(
    ("names", "note"),
    [
        ("0 1 2", ""),
        ("cat 7", ""),
        ("01 02 10", "01, 02, 10: class 01 has index 0"),
        ("0 1 2 10", "0, 1, 10, 2: class 10 has index 2"),
    ],
)
def test_numbers_that_differ_from_the_class_indices_are_reported(tmp_path, names, note):
    save_blanks(tmp_path, *(f"{name}/1.png" for name in names.split()))
    found = summarize_path(tmp_path, labels=True)
    assert len(found) == 2 + bool(note) and note in found[-1]


def test_a_single_class_triggers_a_warning(tmp_path):
    save_blanks(tmp_path, "cat/1.png")
    assert "warning: all images are of one class, cat" in summarize_path(tmp_path, labels=True)[-1]


@pytest.mark.parametrize("labels", [False, True])
def test_the_synthetic_dataset_is_drawn_at_any_size(labels):
    found = summarize_path("synthetic", labels)
    assert found[0] == "10,000 images in synthetic, drawn at the resolution of the run" and len(found) == 1 + labels


def test_images_smaller_than_the_resolution_are_rejected_unless_drawn(tmp_path):
    save_blanks(tmp_path, "a/1.png", "a/2.png")
    source = open_source(str(tmp_path))
    check_sizes(source, Preparation(4, 3))
    with pytest.raises(DataError, match=r"2 of 2 images are smaller than 1024x1024, .*--allow-upscale"):
        check_sizes(source, Preparation(1024, 3))
    check_sizes(open_source("synthetic"), Preparation(1024, 3))
