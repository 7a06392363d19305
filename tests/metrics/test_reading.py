import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from pggan.metrics import MetricError, reading
from pggan.metrics.reading import ImageSet


def draw_pixels(count, side=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def write_folder(folder, images):
    for i, image in enumerate(images):
        path = folder / f"{i % 3}" / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def order_like_folder(images):
    by_name = np.concatenate([images[k::3] for k in range(3)])
    return by_name[np.random.RandomState(2020).permutation(len(images))]


def read_images(path, count=None):
    return torch.cat(list(ImageSet(path, count).batches())).permute(0, 2, 3, 1).numpy()


def test_a_folder_is_searched_recursively(tmp_path):
    images = draw_pixels(130)
    folder = write_folder(tmp_path, images)
    (folder / "notes.txt").write_text("no image")
    assert (read_images(folder) == order_like_folder(images)).all()


def test_a_zip_is_read_in_place(tmp_path):
    images = draw_pixels(70)
    folder = write_folder(tmp_path / "images", images)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(folder))
    assert (read_images(tmp_path / "images.zip") == order_like_folder(images)).all()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_array_of_an_npz_is_read_in_slices(tmp_path, save):
    images = draw_pixels(200)
    save(tmp_path / "images.npz", y=np.arange(200), x=images)
    assert (read_images(tmp_path / "images.npz") == images).all()
    whole = ImageSet(tmp_path / "images.npz")
    assert all(torch.equal(a, b) for a, b in zip(whole.batches(), whole.batches(), strict=True))


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 8, 8, 1), (5, 8, 8, 4)])
def test_gray_and_rgba_arrays_become_rgb(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images)
    expected = images[..., :3] if shape[-1] == 4 else np.repeat(images.reshape(5, 8, 8, 1), 3, axis=3)
    assert (read_images(tmp_path / "images.npz") == expected).all()


@pytest.mark.parametrize("count", [1, 64, 199, 200])
def test_a_subset_is_drawn_with_a_fixed_seed_in_order(tmp_path, count):
    images = draw_pixels(200)
    np.savez(tmp_path / "images.npz", images)
    chosen = np.sort(np.random.RandomState(2020).choice(200, count, replace=False))
    assert (read_images(tmp_path / "images.npz", count) == images[chosen]).all()


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "CMYK", "1"])
def test_every_8_bit_mode_is_read_as_rgb(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    image = Image.fromarray(draw_pixels(1)[0]).convert(mode)
    image.save(tmp_path / f"image.{suffix}")
    assert (read_images(tmp_path)[0] == np.asarray(image.convert("RGB"))).all()


def save_two_sizes(folder):
    write_folder(folder, draw_pixels(2))
    Image.fromarray(draw_pixels(1, 9)[0]).save(folder / "z.png")
    return "images of different sizes: .*.png is .x. and .*.png is .x."


def save_broken_image(folder):
    write_folder(folder, draw_pixels(3))
    whole = (folder / "1" / "0001.png").read_bytes()
    (folder / "1" / "0001.png").write_bytes(whole[:60])
    return r"cannot read .*0001\.png"


def save_text_as_image(folder):
    (folder / "a.png").write_text("hello")
    return r"cannot read .*a\.png: not an image"


def save_16_bits(folder):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "deep.png")
    return r"deep\.png has more than 8 bits"


def save_bomb(folder):
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    return r"cannot read .*bomb\.png: Image size .* exceeds limit"


def save_smaller_bomb(folder):
    Image.new("1", (10_000, 10_000)).save(folder / "bomb.png")
    return r"bomb\.png has 10000x10000 pixels, more than"


@pytest.mark.parametrize(
    "make", [save_two_sizes, save_broken_image, save_text_as_image, save_16_bits, save_bomb, save_smaller_bomb]
)
def test_unusable_images_are_reported_by_name(tmp_path, make):
    message = make(tmp_path)
    with pytest.raises(MetricError, match=message) as error:
        read_images(tmp_path)
    assert "\n" not in str(error.value)


def choose_missing(folder):
    return folder / "nowhere", "does not exist"


def choose_empty(folder):
    return folder, "contains no images"


def save_text(folder):
    (folder / "a.txt").write_text("hello")
    return folder / "a.txt", "is not a folder, zip or .npz; pass"


def save_zip_of_texts(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
    return folder / "a.zip", "contains no images"


def save_truncated_npz(folder):
    np.savez(folder / "a.npz", draw_pixels(100))
    whole = (folder / "a.npz").read_bytes()
    (folder / "a.npz").write_bytes(whole[: len(whole) // 2])
    return folder / "a.npz", "truncated"


def save_floats(folder):
    np.savez(folder / "a.npz", x=np.zeros((5, 8, 8, 3), np.float32))
    return folder / "a.npz", r"one uint8 array of images .* but contains x float32\[5, 8, 8, 3\]"


def save_two_arrays(folder):
    np.savez(folder / "a.npz", draw_pixels(2), draw_pixels(3))
    return folder / "a.npz", "one uint8 array of images"


def save_objects(folder):
    np.savez(folder / "a.npz", np.array([{"a": 1}], dtype=object))
    return folder / "a.npz", "one uint8 array of images"


@pytest.mark.parametrize(
    "make",
    [
        choose_missing,
        choose_empty,
        save_text,
        save_zip_of_texts,
        save_truncated_npz,
        save_floats,
        save_two_arrays,
        save_objects,
    ],
)
def test_paths_without_images_are_rejected(tmp_path, make):
    path, message = make(tmp_path)
    with pytest.raises(MetricError, match=message) as error:
        ImageSet(path)
    assert "\n" not in str(error.value)


def test_an_npz_with_damaged_data_is_rejected(tmp_path):
    np.savez(tmp_path / "a.npz", draw_pixels(100, 32))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(MetricError, match="truncated or damaged"):
        read_images(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", [(-1, 8, 8, 3), (10**12, 8, 8, 3), (9, 8, 8, 3), (11, 8, 8, 3)])
def test_a_declared_shape_that_differs_from_the_data_is_rejected(tmp_path, shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(10 * 8 * 8 * 3))
    with pytest.raises(MetricError, match="declares the shape"):
        ImageSet(tmp_path / "a.npz")


@pytest.mark.parametrize("header", [b"\x93NUMPY\x01\x00\x04\x00((((", b"\x93NUMPY\x09\x00\x04\x00{}  ", b"hello", b""])
def test_an_npz_with_an_invalid_header_is_rejected(tmp_path, header):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header)
    with pytest.raises(MetricError, match=r"truncated or not an \.npz"):
        ImageSet(tmp_path / "a.npz")


def test_other_zip_entries_are_skipped_and_huge_images_reported(tmp_path, monkeypatch):
    write_folder(tmp_path / "images", draw_pixels(3))
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (tmp_path / "images").rglob("*.png"):
            archive.write(file, file.name)
        archive.writestr("__MACOSX/._0000.png", b"not an image")
        archive.writestr("folder.png/", b"")
    assert len(read_images(path)) == 3
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 100)
    with pytest.raises(MetricError, match=r"\.png in .*a\.zip is larger than"):
        read_images(path)


def test_pipes_and_broken_links_are_rejected(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MetricError, match="neither a folder nor a regular file"):
        ImageSet(tmp_path / "pipe")
    write_folder(tmp_path / "images", draw_pixels(2))
    (tmp_path / "images" / "gone.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(MetricError, match=r"cannot read .*gone\.png"):
        read_images(tmp_path / "images")


def test_a_few_of_many_images_are_read_without_loading_the_others(tmp_path):
    images = draw_pixels(3000, 32)
    np.savez_compressed(tmp_path / "a.npz", images)
    read_images(tmp_path / "a.npz", 5)
    tracemalloc.start()
    subset = read_images(tmp_path / "a.npz", 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(subset) == 20 and peak < 4 << 20 < images.nbytes


def test_requesting_more_images_than_there_are_is_rejected(tmp_path):
    np.savez(tmp_path / "a.npz", draw_pixels(5))
    with pytest.raises(MetricError, match="contains 5 images, fewer than 6; use at most 5"):
        ImageSet(tmp_path / "a.npz", 6)


def make_awkward_folder(folder):
    """Save images next to files that are skipped: hidden, unsupported, or written by a run."""
    names = """a/1.png a/2.JPG 3.gif 4.jfif 5.tga 6.avif b/._1.png .ipynb_checkpoints/1-checkpoint.png __MACOSX/a/x.png
        a/@eaDir/1.png/t.jpg runs/a-16/samples/fakes-00000608.png old/reals-0016.png old/fakes-00000608.png
        gen/seed00000000.png elsewhere/e.png""".split()
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_pixels(1, seed=i)[0]).save(folder / name)
    for name, text in (
        ("runs/a-16/config.json", ""),
        ("gen/dataset.json", '{"made_by": {}}'),
        ("x.heic", ""),
        ("y", ""),
    ):
        (folder / name).write_text(text)
    return folder


def test_a_folder_holds_the_images_that_training_uses(tmp_path):
    from pggan.datasets import open_source

    folder = make_awkward_folder(tmp_path / "set")
    (folder / "linked").symlink_to("elsewhere")
    (folder / "a" / "back").symlink_to("..")
    (tmp_path / "outside").mkdir()
    Image.fromarray(draw_pixels(1)[0]).save(tmp_path / "outside" / "o.png")
    (folder / "cat").symlink_to("../outside")
    found = ImageSet(folder)
    assert len(found) == len(open_source(str(folder))) == 8
    assert found.notes == [
        "skipped files: 1 .heic, 1 without an extension",
        "skipped 4 images that runs or commands of this project wrote",
    ]


def test_a_zip_holds_the_images_that_training_uses(tmp_path):
    from pggan.datasets import open_source

    folder = make_awkward_folder(tmp_path / "set")
    for path, separator in ((tmp_path / "a.zip", "/"), (tmp_path / "b.zip", "\\")):
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.writestr(str(file.relative_to(folder)).replace("/", separator), file.read_bytes())
        assert len(ImageSet(path)) == len(open_source(str(path))) == 7


def test_a_zip_of_generated_images_holds_them(tmp_path):
    with zipfile.ZipFile(tmp_path / "gen.zip", "w") as archive:
        archive.writestr("gen/dataset.json", '{"made_by": {}}')
        for name in ("gen/seed00000000.png", "gen/cat/seed00000001.png", "__MACOSX/gen/._x.png"):
            file = io.BytesIO()
            Image.fromarray(draw_pixels(1)[0]).save(file, "PNG")
            archive.writestr(name, file.getvalue())
    assert len(ImageSet(tmp_path / "gen.zip")) == 2


def test_suffixes_and_run_files_match_those_of_training():
    from pggan.datasets import images, listing

    assert reading.SUFFIXES == images.SUFFIXES
    assert (reading.RUN_FILES, reading.RUN_WRITES) == (listing.RUN_FILES, listing.RUN_WRITES)
    assert set(listing.SIGNED_FILES) == reading.SIGNED_FILES
    assert listing.SYSTEM_FOLDERS == reading.SYSTEM_FOLDERS


def test_names_in_a_zip_are_printed_without_escape_codes(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("\x1b[31m\x1b]0;title\x07.png", b"no image")
        archive.writestr("notes.\x1b[31m", b"")
    images = ImageSet(tmp_path / "a.zip")
    with pytest.raises(MetricError, match=r"\\x1b\[31m\\x1b\]0;title\\x07\.png in ") as error:
        list(images.batches())
    assert all(text.isprintable() for text in [str(error.value), *images.notes])
