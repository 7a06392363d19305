import pickle

import numpy as np
import pytest
from helpers import pixels

from datasets import DataError, open_source

RGB = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (RGB, RGB),
        (RGB.transpose(0, 3, 1, 2), RGB),
        (RGB[..., 0], RGB[..., :1]),
        (RGB[..., :1], RGB[..., :1]),
        (RGB.astype(np.uint16) * 257, RGB),
    ],
)
def test_every_layout_of_images_is_read(tmp_path, save, stored, expected):
    save(tmp_path / "set.npz", x=np.ascontiguousarray(stored), y=np.arange(5))
    source = open_source(str(tmp_path / "set.npz"))
    again = pickle.loads(pickle.dumps(source))
    channels = expected.shape[3]
    assert len(source) == 5 and source.header(0)[:2] == (16, 16) and source.labels is None
    for i in range(5):
        assert (pixels(source, i, 16, channels) == expected[i].transpose(2, 0, 1)).all()
        assert (pixels(again, i, 16, channels) == expected[i].transpose(2, 0, 1)).all()


def test_uncompressed_images_are_mapped_and_not_read(tmp_path):
    np.savez(tmp_path / "set.npz", images=RGB)
    assert isinstance(open_source(str(tmp_path / "set.npz")).images(), np.memmap)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_labels_are_whole_numbers_of_any_start(tmp_path, shape):
    np.savez(tmp_path / "set.npz", anything=RGB, labels=np.array([3, 1, 3, 7, 1]).reshape(shape))
    source = open_source(str(tmp_path / "set.npz"), labels=True)
    assert source.classes == ["1", "3", "7"] and source.labels.tolist() == [1, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": RGB / 255}, r"has no images, uint8 or uint16 .* x float64\[5, 16, 16, 3\]"),
        ({"one": RGB, "two": RGB}, "has no images, .* named images, x, "),
        ({"x": np.array([{}])}, "has no images"),
        ({}, "it contains nothing"),
    ],
)
def test_files_without_images_are_refused_and_what_they_hold_is_said(tmp_path, arrays, says):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=says):
        open_source(str(tmp_path / "set.npz"))


def test_missing_labels_are_refused(tmp_path):
    np.savez(tmp_path / "set.npz", x=RGB, y=np.arange(4))
    with pytest.raises(DataError, match=r"has no labels, whole numbers \[5\]"):
        open_source(str(tmp_path / "set.npz"), labels=True)


def test_a_file_that_lies_about_its_size_or_is_no_npz_is_refused(tmp_path):
    np.savez(tmp_path / "set.npz", x=RGB)
    data = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(data.replace(b"(5, 16, 16, 3)", b"(9, 16, 16, 3)"))
    (tmp_path / "none.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"not a readable \.npz file|has no images"):
        open_source(str(tmp_path / "set.npz"))
    with pytest.raises(DataError, match=r"not a readable \.npz file"):
        open_source(str(tmp_path / "none.npz"))
