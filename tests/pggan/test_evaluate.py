import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pggan.checkpoints import RunDirectory
from pggan.datasets import DataError, open_pyramid, open_source
from pggan.metrics import Suite, networks
from pggan.training import evaluation
from pggan.training.evaluation import Evaluator
from pggan.training.loop import Training
from pggan.use.evaluate import REAL_ROW, describe_unequal_counts, open_real_images


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


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    np.savez(folder / "a.npz", x=rng.integers(0, 256, (40, 16, 16, 3), np.uint8))
    return open_pyramid(open_source(str(folder / "a.npz")), 16, 3, cache=folder / "cache")


def compare(suite, pyramid, real, fake):
    sides = [torch.from_numpy(pyramid.read_images(16, indices)) for indices in (real, fake)]
    return suite.compare(*(suite.compute_statistics([images]) for images in sides))


def test_real_images_are_compared_with_others(pyramid, monkeypatch):
    suite = Suite(["swd", "msssim"])
    evaluator = Evaluator(pyramid, suite, 8, seed=0, num_reals=30)
    order, nobody = evaluator.order, np.array([])
    # images that are not in use, as many as generated ones
    others = evaluator.choose_others(nobody)
    assert evaluator.compare_reals(16, others) == compare(suite, pyramid, order[:30], order[30:38])
    # otherwise half of those in use
    evaluator.count = 11
    others = evaluator.choose_others(nobody)
    assert evaluator.compare_reals(16, others) == compare(suite, pyramid, order[15:30], order[:15])
    # enough images that training never saw take precedence
    monkeypatch.setattr(evaluation, "MIN_HELD_OUT", 3)
    others = evaluator.choose_others(order[[2, 5, 9, 35]])
    rest = np.delete(order[:30], [2, 5, 9])
    assert evaluator.compare_reals(16, others) == compare(suite, pyramid, rest, order[[2, 5, 9]])


@pytest.mark.parametrize("num_reals", [30, 40])
def test_the_pass_for_the_row_of_real_images_also_serves_the_checkpoints(pyramid, trained, monkeypatch, num_reals):
    generator = trained.generator
    first = Evaluator(pyramid, Suite(["swd"]), 8, seed=0, num_reals=num_reals)
    expected = first(generator, 16, 1.0)
    assert first.compute_reals(16).count == num_reals
    evaluator = Evaluator(pyramid, Suite(["swd"]), 8, seed=0, num_reals=num_reals)
    evaluator.compare_reals(16, evaluator.choose_others(np.array([])))
    monkeypatch.setattr(evaluator, "real_images", lambda *_: pytest.fail("read the real images again"))
    assert evaluator(generator, 16, 1.0) == expected


class MeanColors:
    """Takes Inception's place: the features of an image are its mean colors."""

    kind = name = "inception"
    dimensions, device, checksum = 3, torch.device("cpu"), ""

    def __init__(self, weights, device, precision, resize="tf1"):
        self.resize, self.precision = resize, precision

    def __call__(self, images):
        return images.float().mean(dim=(2, 3)), None


@pytest.mark.parametrize("num_reals", [30, 40], ids=["other images", "half of those in use"])
@pytest.mark.parametrize("names", [["fid", "kid"], ["fid", "kid", "swd"]], ids=" ".join)
def test_another_run_finds_the_features_of_all_real_images_in_the_cache(
    pyramid, tmp_path, monkeypatch, names, num_reals
):
    monkeypatch.setattr(networks, "load_weights", lambda *_: {})
    monkeypatch.setattr(networks, "Inception", MeanColors)

    def make_evaluator():
        evaluator = Evaluator(pyramid, Suite(names, cache=tmp_path), 10, seed=0, num_reals=num_reals)
        evaluator.suite.metrics["kid"].subset_size = 4
        return evaluator

    first, second = make_evaluator(), make_evaluator()
    row = first.compare_reals(16, first.choose_others(np.array([])))
    monkeypatch.setattr(MeanColors, "__call__", lambda *_: pytest.fail("Inception ran again"))
    if "swd" not in names:  # which needs the pixels
        monkeypatch.setattr(second, "real_images", lambda *_: pytest.fail("read the real images again"))
    assert row and second.compare_reals(16, second.choose_others(np.array([]))) == row
    assert second.compute_reals(16).count == num_reals


def test_half_of_the_real_images_are_mirrored_if_training_mirrors(pyramid):
    plain, mirrored = (Evaluator(pyramid, Suite(["swd"]), 40, seed=0, mirror=mirror) for mirror in (False, True))
    before, after = (evaluator.real_images(16, 40, 0) for evaluator in (plain, mirrored))
    flipped = [i for i in range(40) if not torch.equal(before[i], after[i])]
    assert 10 < len(flipped) < 30 and torch.equal(after[flipped], before[flipped].flip(3))
    assert plain.identify_reals(16) != mirrored.identify_reals(16)
    assert mirrored.describe(16).mirror_reals and not plain.describe(16).mirror_reals


def test_tf32_is_off_during_an_evaluation(pyramid, trained, monkeypatch):
    evaluator, seen = Evaluator(pyramid, Suite(["swd"]), 8, seed=0), []
    read = evaluator.real_images
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv

    def spy(*arguments):
        seen.append((matmul.fp32_precision, conv.fp32_precision))
        return read(*arguments)

    monkeypatch.setattr(evaluator, "real_images", spy)
    before = matmul.fp32_precision, conv.fp32_precision
    evaluator(trained.generator, 16, 1.0)
    assert set(seen) == {("ieee", "ieee")} and (matmul.fp32_precision, conv.fp32_precision) == before


@pytest.mark.parametrize(
    ("earlier", "is_best"),
    [
        ({"fid": 60.0}, True),
        ({"fid": 40.0}, False),
        ({"fid": 40.0, "metric_images": 300}, True),
        ({"fid": 40.0, "mirror_reals": True}, True),
        ({"fid": 40.0, "alpha": 0.5}, True),
        ({"fid": 40.0, "resolution": 8}, True),
    ],
)
def test_best_is_chosen_among_comparable_numbers_at_alpha_1(tmp_path, earlier, is_best):
    now = {"images": 2000, "resolution": 16, "alpha": 1.0, "metric_images": 100, "mirror_reals": False, "fid": 50.0}
    training, kept = object.__new__(Training), []
    training.directory = RunDirectory(tmp_path)
    training.state = SimpleNamespace(images=2000)
    training.writer = SimpleNamespace(is_behind=False, keep_best=lambda: kept.append(True))
    lines = [now | {"images": 1000} | earlier, now]
    training.directory.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    training.keep_best()
    assert bool(kept) == is_best


def test_fids_of_different_numbers_of_images_are_not_called_comparable():
    real = {"checkpoint": REAL_ROW, "num_images": 120, "num_reals": 120, "fid": 8.0}
    fake = {"checkpoint": "latest.pt", "num_images": 20, "num_reals": 240, "fid": 9.0}
    (line,) = describe_unequal_counts([real, fake])
    assert "compares 120 with 120 images, the others 20 with 240 images" in line
    assert describe_unequal_counts([real | {"num_images": 20, "num_reals": 240}, fake]) == []
    assert describe_unequal_counts([fake]) == []
    without_fid = [{name: value for name, value in row.items() if name != "fid"} for row in (real, fake)]
    assert describe_unequal_counts(without_fid) == []
