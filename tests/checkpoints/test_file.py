import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pggan.checkpoints import CheckpointError, load, resolve_checkpoint, save

ROOT = Path(__file__).parents[2]


def make_content(**other):
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


def to_bits(part):
    """Replace each tensor by its type, shape and bytes, for comparing contents bit by bit."""
    if isinstance(part, torch.Tensor):
        return part.dtype, part.shape, part.numpy().tobytes()
    return {key: to_bits(value) for key, value in part.items()} if isinstance(part, dict) else part


@pytest.fixture
def checkpoint(tmp_path):
    save(tmp_path / "a.pt", make_content())
    return tmp_path / "a.pt"


def test_a_checkpoint_round_trips_bit_by_bit(checkpoint):
    loaded = load(checkpoint)
    assert loaded.pop("format") and loaded.pop("version")
    assert to_bits(loaded) == to_bits(make_content())
    assert [path.name for path in checkpoint.parent.iterdir()] == ["a.pt"]


def test_a_later_save_replaces_the_earlier_one(checkpoint):
    save(checkpoint, make_content(images=5))
    assert load(str(checkpoint))["images"] == 5


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_the_old_file_intact(checkpoint, monkeypatch, error):
    before = checkpoint.read_bytes()

    def write_half(value, file):
        file.write(before[: len(before) // 2])
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(torch, "save", write_half)
        save(checkpoint, make_content(images=5))
    assert checkpoint.read_bytes() == before
    save(checkpoint, make_content(images=6))
    assert load(checkpoint)["images"] == 6 and len(list(checkpoint.parent.iterdir())) == 1


def test_the_file_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append("replace"))
    save(tmp_path / "a.pt", make_content())
    assert calls[:2] == ["fsync", "replace"]


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    save(tmp_path / "evil.pt", make_content(extra=Malicious(tmp_path / "harm")))
    with pytest.raises(CheckpointError, match="is damaged, or not a checkpoint of this project"):
        load(tmp_path / "evil.pt")
    assert not (tmp_path / "harm").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "harm").exists(), "the file was harmless, so the test above proves nothing"


def truncate(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path):
    data = bytearray(path.read_bytes())
    place = data.index(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).numpy().tobytes())
    data[place] ^= 1
    path.write_bytes(data)


def resave(change):
    def damage(path):
        value = {"format": "pggan-checkpoint", "version": 1, **make_content()}
        changed = change(value)
        torch.save(value if changed is None else changed, path)

    return damage


def drop(key):
    return lambda value: {k: v for k, v in value.items() if k != key}


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


BROKEN = {
    "cut by a byte": (truncate(0.9999), "is damaged"),
    "cut in half": (truncate(0.5), "is damaged"),
    "empty": (truncate(0), "is damaged"),
    "garbage": (lambda path: path.write_bytes(bytes(range(256)) * 99), "is damaged"),
    "text": (lambda path: path.write_text("hello\nthere\n"), "is damaged"),
    "one bit flipped": (flip, "is damaged"),
    "another version": (resave(lambda value: value.update(version=2)), "has format version 2, but this code reads"),
    "no version": (resave(drop("version")), "has format version None"),
    "another format": (resave(lambda value: value.update(format="stylegan")), "is not a checkpoint of this project"),
    "a state dict": (resave(lambda value: value["state"]["G"]), "is not a checkpoint of this project"),
    "a tensor": (resave(lambda value: torch.zeros(3)), "is not a checkpoint of this project"),
    "no state": (resave(drop("state")), "is incomplete: it lacks 'state'"),
    "no images": (resave(drop("images")), "is incomplete: it lacks 'images'"),
    "a folder": (replace_by_folder, "is a folder, not a checkpoint"),
    "missing": (lambda path: path.unlink(), "does not exist"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_unusable_files_are_rejected_with_one_sentence(checkpoint, case):
    damage, reason = BROKEN[case]
    damage(checkpoint)
    with pytest.raises(CheckpointError) as error:
        load(checkpoint)
    assert str(error.value).startswith(f"{checkpoint} {reason}") and "\n" not in str(error.value)


def test_a_run_directory_resolves_to_its_latest_checkpoint(checkpoint, tmp_path):
    assert resolve_checkpoint(checkpoint) == checkpoint
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match="run does not exist; pass a checkpoint or a run directory"):
        resolve_checkpoint(run)
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"run contains no checkpoints/latest\.pt"):
        resolve_checkpoint(run)
    save(run / "checkpoints" / "latest.pt", make_content())
    assert resolve_checkpoint(str(run)) == run / "checkpoints" / "latest.pt"


def describe(path):
    return subprocess.run([sys.executable, "-m", "checkpoints", path], cwd=ROOT, capture_output=True, text=True)


def test_command_describes_a_checkpoint(checkpoint):
    process = describe(checkpoint)
    assert process.returncode == 0 and process.stderr == ""
    for text in ("123.456 kimg", "16x16, fading in, alpha 0.300", "cat, dög", "latent_size 128", "data: photos"):
        assert text in process.stdout
    assert "G                    2 tensors           15 numbers" in process.stdout


def test_command_rejects_a_bad_file_in_one_line(checkpoint):
    truncate(0.5)(checkpoint)
    process = describe(checkpoint)
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr == f"python -m checkpoints: {checkpoint} is damaged, or not a checkpoint of this project\n"
