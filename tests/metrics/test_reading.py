import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from metrics import MetricError, reading
from metrics.reading import ImageSet


def pixels(count, side=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def folder_of(folder, images):
    for i, image in enumerate(images):
        path = folder / f"{i % 3}" / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def in_folder_order(images):
    by_name = np.concatenate([images[k::3] for k in range(3)])
    return by_name[np.random.RandomState(2020).permutation(len(images))]


def read(path, count=None):
    return torch.cat(list(ImageSet(path, count).batches())).permute(0, 2, 3, 1).numpy()


def test_a_folder_is_searched_through_its_subfolders(tmp_path):
    images = pixels(130)
    folder = folder_of(tmp_path, images)
    (folder / "notes.txt").write_text("no image")
    assert (read(folder) == in_folder_order(images)).all()


def test_a_zip_is_read_in_place(tmp_path):
    images = pixels(70)
    folder = folder_of(tmp_path / "images", images)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(folder))
    assert (read(tmp_path / "images.zip") == in_folder_order(images)).all()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_array_of_an_npz_is_read_in_slices(tmp_path, save):
    images = pixels(200)
    save(tmp_path / "images.npz", y=np.arange(200), x=images)
    assert (read(tmp_path / "images.npz") == images).all()
    whole = ImageSet(tmp_path / "images.npz")
    assert all(torch.equal(a, b) for a, b in zip(whole.batches(), whole.batches(), strict=True))


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 8, 8, 1), (5, 8, 8, 4)])
def test_gray_and_rgba_arrays_become_rgb(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images)
    expected = images[..., :3] if shape[-1] == 4 else np.repeat(images.reshape(5, 8, 8, 1), 3, axis=3)
    assert (read(tmp_path / "images.npz") == expected).all()


@pytest.mark.parametrize("count", [1, 64, 199, 200])
def test_so_many_are_drawn_by_a_fixed_seed_in_their_order(tmp_path, count):
    images = pixels(200)
    np.savez(tmp_path / "images.npz", images)
    chosen = np.sort(np.random.RandomState(2020).choice(200, count, replace=False))
    assert (read(tmp_path / "images.npz", count) == images[chosen]).all()


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "CMYK", "1"])
def test_every_mode_of_8_bits_is_read_as_rgb(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    image = Image.fromarray(pixels(1)[0]).convert(mode)
    image.save(tmp_path / f"image.{suffix}")
    assert (read(tmp_path)[0] == np.asarray(image.convert("RGB"))).all()


def two_sizes(folder):
    folder_of(folder, pixels(2))
    Image.fromarray(pixels(1, 9)[0]).save(folder / "z.png")
    return "images of different sizes: .*.png is .x. and .*.png is .x."


def broken_image(folder):
    folder_of(folder, pixels(3))
    whole = (folder / "1" / "0001.png").read_bytes()
    (folder / "1" / "0001.png").write_bytes(whole[:60])
    return r"cannot read .*0001\.png"


def not_an_image(folder):
    (folder / "a.png").write_text("hello")
    return r"cannot read .*a\.png: not an image"


def of_16_bits(folder):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "deep.png")
    return r"deep\.png has more than 8 bits"


def a_bomb(folder):
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    return r"cannot read .*bomb\.png: Image size .* exceeds limit"


def a_smaller_bomb(folder):
    Image.new("1", (10_000, 10_000)).save(folder / "bomb.png")
    return r"bomb\.png has 10000x10000 pixels, more than"


@pytest.mark.parametrize("make", [two_sizes, broken_image, not_an_image, of_16_bits, a_bomb, a_smaller_bomb])
def test_unusable_images_are_refused_by_name(tmp_path, make):
    says = make(tmp_path)
    with pytest.raises(MetricError, match=says) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def missing(folder):
    return folder / "nowhere", "does not exist"


def empty(folder):
    return folder, "contains no images"


def a_text(folder):
    (folder / "a.txt").write_text("hello")
    return folder / "a.txt", "is not a folder, zip or .npz; pass"


def a_zip_of_texts(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
    return folder / "a.zip", "contains no images"


def a_truncated_npz(folder):
    np.savez(folder / "a.npz", pixels(100))
    whole = (folder / "a.npz").read_bytes()
    (folder / "a.npz").write_bytes(whole[: len(whole) // 2])
    return folder / "a.npz", "truncated"


def floats(folder):
    np.savez(folder / "a.npz", x=np.zeros((5, 8, 8, 3), np.float32))
    return folder / "a.npz", r"one uint8 array of images .* but contains x float32\[5, 8, 8, 3\]"


def two_arrays(folder):
    np.savez(folder / "a.npz", pixels(2), pixels(3))
    return folder / "a.npz", "one uint8 array of images"


def objects(folder):
    np.savez(folder / "a.npz", np.array([{"a": 1}], dtype=object))
    return folder / "a.npz", "one uint8 array of images"


@pytest.mark.parametrize("make", [missing, empty, a_text, a_zip_of_texts, a_truncated_npz, floats, two_arrays, objects])
def test_files_without_images_are_refused(tmp_path, make):
    path, says = make(tmp_path)
    with pytest.raises(MetricError, match=says) as error:
        ImageSet(path)
    assert "\n" not in str(error.value)


def test_an_npz_whose_data_are_damaged_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", pixels(100, 32))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(MetricError, match="truncated or damaged"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", [(-1, 8, 8, 3), (10**12, 8, 8, 3), (9, 8, 8, 3), (11, 8, 8, 3)])
def test_a_shape_that_the_data_do_not_have_is_refused(tmp_path, shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(10 * 8 * 8 * 3))
    with pytest.raises(MetricError, match="declares the shape"):
        ImageSet(tmp_path / "a.npz")


@pytest.mark.parametrize("header", [b"\x93NUMPY\x01\x00\x04\x00((((", b"\x93NUMPY\x09\x00\x04\x00{}  ", b"hello", b""])
def test_an_npz_of_odd_headers_is_refused(tmp_path, header):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header)
    with pytest.raises(MetricError, match=r"truncated or not an \.npz"):
        ImageSet(tmp_path / "a.npz")


def test_a_zips_other_entries_are_left_out_and_its_damaged_or_huge_ones_named(tmp_path, monkeypatch):
    folder_of(tmp_path / "images", pixels(3))
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (tmp_path / "images").rglob("*.png"):
            archive.write(file, file.name)
        archive.writestr("__MACOSX/._0000.png", b"not an image")
        archive.writestr("folder.png/", b"")
    assert len(read(path)) == 3
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 100)
    with pytest.raises(MetricError, match=r"\.png in .*a\.zip is larger than"):
        read(path)


def test_what_cannot_be_looked_into_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MetricError, match="neither a folder nor a regular file"):
        ImageSet(tmp_path / "pipe")
    folder_of(tmp_path / "images", pixels(2))
    (tmp_path / "images" / "gone.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(MetricError, match=r"cannot read .*gone\.png"):
        read(tmp_path / "images")


def test_few_of_many_images_are_read_without_the_others(tmp_path):
    images = pixels(3000, 32)
    np.savez_compressed(tmp_path / "a.npz", images)
    read(tmp_path / "a.npz", 5)
    tracemalloc.start()
    few = read(tmp_path / "a.npz", 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(few) == 20 and peak < 4 << 20 < images.nbytes


def test_more_images_than_there_are_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", pixels(5))
    with pytest.raises(MetricError, match="contains 5 images, fewer than 6; use at most 5"):
        ImageSet(tmp_path / "a.npz", 6)


def awkward(folder):
    """Images among other files: hidden, of other types, linked twice, written by a run."""
    names = """a/1.png a/2.JPG 3.gif 4.jfif 5.tga 6.avif b/._1.png .ipynb_checkpoints/1-checkpoint.png __MACOSX/a/x.png
        a/@eaDir/1.png/t.jpg runs/a-16/samples/fakes-00000608.png old/reals-0016.png old/fakes-00000608.png
        gen/seed00000000.png elsewhere/e.png""".split()
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(1, seed=i)[0]).save(folder / name)
    for name, text in (
        ("runs/a-16/config.json", ""),
        ("gen/dataset.json", '{"made_by": {}}'),
        ("x.heic", ""),
        ("y", ""),
    ):
        (folder / name).write_text(text)
    return folder


def test_a_folder_holds_the_images_that_training_uses(tmp_path):
    from datasets import open_source

    folder = awkward(tmp_path / "set")
    (folder / "linked").symlink_to("elsewhere")
    (folder / "a" / "back").symlink_to("..")
    (tmp_path / "outside").mkdir()
    Image.fromarray(pixels(1)[0]).save(tmp_path / "outside" / "o.png")
    (folder / "cat").symlink_to("../outside")
    found = ImageSet(folder)
    assert len(found) == len(open_source(str(folder))) == 8
    assert found.notes == [
        "skipped files: 1 .heic, 1 without an extension",
        "skipped 4 images that runs or commands of this project wrote",
    ]


def test_a_zip_holds_the_images_that_training_uses(tmp_path):
    from datasets import open_source

    folder = awkward(tmp_path / "set")
    for path, separator in ((tmp_path / "a.zip", "/"), (tmp_path / "b.zip", "\\")):
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.writestr(str(file.relative_to(folder)).replace("/", separator), file.read_bytes())
        assert len(ImageSet(path)) == len(open_source(str(path))) == 7


def test_a_zip_around_a_generated_set_holds_its_images(tmp_path):
    with zipfile.ZipFile(tmp_path / "gen.zip", "w") as archive:
        archive.writestr("gen/dataset.json", '{"made_by": {}}')
        for name in ("gen/seed00000000.png", "gen/cat/seed00000001.png", "__MACOSX/gen/._x.png"):
            file = io.BytesIO()
            Image.fromarray(pixels(1)[0]).save(file, "PNG")
            archive.writestr(name, file.getvalue())
    assert len(ImageSet(tmp_path / "gen.zip")) == 2


def test_the_same_endings_count_as_in_training():
    from datasets import images, listing

    assert reading.SUFFIXES == images.SUFFIXES
    assert (reading.RUN_FILES, reading.RUN_WRITES) == (listing.RUN_FILES, listing.RUN_WRITES)
    assert set(listing.SIGNED_FILES) == reading.SIGNED_FILES
    assert listing.SYSTEM_FOLDERS == reading.SYSTEM_FOLDERS
