"""Part "speed": steps per second and memory against pro_gan_pytorch, and what each switch gains."""

from __future__ import annotations

import functools
import gc
import importlib.util
import json
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pggan.config import resolve_config
from pggan.training import train
from pggan.training.device import measure_matrix_rate

from ..step_speed import PEER, compare
from .results import MISSING, Clock, Item, Measurement, silence

TO_PEER, OF_RATE = 4.0, 0.35  # targets: bf16 with 512 maps at 32x32 against the peer, and of the matrix rate
IMAGES_PER_SECOND = 10_000  # target: CIFAR-10's networks at batch 64 or more
COMPILE_SECONDS = 60.0  # torch.compile of the generator's forward and backward pass; it took 28 s on two CPU cores
Rows = tuple[list[Measurement], dict[str, Any]]


def items(options: Namespace) -> Iterator[Item]:
    """Yield the measurements, the most important first."""
    device, toy = torch.device(options.device), options.toy
    measure = partial(measure_stage, device, toy)
    sides = ["ours bf16", "ours fp32"]
    graphs = ["ours bf16, CUDA graphs"] if device.type == "cuda" else []
    wide = (8, 8, 4) if toy else (512, 32, 64)
    yield Item("matrix rate", partial(measure_rates, device, toy))
    for stage in [wide] if toy else [(128, 32, 64), wide, (128, 32, 128)]:
        yield Item(name_stage(stage), partial(measure, stage, [*sides, *graphs]))
    if toy:
        yield Item("training loop", partial(measure_loop, device, toy, {}))
        return
    # without fp32, which is slow with 512 maps: 181 images/s at 32x32 on an H200
    for stage in ((512, 64, 32), (512, 128, 16), (512, 256, 8), (128, 32, 256), (128, 32, 16)):
        yield Item(name_stage(stage), partial(measure, stage, ["ours bf16", *graphs]))
    if graphs:
        yield Item("training loop, CUDA graphs", partial(measure_loop, device, toy, {"cuda_graphs": True}))
    compiled = ["ours bf16", "ours bf16, compiled"]
    yield Item(
        f"torch.compile, {name_stage((128, 32, 64))}",
        partial(measure, (128, 32, 64), compiled, peer=False),
        seconds=COMPILE_SECONDS,
    )
    variants = [f"ours bf16, {variant}" for variant in ("cudnn.benchmark", "EMA one by one", "kernels not shared")]
    for stage in (wide, (128, 32, 64)):
        yield Item(f"switches, {name_stage(stage)}", partial(measure, stage, ["ours bf16", *variants], peer=False))
    yield Item("training loop", partial(measure_loop, device, toy, {"cuda_graphs": False}))


def name_stage(stage: tuple[int, int, int]) -> str:
    maps, resolution, batch = stage
    return f"{maps} maps at {resolution}x{resolution}, batch {batch}"


@functools.cache
def matrix_rates(device: torch.device, seconds: float) -> dict[str, float]:
    """Return FLOP/s of a large matrix product by dtype."""
    return {dtype: measure_matrix_rate(device, getattr(torch, dtype), seconds) for dtype in ("bfloat16", "float32")}


def measure_rates(device: torch.device, toy: bool, clock: Clock) -> Rows:
    rates = matrix_rates(device, 0.2 if toy else 3.0)
    return [Measurement(f"{dtype} matrix product", rate / 1e12, "TFLOP/s") for dtype, rate in rates.items()], rates


def measure_stage(
    device: torch.device, toy: bool, stage: tuple[int, int, int], names: list[str], clock: Clock, peer: bool = True
) -> Rows:
    """Compare sides of one stage, alternately; with the targets for this stage in bf16."""
    rates = matrix_rates(device, 0.2 if toy else 3.0)
    has_peer = importlib.util.find_spec("pro_gan_pytorch") is not None
    names = [*names, PEER] if peer and has_peer else names
    how = Namespace(alpha=1.0, turns=1 if toy else 3, seconds=0.05 if toy else 0.4)
    row = compare(names, stage, how, device, rates)
    maps, resolution, batch = stage
    rows = [] if has_peer or not peer else [Measurement(PEER, MISSING)]
    bf16 = {name: side for name, side in row["sides"].items() if name.startswith("ours bf16")}
    for name, side in row["sides"].items():
        rows.append(Measurement(name, side["images_per_second"], "images/s"))
        if "peak_bytes" in side:
            rows.append(Measurement(f"{name}, peak memory", side["peak_bytes"] / 2**20, "MiB"))
    fastest = max(bf16.values(), key=lambda side: side["images_per_second"])
    wide, narrow = maps == 512 and peer, maps == 128 and batch >= 64 and peer
    if "to_peer" in fastest:
        rows.append(Measurement("bf16 to peer", fastest["to_peer"], "x", at_least=TO_PEER if wide else None))
    of_rate = OF_RATE if wide and resolution == 32 else None
    rows.append(Measurement("bf16 of the matrix rate", fastest["of_rate"], at_least=of_rate))
    if narrow:
        rows.append(Measurement("bf16", fastest["images_per_second"], "images/s", at_least=IMAGES_PER_SECOND))
    if device.type == "cuda":
        gc.collect()  # networks and hooks refer to each other
        torch.cuda.empty_cache()
    return rows, row


def measure_loop(device: torch.device, toy: bool, more: dict[str, Any], clock: Clock) -> Rows:
    """Train as train.py does, with CIFAR-10's networks at 32x32 and the images on the device: the loop's own speed."""
    size = {"fmap_base": 64, "batch_size": 8, "resolution": 8} if toy else {"fmap_base": 4096, "batch_size": 128}
    kimg = 0.2 if toy else 60.0 if more.get("cuda_graphs") else 15.0  # a few seconds on a GPU
    options = {"resolution": 32, "fmap_max": 128, "growing": False, "stabilize_kimg": kimg, "tick_kimg": kimg / 4}
    options |= {"data": "synthetic", "channels": 3, "mirror": True, "metrics": "none", "track": "none"}
    options |= {"device": str(device), "precision": "fp32" if device.type == "cpu" else "bf16"}
    with tempfile.TemporaryDirectory() as folder, silence():
        run = Path(folder, "run")
        train(resolve_config(options | size | more | {"out": str(run)}))
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    last = lines[-1]
    rows = [
        Measurement("images/s of the last tick", last["images_per_second"]),
        Measurement("time waiting for images", last["loader_share"]),
        Measurement("peak memory", last["peak_memory_mb"], "MiB"),
    ]
    return rows, {"log": lines}
