import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import save_noise
from PIL import Image

from pggan.datasets import DataError, SyntheticShapes, build, find_cache_folder, open_pyramid, open_source, pyramid
from pggan.datasets.commands import clean

ROOT = Path(__file__).parents[2]


@pytest.fixture
def two_classes(tmp_path):
    """Create 200 images, gray values 0 to 199, in the class folders "even" and "odd"."""
    for i in range(200):
        path = tmp_path / "images" / ("odd" if i % 2 else "even") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(path)
    return tmp_path / "images"


def damage(folder, *numbers):
    for i in numbers:
        (folder / ("odd" if i % 2 else "even") / f"{i:03d}.png").write_bytes(b"no image")


def test_a_class_without_readable_images_is_reported(tmp_path, capsys):
    save_noise(tmp_path / "cat", 4)
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "1.png").write_bytes(b"no image")
    pyramid = open_pyramid(open_source(str(tmp_path), labels=True), 8, 3, max_bad=0.5)
    assert pyramid.class_counts == [4, 0] and "no readable images in owl" in capsys.readouterr().err


def watch_decoding(source, monkeypatch, before=lambda index: None):
    """Call `before` at every decoding; return the list of the indices decoded (by one worker)."""
    decoded, original = [], source.read_image

    def wrapper(index, *size):
        decoded.append(index)
        before(index)
        return original(index, *size)

    monkeypatch.setattr(source, "read_image", wrapper)
    return decoded


def test_images_are_read_in_the_requested_order_from_memory_maps():
    source = SyntheticShapes(6)
    opened = open_pyramid(source, 8, 1)
    assert all(isinstance(level, np.memmap) for level in opened.levels.values())
    expected = np.stack([source.image(i, 8, 1) for i in (5, 0, 5)])
    assert (opened.read_images(8, np.array([5, 0, 5])) == expected).all()


def test_the_second_open_decodes_nothing(monkeypatch):
    first, second = SyntheticShapes(10, labeled=True), SyntheticShapes(10, labeled=True)
    decoded = [watch_decoding(source, monkeypatch) for source in (first, second)]
    built, reopened = (open_pyramid(source, 8, 3, workers=1) for source in (first, second))
    assert sorted(decoded[0]) == list(range(10)) and decoded[1] == []
    assert built.key == reopened.key and built.classes == reopened.classes == first.classes
    assert (built.labels == reopened.labels).all() and (built.levels[4] == reopened.levels[4]).all()


def test_different_images_sizes_channels_and_labels_get_different_caches(cache):
    keys = {
        open_pyramid(source, resolution, channels).key
        for source, resolution, channels in (
            (SyntheticShapes(4), 8, 3),
            (SyntheticShapes(5), 8, 3),
            (SyntheticShapes(4, seed=1), 8, 3),
            (SyntheticShapes(4, labeled=True), 8, 3),
            (SyntheticShapes(4), 16, 3),
            (SyntheticShapes(4), 8, 1),
        )
    }
    assert len(keys) == 6 and {p.name for p in cache.iterdir()} == keys


@pytest.mark.parametrize("options", [{"fit": "pad"}, {"background": "black"}])
def test_different_preparations_get_different_caches(two_classes, options):
    source = open_source(str(two_classes))
    assert open_pyramid(source, 8, 1).key != open_pyramid(source, 8, 1, **options).key


def test_a_changed_folder_builds_a_new_cache(two_classes):
    assert len(open_pyramid(open_source(str(two_classes)), 8, 1)) == 200
    Image.new("L", (8, 8)).save(two_classes / "more.png")
    assert len(open_pyramid(open_source(str(two_classes)), 8, 1)) == 201
    Image.new("L", (8, 8), 77).save(two_classes / "more.png")
    assert (open_pyramid(open_source(str(two_classes)), 8, 1).read_images(8, [100]) == 77).all()


def test_copies_touched_and_moved_files_are_not_decoded_again(two_classes, tmp_path, monkeypatch):
    key = open_pyramid(open_source(str(two_classes), labels=True), 8, 1).key
    shutil.copytree(two_classes, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in two_classes.rglob("*.png"):
        os.utime(path)
    two_classes.rename(tmp_path / "moved")
    for place in ("copy", "moved"):
        source = open_source(str(tmp_path / place), labels=True)
        decoded = watch_decoding(source, monkeypatch)
        assert open_pyramid(source, 8, 1, workers=1).key == key and decoded == []


def test_untouched_files_are_not_read_again(two_classes, monkeypatch):
    open_pyramid(open_source(str(two_classes)), 8, 1)
    source = open_source(str(two_classes))
    monkeypatch.setattr(source, "content_digest", None)
    assert len(open_pyramid(source, 8, 1)) == 200


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("bad", [[37], [0, 199]])
def test_a_few_bad_files_are_skipped_and_reported_and_labels_stay_with_their_images(two_classes, capfd, bad, workers):
    damage(two_classes, *bad)
    source = open_source(str(two_classes), labels=True)
    opened = open_pyramid(source, 8, 1, workers=workers)
    numbers = [int(Path(source.describe(i)).stem) for i in range(200)]
    good = [i for i in numbers if i not in bad]
    for r in (4, 8):
        assert (opened.read_images(r, range(len(opened))) == np.reshape(good, (-1, 1, 1, 1))).all()
    assert [opened.classes[label] for label in opened.labels] == ["odd" if i % 2 else "even" for i in good]
    names = [source.describe(numbers.index(i)) for i in numbers if i in bad]
    report = (opened.folder / "report.txt").read_text()
    assert report.startswith(f"{len(bad)} images that cannot be read") and all(name in report for name in names)
    assert "not an image, or in an unknown format" in report
    assert f"of 200 images in images, {len(bad)} cannot be read" in capfd.readouterr().err
    assert [name for name, _ in opened.bad] == [name for name, _ in open_pyramid(source, 8, 1).bad] == names
    assert opened.find_damage() == []
    with pytest.raises(DataError, match=rf"{len(bad)} of 200 images cannot be read, more than --max-bad 0\.1% allows"):
        open_pyramid(source, 8, 1, max_bad=0.001)


def test_too_many_bad_files_are_rejected_by_name_and_nothing_is_decoded_again(two_classes, monkeypatch):
    damage(two_classes, 3, 4, 5)
    source = open_source(str(two_classes))
    with pytest.raises(DataError, match=r"(?s)3 of 200 images cannot be read.*--max-bad 1.5%.*004\.png.*003\.png"):
        open_pyramid(source, 8, 1)
    decoded = watch_decoding(source, monkeypatch)
    assert len(open_pyramid(source, 8, 1, max_bad=0.015, workers=1)) == 197 and decoded == []


def test_a_dataset_without_a_readable_image_is_rejected(tmp_path):
    (tmp_path / "only.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)1 of 1 images cannot be read.*only\.png: empty file"):
        open_pyramid(open_source(str(tmp_path)), 8, 1, max_bad=1)


def test_an_image_with_damaged_exif_data_is_still_used(two_classes):
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "maker"
    Image.new("L", (8, 8)).save(two_classes / "exif.jpg", exif=exif)
    data = (two_classes / "exif.jpg").read_bytes()
    maker, width = b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02"  # tags, and their type: text
    (two_classes / "exif.jpg").write_bytes(data.replace(maker, width))  # text as a width: struct.error in Pillow
    opened = open_pyramid(open_source(str(two_classes)), 8, 1)
    assert len(opened) == 201 and opened.bad == []


def test_small_images_are_counted_and_enlarged_only_if_allowed(tmp_path, capfd):
    save_noise(tmp_path / "set", 90, (16, 20))
    for path in save_noise(tmp_path / "small", 10, (9, 30)):
        path.rename(tmp_path / "set" / f"small{path.name}")
    source = open_source(str(tmp_path / "set"))
    with pytest.raises(DataError, match=r"10 of 100 images are smaller than 16x16.*9x30; pass --resolution 8, or"):
        open_pyramid(source, 16, 3)
    assert len(open_pyramid(source, 8, 3)) == 100 and "enlarged" not in capfd.readouterr().err
    for _ in range(2):
        opened = open_pyramid(source, 16, 3, allow_upscale=True)
        assert len(opened) == 100 and "10 are smaller than 16x16 and were enlarged" in capfd.readouterr().err
    report = (opened.folder / "report.txt").read_text()
    assert "10 images smaller than 16x16, enlarged" in report and report.count("small0") == 10
    with pytest.raises(DataError, match="10 of 100 images are smaller than 16x16"):
        open_pyramid(source, 16, 3)


def test_duplicates_are_counted_and_listed(tmp_path, capfd):
    save_noise(tmp_path / "set", 20)
    for i in (3, 7):
        shutil.copy(tmp_path / "set" / "0005.png", tmp_path / "set" / f"9{i}.png")
    opened = open_pyramid(open_source(str(tmp_path / "set")), 16, 3)
    assert len(opened) == 22 and "2 are copies of others" in capfd.readouterr().err
    report = (opened.folder / "report.txt").read_text()
    assert "2 copies of other images" in report and f"97.png: as {tmp_path / 'set' / '0005.png'}" in report


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_build_resumes_where_it_stopped(monkeypatch, cache, workers):
    def interrupt(index):
        if index == 300:
            raise KeyboardInterrupt

    source = SyntheticShapes(500)
    decoded = watch_decoding(source, monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_pyramid(source, 8, 3, workers=1)
    assert len(decoded) == 301 and [p.name[:9] for p in cache.iterdir()] == ["building-"]
    source = SyntheticShapes(500)
    resumed = watch_decoding(source, monkeypatch)
    opened = open_pyramid(source, 8, 3, workers=workers)
    assert workers == 2 or resumed == list(range(294, 500))  # spans are of 7 images
    assert (
        opened.read_images(8, range(500)) == np.stack([source.image(i, 8) for i in range(500)])
    ).all() and opened.find_damage() == []


def test_rows_lost_from_an_interrupted_build_are_decoded_again(monkeypatch, cache):
    def interrupt(index):
        if index == 300:
            raise KeyboardInterrupt

    source = SyntheticShapes(500)
    watch_decoding(source, monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_pyramid(source, 8, 3, workers=1)
    (building,) = cache.iterdir()
    level = np.load(building / "0008.npy", mmap_mode="r+")
    level[70] = 0
    level.flush()
    with open(building / "journal", "a") as journal:
        journal.write('{"start": 294, "st')  # the line that was being written
    source = SyntheticShapes(500)
    resumed = watch_decoding(source, monkeypatch)
    opened = open_pyramid(source, 8, 3, workers=1)
    assert resumed == [*range(70, 77), *range(294, 500)] and opened.find_damage() == []


def test_images_that_change_during_the_build_are_rejected(tmp_path, monkeypatch, cache):
    paths = save_noise(tmp_path / "set", 10)
    source = open_source(str(tmp_path / "set"))
    watch_decoding(source, monkeypatch, lambda index: paths[3].write_bytes(b"") if index == 5 else None)
    with pytest.raises(DataError, match="changed while they were read"):
        open_pyramid(source, 8, 3, workers=1)
    assert list(cache.iterdir()) == []


def test_too_little_disk_space_is_reported_before_anything_is_written(monkeypatch, cache):
    needed = 1000 * 3 * (4 * 4 + 8 * 8 + 16 * 16)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    source = SyntheticShapes(1000)
    decoded = watch_decoding(source, monkeypatch)
    with pytest.raises(DataError, match=r"needs 1\.0 MB but .* free some space, or set PGGAN_CACHE"):
        open_pyramid(source, 16, 3, workers=1)
    assert decoded == [] and list(cache.iterdir()) == []
    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    assert len(open_pyramid(source, 16, 3)) == 1000


def test_a_disk_that_fills_up_during_the_build_leaves_nothing(monkeypatch, cache):
    def full(self, start, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build.RowFile, "write", full)
    with pytest.raises(DataError, match=r"the image cache needs .*; the partial cache was removed"):
        open_pyramid(SyntheticShapes(100), 16, 3)
    assert list(cache.iterdir()) == []


def test_an_unwritable_cache_is_reported(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cannot be read or written .* set PGGAN_CACHE"):
        open_pyramid(SyntheticShapes(4), 8, 3)


def test_a_damaged_cache_is_detected_and_reported(cache):
    opened = open_pyramid(SyntheticShapes(200), 16, 3)
    level = np.load(opened.folder / "0008.npy", mmap_mode="r+")
    level[[3, 150], 0, 0, 0] ^= 1
    level.flush()
    assert open_pyramid(SyntheticShapes(200), 16, 3).find_damage() == [3, 150]
    (opened.folder / "0004.npy").unlink()
    with pytest.raises(DataError, match=f"is damaged .* python -m pggan.datasets clean {opened.key}"):
        open_pyramid(SyntheticShapes(200), 16, 3)


def test_concurrent_processes_build_a_pyramid_only_once(cache):
    script = """
import sys
from pggan.datasets import SyntheticShapes, open_pyramid
print("ready", flush=True)
sys.stdin.readline()
source = SyntheticShapes(300)
decoded, original = [], source.read_image
source.read_image = lambda *a: decoded.append(a) or original(*a)
opened = open_pyramid(source, 16, 3, workers=1)
assert len(opened) == 300
assert all((opened.read_images(16, [i])[0] == source.image(i, 16)).all() for i in range(0, 300, 7))
print(len(decoded))
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sorted(int(process.communicate(timeout=60)[0]) for process in processes) == [0, 300]
    assert [process.returncode for process in processes] == [0, 0] and len(list(cache.iterdir())) == 1


def test_environment_variables_choose_the_cache_folder(monkeypatch, tmp_path):
    assert find_cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("PGGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert find_cache_folder() == tmp_path / "xdg" / "pggan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert find_cache_folder() == Path(os.path.expanduser("~")) / ".cache" / "pggan"


def test_a_build_rejected_for_small_images_leaves_nothing(tmp_path):
    save_noise(tmp_path / "set", 40, (16, 20))
    with pytest.raises(DataError, match="40 of 40 images are smaller than 64x64"):
        open_pyramid(open_source(str(tmp_path / "set")), 64, 3)
    assert list((find_cache_folder() / "datasets").glob("*64x3*")) == []


def test_bad_images_up_to_the_allowed_fraction_are_skipped():
    report = Path("report.txt")
    build.check_bad([("a.png", "empty file")] * 7, 1000, 0.7 / 100, report)
    with pytest.raises(DataError, match=r"7 of 1000 images cannot be read.* --max-bad 0.7%"):
        build.check_bad([("a.png", "empty file")] * 7, 1000, 0.6 / 100, report)


@pytest.mark.parametrize("name", ["sums.npy", "0008.npy", "meta.json"])
def test_an_emptied_cache_file_is_reported_with_a_remedy(two_classes, name):
    folder = open_pyramid(open_source(str(two_classes)), 8, 1).folder
    (folder / name).write_bytes(b"[]" if name == "meta.json" else b"")
    with pytest.raises(DataError, match=f"is damaged .* python -m pggan.datasets clean {folder.name}"):
        open_pyramid(open_source(str(two_classes)), 8, 1)


def test_a_lost_index_of_cached_datasets_is_rebuilt(tmp_path):
    sources = []
    for count in (3, 4):
        save_noise(tmp_path / str(count), count, (8, 8))
        sources.append(open_source(str(tmp_path / str(count))))
    first = [open_pyramid(source, 8, 3).key for source in sources]
    for file in (find_cache_folder() / "known").iterdir():
        file.write_bytes(b"")
    assert [open_pyramid(source, 8, 3).key for source in sources] == first


def test_too_many_open_files_are_not_blamed_on_the_cache_or_an_image(monkeypatch, cache):
    def too_many(self, index, *size):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(SyntheticShapes, "read_image", too_many)
    with pytest.raises(DataError, match="Too many open files; raise this machine's limits") as error:
        open_pyramid(SyntheticShapes(100), 8, 3, workers=1)
    assert "PGGAN_CACHE" not in str(error.value)


def test_unreadable_images_are_not_blamed_on_the_cache(monkeypatch, cache):
    def fail(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(SyntheticShapes, "stamp", fail)
    with pytest.raises(DataError, match=r"^synthetic cannot be read: Permission denied$"):
        open_pyramid(SyntheticShapes(100), 8, 3)


def test_a_cache_that_cannot_be_mapped_is_not_reported_as_damaged(monkeypatch, cache):
    open_pyramid(SyntheticShapes(100), 8, 3)

    def fail(*arguments, **options):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(pyramid.np, "load", fail)
    with pytest.raises(DataError, match=r"cannot be read or written .No such device.; set PGGAN_CACHE"):
        open_pyramid(SyntheticShapes(100), 8, 3)


@pytest.mark.parametrize("number", ["EOPNOTSUPP", "ENOLCK", "EIO", "EINVAL"])
def test_a_file_system_without_locks_triggers_one_warning(monkeypatch, cache, capsys, number):
    def fail(file, operation):
        raise OSError(getattr(errno, number), "refused")

    monkeypatch.setattr(fcntl, "flock", fail)
    assert len(open_pyramid(SyntheticShapes(100), 8, 3)) == 100
    assert capsys.readouterr().err.count("has no locks") == 1
    clean(SimpleNamespace(keys=[], unfinished=False, all=True))
    assert list((cache.parent / "datasets").iterdir()) == []
