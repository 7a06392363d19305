"""The plan of a run as a table: stages, batches, parameters, and what they will cost."""

from __future__ import annotations

import copy
import time
import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from checkpoints import RunDirectory
from datasets import open_source, summarize

from ..config import TrainConfig
from ..networks import Discriminator, Generator, build
from .device import choose_device, choose_precision, peak_memory
from .growth import GrowthController, Phase
from .losses import cautions
from .ranks import ALONE, Ranks
from .resume import begin_from, check_end, finished, fitting, same_run
from .state import TrainState, make_optimizer
from .steps import Batch, Stepper
from .tracking import duration

HOLES = 1.6  # bytes of a CPU's memory to a byte of tensors: measured on Linux from 128 maps at 32x32 to 256 at 64x64


def costs_per_image(arguments: dict[str, dict[str, Any]]) -> dict[int, float]:
    """Floating-point operations of the convolutions and products for one image through G and D, by resolution."""
    costs = {}
    with torch.device("meta"), torch.no_grad():
        generator, discriminator = (build(kind, arguments[kind]) for kind in ("generator", "discriminator"))
        generator.eval(), discriminator.eval()
        latents = torch.zeros(1, generator.latent_size)
        labels = torch.zeros(1, generator.label_size) if generator.label_size else None
        for resolution in [generator.resolution] if generator.multiscale else generator.resolutions:
            with FlopCounterMode(display=False) as counter:
                discriminator(generator(latents, labels, resolution=resolution))
            costs[resolution] = counter.get_total_flops()
    return costs


def time_left(
    plan: GrowthController, costs: dict[int, float], images: int, resolution: int, speed: float
) -> tuple[float, float]:
    """Seconds left in this stage and in the whole run, from the speed now (images/s at `resolution`)."""
    stage = whole = 0.0
    for row in plan.rows():
        left = max(row.end - max(row.start, images), 0)
        seconds = left / speed * costs[row.resolution] / costs[resolution]
        whole += seconds
        stage += seconds if row.resolution == resolution else 0
    return stage, whole


def print_plan(config: TrainConfig) -> None:
    """The whole plan as a table, with estimates for this machine; trains a step or two to know its speed.

    Raises:
        ConfigError: a plan that cannot be carried out, or is not that of the run in --out. CheckpointError: no
            checkpoint to start from.
    """
    source, device = open_source(config.data, config.labels), choose_device(config.device)
    print("\n".join(summarize(source)))
    classes = source.classes
    state = TrainState(config, len(classes), device)
    config, begun = start_of(config, state, classes)
    plan, done = GrowthController(config, state.stage_ends), state.images
    costs = costs_per_image(state.arguments)
    bf16 = choose_precision(config, device) == "bf16"
    speed, of_each_step, tried = measured_speed(config, state, costs, bf16)
    holes, taken = (HOLES, peak_memory(device)) if device.type == "cpu" else (1.0, 0)
    beside_tensors = max(taken - holes * memory(config, state, tried, bf16), 0)
    peaks = [beside_tensors + holes * memory(config, state, plan.phase(row.start + 1), bf16) for row in plan.rows()]
    rows, total, left = [], 0.0, 0.0
    for row, peak in zip(plan.rows(), peaks, strict=True):
        seconds = (row.end - row.start) * (costs[row.resolution] / speed + of_each_step / row.batch_size)
        total += seconds
        left += seconds * max(row.end - max(row.start, done), 0) / max(row.end - row.start, 1)
        rows.append(
            [
                f"{row.resolution}x{row.resolution}",
                "fade in" if row.fading else "stabilise",
                f"{row.start / 1000:g}",
                f"{row.end / 1000:g}",
                "0 -> 1" if row.fading else "1",
                f"{row.batch_size:g}",
                f"{row.lr:g}",
                " + ".join(f"{used_parameters(network, row.resolution) / 1e6:.2f}" for network in (state.G, state.D)),
                f"{peak / 2**30:.2f}",
                duration(seconds),
            ]
        )
    header = ["stage", "", "from kimg", "to kimg", "alpha", "batch", "lr", "G + D, million", "memory, GiB", "time"]
    print(table(header, rows))
    print("".join(f"\n{caution}" for caution in cautions(config)), end="")
    print(f"\nabout {duration(total)} of training on {device}, judging not counted; memory and time are estimates")
    print("".join(f"{line}\n" for line in begun), end="")
    if begun:
        print(f"about {duration(left)} of it are left")


def start_of(config: TrainConfig, state: TrainState, classes: list[str]) -> tuple[TrainConfig, list[str]]:
    """Puts the state where this run would start; the options it would have, and lines on what it starts from."""
    run = RunDirectory(config.out)
    if run.exists():
        config = same_run(run, config)
        if (found := run.find_newest()) is None:
            return config, []
        path, saved, _, note = found
        with fitting(path):
            plan = GrowthController(config)
            check_end(saved, config, plan)
            state.load_state_dict(saved["state"])
        seen = f"{run.folder} has seen {state.images / 1000:g} kimg"
        if state.images >= plan.total_images:
            seen = finished(config, plan, state.images)
        return config, [*([note] if note else []), seen]
    return begin_from(state, config, classes) if config.resume else (config, [])


def measured_speed(
    config: TrainConfig, state: TrainState, costs: dict[int, float], bf16: bool
) -> tuple[float, float, Phase]:  # fmt: skip
    """Cost carried out in a second, the seconds that a step takes beside that, whatever its batch, and the phase tried.

    By real steps of one and of three minibatch-stddev groups at the largest stage that takes about a second on a slow
    machine. What does not grow with the batch is the optimizers', or a GPU's waiting for its next kernel.
    """
    batch = config.mbstd_group
    affordable = [r for r, cost in costs.items() if cost * batch < 2e9] or [min(costs)]
    resolution = max(affordable)
    stepper = Stepper.of(replace(config, n_critic=1), bf16)

    def phase(count: int) -> Phase:
        return Phase(resolution, 1.0, count, 0.0, 1)

    def seconds(count: int) -> float:
        images = torch.randint(256, (count, config.channels, resolution, resolution), dtype=torch.uint8)
        labels = torch.zeros(count, dtype=torch.long) if state.G.label_size else None
        found = []
        for _ in range(4):
            start = time.perf_counter()
            stepper.step(state, Batch(images, labels, ALONE.share(count, batch)), phase(count))
            float(state.skipped_in_a_row.sum())  # waits for the device
            found.append(time.perf_counter() - start)
        return min(found[1:])

    one, three = seconds(batch), seconds(3 * batch)
    of_images = max((three - one) / 2, one / 20)
    return costs[resolution] * batch / of_images, max(one - of_images, 0.0), phase(3 * batch)


def used_parameters(network: nn.Module, resolution: int) -> int:
    """Parameters of the layers that run at a stage while it fades in; all of a network that has no stages."""
    if network.multiscale or not isinstance(network, (Generator, Discriminator)):
        return sum(p.numel() for p in network.parameters())
    level = resolution.bit_length() - 3
    heads = network.to_rgb if isinstance(network, Generator) else network.from_rgb
    unused = [*network.blocks[level:], *heads[level + 1 :], *heads[: max(level - 1, 0)]]
    count = sum(p.numel() for p in network.parameters())
    return count - sum(p.numel() for module in unused for p in module.parameters())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made in its context that live at the same time, and keeps the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.free, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def free(self, count: int) -> None:
        self.now -= count


def memory(config: TrainConfig, state: TrainState, phase: Phase, bf16: bool) -> int:
    """Bytes of the tensors that live at the peak of a stage's steps, found by steps on tensors without content.

    state: whose networks' arguments and device count; it is not changed.
    """
    batch, side = phase.batch_size, phase.resolution
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
        twin = copy.copy(state)
        with state.device:  # deepcopy cannot copy buffers here
            networks = [build(kind, state.arguments[kind]) for kind in ("generator", "discriminator", "generator")]
        twin.G, twin.D, twin.G_ema = networks
        twin.G_ema.requires_grad_(False)
        adam = replace(config, optimizer="adam")  # the others keep less, and RMSprop looks at numbers
        twin.g_optimizer, twin.d_optimizer = (make_optimizer(adam, network) for network in networks[:2])
        twin.skipped_in_a_row, twin.augment_p = (torch.zeros_like(t) for t in (state.skipped_in_a_row, state.augment_p))
        twin.clear_sums()
        weights = sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
        live.now = live.peak = 0
        images = torch.empty(batch, config.channels, side, side, dtype=torch.uint8, device=state.device)
        labels = torch.zeros(batch, dtype=torch.long, device=state.device) if state.G.label_size else None
        reals = Batch(images, labels, ALONE.share(batch, config.mbstd_group))
        stepper = Stepper.of(replace(config, n_critic=1), bf16)
        for _ in range(2):  # gradients and moments of both networks are there from the second on
            stepper.step(twin, reals, phase)
        return weights + live.peak


def idle_processes(plan: GrowthController, ranks: Ranks) -> list[str]:
    """A sentence for each stage that has less minibatch-stddev groups in a batch than there are processes."""
    found = []
    for resolution in plan.resolutions:
        batch = plan.phase(plan.stage_end(resolution)).batch_size
        groups = batch // min(batch, plan.config.mbstd_group)
        if groups < ranks.count:
            found.append(
                f"at {resolution}x{resolution} a batch of {batch} is {groups} minibatch-stddev groups: "
                f"{ranks.count - groups} of {ranks.count} processes have nothing to do; a larger --batch-size has more"
            )
    return found


def print_stages(lines: list[dict[str, Any]], run: RunDirectory, start: int) -> None:
    """Print a finished run's stages from its metrics.jsonl, and where its last samples are.

    start: images seen when the run began, by another one that it started from.
    """
    ends = {line["resolution"]: line for line in lines if line["stage_end"]}
    scores = {"fid": "FID", "is": "IS", "swd": "SWD x1000"}
    if any("modes" in line for line in ends.values()):
        scores["modes"] = "modes of 32"
    rows = []
    for resolution, line in ends.items():
        count, seconds = line["images"] - start, line["stage_seconds"]
        start = line["images"]
        numbers = [line.get(name, "-") for name in scores]
        numbers = [f"{number:.2f}" if isinstance(number, float) else str(number) for number in numbers]
        speed = f"{count / seconds:.1f}" if seconds else "-"
        rows.append([f"{resolution}x{resolution}", str(count), f"{seconds:.0f}", speed, *numbers])
    print(table(["stage", "images", "seconds", "images/s", *scores.values()], rows))
    if grids := sorted(run.samples.glob("fakes-*.png")):
        print(f"\nfinal samples: {grids[-1]}")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Lines of right-aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in [header, *rows])
