import numpy as np
import pytest
from helpers import save_blanks

from pggan.datasets import DataError, SyntheticShapes, open_source
from pggan.datasets.arrays import Arrays
from pggan.datasets.files import Folder


@pytest.mark.parametrize("labels", [False, True])
def test_synthetic_is_the_embedded_dataset(labels):
    source = open_source("synthetic", labels)
    assert isinstance(source, SyntheticShapes) and bool(source.classes) == labels


def test_a_missing_path_is_rejected_with_the_accepted_types(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist; pass a folder, zip or tar .* or synthetic"):
        open_source(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["one.png", "noise.bin", "empty.zip"])
def test_a_file_that_is_not_a_dataset_is_rejected(tmp_path, name):
    if name.endswith("png"):
        save_blanks(tmp_path, name)
    else:
        (tmp_path / name).write_bytes(b"x" * (name == "noise.bin"))
    with pytest.raises(
        DataError, match=r"is not a zip, tar or \.npz file; pass a folder|empty\.zip is empty; download"
    ):
        open_source(str(tmp_path / name))


def test_a_path_takes_precedence_over_a_dataset_name(tmp_path, monkeypatch):
    save_blanks(tmp_path, "cifar10/1.png")
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_source("cifar10"), Folder)


def test_arrays_are_recognized_by_their_suffix(tmp_path):
    np.savez(tmp_path / "set.NPZ.npz", x=np.zeros((2, 8, 8), np.uint8))
    assert isinstance(open_source(str(tmp_path / "set.NPZ.npz")), Arrays)


def test_an_empty_name_is_not_the_working_directory():
    with pytest.raises(DataError, match="path of the images is empty"):
        open_source("")
