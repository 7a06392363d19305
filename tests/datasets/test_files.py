import io
import json
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from helpers import fill, noise, pixels
from PIL import Image

from datasets import DataError, Preparation, open_source


def zipped(folder, path, inside="", compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{inside}{file.relative_to(folder).as_posix()}")
    return path


def tarred(folder, path, inside="", mode="w"):
    with tarfile.open(path, mode) as archive:
        for file in sorted(folder.rglob("*")):
            archive.add(file, f"{inside}{file.relative_to(folder).as_posix()}", recursive=False)
    return path


ARCHIVES = {"zip": zipped, "tar": tarred}


def names(source):
    return [os.path.relpath(source.describe(i), source.path).replace(os.sep, "/") for i in range(len(source))]


def test_images_are_found_in_all_subfolders_in_a_fixed_order(tmp_path):
    fill(tmp_path, "b/c/3.png", "a.JPG", "b/2.webp", "1.jpeg")
    (tmp_path / "notes.txt").write_text("no image")
    source = open_source(str(tmp_path))
    assert names(source) == ["1.jpeg", "a.JPG", "b/2.webp", "b/c/3.png"] and source.others == ["notes.txt"]
    assert source.name == tmp_path.name and source.labels is None and source.classes == []


def test_linked_folders_are_followed_once_and_hidden_files_left_out(tmp_path):
    fill(tmp_path, "photos/1.png", "elsewhere/2.png", "photos/.3.png", "photos/.thumbs/4.png")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "back").symlink_to(tmp_path / "photos")
    assert names(open_source(str(tmp_path / "photos"))) == ["1.png", "linked/2.png"]


def test_first_level_subfolders_are_the_classes(tmp_path):
    fill(tmp_path, "dog/1.png", "cat/deeper/2.png", "cat/1.png", "owl/0.png")
    source = open_source(str(tmp_path), labels=True)
    assert source.classes == ["cat", "dog", "owl"] and source.labels.dtype == np.int64
    assert [source.classes[i] for i in source.labels] == [name.split("/")[0] for name in names(source)]


def test_a_loose_image_is_refused_where_labels_are_asked_for(tmp_path):
    fill(tmp_path, "cat/1.png", "loose.png")
    with pytest.raises(DataError, match=r"--labels: loose\.png is not in a class folder; move"):
        open_source(str(tmp_path), labels=True)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"and its subfolders contain no images \(.*\.bmp, .*\.webp\); pass"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("inside", ["", "photos/"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_are_read_in_place_as_the_folder_is(tmp_path, kind, inside):
    noise(tmp_path / "set" / "dog", 3)
    noise(tmp_path / "set" / "cat", 2, seed=1)
    (tmp_path / "set" / "notes.txt").write_text("no image")
    folder = open_source(str(tmp_path / "set"), labels=True) if inside else open_source(str(tmp_path / "set"))
    path = ARCHIVES[kind](tmp_path / "set", tmp_path / f"set.{kind}", inside)
    source = open_source(str(path), labels=bool(inside)) if inside else open_source(str(path))
    again = pickle.loads(pickle.dumps(source))  # as it reaches other processes
    assert names(source) == names(folder) and source.classes == folder.classes and source.others == ["notes.txt"]
    for i in range(len(folder)):
        expected = pixels(folder, i, 16, 3)
        assert (pixels(source, i, 16, 3) == expected).all() and (pixels(again, i, 16, 3) == expected).all()


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_of_one_class_folder_has_that_class(tmp_path, kind):
    noise(tmp_path / "set" / "cat", 2)
    path = ARCHIVES[kind](tmp_path / "set", tmp_path / f"set.{kind}")
    assert open_source(str(path), labels=True).classes == ["cat"]
    assert len(open_source(str(path))) == 2


@pytest.mark.parametrize("kind", ["folder", *ARCHIVES])
def test_labels_of_a_dataset_json_are_those_of_its_names(tmp_path, kind):
    noise(tmp_path / "set" / "00000", 3)
    (tmp_path / "set" / "dataset.json").write_text(
        json.dumps({"labels": [["00000/0002.png", 0], ["00000/0000.png", 4], ["00000/0001.png", 1]]})
    )
    path = tmp_path / "set" if kind == "folder" else ARCHIVES[kind](tmp_path / "set", tmp_path / f"set.{kind}")
    source = open_source(str(path), labels=True)
    assert source.labels.tolist() == [4, 1, 0] and source.classes == ["0", "1", "2", "3", "4"]
    assert open_source(str(path)).labels is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"labels": null}', "has no labels; omit --labels"),
        ('{"labels": [["0000.png", 0]]}', r"has no label for 0001\.png"),
        ('{"labels": [["0000.png", 0], ["0001.png", 0.5]]}', "must be class numbers"),
        ('{"labels": [["0000.png", 0], ["0001.png", 65536]]}', "must be class numbers"),
        ("{}", "is not JSON like"),
        ("oh no", "is not JSON like"),
        ('{"labels": [1, 2]}', "is not JSON like"),
    ],
)
def test_a_dataset_json_that_cannot_be_used_is_refused(tmp_path, content, says):
    noise(tmp_path, 2)
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=says):
        open_source(str(tmp_path), labels=True)


def test_macs_additions_to_zips_are_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("photos/1.png", "__MACOSX/photos/._1.png", "photos/.DS_Store"):
            buffer = io.BytesIO()
            Image.new("L", (8, 8)).save(buffer, "PNG")
            archive.writestr(name, buffer.getvalue())
    source = open_source(str(tmp_path / "set.zip"))
    assert names(source) == ["1.png"] and source.others == []


def test_damaged_and_oversized_members_are_bad_images_and_no_crash(tmp_path):
    noise(tmp_path / "set", 3)
    path = zipped(tmp_path / "set", tmp_path / "set.zip", compression=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    middle = data.find(b"IDAT") + 20
    data[middle : middle + 4] = b"evil"
    path.write_bytes(data)
    source = open_source(str(path))
    with pytest.raises(ValueError, match="Bad CRC"):
        source.read_image(0, 8, 3)
    source.members["0001.png"].file_size = 1 << 40
    with pytest.raises(ValueError, match="MB unpacked, more than"):
        source.read_image(1, 8, 3)
    assert pixels(source, 2, 16, 3).shape == (3, 16, 16)


def test_damaged_and_compressed_archives_are_refused_with_what_to_do(tmp_path):
    noise(tmp_path / "set", 3)
    path = zipped(tmp_path / "set", tmp_path / "set.zip")
    path.write_bytes(path.read_bytes().replace(b"PK\1\2", b"evil"))  # the directory's signature
    with pytest.raises(DataError, match=r"set\.zip is damaged"):
        open_source(str(path))
    path = tarred(tmp_path / "set", tmp_path / "set.tar.gz", mode="w:gz")
    with pytest.raises(
        DataError, match=r"is not an uncompressed tar archive .*; unpack it and pass the folder: .*tar -xf "
    ):
        open_source(str(path))


def add(folder):
    fill(folder, "c.png")


def remove(folder):
    (folder / "a.png").unlink()


def exchange(folder):
    """Other content of the same size at the same time."""
    path = folder / "a.png"
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def touch(folder):
    later = (folder / "a.png").stat().st_mtime_ns + 1_000_000
    os.utime(folder / "a.png", ns=(later, later))


def rename(folder):
    (folder / "a.png").rename(folder / "aa.png")


@pytest.mark.parametrize(
    ("change", "content_changes"), [(add, True), (remove, True), (exchange, True), (touch, False), (rename, False)]
)
def test_the_stamp_changes_with_the_files_and_the_content_with_what_is_in_them(tmp_path, change, content_changes):
    noise(tmp_path, 1)[0].rename(tmp_path / "a.png")
    fill(tmp_path, "b.png")
    before = open_source(str(tmp_path))
    stamp, content = before.stamp(), before.content_digest()
    assert (open_source(str(tmp_path)).stamp(), open_source(str(tmp_path)).content_digest()) == (stamp, content)
    change(tmp_path)
    after = open_source(str(tmp_path))
    assert after.stamp() != stamp and (after.content_digest() != content) == content_changes


def test_a_broken_link_is_an_image_that_cannot_be_read(tmp_path):
    fill(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    source = open_source(str(tmp_path))
    assert len(source) == 2 and source.stamp() and source.content_digest()
    with pytest.raises(OSError):
        source.read_image(1, 8, 3)


def test_a_large_jpeg_is_halved_while_decoded_and_stays_the_same_picture(tmp_path):
    waves = np.sin(np.linspace(0, 9, 900))[:, None] * np.cos(np.linspace(0, 7, 700)) * 100 + 128
    Image.fromarray(waves.astype(np.uint8)).save(tmp_path / "large.jpg", quality=95)
    source, prepare = open_source(str(tmp_path)), Preparation(32, 1)
    assert source.read_image(0).size == (700, 900)
    assert source.read_image(0, 32, 1).size == (175, 225)  # more than 3 x 32, which the filter needs
    whole, halved = (prepare(source.read_image(0, *size)).astype(int) for size in ((), (32, 1)))
    assert abs(whole - halved).max() <= 2


def test_names_beginning_with_the_archives_own_folder_are_found(tmp_path):
    noise(tmp_path / "set", 3, (8, 8))
    for kind, pack in ARCHIVES.items():
        assert len(open_source(str(pack(tmp_path / "set", tmp_path / f"set.{kind}", "./")))) == 3


def test_a_hard_link_in_a_tar_is_the_image_it_stands_for(tmp_path):
    first, *_ = noise(tmp_path / "set", 2, (8, 8))
    os.link(first, tmp_path / "set" / "z.png")
    source = open_source(str(tarred(tmp_path / "set", tmp_path / "set.tar")))
    assert len(source) == 3
    with source.read_image(0) as image, source.read_image(2) as copy:
        assert image.tobytes() == copy.tobytes()


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    noise(tmp_path / "set" / "a", 1, (8, 8))
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"set/a cannot be read .Permission denied."):
        open_source(str(tmp_path / "set"))


def test_names_that_are_no_text_are_said_as_python_writes_them(tmp_path):
    noise(tmp_path / "set", 1, (8, 8))[0].rename(tmp_path / "set" / "a\nb\udcff.png")
    assert open_source(str(tmp_path / "set")).describe(0).endswith(r"set/a\nb\udcff.png")
