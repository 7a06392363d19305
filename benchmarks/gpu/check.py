"""Part "check": is training on this device correct?"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from pggan.config import TrainConfig, resolve_config
from pggan.networks import ARCHITECTURES
from pggan.training import TrainingStopped, train
from pggan.training.augment import Augmentation
from pggan.training.batch import Batch
from pggan.training.device import choose_kernels
from pggan.training.growth import Phase
from pggan.training.plan import estimate_memory
from pggan.training.ranks import SINGLE_PROCESS
from pggan.training.state import TrainState
from pggan.training.steps import Stepper

from .results import Clock, Item, Measurement, NotAvailable, silence

sys.path.append(str(Path(__file__).parents[2] / "tests"))  # has the comparison with the official code, in golden/

# Relative errors against the official float32 outputs, of outputs and gradients. In float64 the tests' own limits; in
# float32 this project reaches 7e-6 and 4e-5 on a CPU, and TF32, which must be off, would be near 1e-3.
GOLDEN_LIMITS = {torch.float64: (1e-5, 1e-4), torch.float32: (1e-4, 5e-4)}
# Relative norm of the difference between a CPU's and a GPU's float32 gradients: both round, in different orders
DEVICE_LIMIT = 1e-3
# A CPU with AMX reaches cosines of 0.997 to 0.999 and norms of 0.993 to 1.002, with 128 and 512 maps
BF16_COSINE, BF16_NORM = 0.99, (0.95, 1.05)
MEMORY_ESTIMATE = (0.85, 1.15)  # estimated / measured peak; --dry-run should be right to 15%
SMALL = {
    "cuda_graphs": False,
    "data": "synthetic",
    "channels": 3,
    "resolution": 16,
    "fmap_base": 128,
    "fmap_max": 32,
    "batch_size": 16,
}
RELATIVISTIC = {"loss": "relativistic", "penalty": "r1+r2"}
CPU_STEPS: dict[str, dict[str, Any]] = {
    **{arch: {"arch": arch} for arch in ARCHITECTURES},
    "R3GAN's loss": {"arch": "r3gan"} | RELATIVISTIC,
    "relativistic": RELATIVISTIC,
    "ADA": {"augment": "ada", "holdout": 0.05},
}
# Steps whose results must be the same with CUDA graphs: alpha, bf16, options
GRAPH_STEPS: dict[str, tuple[float, bool, dict[str, Any]]] = {
    "fp32": (1.0, False, {}),
    "bf16, fading": (0.5, True, {}),
    "micro-batches": (1.0, True, {"micro_batch": 8}),
    "power EMA": (1.0, True, {"power_ema": True}),
    "penalty every 4 steps": (1.0, True, {"penalty_every": 4} | RELATIVISTIC),
}
Rows = tuple[list[Measurement], dict[str, Any]]


def items(options: Namespace) -> Iterator[Item]:
    """Yield the checks, the most important first."""
    device, toy = torch.device(options.device), options.toy
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # --deterministic needs it before CUDA starts
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    for dtype in GOLDEN_LIMITS:
        yield Item(f"official outputs in {str(dtype)[6:]}", partial(check_golden, device, dtype, toy))
    for name, more in CPU_STEPS.items():
        yield Item(f"step as on a CPU: {name}", partial(check_against_cpu, device, more))
    yield Item("no waiting within steps", partial(check_synchronization, device))
    for precision in ("bf16", "fp32"):
        yield Item(f"deterministic resume in {precision}", partial(check_resume, device, precision, toy))
    yield Item("CUDA graphs give the same weights", partial(check_graphs, device))
    for maps, batch in ((512, 64), (128, 128)):
        yield Item(f"bf16 against fp32 with {maps} maps", partial(check_bf16, device, maps, batch, toy))
    yield Item("out of memory", partial(check_out_of_memory, device))
    for stage in [(512, 32, 64), (512, 128, 16), (128, 32, 128)]:
        yield Item("memory of maps:resolution:batch " + ":".join(map(str, stage)), partial(check_memory, device, stage))


def check_golden(device: torch.device, dtype: torch.dtype, toy: bool, clock: Clock) -> Rows:
    """Compare networks, losses and gradients with the official code's recorded outputs, at every stage and fade."""
    from golden.compare import ERRORS, LEVELS_OF_DETAIL, Stage, load_golden

    worst = dict.fromkeys(ERRORS, 0.0)
    for name, count in LEVELS_OF_DETAIL.items():
        for index in range(1 if toy else count):
            stage = Stage(*load_golden(name), index, dtype, device)
            for what in ERRORS:
                worst[what] = max(worst[what], float(getattr(stage, f"{what}_error")()))
    limit, gradient_limit = GOLDEN_LIMITS[dtype]
    rows = [
        Measurement(f"error of {what}", error, at_most=gradient_limit if what.endswith("gradients") else limit)
        for what, error in worst.items()
    ]
    return rows, {}


def check_against_cpu(device: torch.device, more: dict[str, Any], clock: Clock) -> Rows:
    """Compare the gradients and terms of a step in float32 with those of the same step on a CPU."""
    rows: list[Measurement] = []
    data: dict[str, Any] = {}
    for alpha in (0.5, 1.0) if more.get("arch", "pggan") == "pggan" else (1.0,):
        # SGD: Adam's first step has the gradient's sign alone, which rounding can change
        options = SMALL | {"optimizer": "sgd", "mirror": True, "repeats": 1} | more
        phase = Phase(16, alpha, 16, 0.001, 1)
        found = {where: take_steps(options, where, phase, count=1) for where in (torch.device("cpu"), device)}
        (ours, _), (reference, _) = found[device], found[torch.device("cpu")]
        for name in ("D", "G"):
            pair = [flatten_gradients(getattr(state, name)) for state in (ours, reference)]
            error = float((pair[0] - pair[1]).norm() / pair[1].norm())
            rows.append(Measurement(f"error of {name}'s gradient, alpha {alpha:g}", error, at_most=DEVICE_LIMIT))
        terms = [{name: float(x) for name, x in state.sums.items()} for state in (ours, reference)]
        error = max(abs(terms[0][name] - x) / max(abs(x), 1e-3) for name, x in terms[1].items())
        rows.append(Measurement(f"error of losses and scores, alpha {alpha:g}", error, at_most=DEVICE_LIMIT))
        data[f"terms, alpha {alpha:g}"] = terms
    return rows, data


def check_bf16(device: torch.device, maps: int, batch: int, toy: bool, clock: Clock) -> Rows:
    """Compare the direction and the norm of gradients in bf16 with those in float32, of the same weights."""
    if toy:
        raise NotAvailable("the rehearsal is in fp32")
    options = SMALL | {"resolution": 32, "fmap_base": 8192, "fmap_max": maps, "optimizer": "sgd", "batch_size": batch}
    phase, rows = Phase(32, 1.0, batch, 0.001, 1), []
    states = [take_steps(options, device, phase, count=1, bf16=bf16)[0] for bf16 in (True, False)]
    for name in ("D", "G"):
        bf16, fp32 = (flatten_gradients(getattr(state, name)).double() for state in states)
        cosine, ratio = float(bf16 @ fp32 / bf16.norm() / fp32.norm()), float(bf16.norm() / fp32.norm())
        rows.append(Measurement(f"cosine of {name}'s gradient", cosine, at_least=BF16_COSINE))
        rows.append(Measurement(f"norm of {name}'s gradient", ratio, "x", *BF16_NORM))
    return rows, {}


def check_synchronization(device: torch.device, clock: Clock) -> Rows:
    """Take steps while PyTorch raises an error wherever the host would wait for the GPU."""
    if device.type != "cuda":
        raise NotAvailable("needs a GPU")
    variants = {
        "stable": {},
        "fading": {"alpha": 0.5},
        "mirrored": {"mirror": True},
        "augmented, held out": {"augment": "ada", "alpha": 0.5, "mirror": True},
        "bf16": {"precision": "bf16", "alpha": 0.5},
        "RMSprop, weight clipping": {"loss": "wgan", "optimizer": "rmsprop"},
        "CUDA graphs": {"cuda_graphs": True, "alpha": 0.5, "mirror": True},
        "CUDA graphs, ADA": {"cuda_graphs": True, "augment": "ada"},
    }
    rows, places = [], {}
    for name, options in variants.items():
        alpha, options = options.pop("alpha", 1.0), SMALL | options  # type: ignore[attr-defined]
        phase, bf16 = Phase(16, alpha, 16, 0.001, 1), options.pop("precision", "fp32") == "bf16"
        # five: the first steps create moments, and the fourth captures a graph
        state, stepper = take_steps(options, device, phase, count=5, bf16=bf16)
        held_out = make_batch(phase, pin=True) if "augment" in options else None
        batches = [make_batch(phase, pin=True) for _ in range(2)]
        torch.cuda.synchronize()
        try:
            with forbid_synchronization():
                for batch in batches:
                    stepper.step(state, batch, phase, held_out)
            rows.append(Measurement(name, "does not wait"))
        except RuntimeError as error:
            rows.append(Measurement(name, f"waits: {str(error).splitlines()[0][:60]} at {find_place(error)}"))
            places[name] = find_place(error)
    return [*rows, Measurement("variants that wait", float(len(places)), at_most=0)], places


@contextmanager
def forbid_synchronization() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def find_place(error: BaseException) -> str:
    """Return file:line of the innermost frame that belongs to this project."""
    place, frame = "unknown", error.__traceback__
    while frame:
        if "pggan" in Path(frame.tb_frame.f_code.co_filename).parts[-3:]:
            place = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
        frame = frame.tb_next
    return place


def check_resume(device: torch.device, precision: str, toy: bool, clock: Clock) -> Rows:
    """Train with --deterministic twice, and once stopped in the middle of a fade and resumed: the same bits.

    With CUDA graphs, as by default. Not with ADA, whose resampling is not deterministic on a GPU (docs/data.md).
    """
    if toy and precision == "bf16":
        raise NotAvailable("the rehearsal is in fp32")
    options = SMALL | {"fade_kimg": 0.32, "stabilize_kimg": 0.32, "repeats": 1, "mirror": True, "augment": "diffaug"}
    options |= {"deterministic": True, "precision": precision, "holdout": 0.05, "cuda_graphs": None}
    options |= {"fmap_base": 16, "fmap_max": 4, "resolution": 8} if toy else {}
    with tempfile.TemporaryDirectory() as folder, restore_determinism(), warnings.catch_warnings(record=True) as found:
        stops = {"a": 0, "b": 0, "c": 560}  # images; 8x8 fades in from 320 to 640
        runs = [run_training(options, device, Path(folder, name), stop) for name, stop in stops.items()]
    differences = [find_differences(runs[0], other) for other in runs[1:]]
    rows = [
        Measurement("tensors that differ between two runs", float(len(differences[0])), at_most=0),
        Measurement("tensors that differ after stopping and resuming", float(len(differences[1])), at_most=0),
    ]
    warned = sorted({str(warning.message).splitlines()[0] for warning in found})  # such as of atomic additions
    return rows, {"tensors": len(flatten(runs[0])), "differ": [names[:20] for names in differences], "warned": warned}


@contextmanager
def restore_determinism() -> Iterator[None]:
    benchmark = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = benchmark


def run_training(options: dict[str, Any], device: torch.device, out: Path, stop_at: int = 0) -> dict[str, Any]:
    """Train, if asked with SIGTERM after `stop_at` images and a second start; return the last checkpoint's state."""
    config = make_config(options, device, out)
    if stop_at:
        step = Stepper.step

        def interrupt(self: Stepper, state: TrainState, *arguments: Any) -> None:
            step(self, state, *arguments)
            if state.images >= stop_at:
                signal.raise_signal(signal.SIGTERM)

        try:
            with mock.patch.object(Stepper, "step", interrupt), silence():
                train(config)
            raise RuntimeError("SIGTERM did not stop the run")
        except TrainingStopped:
            pass
    with silence():
        train(config)
    return torch.load(out / "checkpoints" / "latest.pt", map_location="cpu", weights_only=True)["state"]


def make_config(options: dict[str, Any], device: torch.device, out: Path) -> TrainConfig:
    quiet = {"metrics": "none", "track": "none", "device": str(device), "out": str(out)}
    return resolve_config(quiet | options)


def find_differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the names of values that are not bit for bit the same in two states."""
    a, b = flatten(a), flatten(b)
    names = a.keys() ^ b.keys() | {name for name in a.keys() & b.keys() if not is_identical(a[name], b[name])}
    return sorted(names)


def is_identical(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts by path, except the seconds that a run took and optimizers' options."""
    if not isinstance(value, dict):
        return {name: value}
    kept = {key: part for key, part in value.items() if key not in ("seconds", "elapsed", "param_groups")}
    return {k: v for key, part in kept.items() for k, v in flatten(part, f"{name}.{key}").items()}


def check_graphs(device: torch.device, clock: Clock) -> Rows:
    """Take the same steps with and without CUDA graphs, and compare all weights and moments bit for bit.

    Deterministic kernels are needed: float32 convolutions differ from run to run without them.
    """
    if device.type != "cuda":
        raise NotAvailable("needs a GPU")
    rows = []
    for name, (alpha, bf16, more) in GRAPH_STEPS.items():
        phase = Phase(16, alpha, 16, 0.001, 1, micro_batch=more.get("micro_batch"))
        pair = []
        with restore_determinism():
            choose_kernels(deterministic=True)
            for graphs in (False, True):
                options = SMALL | {"cuda_graphs": graphs, "mirror": True} | more
                pair.append(take_steps(options, device, phase, count=8, bf16=bf16)[0].state_dict())
        differ, count = find_differences(*pair), len(flatten(pair[0]))
        rows.append(Measurement(f"values of {count} that differ, {name}", float(len(differ)), at_most=0))
    return rows, {}


def check_out_of_memory(device: torch.device, clock: Clock) -> Rows:
    """Train with less GPU memory than a step needs: the run stops with advice, and following it helps."""
    if device.type != "cuda":
        raise NotAvailable("needs a GPU")
    options = SMALL | {"resolution": 32, "fmap_base": 8192, "fmap_max": 128, "growing": False, "batch_size": 1024}
    options |= {"stabilize_kimg": 8.192, "precision": "fp32"}
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info(device)[1]
    limit = torch.cuda.memory_reserved(device) + (1 << 30)  # 1 GiB: for a batch of 64, but not for one of 1,024
    torch.cuda.set_per_process_memory_fraction(limit / total)
    messages: list[str] = []
    end = "no"
    try:
        with tempfile.TemporaryDirectory() as folder:
            while len(messages) < 8:
                try:
                    with silence():
                        train(make_config(options, device, Path(folder, "run")))
                    end = f"with --micro-batch {options.get('micro_batch')}"
                    break
                except TrainingStopped as stopped:
                    messages.append(str(stopped))
                    if not (advice := re.search(r"--micro-batch (\S+?),? ", str(stopped))):
                        break
                    options["micro_batch"] = advice[1].rstrip(",")
                gc.collect()
                torch.cuda.empty_cache()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    advised = sum("--micro-batch" in message for message in messages)
    rows = [
        Measurement("stops with advice", float(advised), at_least=1),
        Measurement("other stops", float(len(messages) - advised), at_most=0),
        Measurement("runs in the end", end),
    ]
    return rows, {"messages": messages}


def check_memory(device: torch.device, stage: tuple[int, int, int], clock: Clock) -> Rows:
    """Compare the estimate of `--dry-run` with the peak of steps."""
    if device.type != "cuda":
        raise NotAvailable("needs a GPU")
    maps, resolution, batch = stage
    rows, data = [], {}
    for bf16 in (True, False):
        options = SMALL | {"resolution": resolution, "fmap_base": 8192, "fmap_max": maps, "batch_size": batch}
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        phase = Phase(resolution, 1.0, batch, 0.001, 1)
        state, _ = take_steps(options, device, phase, count=3, bf16=bf16)
        peak, reserved = torch.cuda.max_memory_allocated(device) - before, torch.cuda.max_memory_reserved(device)
        estimate = estimate_memory(resolve_config(options), state, phase, bf16)
        name = "bf16" if bf16 else "fp32"
        rows.append(Measurement(f"estimated / allocated, {name}", estimate / peak, "x", *MEMORY_ESTIMATE))
        data[name] = {"estimate": estimate, "allocated": peak, "reserved": reserved}
        del state
    return rows, data


def take_steps(
    options: dict[str, Any], device: torch.device, phase: Phase, count: int, bf16: bool = False
) -> tuple[TrainState, Stepper]:
    """Take steps on the same random images on any device; return the state and the stepper."""
    config = resolve_config(options)
    augment = Augmentation.from_config(config)
    state, stepper = TrainState(config, 0, device), Stepper.from_config(config, bf16, augment, device=device)
    state.augment_p.fill_(0.8)  # of ADA, which otherwise starts at 0
    for _ in range(count):
        stepper.step(state, make_batch(phase, pin=device.type == "cuda"), phase)
    return state, stepper


def make_batch(phase: Phase, pin: bool = False) -> Batch:
    rng, shape = torch.Generator().manual_seed(0), (phase.batch_size, 3, phase.resolution, phase.resolution)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=rng)
    return Batch(images.pin_memory() if pin else images, None, SINGLE_PROCESS.share(phase.batch_size, 4))


def flatten_gradients(network: nn.Module) -> Tensor:
    """Return all gradients of a network as one vector on the CPU."""
    return torch.cat([p.grad.flatten().float().cpu() for p in network.parameters() if p.grad is not None])
