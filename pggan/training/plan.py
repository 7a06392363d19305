"""Print a run's plan as a table (stages, batches, parameters) with estimated memory and time."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pggan.checkpoints import RunDirectory
from pggan.datasets import Preparation, Source, check_sizes, open_source
from pggan.metrics import estimate_metric_memory, is_out_of_memory
from pggan.metrics.swd import find_temporary_folder

from ..config import TrainConfig, spell_preset
from ..networks import Discriminator, Generator, build
from .augment import Augmentation
from .batch import Batch
from .device import (
    choose_device,
    choose_kernels,
    choose_precision,
    describe_device,
    measure_matrix_rate,
    read_peak_memory,
    release_unused_memory,
)
from .feeding import describe_data
from .graphs import EAGER_UPDATES, uses_graphs
from .growth import GrowthController, Phase
from .losses import find_cautions
from .memory import read_usable_memory
from .ranks import SINGLE_PROCESS, Ranks
from .resume import (
    check_end,
    check_networks,
    describe_finished_run,
    explain_mismatch,
    resolve_resumed_config,
    start_new_run,
)
from .state import TrainState, make_optimizer, network_arguments
from .steps import Stepper
from .tracking import format_duration, log

DRY_RUN_SECONDS = 30.0  # limit on timing steps for --dry-run: about as long as a user waits for a printed estimate
TRIAL_SECONDS = 2.0  # limit on timing steps before training, which waits for it
TRIAL_SHARE = 0.05  # largest fraction of a run's steps to spend on the trial; shorter runs use operation counts instead
TIMED_STEPS = 2  # per stage, after the warm-up; the faster one counts
STEP_COST = 9.0  # operations of a training step divided by those of D(G(z)): counted from 8x8 up with gradient penalty
EFFICIENCY = 0.5  # assumed fraction of the matrix rate until a stage has been timed; CPUs reach 0.6 in large stages
# title, factor and format of each metric in the table of stages
SCORES = {
    "fid": ("FID", 1, ".2f"),
    "is": ("IS", 1, ".2f"),
    "kid": ("KID x1000", 1000, ".2f"),
    "mind": ("MIND", 1, ".1f"),
    "swd": ("SWD x1000", 1, ".2f"),
    "modes": ("modes of 32", 1, "d"),
}
# Bytes of process memory per byte of tensors; the CPU's measured on Linux from 128 maps at 32x32 to 256 at 64x64.
MEMORY_OVERHEAD = {"cpu": 1.6, "cuda": 1.0}


def compute_costs_per_image(arguments: dict[str, dict[str, Any]]) -> dict[int, float]:
    """Return the floating-point operations of D(G(z)) for one image by resolution, as counted by PyTorch."""
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


def print_plan(
    config: TrainConfig, open_images: Callable[[str, bool], Source] = open_source, processes: int = 1
) -> None:
    """Print the plan as a table, then the memory and time of each stage, estimated on this machine.

    processes: number of processes that share each batch.

    Raises:
        ConfigError: the plan is impossible, or contradicts the run in --out. CheckpointError: --resume names no
            usable checkpoint.
    """
    choose_kernels(config.deterministic)
    source, device = open_images(config.data, config.labels), choose_device(config.device)
    print("\n".join(describe_data(config, source)))
    if not config.allow_upscale:
        check_sizes(source, Preparation(config.resolution, config.channels, config.fit, config.background))
    uses_graphs(config, device)  # raises ConfigError if --cuda-graphs is impossible here
    classes = source.classes
    state = TrainState(config, len(classes), device)
    config, start_lines = load_start_state(config, state, classes)
    config = replace(config, precision=choose_precision(config, device, warn=log))
    plan = GrowthController(config, state.stage_ends)
    if config.preset:
        print(f"--preset {config.preset} sets {spell_preset(config.preset, config)}")
    print(format_plan(plan, state))
    if config.decay_kimg:
        print(f"learning rates fall to 0 from {plan.decay_start / 1000:g} kimg to the end (--decay-kimg)")
    if lines := [*find_cautions(config), *start_lines]:
        print("", *lines, sep="\n", flush=True)
    print_estimates(config, plan, state, processes)
    if config.metrics:
        print(describe_evaluation_memory(config, len(source)))


def format_plan(plan: GrowthController, state: TrainState) -> str:
    """Return the table of stages: when each one trains, its options, and its parameters in millions."""
    header = ["stage", "", "from kimg", "to kimg", "alpha", "batch", "lr", "G + D, million"]
    rows = [
        [
            f"{row.resolution}x{row.resolution}",
            "fade in" if row.is_fading else "stabilize",
            f"{row.start / 1000:g}",
            f"{row.end / 1000:g}",
            "0 -> 1" if row.is_fading else "1",
            f"{row.batch_size:g}",
            f"{row.lr:g}",
            " + ".join(f"{count_used_parameters(network, row.resolution) / 1e6:.2f}" for network in (state.G, state.D)),
        ]
        for row in plan.rows()
    ]
    return format_table(header, rows)


def print_estimates(config: TrainConfig, plan: GrowthController, state: TrainState, processes: int = 1) -> None:
    """Print each stage's estimated memory, speed and time as soon as it is known, within DRY_RUN_SECONDS."""
    seen = state.images  # timing steps changes the state
    usable, too_large = read_memory_for_training(state), []
    overhead, base = MEMORY_OVERHEAD[state.device.type], 0  # a GPU's figure is of tensors alone, a CPU's of the process
    if state.device.type == "cpu":
        base = max(read_peak_memory(state.device) - count_tensor_bytes(state), 0)
    print(f"\nestimates for {describe_device(state.device)}, {config.precision}, timing a few steps:", flush=True)
    print("    stage  memory, GiB  images/s        time", flush=True)
    total = remaining = 0.0
    for resolution, seconds, is_timed in time_stages(
        config, plan, state, compute_costs_per_image(state.arguments), DRY_RUN_SECONDS, processes
    ):
        rows = [row for row in plan.rows() if row.resolution == resolution]
        tensors = estimate_stage_memory(config, plan, state, resolution, processes)
        stage = seconds * sum(row.end - row.start for row in rows)
        total += stage
        remaining += seconds * sum(max(row.end - max(row.start, seen), 0) for row in rows)
        name, mark = f"{resolution}x{resolution}", "" if is_timed else "~"
        too_large += [name] if usable and overhead * tensors > usable else []
        peak, speed, time_text = base + overhead * tensors, f"{1 / seconds:.4g}", format_duration(stage)
        if state.device.type == "cuda" and is_timed:
            peak = max(peak, read_peak_memory(state.device))  # with cuDNN's scratch memory, gigabytes in fp32
        print(f"{name:>9}  {peak / 2**30:>11.2f}  {mark + speed:>8}  {mark + time_text:>10}", flush=True)
    if not is_timed:
        print("~: not timed (too slow, or out of memory); extrapolated from the stage before by operations per image")
    if too_large:
        print(
            f"warning: {', '.join(too_large)} will probably run out of memory: {usable / 2**30:.2f} GiB are usable; "
            + ("use " if config.arch == "dcgan" else "use --micro-batch, which gives the same result, or ")
            + "a smaller --batch-size"
        )
    print(f"\nabout {format_duration(total)} of training in total, evaluations not included")
    if config.budget:
        print(f"the last stage ends when --budget {config.budget} is used up, evaluations included")
    if seen:
        print(f"about {format_duration(remaining)} left")


def describe_evaluation_memory(config: TrainConfig, num_reals: int) -> str:
    """Return the memory and the temporary disk space of an evaluation in the last stage, as one line."""
    count, side = config.metric_images, config.resolution
    memory, disk = estimate_metric_memory(config.metrics, count, min(count, num_reals), config.channels, side)
    text = f"evaluations at {side}x{side} need about {memory / 2**30:.1f} GiB more memory"
    return text + (f", and {disk / 2**30:.1f} GiB of disk space in {find_temporary_folder()}" if disk else "")


def read_memory_for_training(state: TrainState) -> int:
    """Return the bytes of memory available to training, including what the networks already occupy; 0 if unknown."""
    free = read_usable_memory(state.device)
    return free + count_tensor_bytes(state) if free else 0


def exceeds_memory(config: TrainConfig, state: TrainState, processes: int = 1) -> bool:
    """Return whether a step of the last stage needs more memory than the device has, as far as the system tells."""
    usable = read_memory_for_training(state)
    tensors = estimate_stage_memory(config, GrowthController(config), state, config.resolution, processes)
    return 0 < usable < MEMORY_OVERHEAD[state.device.type] * tensors


def count_tensor_bytes(state: TrainState) -> int:
    """Return the bytes of the networks' parameters and their EMA."""
    networks = (state.G, state.D, state.G_ema)
    return sum(p.numel() * p.element_size() for network in networks for p in network.parameters())


def load_start_state(config: TrainConfig, state: TrainState, classes: list[str]) -> tuple[TrainConfig, list[str]]:
    """Load the state that training would start from.

    Returns:
        The run's final options, and lines for the console that describe the start.
    """
    run = RunDirectory(config.out)
    if run.exists():
        config = resolve_resumed_config(run, config)
        if (found := run.find_newest()) is None:
            return config, []
        path, saved, _, note = found
        with explain_mismatch(path):
            check_end(saved, config)
            check_networks(str(path), saved["networks"], state.arguments)
            state.load_state_dict(saved["state"])
        plan = GrowthController(config, state.stage_ends)
        seen = f"{run.folder} has seen {state.images / 1000:g} kimg"
        if state.images >= plan.total_images:
            seen = describe_finished_run(config, plan, state.images)
        return config, [*([note] if note else []), seen]
    return start_new_run(state, config, classes) if config.resume else (config, [])


def try_stages(
    config: TrainConfig, plan: GrowthController, label_size: int, device: torch.device, processes: int
) -> dict[int, float]:
    """Return seconds per image by resolution, timed within TRIAL_SECONDS; for short runs, operations per image."""
    costs = compute_costs_per_image(network_arguments(config, label_size))
    steps = sum((row.end - row.start) / row.batch_size for row in plan.rows())
    if count_trial_steps(config, device) * len(plan.resolutions) > TRIAL_SHARE * steps:
        return costs
    state = TrainState(config, label_size, device)
    return {
        resolution: seconds
        for resolution, seconds, _ in time_stages(config, plan, state, costs, TRIAL_SECONDS, processes)
    }


def time_stages(
    config: TrainConfig,
    plan: GrowthController,
    state: TrainState,
    costs: dict[int, float],
    limit: float,
    processes: int = 1,
) -> Iterator[tuple[int, float, bool]]:
    """Time training steps of every stage; yield (resolution, seconds per image, whether it was timed).

    Batches are the plan's; on a CPU, as many of their images as the time allows. Once a stage would take too long, its
    time and those of later stages are extrapolated from the last timed stage by operations per image.

    Args:
        state: trained on constant images meanwhile. costs: operations per image by resolution.
        limit: seconds for all stages. processes: number of processes that share a batch.
    """
    end, bf16 = time.perf_counter() + limit, config.precision == "bf16"
    rate = EFFICIENCY * measure_matrix_rate(state.device, torch.bfloat16 if bf16 else torch.float32, limit / 10)
    stepper, slow = (
        Stepper.from_config(
            replace(config, n_critic=1),
            bf16,
            Augmentation.from_config(config),
            device=state.device if processes == 1 else None,
        ),
        False,
    )
    for resolution in plan.resolutions:
        phase, cost = plan.phase(plan.stage_end(resolution)), STEP_COST * costs[resolution]
        group = min(phase.batch_size, config.mbstd_group)
        size = share = largest_share(config, phase, processes)
        affordable = (
            rate * (end - time.perf_counter()) / count_trial_steps(config, state.device) / 2
        )  # the other half is for later stages
        # A GPU needs the plan's batch: it takes as long for a small one, so that would say nothing about a large one.
        while state.device.type == "cpu" and size > group and size * cost > affordable:
            size = max(size // 2 // group * group, group)
        slow = slow or size * cost > affordable
        if not slow:
            release_unused_memory(state.device)  # so that the peak is this stage's
            try:
                rate = size * cost / time_step(config, stepper, state, replace(phase, batch_size=size))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                slow = True
        yield resolution, cost / rate * share / phase.batch_size, not slow


def time_step(config: TrainConfig, stepper: Stepper, state: TrainState, phase: Phase) -> float:
    """Return the seconds of a step at this phase: the fastest of TIMED_STEPS after the warm-up.

    With --penalty-every, steps with and without the penalty are timed, and this is their mean over the run.
    """
    count, side = phase.batch_size, phase.resolution
    images = torch.full((count, config.channels, side, side), 127, dtype=torch.uint8)  # speed does not depend on them
    labels = torch.zeros(count, dtype=torch.long) if state.G.label_size else None
    every, batch = config.penalty_every, Batch(images, labels, SINGLE_PROCESS.share(count, config.mbstd_group))
    with_penalty = -(-state.images // (every * count)) * every * count  # images seen before such a step
    starts = [with_penalty] if every == 1 else [with_penalty, with_penalty + count]

    def time_at(images_seen: int) -> float:
        times = []
        for _ in range(count_trial_steps(config, state.device) // len(starts)):
            state.images, start = images_seen, time.perf_counter()
            stepper.step(state, batch, phase)
            float(state.skipped_in_a_row.sum())  # waits for the device
            times.append(time.perf_counter() - start)
        return min(times[-TIMED_STEPS:])

    penalty_seconds, *plain_seconds = map(time_at, starts)
    return (penalty_seconds + (every - 1) * sum(plain_seconds)) / every


def count_trial_steps(config: TrainConfig, device: torch.device) -> int:
    """Return the number of steps to time a stage, warm-up included (choosing kernels, capturing a CUDA graph)."""
    warm_up = EAGER_UPDATES + 1 if uses_graphs(config, device) else 1
    return (warm_up + TIMED_STEPS) * (1 if config.penalty_every == 1 else 2)


def count_used_parameters(network: nn.Module, resolution: int) -> int:
    """Return the number of parameters used at a stage while it fades in; all of them for networks without stages."""
    if network.multiscale or not isinstance(network, (Generator, Discriminator)):
        return sum(p.numel() for p in network.parameters())
    level = resolution.bit_length() - 3
    heads = network.to_rgb if isinstance(network, Generator) else network.from_rgb
    unused = [*network.blocks[level:], *heads[level + 1 :], *heads[: max(level - 1, 0)]]
    count = sum(p.numel() for p in network.parameters())
    return count - sum(p.numel() for module in unused for p in module.parameters())


class LiveBytes(TorchDispatchMode):
    """Tracks the bytes of tensors created in its context.

    Attributes:
        current: bytes of the tensors that are alive. peak: largest value of `current` so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self.seen_storages: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.seen_storages:
                self.seen_storages.add(storage)
                self.current += storage.nbytes()
                weakref.finalize(storage, self.free, storage.nbytes())
        self.peak = max(self.peak, self.current)
        return result

    def free(self, count: int) -> None:
        self.current -= count


def estimate_stage_memory(
    config: TrainConfig, plan: GrowthController, state: TrainState, resolution: int, processes: int = 1
) -> int:
    """Return the peak bytes of tensors during a stage, both while it fades in and after.

    processes: number of processes that share a batch, each on a GPU of its own. On a CPU they share its memory, so
        the whole batch counts.
    """
    rows, bf16 = [row for row in plan.rows() if row.resolution == resolution], config.precision == "bf16"
    phases = [plan.phase(row.start + 1) for row in rows]
    if state.device.type == "cuda":
        phases = [replace(phase, batch_size=largest_share(config, phase, processes)) for phase in phases]
    return max(estimate_memory(config, state, phase, bf16) for phase in phases)


def largest_share(config: TrainConfig, phase: Phase, processes: int) -> int:
    """Return the images of the process that has the most minibatch-stddev groups of a batch."""
    group = min(phase.batch_size, config.mbstd_group)
    return -(-phase.batch_size // group // processes) * group


def estimate_memory(config: TrainConfig, state: TrainState, phase: Phase, bf16: bool) -> int:
    """Return the peak bytes of tensors during a stage's steps, measured on fake tensors, which hold no data.

    state: provides the networks' arguments and the device; it is not changed.
    """
    batch, side = phase.batch_size, phase.resolution
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
        twin = copy.copy(state)
        with state.device:  # build, since deepcopy fails for buffers under FakeTensorMode
            networks = [build(kind, state.arguments[kind]) for kind in ("generator", "discriminator", "generator")]
            averages = [build("generator", state.arguments["generator"]) for _ in state.power_averages]
        twin.G, twin.D, twin.G_ema = networks
        twin.power_averages = dict(zip(state.power_averages, averages, strict=True))
        networks += averages
        for average in networks[2:]:
            average.requires_grad_(False)
        adam = replace(config, optimizer="adam")  # the others need less memory
        twin.g_optimizer, twin.d_optimizer = (make_optimizer(adam, network) for network in networks[:2])
        twin.skipped_in_a_row, twin.augment_p = (torch.zeros_like(t) for t in (state.skipped_in_a_row, state.augment_p))
        twin.clear_sums()
        weights = sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
        live.current = live.peak = 0
        images = torch.empty(batch, config.channels, side, side, dtype=torch.uint8, device=state.device)
        labels = torch.zeros(batch, dtype=torch.long, device=state.device) if state.G.label_size else None
        reals = Batch(images, labels, SINGLE_PROCESS.share(batch, config.mbstd_group))
        stepper = Stepper.from_config(replace(config, n_critic=1, penalty_every=1, cuda_graphs=False), bf16)
        for _ in range(2):  # the second step is the peak: all gradients and Adam's moments exist
            stepper.step(twin, reals, phase)
        return weights + live.peak


def describe_idle_processes(plan: GrowthController, ranks: Ranks) -> list[str]:
    """Return a warning for each stage with fewer minibatch-stddev groups in a batch than processes."""
    found = []
    for resolution in plan.resolutions:
        batch = plan.phase(plan.stage_end(resolution)).batch_size
        groups = batch // min(batch, plan.config.mbstd_group)
        if groups < ranks.world_size:
            found.append(
                f"warning: at {resolution}x{resolution} a batch of {batch} has {groups} minibatch-stddev groups, so "
                f"{ranks.world_size - groups} of {ranks.world_size} processes are idle; use a larger --batch-size"
            )
    return found


def print_stages(lines: list[dict[str, Any]], run: RunDirectory, start: int) -> None:
    """Print a finished run's stages as a table, and the path of its last sample grid.

    Args:
        lines: lines of metrics.jsonl. start: images seen when the run began; more than 0 if it began by --resume.
    """
    ends = {line["resolution"]: line for line in lines if line["stage_end"]}
    scores = [name for name in SCORES if any(name in line for line in ends.values())]
    rows = []
    for resolution, line in ends.items():
        count, seconds = line["images"] - start, line["stage_seconds"]
        start = line["images"]
        numbers = [f"{SCORES[name][1] * line[name]:{SCORES[name][2]}}" if name in line else "-" for name in scores]
        speed = f"{count / seconds:.1f}" if seconds else "-"
        rows.append([f"{resolution}x{resolution}", str(count), f"{seconds:.0f}", speed, *numbers])
    print(format_table(["stage", "images", "seconds", "images/s", *(SCORES[name][0] for name in scores)], rows))
    if scores:
        last = list(ends.values())[-1]
        print(f"metrics of {last['metric_images']:,} generated against {last['metric_reals']:,} real images")
    if grids := sorted(run.samples.glob("fakes-*.png")):
        print(f"\nfinal samples: {grids[-1]}")


def format_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table with right-aligned columns, as one text."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in [header, *rows])
