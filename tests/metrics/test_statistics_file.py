import numpy as np
import pytest
import torch

from pggan.metrics import MetricError, statistics_file
from pggan.metrics.features import FeatureStatistics
from pggan.metrics.fid import FID
from pggan.metrics.statistics_file import has_statistics, read_statistics, write_statistics

SETTINGS = {"metrics_version": 1, "resize": "tf1"}


@pytest.fixture
def statistics():
    result = FeatureStatistics()
    result.update(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))
    return result


def test_statistics_are_read_back_and_usable_for_fid(statistics, tmp_path):
    path = tmp_path / "made" / "a.npz"
    write_statistics(path, statistics, SETTINGS)
    stored = read_statistics(path)
    assert has_statistics(path) and stored.count == 50 and stored.settings == SETTINGS
    assert all(torch.equal(a, b) for a, b in zip(stored.moments(), statistics.moments(), strict=True))
    assert FID().compare(stored, statistics)["fid"] == pytest.approx(0, abs=1e-9)


def test_the_format_is_compatible_with_pytorch_fid(statistics, tmp_path):
    write_statistics(tmp_path / "a.npz", statistics, SETTINGS)
    with np.load(tmp_path / "a.npz") as file:  # as pytorch-fid reads it
        mean, covariance = file["mu"][:], file["sigma"][:]
    assert mean.shape == (8,) and covariance.shape == (8, 8) and covariance.dtype == np.float64
    np.savez(tmp_path / "theirs.npz", mu=mean, sigma=covariance, extra=np.arange(3))  # as pytorch-fid writes it
    stored = read_statistics(tmp_path / "theirs.npz")
    assert stored.count is None and stored.settings == {} and stored.mean.tolist() == mean.tolist()


def test_the_settings_of_a_file_must_be_known(statistics, tmp_path):
    write_statistics(tmp_path / "ours.npz", statistics, SETTINGS, shape=(3, 32, 32))
    ours = read_statistics(tmp_path / "ours.npz")
    assert ours.shape == (3, 32, 32) and ours.describe().shape == (3, 32, 32)
    ours.check_settings("ours.npz", SETTINGS, is_resize_given=False)
    with pytest.raises(MetricError, match=r"ours\.npz was made with resize tf1, not clean; use --resize tf1"):
        ours.check_settings("ours.npz", SETTINGS | {"resize": "clean"}, is_resize_given=True)
    mean, covariance = (x.numpy() for x in statistics.moments())
    np.savez(tmp_path / "theirs.npz", mu=mean, sigma=covariance)  # as pytorch-fid, clean-fid and EDM write it
    theirs = read_statistics(tmp_path / "theirs.npz")
    theirs.check_settings("theirs.npz", SETTINGS, is_resize_given=True)
    with pytest.raises(MetricError, match=r"theirs\.npz does not record how .* use --resize pytorch-fid"):
        theirs.check_settings("theirs.npz", SETTINGS, is_resize_given=False)


def test_of_openais_reference_batches_only_the_statistics_are_read(statistics, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics_file, "MAX_BYTES", 8192)
    mean, covariance = (x.numpy() for x in statistics.moments())
    images = np.zeros((40, 16, 16, 3), np.uint8)  # more than MAX_BYTES
    np.savez(tmp_path / "a.npz", arr_0=images, mu=mean, sigma=covariance, mu_s=mean, sigma_s=covariance)
    stored = read_statistics(tmp_path / "a.npz")
    assert torch.equal(stored.mean, torch.from_numpy(mean)) and stored.settings == {"resize": "tf1"}


def test_image_files_are_not_mistaken_for_statistics(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4, 3), np.uint8))
    (tmp_path / "b.npz").write_text("hello")
    assert not any(has_statistics(tmp_path / name) for name in ("a.npz", "b.npz", "c.npz"))


@pytest.mark.parametrize(
    "arrays",
    [
        {"mu": np.zeros((2, 2)), "sigma": np.eye(2)},
        {"mu": np.zeros(3), "sigma": np.eye(2)},
        {"mu": np.full(2, np.nan), "sigma": np.eye(2)},
        {"mu": np.zeros(2), "sigma": np.array([[1.0, -5], [-5, 1]])},
        {"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0, 1]])},
        {"mu": np.zeros(2), "sigma": np.eye(2) * 1j},
        {"mu": np.zeros(2), "sigma": np.eye(2), "num_images": np.array(np.inf)},
        {"mu": np.zeros(2), "sigma": np.full((2, 2), np.nan)},
        {"mu": np.array(["a", "b"]), "sigma": np.eye(2)},
        {"mu": np.array([{}, {}], dtype=object), "sigma": np.eye(2)},
        {"mu": np.zeros(2), "sigma": np.eye(2), "num_images": np.array("many")},
    ],
)
def test_invalid_statistics_are_rejected_with_one_sentence(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(MetricError, match=r"a\.npz") as error:
        read_statistics(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_an_unwritable_path_is_reported(statistics, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MetricError, match="cannot write"):
        write_statistics(tmp_path / "file" / "a.npz", statistics, SETTINGS)


def test_a_file_that_unpacks_to_too_many_bytes_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics_file, "MAX_BYTES", 10_000)
    np.savez_compressed(tmp_path / "a.npz", mu=np.zeros(64), sigma=np.zeros((64, 64)))
    with pytest.raises(MetricError, match="unpack to more than"):
        read_statistics(tmp_path / "a.npz")
