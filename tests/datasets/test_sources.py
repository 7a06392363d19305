import numpy as np
import pytest
from helpers import fill

from datasets import DataError, SyntheticShapes, open_source
from datasets.arrays import Arrays
from datasets.files import Folder


@pytest.mark.parametrize("labels", [False, True])
def test_synthetic_is_the_embedded_set(labels):
    source = open_source("synthetic", labels)
    assert isinstance(source, SyntheticShapes) and bool(source.classes) == labels


def test_what_is_not_there_is_refused_and_what_could_be_is_said(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist; pass a folder, zip or tar .* or synthetic"):
        open_source(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["one.png", "noise.bin", "empty.zip"])
def test_a_file_that_holds_no_set_is_refused(tmp_path, name):
    if name.endswith("png"):
        fill(tmp_path, name)
    else:
        (tmp_path / name).write_bytes(b"x" * (name == "noise.bin"))
    with pytest.raises(DataError, match=r"is not a zip, tar or \.npz file; pass a folder"):
        open_source(str(tmp_path / name))


def test_a_path_comes_before_a_name(tmp_path, monkeypatch):
    fill(tmp_path, "cifar10/1.png")
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_source("cifar10"), Folder)


def test_arrays_are_known_by_their_suffix(tmp_path):
    np.savez(tmp_path / "set.NPZ.npz", x=np.zeros((2, 8, 8), np.uint8))
    assert isinstance(open_source(str(tmp_path / "set.NPZ.npz")), Arrays)


def test_an_empty_name_is_not_the_working_directory():
    with pytest.raises(DataError, match="an empty name"):
        open_source("")
