import zipfile

import numpy as np
import pytest
from PIL import Image

from pggan.datasets import DataError, ImageStream, Preparation, open_source


def draw_pixels(count, side=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def write_folder(folder, images):
    """Save images in three subfolders and return them in the order of their paths."""
    for i, image in enumerate(images):
        path = folder / f"{i % 3}" / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return np.concatenate([images[k::3] for k in range(3)])


def read(path, *arguments, **options):
    batches = list(ImageStream(open_source(str(path)), *arguments, **options).batches())
    return np.concatenate(batches).transpose(0, 2, 3, 1)


def test_files_are_shuffled_with_a_fixed_seed(tmp_path):
    images = write_folder(tmp_path / "set", draw_pixels(130))
    expected = images[np.random.RandomState(2020).permutation(130)]
    assert (read(tmp_path / "set") == expected).all()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in (tmp_path / "set").rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path))
    assert (read(tmp_path / "set.zip") == expected).all()


@pytest.mark.parametrize("count", [1, 64, 199, 200])
def test_a_subset_of_an_array_is_drawn_in_order_as_torch_fidelity_does(tmp_path, count):
    images = draw_pixels(200)
    np.savez_compressed(tmp_path / "images.npz", x=images, y=np.arange(200))
    chosen = np.sort(np.random.RandomState(2020).choice(200, count, replace=False))
    assert (read(tmp_path / "images.npz", count) == images[chosen]).all()
    stream = ImageStream(open_source(str(tmp_path / "images.npz")), count)
    first, second = (np.concatenate(list(stream.batches())) for _ in range(2))
    assert (first == second).all() and len(first) == len(stream) == count


def test_a_subset_of_files_is_drawn_from_the_shuffled_order(tmp_path):
    write_folder(tmp_path, draw_pixels(50))
    whole, part = read(tmp_path), read(tmp_path, 20)
    assert (part == whole[np.sort(np.random.RandomState(2020).choice(50, 20, replace=False))]).all()


def test_more_images_than_there_are_is_an_error(tmp_path):
    np.savez(tmp_path / "a.npz", draw_pixels(5))
    with pytest.raises(DataError, match="--num-images: a has 5 images, fewer than 6; use at most 5"):
        read(tmp_path / "a.npz", 6)


def test_images_are_read_as_training_reads_them(tmp_path):
    """EXIF orientation is applied, gray becomes RGB, and transparency is blended onto the background."""
    image = Image.fromarray(draw_pixels(1)[0][:, :6])
    exif = Image.Exif()
    exif[274] = 6  # rotate by 90 degrees
    image.save(tmp_path / "a.png", exif=exif)
    assert (read(tmp_path)[0] == np.asarray(image.transpose(Image.Transpose.ROTATE_270))).all()
    Image.new("LA", (8, 6), (10, 0)).save(tmp_path / "a.png")
    assert (read(tmp_path)[0] == 255).all() and (read(tmp_path, background="#102030")[0, 0, 0] == [16, 32, 48]).all()


def test_images_of_other_sizes_are_prepared_as_for_training(tmp_path):
    pixels = draw_pixels(3, 20)
    for i, height in enumerate((20, 16, 9)):
        Image.fromarray(pixels[i][:height]).save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match=r"has images of different sizes: .*png is 20x.* and .*; use --resolution"):
        read(tmp_path)
    prepare = Preparation(8, 3, "pad", "black")
    found = {image.tobytes() for image in read(tmp_path, prepare=prepare)}
    expected = [prepare(Image.open(tmp_path / f"{i}.png")).transpose(1, 2, 0) for i in range(3)]
    assert found == {image.tobytes() for image in expected}


def save_cut(path):
    Image.fromarray(draw_pixels(1)[0]).save(path)
    path.write_bytes(path.read_bytes()[:90])


@pytest.mark.parametrize("save", [save_cut, lambda path: path.write_text("hello"), lambda path: path.write_bytes(b"")])
def test_an_unreadable_image_is_an_error_that_names_it(tmp_path, save):
    write_folder(tmp_path, draw_pixels(5))
    save(tmp_path / "0" / "0000.png")
    with pytest.raises(DataError, match=r"cannot read .*0000\.png: ") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)
