"""Files that are not what their name says are recognized by every command that reads files."""

import gzip
import io
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from pggan.checkpoints import CheckpointError, resolve_checkpoint
from pggan.checkpoints import load as load_checkpoint
from pggan.datasets import DataError, open_source
from pggan.datasets.images import open_image
from pggan.interop import WeightsError, read_weights
from pggan.metrics import MetricError
from pggan.metrics.weights import read_state_dict
from pggan.untrusted.files import MAX_UNPACKED, check_unpacked_size, identify

PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 276000000\n"


def make_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", bytes(1000))
    return file.getvalue()


FILES = {
    "a web page": PAGE,
    "a Git LFS pointer": POINTER,
    "a truncated zip": make_zip()[:-40],
    "empty": b"",
    "a 7z archive": b"7z\xbc\xaf\x27\x1c" + bytes(99),
}
READERS = {
    "datasets": ("a.zip", lambda path: open_source(str(path)), DataError),
    "datasets, npz": ("a.npz", lambda path: open_source(str(path)), DataError),
    "Inception weights": ("a.pth", read_state_dict, MetricError),
    "import": ("a.pkl", read_weights, WeightsError),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("what", FILES)
def test_the_error_says_what_the_file_is(reader, what, tmp_path):
    name, read, error = READERS[reader]
    (tmp_path / name).write_bytes(FILES[what])
    with pytest.raises(error, match=what):
        read(tmp_path / name)


@pytest.mark.parametrize("what", ["a web page", "a Git LFS pointer"])
def test_checkpoints_and_images_are_recognized_too(what, tmp_path):
    (tmp_path / "a.pt").write_bytes(FILES[what])
    (tmp_path / "a.png").write_bytes(FILES[what])
    with pytest.raises(CheckpointError, match=f"a.pt is {what} instead of the file"):
        load_checkpoint(tmp_path / "a.pt")
    for file in (str(tmp_path / "a.png"), io.BytesIO(FILES[what])):
        with pytest.raises(ValueError, match=f"{what} instead of the file"):
            open_image(file)


def test_a_cloned_hub_folder_without_lfs_is_recognized(tmp_path):
    pytest.importorskip("safetensors")
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a Git LFS pointer.*run git lfs pull"):
        load_checkpoint(resolve_checkpoint(tmp_path))


def test_data_is_not_taken_for_another_format():
    for start in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"PK\x03\x04", b"\x80\x02}", b"II*\0", b"P6 8 8", b"<3"):
        assert identify(start + bytes(100)) == ""


def test_the_ratio_limit_accepts_real_arrays_and_rejects_bombs(tmp_path):
    member = zipfile.ZipInfo("images.npy")
    member.file_size, member.compress_size = 737_280 * 64 * 64, 26_200_000  # dSprites
    check_unpacked_size(member)
    member.compress_size //= 10
    with pytest.raises(ValueError, match=r"images\.npy unpacks to 3020 MB from 2\.6 MB"):
        check_unpacked_size(member)
    bomb = tmp_path / "bomb.npz"
    np.savez_compressed(bomb, images=np.zeros((1, MAX_UNPACKED // 2, 3), np.uint8))
    with pytest.raises(DataError, match="unpacks to"):
        open_source(str(bomb)).images()


def test_a_compressed_tar_is_not_unpacked_to_recognize_it(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30  # a header that claims 8 GB; tarfile.is_tarfile reads it whole
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf() + bytes(100 << 20), 1))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="unpack it and pass the folder"):
            open_source(str(path))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
