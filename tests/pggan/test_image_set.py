"""Files of generated images: folders, zips and .npz files, and what --force may overwrite."""

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from pggan.config import ConfigError
from pggan.datasets import class_folders, open_pyramid, open_source
from pggan.use.image_set import write_image_set
from pggan.use.output import Output
from pggan.use.sample import draw_batches


def write_samples(path, model, count=20, classes=()):
    batches = draw_batches(model, list(range(count)), list(classes), 1.0)
    write_image_set(path, batches, count * max(len(classes), 1), model.classes, {"checkpoint": "a.pt"})


def test_training_reads_a_folder_of_labeled_samples(labeled, tmp_path):
    write_samples(tmp_path / "set", labeled)
    source = open_source(str(tmp_path / "set"), labels=True)
    assert source.classes == ["cat", "dog", "owl"] and len(source) == 20
    pyramid = open_pyramid(source, 16, 1, cache=tmp_path / "cache")
    ours = labeled.labels(range(20))
    order = sorted(range(20), key=lambda i: (int(ours[i]), i))
    assert pyramid.labels.tolist() == ours[order].tolist()
    assert np.array_equal(pyramid.read_images(16, range(20)), labeled.sample(20).numpy()[order])


def test_a_zip_has_the_layout_stylegan_reads(labeled, tmp_path):
    write_samples(tmp_path / "set.zip", labeled)
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        index = json.loads(archive.read("dataset.json"))
        labels = dict(index["labels"])
        image_names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        assert sorted(labels) == image_names and len(image_names) == 20
        for name in image_names:
            seed = int(name[-12:-4])
            with archive.open(name) as file:
                assert np.array_equal(np.asarray(Image.open(file)), labeled.sample(1, seed=seed)[0, 0].numpy())
            assert labels[name] == labeled.labels([seed])[0]


@pytest.mark.parametrize("count", [1, 64, 70])
def test_an_npz_holds_images_and_labels(labeled, trained, tmp_path, count):
    write_samples(tmp_path / "set.npz", labeled, count)
    with np.load(tmp_path / "set.npz") as arrays:
        assert np.array_equal(arrays["arr_0"], labeled.sample(count).permute(0, 2, 3, 1).numpy())
        assert np.array_equal(arrays["arr_1"], labeled.labels(range(count)).numpy())
    write_samples(tmp_path / "plain.npz", trained, 2)
    with np.load(tmp_path / "plain.npz") as arrays:
        assert arrays.files == ["arr_0"] and arrays["arr_0"].shape == (2, 16, 16, 3)


def test_unlabeled_models_write_no_labels(trained, tmp_path):
    write_samples(tmp_path / "set", trained, 3)
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["labels"] is None
    assert sorted(p.name for p in (tmp_path / "set").glob("*.png")) == [f"seed{i:08d}.png" for i in range(3)]


def test_every_seed_is_drawn_with_every_class(labeled):
    (batch,) = draw_batches(labeled, [4, 9], [2, 0], 1.0)
    assert batch.seeds == [4, 4, 9, 9] and batch.labels == [2, 0, 2, 0]
    assert np.array_equal(batch.images[3:], labeled.draw(labeled.latents([9]), torch.tensor([0])).numpy())


def test_class_names_that_are_not_valid_file_names_become_numbers():
    assert class_folders(["cat", "dog"]) == ["cat", "dog"]
    for names in (["../up", "b"], ["a/b", "b"], ["", "b"], [".", "b"], ["Cat", "cat"], ["a\0", "b"], ["C:", "b"]):
        assert class_folders(names) == ["00000", "00001"]


def test_existing_files_are_not_overwritten_without_force(tmp_path):
    file = tmp_path / "a.png"
    file.write_text("old")
    with pytest.raises(ConfigError, match="--force"):
        Output(file, False, (".png",))
    with pytest.raises(ValueError), Output(file, True, (".png",)).write_atomically() as temporary:
        temporary.write_text("half")
        raise ValueError
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with Output(file, True, (".png",)).write_atomically() as temporary:
        temporary.write_text("new")
    assert file.read_text() == "new"


def test_force_replaces_only_folders_of_generated_images(labeled, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "me.jpg").write_text("dear")
    with pytest.raises(ConfigError, match="other contents"):
        Output(photos, True, ("",))
    for count in (5, 2):
        with Output(tmp_path / "set", True, ("",)).write_atomically() as temporary:
            write_samples(temporary, labeled, count)
    assert len(list((tmp_path / "set").rglob("*.png"))) == 2
    with pytest.raises(ConfigError, match="--force"):
        Output(tmp_path / "set", False, ("",))
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "set"}


@pytest.mark.parametrize("name, suffixes", [("a.jpg", (".png",)), ("a", (".mp4", ".gif")), ("a.rar", (".zip", ""))])
def test_other_extensions_are_rejected(tmp_path, name, suffixes):
    with pytest.raises(ConfigError, match="does not end in"):
        Output(tmp_path / name, False, suffixes)
