"""What is read, and how often: large datasets are read once."""

import builtins
import io
import os
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import save_noise

from pggan.datasets import DataError, open_pyramid, open_source, read_native_format, summarize, survey
from pggan.datasets.commands import print_plan
from pggan.datasets.content import read_stamp


@pytest.fixture
def folder(tmp_path):
    save_noise(tmp_path / "images", 100)
    return tmp_path / "images"


@pytest.fixture
def opened(monkeypatch):
    """Count how often each image is opened, in this process."""
    counts, real = Counter(), builtins.open

    def count(file, *arguments, **options):
        counts[str(file)] += str(file).endswith((".png", ".zip"))
        return real(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", count)
    monkeypatch.setattr(io, "open", count)
    return counts


def test_a_build_reads_each_file_once(folder, opened):
    source = open_source(str(folder))
    open_pyramid(source, 16, 3, workers=1)
    sketched = sum(count == 2 for count in opened.values())
    assert sorted(set(filter(None, opened.values()))) == [1, 2] and sketched == 32  # those of the sketch twice


def test_the_content_digest_is_the_same_whether_images_are_decoded_or_only_hashed(folder, tmp_path):
    source = open_source(str(folder))
    key = open_pyramid(source, 16, 3).key
    shutil.rmtree(tmp_path / "cache" / "known")
    assert open_pyramid(source, 16, 3).key == key  # built again, for want of an index, and found to be the same
    (tmp_path / "cache" / "known" / read_stamp(source)).write_text(source.content_digest())
    assert open_pyramid(source, 16, 3).key == key
    assert len(list((tmp_path / "cache" / "datasets").iterdir())) == 1


def test_a_plan_reads_headers_and_a_few_images_only(folder, opened, capsys):
    options = {"resolution": None, "channels": None, "labels": False, "fit": "center-crop", "background": "white"}
    more = {"allow_upscale": False, "max_bad": 0.01, "workers": 1}
    arguments = SimpleNamespace(data=str(folder), **options, **more)
    assert print_plan(arguments) == 0 and "state       not built yet\n" in capsys.readouterr().out
    assert sum(opened.values()) == 100 + 24
    opened.clear()
    print_plan(arguments)
    assert sum(opened.values()) == 24  # the headers are known


def test_headers_are_read_once_until_a_file_changes(folder, opened):
    assert read_native_format(open_source(str(folder))).resolution == 16 and sum(opened.values()) == 100
    opened.clear()
    source = open_source(str(folder))
    assert read_native_format(source).resolution == 16 and summarize(source)[0] == "100 images in images, all 16x16"
    assert sum(opened.values()) == 0
    save_noise(folder, 1, (9, 9))
    assert read_native_format(open_source(str(folder))).resolution == 8 and sum(opened.values()) > 100


def test_surveys_keep_what_cannot_be_read(folder):
    (folder / "0007.png").write_bytes(b"no image")
    (folder / "0009.png").write_bytes(b"")
    first, second = (survey.survey_all(open_source(str(folder))) for _ in range(2))
    assert first.unreadable == second.unreadable and list(first.unreadable) == [7, 9] and first.modes == second.modes
    for name in ("sizes", "indices"):
        assert (getattr(first, name) == getattr(second, name)).all() and len(getattr(first, name)) == 98


def test_a_damaged_survey_is_made_again(folder, tmp_path):
    survey.survey_all(open_source(str(folder)))
    (file,) = (tmp_path / "cache" / "known").glob("*.npz")
    file.write_bytes(b"PK")
    assert len(survey.survey_all(open_source(str(folder))).sizes) == 100


def test_a_source_is_a_snapshot_but_a_build_notices_changes(folder):
    source = open_source(str(folder))
    before = read_stamp(source)
    save_noise(folder, 1, seed=9)
    assert read_stamp(source) == before and source.stamp() != before
    with pytest.raises(DataError, match="changed while they were read"):
        open_pyramid(source, 16, 3)
    assert len(open_pyramid(source, 16, 3)) == 100


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zips_directory_is_read_once(folder, tmp_path, monkeypatch, compression):
    with zipfile.ZipFile(tmp_path / "images.zip", "w", compression) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    key = open_pyramid(open_source(str(folder)), 16, 3).key
    source = open_source(str(tmp_path / "images.zip"))
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert open_pyramid(source, 16, 3, workers=2).key == key  # the same images as in the folder


def test_damaged_members_of_a_zip_are_refused(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
        places = [info.header_offset for info in archive.infolist()[:2]]
    content = bytearray((tmp_path / "images.zip").read_bytes())
    content[places[0] + 30 + 8 + 100] ^= 1  # in the data: a wrong CRC
    content[places[1]] ^= 1  # in the member's header
    (tmp_path / "images.zip").write_bytes(content)
    source = open_source(str(tmp_path / "images.zip"))
    for index, message in enumerate(("Bad CRC-32", "header is damaged")):
        with pytest.raises(ValueError, match=message):
            source.read_image(index)


def test_many_signed_folders_are_found_in_one_pass(tmp_path, monkeypatch):
    for i in range(300):
        save_noise(tmp_path / "images" / f"{i}", 1, (4, 4))
        (tmp_path / "images" / f"{i}" / "dataset.json").write_text('{"made_by": "pggan"}')
    save_noise(tmp_path / "images", 3)
    assert len(open_source(str(tmp_path / "images"))) == 3


def test_arrays_of_equal_bytes_and_other_shapes_differ(tmp_path):
    pixels = np.arange(8 * 8 * 16 * 3, dtype=np.uint8)
    for name, shape in (("a", (8, 8, 16, 3)), ("b", (8, 16, 8, 3))):
        np.savez(tmp_path / f"{name}.npz", images=pixels.reshape(shape))
    sources = [open_source(str(tmp_path / f"{name}.npz")) for name in "ab"]
    assert sources[0].content_digest() != sources[1].content_digest()


def test_lsun_is_keyed_by_content(cache, monkeypatch, tmp_path):
    lmdb = pytest.importorskip("lmdb")
    monkeypatch.chdir(tmp_path)
    folder = cache.parent / "torchvision" / "bedroom_train_lmdb"
    folder.mkdir(parents=True)
    images, keys = save_noise(tmp_path / "set", 200), []
    for start in (0, 100):  # the second database has the same length
        with lmdb.open(str(folder), map_size=1 << 26) as database, database.begin(write=True) as transaction:
            for i in range(100):
                transaction.put(b"%040x" % i, images[start + i].read_bytes())
        source = open_source("lsun-bedroom")
        keys.append(open_pyramid(source, 16, 3, workers=2).key)
        del source  # closes the database
    assert len(source_files := os.listdir(tmp_path)) == 2 and keys[0] != keys[1], source_files


def test_celeba_is_keyed_by_content(cache):
    folder = cache.parent / "torchvision" / "celeba" / "img_align_celeba"
    paths = save_noise(folder, 5)
    before = open_pyramid(open_source("celeba"), 16, 3)
    paths[2].write_bytes(Path(paths[3]).read_bytes())
    after = open_pyramid(open_source("celeba"), 16, 3)
    assert before.key != after.key and after.meta["source"] == "celeba"
