"""python -m pggan import and export, run as a user would, and fine-tuning of imported weights."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoints
from pggan import load

SNAPSHOT = Path(__file__).parents[1] / "golden" / "official_gray16_labels.pkl"


@pytest.fixture
def digits(tmp_path):
    """Return an .npz of random images and labels that match the golden snapshot: gray, 16x16, ten classes."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "digits.npz", x=rng.integers(0, 256, (80, 16, 16), np.uint8), y=np.arange(80) % 10)
    return tmp_path / "digits.npz"


def test_an_imported_snapshot_is_a_checkpoint_like_any_other(pggan, digits):
    said = pggan("import", SNAPSHOT, "--out", "official.pt", "--resolution", "16")
    assert said.code == 0, said.err
    assert "networks: G_ema, G, D" in said.out and "--labels" in said.out
    assert "origin  the paper authors' snapshot" in pggan("info", "official.pt").out
    assert pggan("sample", "official.pt", "--labels", "all", "--seeds", "0-3", "--out", "a.png").code == 0
    assert pggan("interpolate", "official.pt", "--seeds", "0-1", "--frames", "2", "--out", "a.webp").code == 0
    options = ["--metrics", "swd", "--num-images", "32", "--json"]
    judged = pggan("evaluate", "official.pt", "--data", digits, *options)
    assert judged.code == 0 and json.loads(judged.out)["swd"] > 0, judged.err
    again = pggan("import", SNAPSHOT, "--out", "official.pt")
    assert again.code == 2 and "--force" in again.err


def test_weights_that_cannot_be_read_leave_nothing(pggan, tmp_path):
    Path("cut.pkl").write_bytes(SNAPSHOT.read_bytes()[:50_000])
    for arguments in (["cut.pkl"], ["missing.pkl"], [SNAPSHOT, "--resolution", "32"], [SNAPSHOT, "--resolution", "12"]):
        said = pggan("import", *arguments, "--out", "a.pt")
        assert said.code == 2 and said.err.count("\n") == 1 and "Traceback" not in said.err, said.err
    assert [path.name for path in tmp_path.iterdir()] == ["cut.pkl"]


def exported(pggan, source, form, name, *more):
    said = pggan("export", source, "--format", form, "--out", name, *more)
    assert said.code == 0 and said.out.splitlines() == [f"wrote {name}"] and not said.err, said.err
    return Path(name)


@pytest.fixture
def official(pggan):
    assert pggan("import", SNAPSHOT, "--out", "official.pt", "--resolution", "16").code == 0
    return load("official.pt")


@pytest.fixture
def drawn(official):
    """Return latents, labels and the images that an exported generator must produce from them."""
    latents, labels = official.latents(range(5)), torch.arange(5)
    return latents, labels, official.generator(latents, torch.eye(10)[:5])


def test_safetensors_come_back_everywhere(pggan, official, tmp_path):
    path = exported(pggan, "official.pt", "safetensors", "official.safetensors")
    for back in (load(path), load(path) if pggan("import", path, "--out", "back.pt").code else load("back.pt")):
        assert torch.equal(back.sample(6), official.sample(6)) and back.classes == official.classes
    assert "origin  the paper authors' snapshot" in pggan("info", path).out
    metadata = safetensors_metadata(path)
    assert metadata["config"]["fmap_base"] == 64 and metadata["networks"]["generator"]["label_size"] == 10
    path.write_bytes(path.read_bytes()[:-50])
    said = pggan("sample", path)
    assert said.code == 2 and said.err.count("\n") == 1 and "damaged" in said.err


def safetensors_metadata(path):
    """Return the metadata in the file's header, read without the safetensors package."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return json.loads(header["__metadata__"]["pggan-checkpoint"])


def test_onnx_draws_the_same_images(pggan, drawn):
    onnxruntime = pytest.importorskip("onnxruntime")
    latents, labels, images = drawn
    path = exported(pggan, "official.pt", "onnx", "official.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        got = session.run(None, {"latents": latents[:count].numpy(), "labels": labels[:count].numpy()})[0]
        assert np.abs(got - images[:count].numpy()).max() < 1e-4
    said = json.loads(session.get_modelmeta().custom_metadata_map["pggan"])
    assert said["resolution"] == 16 and said["classes"] == [str(i) for i in range(10)]


def test_torch_export_draws_the_same_images(pggan, drawn):
    latents, labels, images = drawn
    module = torch.export.load(exported(pggan, "official.pt", "torch-export", "official.pt2")).module()
    for count in (1, 5):
        assert torch.allclose(module(latents[:count], labels[:count]), images[:count], atol=1e-5)


def test_a_folder_for_the_hub(pggan, finished_run):
    folder = exported(pggan, finished_run, "hub", "shapes", "--license", "cc0-1.0")
    assert {p.name for p in folder.iterdir()} == {"README.md", "config.json", "model.safetensors", "samples.png"}
    assert torch.equal(load(folder).sample(3), load(finished_run).sample(3))
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlicense: cc0-1.0\n")
    line = json.loads((finished_run / "metrics.jsonl").read_text().splitlines()[-1])
    for said in (f"| swd | {line['swd']:.4g} |", "generated images: 48", "| 16x16 | fade in |", "synthetic"):
        assert said in text
    assert str(finished_run) not in text + (folder / "config.json").read_text()
    assert pggan("export", finished_run, "--format", "hub", "--out", "shapes").code == 2
    exported(pggan, finished_run, "hub", "shapes", "--force")


@pytest.mark.parametrize("form, package", [("onnx", "onnxscript"), ("safetensors", "safetensors")])
def test_a_missing_package_is_named(pggan, official, monkeypatch, tmp_path, form, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.torch", None)
    said = pggan("export", "official.pt", "--format", form, "--out", f"a.{form}")
    assert said.code == 2 and "pip install" in said.err and said.err.count("\n") == 1
    assert not (tmp_path / f"a.{form}").exists()


TRAINED = """
    --labels --channels 1 --fmap-base 64 --fmap-max 16 --batch-size 8 --fade-kimg 0.1 --stabilize-kimg 0.1
    --tick-kimg 0.1 --metrics none --track none --device cpu --mbstd-group 4
""".split()


def test_training_goes_on_from_imported_weights(pggan, commands, digits):
    assert pggan("import", SNAPSHOT, "--out", "whole.pt", "--resolution", "16").code == 0
    content = checkpoints.load("whole.pt")
    content["state"] = {"G_ema": {k: v for k, v in content["state"]["G_ema"].items() if "to_rgb.1" not in k}}
    del content["networks"]["discriminator"]
    checkpoints.save(Path("generator.pt"), content)
    said = pggan("sample", "generator.pt", "--resolution", "8")
    assert said.code == 2 and "8x8 has no RGB layer" in said.err

    for name, new in (
        ("whole.pt", []),
        ("generator.pt", ["D: not in", "G: RGB layers of 8x8", "G_ema: RGB layers of"]),
    ):
        process = commands.train(digits, "--resume", name, "--out", name[:3], "--resolution", "16", *TRAINED)
        assert process.returncode == 0, process.err
        assert process.err.count("freshly initialized") == len(new) and all(text in process.err for text in new)
    before, after = load("whole.pt"), load("who")
    images = [t.generator(t.latents([1]), torch.eye(10)[:1]) for t in (before, after)]
    assert 0 < (images[0] - images[1]).abs().mean() < 1  # training changed the weights, but did not start from scratch

    process = commands.train(
        digits, "--resume", "whole.pt", "--out", "other", "--resolution", "16", *TRAINED, "--fmap-max", "8"
    )
    assert process.returncode == 2 and "use --fmap-max " in process.err
