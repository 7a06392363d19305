import pickle

import numpy as np
import pytest
from helpers import read_pixels

from pggan.datasets import DataError, open_source

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
    unpickled = pickle.loads(pickle.dumps(source))
    channels = expected.shape[3]
    assert len(source) == 5 and source.header(0)[:2] == (16, 16) and source.labels is None
    for i in range(5):
        assert (read_pixels(source, i, 16, channels) == expected[i].transpose(2, 0, 1)).all()
        assert (read_pixels(unpickled, i, 16, channels) == expected[i].transpose(2, 0, 1)).all()


def test_uncompressed_images_are_memory_mapped(tmp_path):
    np.savez(tmp_path / "set.npz", images=RGB)
    assert isinstance(open_source(str(tmp_path / "set.npz")).images(), np.memmap)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_integer_labels_may_start_at_any_number(tmp_path, shape):
    np.savez(tmp_path / "set.npz", anything=RGB, labels=np.array([3, 1, 3, 7, 1]).reshape(shape))
    source = open_source(str(tmp_path / "set.npz"), labels=True)
    assert source.classes == ["1", "3", "7"] and source.labels.tolist() == [1, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": RGB / 255}, r"has no images, uint8 or uint16 .* x float64\[5, 16, 16, 3\]"),
        (
            {"one": RGB, "two": RGB},
            "has several arrays of images, .*; name one of them images, x, .*; it contains one ",
        ),
        ({"x": np.array([{}])}, "has no images"),
        ({}, "it contains nothing"),
    ],
)
def test_files_without_images_are_rejected_and_their_contents_reported(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path / "set.npz"))


def test_missing_labels_are_rejected(tmp_path):
    np.savez(tmp_path / "set.npz", x=RGB, y=np.arange(4))
    with pytest.raises(DataError, match=r"has no labels, whole numbers \[5\]"):
        open_source(str(tmp_path / "set.npz"), labels=True)


def test_a_file_with_a_wrong_size_or_of_another_format_is_rejected(tmp_path):
    np.savez(tmp_path / "set.npz", x=RGB)
    data = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(data.replace(b"(5, 16, 16, 3)", b"(9, 16, 16, 3)"))
    (tmp_path / "none.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"not a readable \.npz file|has no images"):
        open_source(str(tmp_path / "set.npz"))
    with pytest.raises(DataError, match=r"not a readable \.npz file"):
        open_source(str(tmp_path / "none.npz"))
