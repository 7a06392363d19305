import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from datasets import DataError, SyntheticShapes, cache_folder, open_pyramid, open_source, pyramid

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "datasets"


@pytest.fixture
def two_classes(tmp_path):
    """200 images of one gray each, 0 to 199, the even ones of class "even"."""
    for i in range(200):
        path = tmp_path / "images" / ("odd" if i % 2 else "even") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(path)
    return tmp_path / "images"


def spoil(folder, *numbers):
    for i in numbers:
        (folder / ("odd" if i % 2 else "even") / f"{i:03d}.png").write_bytes(b"no image")


def watched(source, monkeypatch, before=lambda index: None):
    """Have `before` called at every decoding; returns the indices decoded."""
    decoded, image = [], source.image

    def watching(index, *size):
        decoded.append(index)
        before(index)
        return image(index, *size)

    monkeypatch.setattr(source, "image", watching)
    return decoded


def test_levels_are_box_means_of_the_full_image_rounded_half_to_even(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 64, 64), dtype=np.uint8)
    images[0, :, :2, :2] = np.array([[0, 0], [0, 2]])  # 0.5
    images[0, :, :2, 2:4] = np.array([[1, 2], [2, 1]])  # 1.5
    images[0, :, 2:4, :4] = 0
    source = SyntheticShapes(40)
    monkeypatch.setattr(source, "image", lambda index, *_: images[index])
    opened = open_pyramid(source, 64, 3)
    assert (len(opened), opened.resolution, opened.channels, opened.labels, opened.bad) == (40, 64, 3, None, [])
    assert opened.images(32, [0])[0, 0, 0, :2].tolist() == [0, 2] and opened.images(16, [0])[0, 0, 0, 0] == 0
    assert list(opened.levels) == [4, 8, 16, 32, 64]
    for r in opened.levels:
        box = 64 // r
        expected = np.rint(images.reshape(40, 3, r, box, r, box).mean(axis=(3, 5), dtype=np.float64))
        level = opened.images(r, range(40))
        assert level.dtype == np.uint8 and (level == expected).all()


def test_images_come_in_the_order_asked_for_from_memory_maps():
    source = SyntheticShapes(6)
    opened = open_pyramid(source, 8, 1)
    assert all(isinstance(level, np.memmap) for level in opened.levels.values())
    expected = np.stack([source.image(i, 8, 1) for i in (5, 0, 5)])
    assert (opened.images(8, np.array([5, 0, 5])) == expected).all()


def test_the_second_open_decodes_nothing(monkeypatch):
    first, second = SyntheticShapes(10, labelled=True), SyntheticShapes(10, labelled=True)
    decoded = [watched(source, monkeypatch) for source in (first, second)]
    built, reopened = (open_pyramid(source, 8, 3) for source in (first, second))
    assert sorted(decoded[0]) == list(range(10)) and decoded[1] == []
    assert built.key == reopened.key and built.classes == reopened.classes == first.classes
    assert (built.labels == reopened.labels).all() and (built.levels[4] == reopened.levels[4]).all()


def test_other_images_sizes_channels_and_labels_are_other_caches(cache):
    keys = {
        open_pyramid(source, resolution, channels).key
        for source, resolution, channels in (
            (SyntheticShapes(4), 8, 3),
            (SyntheticShapes(5), 8, 3),
            (SyntheticShapes(4, seed=1), 8, 3),
            (SyntheticShapes(4, labelled=True), 8, 3),
            (SyntheticShapes(4), 16, 3),
            (SyntheticShapes(4), 8, 1),
        )
    }
    assert len(keys) == 6 and {p.name for p in cache.iterdir()} == keys


def test_an_added_image_builds_a_new_cache(two_classes):
    assert len(open_pyramid(open_source(str(two_classes)), 8, 1)) == 200
    Image.new("L", (8, 8)).save(two_classes / "more.png")
    assert len(open_pyramid(open_source(str(two_classes)), 8, 1)) == 201


@pytest.mark.parametrize("bad", [[37], [0, 199]])
def test_a_few_bad_files_are_left_out_and_listed_and_labels_stay_with_their_images(two_classes, capsys, bad):
    spoil(two_classes, *bad)
    source = open_source(str(two_classes), labels=True)
    opened = open_pyramid(source, 8, 1)
    good = [int(path.stem) for path in source.paths if int(path.stem) not in bad]
    for r in (4, 8):
        assert (opened.images(r, range(len(opened))) == np.reshape(good, (-1, 1, 1, 1))).all()
    assert [opened.classes[label] for label in opened.labels] == ["odd" if i % 2 else "even" for i in good]
    names = [str(source.paths[i]) for i in range(200) if int(source.paths[i].stem) in bad]
    listed = capsys.readouterr().err
    assert listed.startswith(f"{len(bad)} images cannot be read") and all(name in listed for name in names)
    assert [name for name, _ in opened.bad] == [name for name, _ in open_pyramid(source, 8, 1).bad] == names


def test_more_than_a_hundredth_of_bad_files_is_refused_by_name(two_classes, cache):
    spoil(two_classes, 3, 4, 5)
    with pytest.raises(DataError, match=r"(?s)3 of 200 images cannot be read, more than 1%.*004\.png.*003\.png"):
        open_pyramid(open_source(str(two_classes)), 8, 1)
    assert list(cache.iterdir()) == []


def test_no_good_file_at_all_is_refused(tmp_path):
    (tmp_path / "only.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 1 images cannot be read"):
        open_pyramid(open_source(str(tmp_path)), 8, 1)


def test_damaged_exif_data_is_a_bad_file_and_no_crash(two_classes):
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "maker"
    Image.new("L", (8, 8)).save(two_classes / "exif.jpg", exif=exif)
    data = (two_classes / "exif.jpg").read_bytes()
    maker, width = b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02"  # tags, and their type: text
    (two_classes / "exif.jpg").write_bytes(data.replace(maker, width))  # a text for a width: Pillow's struct.error
    opened = open_pyramid(open_source(str(two_classes)), 8, 1)
    assert len(opened) == 200 and [Path(name).name for name, _ in opened.bad] == ["exif.jpg"]


def test_an_interrupted_build_leaves_nothing_and_the_next_works(monkeypatch, cache):
    def interrupt(index):
        if index == 25:
            raise KeyboardInterrupt

    source = SyntheticShapes(50)
    watched(source, monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_pyramid(source, 8, 3)
    assert list(cache.iterdir()) == []
    assert len(open_pyramid(SyntheticShapes(50), 8, 3)) == 50


def test_what_a_killed_build_left_is_not_taken_for_a_cache(cache):
    (cache / "building-killed").mkdir(parents=True)
    assert len(open_pyramid(SyntheticShapes(5), 8, 3)) == 5


def test_too_little_room_is_said_before_anything_is_written(monkeypatch, cache):
    needed = 1000 * 3 * (4 * 4 + 8 * 8 + 16 * 16)
    monkeypatch.setattr(pyramid.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    source = SyntheticShapes(1000)
    decoded = watched(source, monkeypatch)
    with pytest.raises(DataError, match=r"needs 0\.0 GB but .* make room, or set PGGAN_CACHE"):
        open_pyramid(source, 16, 3)
    assert decoded == [] and list(cache.iterdir()) == []
    monkeypatch.setattr(pyramid.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    assert len(open_pyramid(source, 16, 3)) == 1000


def test_a_cache_that_cannot_be_written_is_said(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cannot be written .* set PGGAN_CACHE"):
        open_pyramid(SyntheticShapes(4), 8, 3)


def test_a_build_overtaken_by_another_opens_the_others(monkeypatch, cache):
    def overtake(index):
        if index == 9:
            open_pyramid(SyntheticShapes(10), 8, 3)

    source = SyntheticShapes(10)
    watched(source, monkeypatch, overtake)
    opened = open_pyramid(source, 8, 3)
    assert (opened.images(8, [9])[0] == SyntheticShapes(10).image(9, 8)).all()
    assert [p.name for p in cache.iterdir()] == [opened.key]


def test_processes_building_at_once_all_get_a_good_pyramid(cache):
    script = """
import sys
from datasets import SyntheticShapes, open_pyramid
print("ready", flush=True)
sys.stdin.readline()
source = SyntheticShapes(300)
opened = open_pyramid(source, 16, 3)
assert len(opened) == 300 and all((opened.images(16, [i])[0] == source.image(i, 16)).all() for i in range(0, 300, 7))
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60) and process.returncode for process in processes] == [0, 0]
    assert len(list(cache.iterdir())) == 1


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("PGGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "pggan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path(os.path.expanduser("~")) / ".cache" / "pggan"
