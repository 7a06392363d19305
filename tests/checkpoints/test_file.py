import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from checkpoints import CheckpointError, load, resolve_checkpoint, save

ROOT = Path(__file__).parents[2]


def content(**other):
    g = torch.Generator().manual_seed(0)
    weights = {"a.weight": torch.randn(3, 4, generator=g), "a.bias": torch.tensor([0.0, -0.0, float("nan")])}
    moments = {"step": torch.tensor(7.0), "exp_avg": torch.randn(5, generator=g, dtype=torch.float64)}
    return {
        "images": 123_456,
        "stage": {"resolution": 16, "alpha": 0.1 + 0.2},
        "config": {"data": "photos", "lr": {4: 0.001, 8: 1e-300}, "labels": False, "resume": None},
        "networks": {"G": {"latent_size": 128, "widths": [16, 8]}},
        "state": {"G": weights, "optimizer": {"state": {0: moments}, "param_groups": [{"betas": (0.0, 0.99)}]}},
        "classes": ["cat", "dög"],
        **other,
    }


def bits(part):
    """The same for two contents only if every tensor in them has the same type, shape and bits."""
    if isinstance(part, torch.Tensor):
        return part.dtype, part.shape, part.numpy().tobytes()
    return {key: bits(value) for key, value in part.items()} if isinstance(part, dict) else part


@pytest.fixture
def checkpoint(tmp_path):
    save(tmp_path / "a.pt", content())
    return tmp_path / "a.pt"


def test_what_was_saved_comes_back_bit_by_bit(checkpoint):
    loaded = load(checkpoint)
    assert loaded.pop("format") and loaded.pop("version")
    assert bits(loaded) == bits(content())
    assert [path.name for path in checkpoint.parent.iterdir()] == ["a.pt"]


def test_a_later_save_takes_the_place_of_the_earlier(checkpoint):
    save(checkpoint, content(images=5))
    assert load(str(checkpoint))["images"] == 5


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_breaks_off_leaves_the_old_file_whole(checkpoint, monkeypatch, error):
    before = checkpoint.read_bytes()

    def half(value, file):
        file.write(before[: len(before) // 2])
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(torch, "save", half)
        save(checkpoint, content(images=5))
    assert checkpoint.read_bytes() == before
    save(checkpoint, content(images=6))
    assert load(checkpoint)["images"] == 6 and len(list(checkpoint.parent.iterdir())) == 1


def test_the_file_is_on_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda a, b: done.append("replace"))
    save(tmp_path / "a.pt", content())
    assert done[:2] == ["fsync", "replace"]


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    save(tmp_path / "evil.pt", content(extra=Malicious(tmp_path / "harm")))
    with pytest.raises(CheckpointError, match="is damaged, or not a checkpoint of this project"):
        load(tmp_path / "evil.pt")
    assert not (tmp_path / "harm").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "harm").exists(), "the file was harmless, so the test above shows nothing"


def cut(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path):
    data = bytearray(path.read_bytes())
    place = data.index(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).numpy().tobytes())
    data[place] ^= 1
    path.write_bytes(data)


def saved(change):
    def spoil(path):
        value = {"format": "pggan-checkpoint", "version": 1, **content()}
        changed = change(value)
        torch.save(value if changed is None else changed, path)

    return spoil


def without(key):
    return lambda value: {k: v for k, v in value.items() if k != key}


def folder(path):
    path.unlink()
    path.mkdir()


BROKEN = {
    "cut by a byte": (cut(0.9999), "is damaged"),
    "cut in half": (cut(0.5), "is damaged"),
    "empty": (cut(0), "is damaged"),
    "garbage": (lambda path: path.write_bytes(bytes(range(256)) * 99), "is damaged"),
    "text": (lambda path: path.write_text("hello\nthere\n"), "is damaged"),
    "one bit flipped": (flip, "is damaged"),
    "another version": (saved(lambda value: value.update(version=2)), "has format version 2, but this code reads"),
    "no version": (saved(without("version")), "has format version None"),
    "another format": (saved(lambda value: value.update(format="stylegan")), "is not a checkpoint of this project"),
    "a state dict": (saved(lambda value: value["state"]["G"]), "is not a checkpoint of this project"),
    "a tensor": (saved(lambda value: torch.zeros(3)), "is not a checkpoint of this project"),
    "no state": (saved(without("state")), "is incomplete: it lacks 'state'"),
    "no images": (saved(without("images")), "is incomplete: it lacks 'images'"),
    "a folder": (folder, "is a folder, not a checkpoint"),
    "missing": (lambda path: path.unlink(), "does not exist"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(checkpoint, kind):
    spoil, reason = BROKEN[kind]
    spoil(checkpoint)
    with pytest.raises(CheckpointError) as error:
        load(checkpoint)
    assert str(error.value).startswith(f"{checkpoint} {reason}") and "\n" not in str(error.value)


def test_a_run_directory_stands_for_its_latest_checkpoint(checkpoint, tmp_path):
    assert resolve_checkpoint(checkpoint) == checkpoint
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match="run does not exist; pass a checkpoint or a run directory"):
        resolve_checkpoint(run)
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"run contains no checkpoints/latest\.pt"):
        resolve_checkpoint(run)
    save(run / "checkpoints" / "latest.pt", content())
    assert resolve_checkpoint(str(run)) == run / "checkpoints" / "latest.pt"


def describe(path):
    return subprocess.run([sys.executable, "-m", "checkpoints", path], cwd=ROOT, capture_output=True, text=True)


def test_command_says_what_a_checkpoint_holds(checkpoint):
    ran = describe(checkpoint)
    assert ran.returncode == 0 and ran.stderr == ""
    for said in ("123.456 kimg", "16x16, fading in, alpha 0.300", "cat, dög", "latent_size 128", "data: photos"):
        assert said in ran.stdout
    assert "G                    2 tensors           15 numbers" in ran.stdout


def test_command_refuses_a_bad_file_in_one_line(checkpoint):
    cut(0.5)(checkpoint)
    ran = describe(checkpoint)
    assert ran.returncode == 2 and ran.stdout == ""
    assert ran.stderr == f"python -m checkpoints: {checkpoint} is damaged, or not a checkpoint of this project\n"
