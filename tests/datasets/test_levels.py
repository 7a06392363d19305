import errno
import os
import sys

import numpy as np
import pytest

from pggan.datasets import levels
from pggan.datasets.levels import RowFile, compute_checksums, level_resolutions, pyramid_levels


@pytest.mark.parametrize("channels", [1, 3])
def test_levels_are_box_means_of_the_full_image_rounded_half_to_even(channels):
    images = np.random.default_rng(0).integers(0, 256, (40, channels, 64, 64), dtype=np.uint8)
    images[0, :, :4, :4] = 0
    images[0, :, :2, :2] = [[0, 0], [0, 2]]  # 0.5
    images[0, :, :2, 2:4] = [[1, 2], [2, 1]]  # 1.5
    levels = list(pyramid_levels(images))
    assert [level.shape[-1] for level in levels] == [64, 32, 16, 8, 4] and levels[0] is images
    assert levels[1][0, 0, 0, :2].tolist() == [0, 2] and levels[2][0, 0, 0, 0] == 0
    for level in levels:
        r = level.shape[-1]
        exact = images.reshape(40, channels, r, 64 // r, r, 64 // r).mean(axis=(3, 5), dtype=np.float64)
        assert level.dtype == np.uint8 and (level == np.rint(exact)).all()


def test_levels_match_the_official_tools_loop_down_from_1024():
    """The official loop averages in float32 without rounding between levels; only what it writes is rounded."""
    images = np.random.default_rng(1).integers(0, 256, (2, 3, 1024, 1024), dtype=np.uint8)
    exact = images.astype(np.float32)
    for level in pyramid_levels(images):
        assert (level == np.rint(exact).clip(0, 255).astype(np.uint8)).all()
        a, b, c, d = (exact[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1))
        exact = (a + b + c + d) * 0.25


def test_level_resolutions_start_at_4():
    assert level_resolutions(32) == [4, 8, 16, 32] and level_resolutions(4) == [4]


def test_checksums_distinguish_images_by_any_level_and_are_never_zero():
    levels = [np.zeros((3, 1, r, r), np.uint8) for r in (8, 4)]
    levels[1][2, 0, 3, 3] = 1
    found = compute_checksums(levels)
    assert found[0] == found[1] != found[2] and (found > 0).all()


def test_rows_are_written_in_any_order_and_make_an_npy_file(tmp_path):
    rows = np.arange(60, dtype=np.uint8).reshape(5, 3, 2, 2)
    file = RowFile(tmp_path / "rows.npy", np.uint8, (5, 3, 2, 2))
    assert (file.read(0, 5) == 0).all()
    file.write(3, rows[3:])
    RowFile(tmp_path / "rows.npy", np.uint8, (5, 3, 2, 2)).write(0, rows[:3])  # reopened: nothing is lost
    assert (np.load(tmp_path / "rows.npy", mmap_mode="r") == rows).all() and (file.read(2, 4) == rows[2:4]).all()


@pytest.mark.skipif(sys.platform != "linux", reason="uses Linux's fallocate")
def test_space_is_reserved_but_never_by_writing_zeros(tmp_path, monkeypatch):
    shape = (1 << 16, 3, 4, 4)
    file = RowFile(tmp_path / "reserved.npy", np.uint8, shape)
    assert file.path.stat().st_blocks * 512 >= 3 << 20

    class FileSystemWithoutFallocate:
        def __init__(self, *arguments, **options):
            self.fallocate = lambda *arguments: levels.ctypes.set_errno(errno.EOPNOTSUPP) or -1

    monkeypatch.setattr(levels.ctypes, "CDLL", FileSystemWithoutFallocate)
    file = RowFile(tmp_path / "sparse.npy", np.uint8, shape)
    assert file.path.stat().st_size > 3 << 20 and file.path.stat().st_blocks * 512 < 1 << 20
    file.write(7, np.ones((1, 3, 4, 4), np.uint8))
    assert file.read(7, 8).all() and not file.read(8, 9).any()


@pytest.mark.skipif(sys.platform != "linux", reason="uses Linux's fallocate")
def test_a_full_disk_is_noticed_when_space_is_reserved(tmp_path, monkeypatch):
    class FullDisk:
        def __init__(self, *arguments, **options):
            self.fallocate = lambda *arguments: levels.ctypes.set_errno(errno.ENOSPC) or -1

    monkeypatch.setattr(levels.ctypes, "CDLL", FullDisk)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        RowFile(tmp_path / "rows.npy", np.uint8, (10, 3, 4, 4))
