"""Part "inception": features per second against torch-fidelity and pytorch-fid, and the time of an FID."""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pggan.config import resolve_config
from pggan.datasets import open_pyramid, open_source
from pggan.metrics import Suite
from pggan.metrics.inception import Inception, without_tf32
from pggan.metrics.weights import find_package_file, load_weights
from pggan.training.evaluation import Evaluator
from pggan.training.state import TrainState

from ..metrics_speed import peer_networks, time_in_turns
from .results import EXTRAPOLATED, MISSING, Clock, Item, Measurement, NotAvailable

FID_SECONDS = 180.0  # target for 50,000 generated images
FID_IMAGES = 50_000
Rows = tuple[list[Measurement], dict[str, Any]]


def items(options: Namespace) -> Iterator[Item]:
    """Yield the measurements, the most important first."""
    device, toy, weights = torch.device(options.device), options.toy, options.inception_weights
    yield Item("features at 299x299", partial(measure_features, device, toy, weights, 299))
    yield Item("FID of 50,000 images", partial(measure_fid, device, toy, weights))
    if not toy:
        yield Item("features at 32x32", partial(measure_features, device, toy, weights, 32))


def choose_weights(path: str | None) -> dict[str, Tensor]:
    """Return the weights from a file or an installed package; random ones without, with which the speed is the same.

    Raises:
        NotAvailable: there are none, and no torchvision, whose Inception-v3 has convolutions of the same shapes.
    """
    if path or find_package_file():
        return load_weights(path)
    try:
        from torchvision.models import inception_v3
    except ImportError as error:
        raise NotAvailable(f"random weights need torchvision: {error}") from None
    weights = inception_v3(weights=None, aux_logits=False, init_weights=False).state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, kernel in weights.items():
        if name.endswith("conv.weight"):  # He initialization keeps the scale of activations
            kernel.normal_(0.0, (2 / kernel[0].numel()) ** 0.5, generator=generator)
    return {name: value for name, value in weights.items() if not name.startswith("fc.")}


def measure_features(device: torch.device, toy: bool, path: str | None, side: int, clock: Clock) -> Rows:
    """Time Inception on uint8 images on the CPU, alternately with the peers: all in float32 without TF32, ours in bf16.

    The batch is what evaluations of a GPU use.
    """
    weights, batch, turns = choose_weights(path), 2 if toy else 256, 1 if toy else 3
    networks: dict[str, Any] = {"ours, fp32": Inception(weights, device)}
    if device.type == "cuda":
        networks["ours, bf16"] = Inception(weights, device, precision="bf16")
    peers = peer_networks(weights, device)
    images = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8)
    jobs = {name: partial(network, images) for name, network in (networks | peers).items()}
    with without_tf32():
        seconds = time_in_turns("Inception", jobs, turns)
    rates = {name: batch / statistics.median(times) for name, times in seconds.items()}
    rows = [Measurement(name, rate, "images/s") for name, rate in rates.items()]
    if peers:
        fastest = max(rates[name] for name in peers)
        rows.append(Measurement("fp32 to the faster peer", rates["ours, fp32"] / fastest, "x"))
    rows += [Measurement(name, MISSING) for name in ("torch-fidelity", "pytorch-fid") if name not in peers]
    return rows, {"seconds": seconds, "batch": batch}


def measure_fid(device: torch.device, toy: bool, path: str | None, clock: Clock) -> Rows:
    """Time an evaluation with FID as in training, with CIFAR-10's generator: all images if time allows, else a part."""
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = str(Path(folder, "random.pth"))
            torch.save(choose_weights(None), path)
        suite = Suite(["fid"], path, device, log=lambda line: None)
    options = {"data": "synthetic", "channels": 3, "resolution": 32, "fmap_base": 4096, "fmap_max": 128}
    pyramid = open_pyramid(open_source("synthetic"), 32, 3)
    generator = TrainState(resolve_config(options), 0, device).G_ema
    times: list[tuple[int, int, float]] = []  # generated images, real images, seconds
    for count in (4, 8) if toy else (64, 2048, FID_IMAGES):  # the first loads kernels
        reals = min(count, len(pyramid))
        if times and clock.remaining() < scale_time(times[-1], count, reals):
            break
        start = time.monotonic()
        Evaluator(pyramid, suite, count, seed=0)(generator, 32, 1.0)
        times.append((count, reals, time.monotonic() - start))
    count, seconds = times[-1][0], scale_time(times[-1], FID_IMAGES, min(FID_IMAGES, len(pyramid)))
    how = f"measured with {len(pyramid):,} real images"
    if count != FID_IMAGES:
        how = f"{EXTRAPOLATED} {count:,} images"
    target = None if toy else FID_SECONDS
    return [Measurement(f"seconds, {how}", seconds, "s", at_most=target)], {"generated, real, seconds": times}


def scale_time(measured: tuple[int, int, float], count: int, reals: int) -> float:
    """Return the seconds for these numbers of images, in proportion to a measurement of (generated, real, seconds)."""
    return measured[2] * (count + reals) / (measured[0] + measured[1])
