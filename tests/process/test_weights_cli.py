"""python -m pggan import and export, run as a user would, and fine-tuning of imported weights."""

import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pggan import checkpoints, load

SNAPSHOT = Path(__file__).parents[1] / "golden" / "official_gray16_labels.pkl"


@pytest.fixture
def digits(tmp_path):
    """Return an .npz of random images and labels that match the golden snapshot: gray, 16x16, ten classes."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "digits.npz", x=rng.integers(0, 256, (80, 16, 16), np.uint8), y=np.arange(80) % 10)
    return tmp_path / "digits.npz"


def test_imported_snapshot_works_like_any_checkpoint(pggan, digits):
    result = pggan("import", SNAPSHOT, "--out", "official.pt", "--resolution", "16")
    assert result.code == 0, result.err
    assert "networks: G_ema, G, D" in result.out and "--labels" in result.out
    assert "origin  the paper authors' snapshot" in pggan("info", "official.pt").out
    assert pggan("sample", "official.pt", "--labels", "all", "--seeds", "0-3", "--out", "a.png").code == 0
    assert pggan("interpolate", "official.pt", "--seeds", "0-1", "--frames", "2", "--out", "a.webp").code == 0
    options = ["--metrics", "swd", "--num-images", "32", "--json"]
    evaluation = pggan("evaluate", "official.pt", "--data", digits, *options)
    assert evaluation.code == 0 and json.loads(evaluation.out)["swd"] > 0, evaluation.err
    again = pggan("import", SNAPSHOT, "--out", "official.pt")
    assert again.code == 2 and "--force" in again.err


def test_unreadable_weights_write_no_file(pggan, tmp_path):
    Path("cut.pkl").write_bytes(SNAPSHOT.read_bytes()[:50_000])
    for arguments in (["cut.pkl"], ["missing.pkl"], [SNAPSHOT, "--resolution", "32"], [SNAPSHOT, "--resolution", "12"]):
        result = pggan("import", *arguments, "--out", "a.pt")
        assert result.code == 2 and result.err.count("\n") == 1 and "Traceback" not in result.err, result.err
    assert [path.name for path in tmp_path.iterdir()] == ["cut.pkl"]


def export(pggan, source, file_format, name, *more):
    result = pggan("export", source, "--format", file_format, "--out", name, *more)
    assert result.code == 0 and result.out.splitlines() == [f"wrote {name}"] and not result.err, result.err
    return Path(name)


@pytest.fixture
def official(pggan):
    """Return the generator imported from the golden snapshot, saved as official.pt."""
    assert pggan("import", SNAPSHOT, "--out", "official.pt", "--resolution", "16").code == 0
    return load("official.pt")


@pytest.fixture
def expected_images(official):
    """Return latents, labels and the images that an exported generator must reproduce from them."""
    latents, labels = official.latents(range(5)), torch.arange(5)
    return latents, labels, official.generator(latents, torch.eye(10)[:5])


def test_exported_safetensors_load_everywhere(pggan, official, tmp_path):
    path = export(pggan, "official.pt", "safetensors", "official.safetensors")
    for reloaded in (load(path), load(path) if pggan("import", path, "--out", "back.pt").code else load("back.pt")):
        assert torch.equal(reloaded.sample(6), official.sample(6)) and reloaded.classes == official.classes
    assert "origin  the paper authors' snapshot" in pggan("info", path).out
    metadata = read_safetensors_metadata(path)
    assert metadata["config"]["fmap_base"] == 64 and metadata["networks"]["generator"]["label_size"] == 10
    path.write_bytes(path.read_bytes()[:-50])
    result = pggan("sample", path)
    assert result.code == 2 and result.err.count("\n") == 1 and "damaged" in result.err


def read_safetensors_metadata(path):
    """Return the metadata in the file's header, read without the safetensors package."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return json.loads(header["__metadata__"]["pggan-checkpoint"])


def test_onnx_export_generates_the_same_images(pggan, expected_images):
    onnxruntime = pytest.importorskip("onnxruntime")
    latents, labels, images = expected_images
    path = export(pggan, "official.pt", "onnx", "official.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        output = session.run(None, {"latents": latents[:count].numpy(), "labels": labels[:count].numpy()})[0]
        assert np.abs(output - images[:count].numpy()).max() < 1e-4
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    # the newest versions that onnxruntime 1.18 reads, the minimum in docs/weights.md
    assert model.ir_version <= 10 and [o.version for o in model.opset_import if not o.domain] == [20]
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["pggan"])
    assert metadata["resolution"] == 16 and metadata["classes"] == [str(i) for i in range(10)]


def test_torch_export_generates_the_same_images(pggan, expected_images):
    latents, labels, images = expected_images
    module = torch.export.load(export(pggan, "official.pt", "torch-export", "official.pt2")).module()
    for count in (1, 5):
        assert torch.allclose(module(latents[:count], labels[:count]), images[:count], atol=1e-5)


def test_hub_export_writes_a_complete_folder(pggan, finished_run):
    folder = export(pggan, finished_run, "hub", "shapes", "--license", "cc0-1.0")
    assert {p.name for p in folder.iterdir()} == {"README.md", "config.json", "model.safetensors", "samples.png"}
    assert torch.equal(load(folder).sample(3), load(finished_run).sample(3))
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlicense: cc0-1.0\n")
    line = json.loads((finished_run / "metrics.jsonl").read_text().splitlines()[-1])
    for expected in (f"| swd | {line['swd']:.4g} |", "generated images: 48", "| 16x16 | fade in |", "synthetic"):
        assert expected in text
    assert str(finished_run) not in text + (folder / "config.json").read_text()
    assert pggan("export", finished_run, "--format", "hub", "--out", "shapes").code == 2
    export(pggan, finished_run, "hub", "shapes", "--force")


def test_exports_are_readable_by_others(pggan, official):
    previous = os.umask(0o022)
    try:
        paths = [export(pggan, "official.pt", "safetensors", "a.safetensors")]
        paths += export(pggan, "official.pt", "hub", "a").iterdir()
        for name in ("a.zip", "a.npz", "a.png"):
            assert pggan("sample", "official.pt", "--count", "2", "--out", name).code == 0
            paths.append(Path(name))
        os.umask(0o077)
        private = export(pggan, "official.pt", "safetensors", "b.safetensors")
    finally:
        os.umask(previous)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in paths} == {path.name: "0o644" for path in paths}
    assert private.stat().st_mode & 0o777 == 0o600, "the umask decides"
    for name in ("a.zip", "a.npz"):
        with zipfile.ZipFile(name) as archive:
            assert {oct(member.external_attr >> 16) for member in archive.infolist()} == {"0o100644"}


@pytest.mark.parametrize("file_format, package", [("onnx", "onnxscript"), ("safetensors", "safetensors")])
def test_missing_package_is_reported_with_the_install_command(
    pggan, official, monkeypatch, tmp_path, file_format, package
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.torch", None)
    result = pggan("export", "official.pt", "--format", file_format, "--out", f"a.{file_format}")
    assert result.code == 2 and "pip install" in result.err and result.err.count("\n") == 1
    assert not (tmp_path / f"a.{file_format}").exists()


TRAIN_OPTIONS = """
    --labels --channels 1 --fmap-base 64 --fmap-max 16 --batch-size 8 --fade-kimg 0.1 --stabilize-kimg 0.1
    --tick-kimg 0.1 --metrics none --track none --device cpu --mbstd-group 4
""".split()


def test_training_continues_from_imported_weights(pggan, commands, digits):
    assert pggan("import", SNAPSHOT, "--out", "whole.pt", "--resolution", "16").code == 0
    content = checkpoints.load("whole.pt")
    content["state"] = {"G_ema": {k: v for k, v in content["state"]["G_ema"].items() if "to_rgb.1" not in k}}
    del content["networks"]["discriminator"]
    checkpoints.save(Path("generator.pt"), content)
    result = pggan("sample", "generator.pt", "--resolution", "8")
    assert result.code == 2 and "8x8 has no RGB layer" in result.err

    for name, new in (
        ("whole.pt", []),
        ("generator.pt", ["D: not in", "G: RGB layers of 8x8", "G_ema: RGB layers of"]),
    ):
        process = commands.train(digits, "--resume", name, "--out", name[:3], "--resolution", "16", *TRAIN_OPTIONS)
        assert process.returncode == 0, process.err
        assert process.err.count("freshly initialized") == len(new) and all(text in process.err for text in new)
    before, after = load("whole.pt"), load("who")
    images = [t.generator(t.latents([1]), torch.eye(10)[:1]) for t in (before, after)]
    assert 0 < (images[0] - images[1]).abs().mean() < 1  # training changed the weights, but did not start from scratch

    process = commands.train(
        digits, "--resume", "whole.pt", "--out", "other", "--resolution", "16", *TRAIN_OPTIONS, "--fmap-max", "8"
    )
    assert process.returncode == 2 and "use --fmap-max " in process.err
