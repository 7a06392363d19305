from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pggan.datasets import DataError
from pggan.use.evaluate import open_real_images


def test_real_images_are_prepared_as_in_training(tmp_path, monkeypatch):
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(9):
        Image.fromarray(np.full((10, 10, 3), 9 * i, np.uint8)).save(folder / f"{i}.png")
    (folder / "bad.png").write_bytes(b"no")
    config = {"data": str(folder), "allow_upscale": True, "max_bad": 0.2}
    trained = SimpleNamespace(
        classes=[], generator=SimpleNamespace(resolution=16, channels=3), config=config, digest=""
    )
    for _ in range(2):  # without a cache, then with one
        assert len(open_real_images(trained, None)[1]) == 9
    trained.config["allow_upscale"] = False
    with pytest.raises(DataError, match="9 of 10 images are smaller than 16x16"):
        open_real_images(trained, None)
