import io
import json
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from helpers import read_pixels, save_blanks, save_noise
from PIL import Image

from pggan.datasets import DataError, Preparation, open_source


def make_zip(folder, path, inside="", compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{inside}{file.relative_to(folder).as_posix()}")
    return path


def make_tar(folder, path, inside="", mode="w"):
    with tarfile.open(path, mode) as archive:
        for file in sorted(folder.rglob("*")):
            archive.add(file, f"{inside}{file.relative_to(folder).as_posix()}", recursive=False)
    return path


ARCHIVES = {"zip": make_zip, "tar": make_tar}


def list_names(source):
    return [os.path.relpath(source.describe(i), source.path).replace(os.sep, "/") for i in range(len(source))]


def test_images_are_found_in_all_subfolders_in_a_fixed_order(tmp_path):
    save_blanks(tmp_path, "b/c/3.png", "a.JPG", "b/2.webp", "1.jpeg")
    (tmp_path / "notes.txt").write_text("no image")
    source = open_source(str(tmp_path))
    assert list_names(source) == ["1.jpeg", "a.JPG", "b/2.webp", "b/c/3.png"] and source.others == ["notes.txt"]
    assert source.name == tmp_path.name and source.labels is None and source.classes == []


def test_linked_folders_are_followed_once_and_hidden_files_skipped(tmp_path):
    save_blanks(tmp_path, "photos/1.png", "elsewhere/2.png", "photos/.3.png", "photos/.thumbs/4.png")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "back").symlink_to(tmp_path / "photos")
    assert list_names(open_source(str(tmp_path / "photos"))) == ["1.png", "linked/2.png"]


def test_first_level_subfolders_are_the_classes(tmp_path):
    save_blanks(tmp_path, "dog/1.png", "cat/deeper/2.png", "cat/1.png", "owl/0.png")
    source = open_source(str(tmp_path), labels=True)
    assert source.classes == ["cat", "dog", "owl"] and source.labels.dtype == np.int64
    assert [source.classes[i] for i in source.labels] == [name.split("/")[0] for name in list_names(source)]


def test_a_loose_image_is_rejected_if_labels_are_requested(tmp_path):
    save_blanks(tmp_path, "cat/1.png", "loose.png")
    with pytest.raises(DataError, match=r"--labels: loose\.png is not in a class folder; move"):
        open_source(str(tmp_path), labels=True)


def test_a_folder_without_images_is_rejected(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"and its subfolders contain no images \(.*\.bmp, .*\.webp\); pass"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("inside", ["", "photos/"])
@pytest.mark.parametrize("layout", ARCHIVES)
def test_archives_are_read_in_place_like_the_folder(tmp_path, layout, inside):
    save_noise(tmp_path / "set" / "dog", 3)
    save_noise(tmp_path / "set" / "cat", 2, seed=1)
    (tmp_path / "set" / "notes.txt").write_text("no image")
    folder = open_source(str(tmp_path / "set"), labels=True) if inside else open_source(str(tmp_path / "set"))
    path = ARCHIVES[layout](tmp_path / "set", tmp_path / f"set.{layout}", inside)
    source = open_source(str(path), labels=bool(inside)) if inside else open_source(str(path))
    unpickled = pickle.loads(pickle.dumps(source))  # as worker processes receive it
    assert (
        list_names(source) == list_names(folder) and source.classes == folder.classes and source.others == ["notes.txt"]
    )
    for i in range(len(folder)):
        expected = read_pixels(folder, i, 16, 3)
        assert (read_pixels(source, i, 16, 3) == expected).all() and (
            read_pixels(unpickled, i, 16, 3) == expected
        ).all()


@pytest.mark.parametrize("layout", ARCHIVES)
def test_an_archive_of_one_class_folder_has_that_class(tmp_path, layout):
    save_noise(tmp_path / "set" / "cat", 2)
    path = ARCHIVES[layout](tmp_path / "set", tmp_path / f"set.{layout}")
    assert open_source(str(path), labels=True).classes == ["cat"]
    assert len(open_source(str(path))) == 2


@pytest.mark.parametrize("layout", ["folder", *ARCHIVES])
def test_labels_of_a_dataset_json_are_matched_by_name(tmp_path, layout):
    save_noise(tmp_path / "set" / "00000", 3)
    (tmp_path / "set" / "dataset.json").write_text(
        json.dumps({"labels": [["00000/0002.png", 0], ["00000/0000.png", 4], ["00000/0001.png", 1]]})
    )
    path = tmp_path / "set" if layout == "folder" else ARCHIVES[layout](tmp_path / "set", tmp_path / f"set.{layout}")
    source = open_source(str(path), labels=True)
    assert source.labels.tolist() == [4, 1, 0] and source.classes == ["0", "1", "2", "3", "4"]
    assert open_source(str(path)).labels is None


@pytest.mark.parametrize(
    ("content", "message"),
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
def test_an_unusable_dataset_json_is_rejected(tmp_path, content, message):
    save_noise(tmp_path, 2)
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path), labels=True)


def test_macos_metadata_in_zips_is_skipped(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("photos/1.png", "__MACOSX/photos/._1.png", "photos/.DS_Store"):
            buffer = io.BytesIO()
            Image.new("L", (8, 8)).save(buffer, "PNG")
            archive.writestr(name, buffer.getvalue())
    source = open_source(str(tmp_path / "set.zip"))
    assert list_names(source) == ["1.png"] and source.others == []


def test_damaged_and_oversized_members_count_as_bad_images(tmp_path):
    save_noise(tmp_path / "set", 3)
    path = make_zip(tmp_path / "set", tmp_path / "set.zip", compression=zipfile.ZIP_STORED)
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
    assert read_pixels(source, 2, 16, 3).shape == (3, 16, 16)


def test_damaged_and_compressed_archives_are_rejected_with_a_remedy(tmp_path):
    save_noise(tmp_path / "set", 3)
    path = make_zip(tmp_path / "set", tmp_path / "set.zip")
    path.write_bytes(path.read_bytes().replace(b"PK\1\2", b"evil"))  # the directory's signature
    with pytest.raises(DataError, match=r"set\.zip is damaged"):
        open_source(str(path))
    path = make_tar(tmp_path / "set", tmp_path / "set.tar.gz", mode="w:gz")
    with pytest.raises(
        DataError, match=r"is not an uncompressed tar archive .*; unpack it and pass the folder: .*tar -xf "
    ):
        open_source(str(path))


def add(folder):
    save_blanks(folder, "c.png")


def remove(folder):
    (folder / "a.png").unlink()


def replace_content(folder):
    """Replace the content, but keep its size and modification time."""
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
    ("change", "content_changes"),
    [(add, True), (remove, True), (replace_content, True), (touch, False), (rename, False)],
)
def test_the_stamp_follows_the_files_and_the_digest_their_content(tmp_path, change, content_changes):
    save_noise(tmp_path, 1)[0].rename(tmp_path / "a.png")
    save_blanks(tmp_path, "b.png")
    before = open_source(str(tmp_path))
    stamp, content = before.stamp(), before.content_digest()
    assert (open_source(str(tmp_path)).stamp(), open_source(str(tmp_path)).content_digest()) == (stamp, content)
    change(tmp_path)
    after = open_source(str(tmp_path))
    assert after.stamp() != stamp and (after.content_digest() != content) == content_changes


def test_a_broken_link_counts_as_an_unreadable_image(tmp_path):
    save_blanks(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    source = open_source(str(tmp_path))
    assert len(source) == 2 and source.stamp() and source.content_digest()
    with pytest.raises(OSError):
        source.read_image(1, 8, 3)


def test_a_large_jpeg_is_decoded_at_reduced_size_and_prepared_to_the_same_image(tmp_path):
    waves = np.sin(np.linspace(0, 9, 900))[:, None] * np.cos(np.linspace(0, 7, 700)) * 100 + 128
    Image.fromarray(waves.astype(np.uint8)).save(tmp_path / "large.jpg", quality=95)
    source, prepare = open_source(str(tmp_path)), Preparation(32, 1)
    assert source.read_image(0).size == (700, 900)
    assert source.read_image(0, 32, 1).size == (175, 225)  # more than 3 x 32, which the filter needs
    whole, halved = (prepare(source.read_image(0, *size)).astype(int) for size in ((), (32, 1)))
    assert abs(whole - halved).max() <= 2


def test_member_names_starting_with_dot_slash_are_found(tmp_path):
    save_noise(tmp_path / "set", 3, (8, 8))
    for layout, pack in ARCHIVES.items():
        assert len(open_source(str(pack(tmp_path / "set", tmp_path / f"set.{layout}", "./")))) == 3


def test_a_hard_link_in_a_tar_is_read_as_its_target(tmp_path):
    first, *_ = save_noise(tmp_path / "set", 2, (8, 8))
    os.link(first, tmp_path / "set" / "z.png")
    source = open_source(str(make_tar(tmp_path / "set", tmp_path / "set.tar")))
    assert len(source) == 3
    with source.read_image(0) as image, source.read_image(2) as copy:
        assert image.tobytes() == copy.tobytes()


def test_an_unreadable_folder_is_rejected(tmp_path, monkeypatch):
    save_noise(tmp_path / "set" / "a", 1, (8, 8))
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"set/a cannot be read .Permission denied."):
        open_source(str(tmp_path / "set"))


def test_file_names_that_are_not_text_are_escaped(tmp_path):
    save_noise(tmp_path / "set", 1, (8, 8))[0].rename(tmp_path / "set" / "a\nb\udcff.png")
    assert open_source(str(tmp_path / "set")).describe(0).endswith(r"set/a\nb\udcff.png")
