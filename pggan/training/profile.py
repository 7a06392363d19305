"""python -m pggan profile: show where the time of a training step goes."""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..config import ConfigError, TrainConfig, add_options, resolve_config
from .batch import Batch
from .device import (
    choose_device,
    choose_kernels,
    choose_precision,
    describe_device,
    keep_freed_memory,
    measure_matrix_rate,
)
from .graphs import uses_graphs
from .growth import GrowthController, Phase
from .plan import format_table
from .ranks import SINGLE_PROCESS
from .state import TrainState, random_generator
from .steps import Stepper, freeze_weights, update_ema
from .tracking import log

TEXT = """\
Time some training steps of one stage on noise. Prints the time of each part of a step, and the FLOP/s of a step as a
fraction of a large matrix product's. Takes train.py's options, such as --preset, --batch-size and --precision.
"""
EXAMPLES = """\
examples:
  python -m pggan profile photos --preset cifar10
  python -m pggan profile photos --resolution 128 --at 64 --fading
"""
IMAGES = 2000  # of noise to gather batches from; any number well above the batch size will do
LIMIT = 60.0  # seconds, after which no further step begins: one with 512 maps at 128x128 takes a minute on two cores


def add_parser(commands: Any) -> None:
    p = commands.add_parser(
        "profile",
        help="show where the time of a training step goes",
        description=TEXT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(p)
    p.add_argument("--at", type=int, metavar="RESOLUTION", help="stage to time (default: the last)")
    p.add_argument("--fading", action="store_true", help="time the stage in the middle of its fade-in")
    p.add_argument(
        "--steps", type=int, default=10, metavar="N", help="number of steps to time, 1 to 100000 (default: %(default)s)"
    )
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    config = resolve_config({f.name: getattr(arguments, f.name) for f in fields(TrainConfig)})
    plan, at = GrowthController(config), config.resolution if arguments.at is None else arguments.at
    if not 1 <= arguments.steps <= 100_000:
        raise ConfigError(f"--steps: {arguments.steps} is outside the range from 1 to 100000")
    if at not in plan.resolutions:
        raise ConfigError(f"--at: there is no stage {at}; the stages are {', '.join(map(str, plan.resolutions))}")
    if arguments.fading and not plan.fades[plan.resolutions.index(at)]:
        raise ConfigError(
            f"--fading: the stage at {at}x{at} has no fade-in; omit the option, or choose another stage (--at)"
        )
    keep_freed_memory()
    choose_kernels(config.deterministic)
    device = choose_device(config.device)
    uses_graphs(config, device)  # raises ConfigError if --cuda-graphs is impossible here
    config = replace(config, precision=choose_precision(config, device, warn=log))
    phase = plan.phase(plan.find_position(at, 0.5 if arguments.fading else 1.0))
    print(profile_step(config, device, phase, arguments.steps))


def profile_step(config: TrainConfig, device: torch.device, phase: Phase, count: int) -> str:
    """Time `count` steps of a phase; return a table of a step's parts, with its images/s and FLOP/s."""
    step, end = TimedStep(config, device, phase), time.perf_counter() + LIMIT
    with FlopCount() as flops:
        step.time_whole()
    for _ in range(3):
        if time.perf_counter() < end - LIMIT / 2:
            step.time_whole()
    wholes: list[float] = []
    parts: list[dict[str, float]] = []
    while not wholes or (len(wholes) < count and time.perf_counter() < end):
        wholes.append(step.time_whole())
        parts.append(step.time_parts())
    if len(wholes) < count:
        log(f"warning: timed only {len(wholes)} of {count} steps within {LIMIT:g} s")
    whole = statistics.median(wholes)
    seconds = {name: statistics.median(each[name] for each in parts) for name in parts[0]}
    seconds["other, idle"] = max(whole - sum(seconds.values()), 0.0)
    rate = measure_matrix_rate(device, torch.bfloat16 if step.stepper.bf16 else torch.float32)
    fading = " fading in" if phase.is_fading else ""
    rows = [[name, f"{1000 * s:.2f}", f"{s / whole:.1%}"] for name, s in seconds.items()]
    return "\n".join(
        [
            f"{phase.resolution}x{phase.resolution}{fading}, batch {phase.batch_size}, {config.precision}, "
            f"{describe_device(device)}: {phase.batch_size / whole:,.1f} images/s",
            format_table(["part", "ms", "share"], [*rows, ["whole step", f"{1000 * whole:.2f}", ""]]),
            f"{flops.total / whole / 1e9:,.0f} GFLOP/s, {flops.total / whole / rate:.0%} of a large matrix product's "
            f"{rate / 1e9:,.0f} GFLOP/s in {config.precision}",
        ]
    )


class TimedStep:
    """Times a training step on noise in seconds, as a whole or part by part, synchronizing the device between parts."""

    def __init__(self, config: TrainConfig, device: torch.device, phase: Phase):
        self.state, self.phase, self.device = TrainState(config, 0, device), phase, device
        # every step has all parts, and no CUDA graph, since parts run one by one
        whole = replace(config, n_critic=1, penalty_every=1, cuda_graphs=False)
        self.stepper = Stepper.from_config(whole, config.precision == "bf16", device=device)
        shape = (IMAGES, config.channels, phase.resolution, phase.resolution)
        self.images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        self.share = SINGLE_PROCESS.share(phase.batch_size, config.mbstd_group)
        alpha = torch.tensor(phase.alpha, device=device) if phase.is_fading else 1.0
        self.stage = {"resolution": phase.resolution, "alpha": alpha}

    def make_batch(self) -> Batch:
        """Gather a batch from memory as `Feeder` does, and copy it to the device."""
        places = random_generator(0, self.state.images, "grid").integers(0, IMAGES, self.phase.batch_size)
        return Batch(self.images[torch.from_numpy(places)], None, self.share).to(self.device)

    def time_whole(self) -> float:
        """Return the seconds of a step, its batch included."""
        start = self.read_clock()
        self.stepper.step(self.state, self.make_batch(), self.phase)
        return self.read_clock() - start

    def time_parts(self) -> dict[str, float]:
        """Return the seconds of each part of the same step, by name."""
        state, stage, stepper = self.state, self.stage, self.stepper
        seconds: dict[str, float] = {}
        last = self.read_clock()

        def lap(name: str) -> None:
            nonlocal last
            now = self.read_clock()
            seconds[name], last = seconds.get(name, 0.0) + now - last, now

        critic = partial(state.D, **stage)

        inputs = stepper.draw_inputs(state, self.make_batch(), self.phase)
        part = inputs.batch
        with stepper.autocast(state):
            reals = stepper.prepare_reals(state, stage, part, "augmented reals")
            lap("data")
            with torch.no_grad():
                fakes = stepper.generate_fakes(state, stage, part, "d latents", "augmented fakes")
            lap("G forward")
            terms = stepper.loss.score_loss(critic, reals, fakes)
            lap("D forward")
        state.d_optimizer.zero_grad()
        terms["d_loss"].backward()
        lap("D backward")
        if stepper.loss.penalty:
            with stepper.autocast(state):
                penalty = stepper.loss.penalty_loss(critic, reals, fakes, part.noise["mixing"])
            lap("penalty, D forward and gradient")
            penalty["d_loss"].backward()
            lap("penalty, double backward")
        stepper.apply_gradients(state.D, state.d_optimizer, terms, "d_loss")
        lap("optimizers, EMA")
        state.g_optimizer.zero_grad()
        with stepper.autocast(state), freeze_weights(state.D):
            fakes = stepper.generate_fakes(state, stage, part, "g latents", "augmented g fakes")
            lap("G forward")
            terms = stepper.loss.generator_loss(critic, fakes, None, reals if stepper.loss.needs_reals else None)
            lap("D forward")
            terms["g_loss"].backward()
        lap("G backward, through D")
        stepper.apply_gradients(state.G, state.g_optimizer, terms, "g_loss")
        update_ema(state.G_ema, state.G, stepper.ema_decay)
        lap("optimizers, EMA")
        return seconds

    def read_clock(self) -> float:
        """Return the time in seconds, once the device has finished all queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class FlopCount(TorchDispatchMode):
    """Counts the floating-point operations of convolutions and matrix products in `total`.

    torch's FlopCounterMode attributes them to modules too, by hooks that fail in the graph of a gradient penalty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result
