"""Thousands of corrupted files: each is read, or rejected with a one-line error, without side effects."""

import functools
import io
import json
import pickle
import random
import resource
import tarfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from mutate import mutated, spoiled, spoiled_json
from PIL import Image

import checkpoints
import pggan
from checkpoints import CheckpointError, RunDirectory
from checkpoints.run_directory import read_lines
from datasets import DataError, open_pyramid, open_source
from metrics import MetricError
from metrics.reading import ImageSet
from metrics.statistics_file import read_statistics
from metrics.weights import read_state_dict
from pggan.config import ConfigError, resolve_config
from pggan.interop import WeightsError, read_weights
from pggan.training.growth import GrowthController
from pggan.training.resume import explain_mismatch, resolve_resumed_config, start_from_checkpoint
from pggan.training.state import TrainState, network_arguments
from pggan.use.report.run import read_run

pytestmark = pytest.mark.faults
GOLDEN = Path(__file__).parents[1] / "golden"
OPTIONS = {
    "data": "synthetic",
    "channels": 3,
    "resolution": 8,
    "fmap_base": 16,
    "fmap_max": 4,
    "batch_size": 4,
    "out": "x",
    "fade_kimg": 1.0,
    "stabilize_kimg": 1.0,
}
REFUSALS = (CheckpointError, DataError, MetricError, ConfigError, WeightsError)
SECONDS, MEMORY = 20, 3 << 30  # limits: time per file, and address space in bytes beyond what the test started with


@functools.cache
def config():
    return resolve_config(OPTIONS)


def content():
    """Return the content of a tiny run's checkpoint."""
    state = TrainState(config(), 0, torch.device("cpu"))
    for network, optimizer in ((state.G, state.g_optimizer), (state.D, state.d_optimizer)):
        for p in network.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    return {
        "images": 64,
        "stage": {"resolution": 8, "alpha": 0.5},
        "config": config().to_dict(),
        "classes": [],
        "networks": network_arguments(config(), 0),
        "data": "x",
        "versions": {"torch": "2"},
        "state": state.state_dict(),
    }


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


class Runs:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('/tmp/pggan-fuzz-was-here').touch()",)


def nasty_tensors():
    absurd = torch.zeros(1, dtype=torch.float64).expand(10**9)
    return (
        *(absurd, torch.zeros(()), torch.zeros(0), torch.zeros(3, 3, dtype=torch.complex64)),
        *(torch.zeros(2).to_sparse(), torch.full((4,), float("nan")), torch.nn.Parameter(torch.ones(2))),
        *(torch.ones(1, device="meta"), Runs(), {1, 2}, b"bytes", -1, "text", None, [], {}),
        *(10**400, 2**31, float("inf"), torch.float32, bytearray(3)),
    )


def in_torch_form(value, rng):
    """Return a checkpoint with correct checksums and one part of its content corrupted."""
    return saved(spoiled({"format": "pggan-checkpoint", "version": 1, **value}, rng, nasty_tensors()))


def png(mode="RGB", size=(8, 8), kind="PNG", **options):
    file = io.BytesIO()
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(len(kind)).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    Image.fromarray(pixels if channels > 1 else pixels[..., 0]).save(file, kind, **options)
    return file.getvalue()


def zipped(members, pack=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", pack) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def arrays(pack=np.savez, **parts):
    file = io.BytesIO()
    pack(file, **parts)
    return file.getvalue()


def records(count=2, side=8):
    """Return TFRecords as the official dataset tool writes them."""
    data = bytes(range(3 * side * side % 256)) + bytes(3 * side * side - 3 * side * side % 256)

    def field(number, content):
        size, head = len(content), b""
        while size > 127:
            head, size = head + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + head + bytes([size]) + content

    shape = field(1, b"shape") + field(2, field(3, field(1, bytes([3, side, side]))))
    pixels = field(1, b"data") + field(2, field(1, field(1, data)))
    message = field(1, field(1, shape) + field(1, pixels))
    return (len(message).to_bytes(8, "little") + bytes(4) + message + bytes(4)) * count


def read_checkpoint(path):
    found = checkpoints.load(path)
    checkpoints.describe(path, found)
    pggan.load(path)
    state = TrainState(config(), 0, torch.device("cpu"))
    start_from_checkpoint(state, str(path), config(), GrowthController(config()), [])


def resume_run(path):
    """Resume a run directory with this checkpoint, as train.py does."""
    run = RunDirectory(path.parent / "run")
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    for old in run.checkpoints.iterdir():
        old.unlink()
    run.latest.write_bytes(path.read_bytes())
    found = run.load_newest(lambda line: None)
    with explain_mismatch(path):
        TrainState(config(), 0, torch.device("cpu")).load_state_dict(found["state"])


def read_set(path):
    """Read a dataset all the way into a cache, as train.py does."""
    cache = path.parent / "cache"
    source = open_source(str(path), labels=path.name.startswith("labels"))
    open_pyramid(source, 8, 3, allow_upscale=True, max_bad=0.99, workers=1, cache=cache)


def read_image(path):
    folder = path.parent / "one"
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_bytes(path.read_bytes())
    try:
        read_set(folder)
        list(ImageSet(folder).batches())
    finally:
        (folder / path.name).unlink()


def read_records(path):
    folder = path.parent / "tf"
    folder.mkdir(exist_ok=True)
    (folder / "set-r03.tfrecords").write_bytes(path.read_bytes())
    read_set(folder)


def read_labels(path):
    folder = path.parent / "labels-set"
    folder.mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(png())
    (folder / "dataset.json").write_bytes(path.read_bytes())
    read_set(folder)


def read_options(path):
    run = RunDirectory(path.parent / "run")
    run.folder.mkdir(exist_ok=True)
    run.config.write_bytes(path.read_bytes())
    resolve_resumed_config(run, config())
    resolve_config({}, str(path))


def read_log(path):
    run = RunDirectory(path.parent / "run-of-log")
    run.folder.mkdir(exist_ok=True)
    run.config.write_text(json.dumps(config().to_dict()))
    run.log.write_bytes(path.read_bytes())
    run.metrics.write_bytes(path.read_bytes())
    read_lines(path)
    read_run(run.folder)
    run.cut_logs(10)


def read_images(path):
    for batch in ImageSet(path).batches():
        assert batch.dtype == torch.uint8


def read_others(path):
    read_weights(path)


def kinds():
    """Return by name: (suffix, valid files, reader, function that corrupts more cleverly than bytewise, or None)."""
    pictures = {"a.png": png(), "b.jpg": png(kind="JPEG"), "c.webp": png(kind="WEBP")}
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    line = {"images": 5, "resolution": 8, "alpha": 1.0, "stage_end": True, "d_loss": 0.5, "fid": 3.0}
    log = b"\n".join(json.dumps(line | {"images": i}).encode() for i in range(4))
    mean, covariance = np.zeros(16), np.eye(16)
    tree = content()
    inception = {f"Mixed_{i}.conv.weight": torch.zeros(1) for i in range(94)}
    labels = json.dumps({"labels": [["a.png", 0], ["b.png", 1]]}).encode()
    in_rgb = ("JPEG", "WEBP", "BMP", "TIFF", "PPM", "TGA", "JPEG2000")
    modes = {"PNG": "RGBA", "GIF": "L"} | dict.fromkeys(in_rgb, "RGB")
    encoded = {kind: png(kind=kind, mode=mode) for kind, mode in modes.items()}
    loaders = {
        "checkpoint": (".pt", [saved({"format": "pggan-checkpoint", "version": 1, **tree})], read_checkpoint, None),
        "checkpoint, checksums right": (".pt", [b""], read_checkpoint, lambda data, rng: in_torch_form(tree, rng)),
        "checkpoint of a run to resume": (".pt", [b""], resume_run, lambda data, rng: in_torch_form(tree, rng)),
        "config.json": (".json", [json.dumps(config().to_dict()).encode()], read_options, spoiled_json),
        "log.jsonl, metrics.jsonl": (".jsonl", [log], read_log, spoiled_json),
        "npz of images": (
            ".npz",
            [arrays(images=pixels), arrays(np.savez_compressed, images=pixels, labels=np.arange(3))],
            read_set,
            None,
        ),
        "npz of images to judge": (".npz", [arrays(images=pixels)], read_images, None),
        "statistics": (".npz", [arrays(mu=mean, sigma=covariance, num_images=np.array(9))], read_statistics, None),
        "zip": (".zip", [zipped(pictures), zipped(pictures, zipfile.ZIP_STORED)], read_set, None),
        "zip to judge": (".zip", [zipped({"a.png": png(), "b.png": png()})], read_images, None),
        "tar": (".tar", [tarred(pictures)], read_set, None),
        "tfrecords": (".tfrecords", [records()], read_records, None),
        "dataset.json": (".json", [labels], read_labels, spoiled_json),
        "Inception weights": (".pth", [saved(inception)], read_state_dict, None),
        "authors' snapshot": (".pkl", [(GOLDEN / "official_gray16_labels.pkl").read_bytes()], read_others, None),
        "weights of other codebases": (".pth", [saved({"a": torch.ones(2)}), saved(tree)], read_others, None),
        "pickle": (".pkl", [pickle.dumps({"a": [1, np.ones(3)]}, p) for p in (2, 4)], read_others, None),
    }
    images = {
        f"image, {kind}": ({"JPEG2000": ".jp2"}.get(kind, f".{kind.lower()}"), [data], read_image, None)
        for kind, data in encoded.items()
    }
    try:
        import safetensors  # noqa: F401
    except ImportError:
        return loaders | images
    return loaders | images | {"safetensors": (".safetensors", [safe(tree)], read_checkpoint, None)}


def safe(tree):
    path = Path("/tmp") / f"pggan-fuzz-{random.getrandbits(64)}.safetensors"
    try:
        networks = {name: tree["state"][name] for name in ("G", "D", "G_ema")}
        checkpoints.save_safetensors(path, tree | {"state": networks})
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def one_of_many(seeds, otherwise, rng):
    data = rng.choice(seeds)
    if otherwise and (not data or rng.random() < 0.5):
        return otherwise(data, rng)
    return mutated(data, rng, seeds)


@pytest.fixture
def bounded():
    """Limit the address space to MEMORY more than now (on systems with /proc)."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    if pages is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("kind", kinds())
def test_files_from_strangers_are_read_or_refused(kind, tmp_path, tries, count_fault, bounded, monkeypatch, capsys):
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    suffix, seeds, reader, otherwise = kinds()[kind]
    path, before = tmp_path / f"file{suffix}", {p.name for p in Path("/tmp").iterdir() if "fuzz" in p.name}
    seed = random.randrange(2**32)
    rng, found, slowest = random.Random(seed), Counter(), 0.0
    failures = []
    for number in range(tries(12, 1000)):
        data = one_of_many(seeds, otherwise, rng)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        start = time.perf_counter()
        try:
            reader(path)
            found["read"] += 1
        except REFUSALS as refusal:
            found["refused"] += 1
            if "\n" in str(refusal).split(":\n")[0]:
                failures.append(f"{number}: several lines: {refusal}")
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(f"{number}: {type(error).__name__}: {str(error)[:300]} in {where.filename}:{where.lineno}")
            (Path("/tmp") / f"pggan-fuzz-failure-{len(failures)}{suffix}").write_bytes(data)
        slowest = max(slowest, time.perf_counter() - start)
    count_fault(f"fuzz: {kind}", number + 1)
    unlike = list(dict.fromkeys(text.split(": ", 1)[1] for text in failures))
    assert not failures, f"seed {seed}: {len(failures)} of {number + 1}, {found}: " + "\n".join(unlike[:9])
    assert slowest < SECONDS, f"seed {seed}: one file took {slowest:.1f} s"
    after = {p.name for p in Path("/tmp").iterdir() if "fuzz" in p.name}
    assert after == before, "something in a file was run"
