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
from mutate import corrupt, corrupt_json, mutate
from PIL import Image

import pggan
from pggan import checkpoints
from pggan.checkpoints import CheckpointError, RunDirectory
from pggan.checkpoints.run_directory import read_lines
from pggan.config import ConfigError, resolve_config
from pggan.datasets import DataError, ImageStream, open_pyramid, open_source
from pggan.interop import WeightsError, read_weights
from pggan.metrics import MetricError
from pggan.metrics.statistics_file import read_statistics
from pggan.metrics.weights import read_state_dict
from pggan.training.growth import GrowthController
from pggan.training.resume import explain_mismatch, resolve_resumed_config, start_from_checkpoint
from pggan.training.state import TrainState, network_arguments
from pggan.use.grow import read_grid
from pggan.use.report.run import read_run
from pggan.use.search import read_image as read_target_image

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
EXPECTED_ERRORS = (CheckpointError, DataError, MetricError, ConfigError, WeightsError)
SECONDS, MEMORY = 20, 3 << 30  # limits: seconds per file, and bytes of address space beyond those in use at the start


@functools.cache
def make_config():
    return resolve_config(OPTIONS)


def make_content():
    """Return the content of a tiny run's checkpoint."""
    state = TrainState(make_config(), 0, torch.device("cpu"))
    for network, optimizer in ((state.G, state.g_optimizer), (state.D, state.d_optimizer)):
        for p in network.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    return {
        "images": 64,
        "stage": {"resolution": 8, "alpha": 0.5},
        "config": make_config().to_dict(),
        "classes": [],
        "networks": network_arguments(make_config(), 0),
        "data": "x",
        "versions": {"torch": "2"},
        "state": state.state_dict(),
    }


def serialize(value, zipped=True):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


class RunsCode:
    """Run code when unpickled."""

    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('/tmp/pggan-fuzz-was-here').touch()",)


def make_bad_values():
    huge = torch.zeros(1, dtype=torch.float64).expand(10**9)
    return (
        *(huge, torch.zeros(()), torch.zeros(0), torch.zeros(3, 3, dtype=torch.complex64)),
        *(torch.zeros(2).to_sparse(), torch.full((4,), float("nan")), torch.nn.Parameter(torch.ones(2))),
        *(torch.ones(1, device="meta"), RunsCode(), {1, 2}, b"bytes", -1, "text", None, [], {}),
        *(10**400, 2**31, float("inf"), torch.float32, bytearray(3)),
    )


def corrupt_checkpoint(value, rng):
    """Return a checkpoint with correct checksums and one part of its content corrupted."""
    return serialize(corrupt({"format": "pggan-checkpoint", "version": 1, **value}, rng, make_bad_values()))


def encode_image(mode="RGB", size=(8, 8), image_format="PNG", **options):
    file = io.BytesIO()
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(len(image_format)).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    Image.fromarray(pixels if channels > 1 else pixels[..., 0]).save(file, image_format, **options)
    return file.getvalue()


def make_zip(members, pack=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", pack) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def make_tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def make_npz(pack=np.savez, **parts):
    file = io.BytesIO()
    pack(file, **parts)
    return file.getvalue()


def make_npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def make_graph():
    """Return a small model.json with progan-128's operations, for an 8x8 generator of 4 maps."""
    operations = "BatchToSpaceND Const Maximum Mean Minimum Mul Pad Placeholder Reshape Rsqrt Square Tile".split()
    nodes, weights = [{"op": op, "name": op} for op in operations], []
    shapes = [[4, 4, 4, 4], [3, 3, 4, 4], [3, 3, 4, 4], [3, 3, 4, 4], [1, 1, 4, 3]]  # [height, width, in, out]
    for i, shape in enumerate(shapes):
        weights.append({"name": f"kernel{i}", "shape": shape, "dtype": "float32"})
        weights.append({"name": f"bias{i}", "shape": shape[-1:], "dtype": "float32"})
        nodes.append({"op": "Conv2D", "name": f"conv{i}", "input": [f"x{i}", f"kernel{i}"]})
        nodes.append({"op": "Add", "name": f"add{i}", "input": [f"conv{i}", f"bias{i}"]})
    manifest = [{"paths": ["shard1.bin"], "weights": weights}]
    return json.dumps({"modelTopology": {"node": nodes}, "weightsManifest": manifest}).encode()


def make_tfrecords(count=2, side=8):
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
    state = TrainState(make_config(), 0, torch.device("cpu"))
    start_from_checkpoint(state, str(path), make_config(), GrowthController(make_config()), [])


def resume_run(path):
    """Resume a run directory with this checkpoint, as train.py does."""
    run = RunDirectory(path.parent / "run")
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    for old in run.checkpoints.iterdir():
        old.unlink()
    run.latest.write_bytes(path.read_bytes())
    found = run.load_newest(lambda line: None)
    with explain_mismatch(path):
        TrainState(make_config(), 0, torch.device("cpu")).load_state_dict(found["state"])


def read_dataset(path):
    """Read a dataset all the way into a cache, as train.py does."""
    cache = path.parent / "cache"
    source = open_source(str(path), labels=path.name.startswith("labels"))
    open_pyramid(source, 8, 3, allow_upscale=True, max_bad=0.99, workers=1, cache=cache)


def read_image(path):
    folder = path.parent / "one"
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_bytes(path.read_bytes())
    try:
        read_dataset(folder)
    finally:
        (folder / path.name).unlink()


def read_image_for_metrics(path):
    folder = path.parent / "one-for-metrics"
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_bytes(path.read_bytes())
    try:
        read_images(folder)
    finally:
        (folder / path.name).unlink()


def read_target(path):
    """Read the image that project and upscale search for."""
    read_target_image(path, 3)


def read_class_list(path):
    """Read the labels of TFRecords."""
    folder = path.parent / "labels-tf"
    folder.mkdir(exist_ok=True)
    (folder / "set-r03.tfrecords").write_bytes(make_tfrecords())
    (folder / "set.labels").write_bytes(path.read_bytes())
    open_source(str(folder), labels=True)


def read_graph(path):
    """Read progan-128's model.json beside its shards."""
    folder = path.parent / "graph"
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_bytes(path.read_bytes())
    (folder / "shard1.bin").write_bytes(bytes(40_000))
    read_weights(folder)


def read_records(path):
    folder = path.parent / "tf"
    folder.mkdir(exist_ok=True)
    (folder / "set-r03.tfrecords").write_bytes(path.read_bytes())
    read_dataset(folder)


def read_labels(path):
    folder = path.parent / "labels-set"
    folder.mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(encode_image())
    (folder / "dataset.json").write_bytes(path.read_bytes())
    read_dataset(folder)


def read_options(path):
    run = RunDirectory(path.parent / "run")
    run.folder.mkdir(exist_ok=True)
    run.config.write_bytes(path.read_bytes())
    resolve_resumed_config(run, make_config())
    resolve_config({}, str(path))


def read_log(path):
    run = RunDirectory(path.parent / "run-of-log")
    run.folder.mkdir(exist_ok=True)
    run.config.write_text(json.dumps(make_config().to_dict()))
    run.log.write_bytes(path.read_bytes())
    run.metrics.write_bytes(path.read_bytes())
    read_lines(path)
    read_run(run.folder)
    run.cut_logs(10)


def read_images(path):
    for batch in ImageStream(open_source(str(path))).batches():
        assert batch.dtype == np.uint8


def read_other_weights(path):
    read_weights(path)


def make_formats():
    """Return by format: (suffix, valid files, reader, function that corrupts parsed content or None)."""
    images = {
        "a.png": encode_image(),
        "b.jpg": encode_image(image_format="JPEG"),
        "c.webp": encode_image(image_format="WEBP"),
    }
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    line = {"images": 5, "resolution": 8, "alpha": 1.0, "stage_end": True, "d_loss": 0.5, "fid": 3.0}
    log = b"\n".join(json.dumps(line | {"images": i}).encode() for i in range(4))
    mean, covariance = np.zeros(16), np.eye(16)
    content = make_content()
    inception = {f"Mixed_{i}.conv.weight": torch.zeros(1) for i in range(94)}
    labels = json.dumps({"labels": [["a.png", 0], ["b.png", 1]]}).encode()
    in_rgb = ("JPEG", "WEBP", "BMP", "TIFF", "PPM", "TGA", "JPEG2000")
    modes = {"PNG": "RGBA", "GIF": "L"} | dict.fromkeys(in_rgb, "RGB")
    encoded = {name: encode_image(image_format=name, mode=mode) for name, mode in modes.items()}
    formats = {
        "checkpoint": (
            ".pt",
            [serialize({"format": "pggan-checkpoint", "version": 1, **content})],
            read_checkpoint,
            None,
        ),
        "checkpoint, checksums right": (
            ".pt",
            [b""],
            read_checkpoint,
            lambda data, rng: corrupt_checkpoint(content, rng),
        ),
        "checkpoint of a run to resume": (".pt", [b""], resume_run, lambda data, rng: corrupt_checkpoint(content, rng)),
        "config.json": (".json", [json.dumps(make_config().to_dict()).encode()], read_options, corrupt_json),
        "log.jsonl, metrics.jsonl": (".jsonl", [log], read_log, corrupt_json),
        "npz of images": (
            ".npz",
            [make_npz(images=pixels), make_npz(np.savez_compressed, images=pixels, labels=np.arange(3))],
            read_dataset,
            None,
        ),
        "npz of images for metrics": (".npz", [make_npz(images=pixels)], read_images, None),
        "statistics": (".npz", [make_npz(mu=mean, sigma=covariance, num_images=np.array(9))], read_statistics, None),
        "zip": (".zip", [make_zip(images), make_zip(images, zipfile.ZIP_STORED)], read_dataset, None),
        "zip for metrics": (".zip", [make_zip({"a.png": encode_image(), "b.png": encode_image()})], read_images, None),
        "tar": (".tar", [make_tar(images)], read_dataset, None),
        "tfrecords": (".tfrecords", [make_tfrecords()], read_records, None),
        "dataset.json": (".json", [labels], read_labels, corrupt_json),
        "labels of TFRecords": (".labels", [make_npy(np.eye(2, dtype=np.float32))], read_class_list, None),
        "Inception weights": (".pth", [serialize(inception)], read_state_dict, None),
        "authors' snapshot": (".pkl", [(GOLDEN / "official_gray16_labels.pkl").read_bytes()], read_other_weights, None),
        "weights of other codebases": (
            ".pth",
            [serialize({"a": torch.ones(2)}), serialize(content), serialize({"a": torch.ones(2)}, zipped=False)],
            read_other_weights,
            None,
        ),
        "progan-128's model.json": (".json", [make_graph()], read_graph, corrupt_json),
        "pickle": (".pkl", [pickle.dumps({"a": [1, np.ones(3)]}, p) for p in (2, 4)], read_other_weights, None),
    }
    image_formats = {
        f"image, {name}": ({"JPEG2000": ".jp2"}.get(name, f".{name.lower()}"), [data], read_image, None)
        for name, data in encoded.items()
    }
    image_formats |= {
        f"image for {name}": (".png", list(encoded.values()), reader, None)
        for name, reader in (("metrics", read_image_for_metrics), ("project", read_target), ("grow", read_grid))
    }
    try:
        import safetensors  # noqa: F401
    except ImportError:
        return formats | image_formats
    return (
        formats | image_formats | {"safetensors": (".safetensors", [make_safetensors(content)], read_checkpoint, None)}
    )


def make_safetensors(content):
    path = Path("/tmp") / f"pggan-fuzz-{random.getrandbits(64)}.safetensors"
    try:
        networks = {name: content["state"][name] for name in ("G", "D", "G_ema")}
        checkpoints.save_safetensors(path, content | {"state": networks})
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def corrupt_one(valid_files, corrupt_content, rng):
    data = rng.choice(valid_files)
    if corrupt_content and (not data or rng.random() < 0.5):
        return corrupt_content(data, rng)
    return mutate(data, rng, valid_files)


@pytest.fixture
def limit_memory():
    """Limit the address space to MEMORY bytes more than the process uses now (on systems with /proc)."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    if pages is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("file_format", make_formats())
def test_corrupted_file_is_read_or_rejected(
    file_format, tmp_path, tries, count_fault, limit_memory, monkeypatch, capsys
):
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    suffix, valid_files, reader, corrupt_content = make_formats()[file_format]
    path, before = tmp_path / f"file{suffix}", {p.name for p in Path("/tmp").iterdir() if "fuzz" in p.name}
    seed = random.randrange(2**32)
    rng, results, slowest = random.Random(seed), Counter(), 0.0
    failures = []
    for number in range(tries(12, 1000)):
        data = corrupt_one(valid_files, corrupt_content, rng)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        start = time.perf_counter()
        try:
            reader(path)
            results["read"] += 1
        except EXPECTED_ERRORS as error:
            results["rejected"] += 1
            if "\n" in str(error).split(":\n")[0]:
                failures.append(f"{number}: several lines: {error}")
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(f"{number}: {type(error).__name__}: {str(error)[:300]} in {where.filename}:{where.lineno}")
            (Path("/tmp") / f"pggan-fuzz-failure-{len(failures)}{suffix}").write_bytes(data)
        slowest = max(slowest, time.perf_counter() - start)
    count_fault(f"fuzz: {file_format}", number + 1)
    distinct = list(dict.fromkeys(text.split(": ", 1)[1] for text in failures))
    assert not failures, f"seed {seed}: {len(failures)} of {number + 1}, {results}: " + "\n".join(distinct[:9])
    assert slowest < SECONDS, f"seed {seed}: one file took {slowest:.1f} s"
    after = {p.name for p in Path("/tmp").iterdir() if "fuzz" in p.name}
    assert after == before, "code in a file was executed"
