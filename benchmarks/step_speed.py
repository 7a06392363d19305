"""Compare the speed and memory of a training step with pro_gan_pytorch, alternately in one process.

    python benchmarks/step_speed.py --out benchmarks/results/step-speed/cpu
    python benchmarks/step_speed.py --device cuda --out benchmarks/results/step-speed/gpu

A step is one discriminator update, one generator update and the EMA update at a stage, on images that are already on
the device. The peer, pro_gan_pytorch (pip install --no-deps pro-gan-pth==3.4; also torchvision and tensorboard), runs
the same step as its own `ProGAN.train`, with its own losses, in float32, the only precision it has (with TF32
in convolutions, PyTorch's default, where ours are in full float32). Peak memory is that of the first steps on a GPU,
and on a CPU measured afterwards, in a separate process for each side. Writes step-speed.json and step-speed.md.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pggan.config import resolve_config  # noqa: E402
from pggan.metrics.cpu_trial import has_bf16_units  # noqa: E402
from pggan.networks import layers, progressive  # noqa: E402
from pggan.training import steps as training_steps  # noqa: E402
from pggan.training.batch import Batch  # noqa: E402
from pggan.training.device import keep_freed_memory, read_peak_memory  # noqa: E402
from pggan.training.growth import Phase  # noqa: E402
from pggan.training.profile import FlopCount, measure_matrix_rate  # noqa: E402
from pggan.training.ranks import SINGLE_PROCESS  # noqa: E402
from pggan.training.state import TrainState  # noqa: E402
from pggan.training.steps import Stepper  # noqa: E402

PEER = "pro_gan_pytorch"


def torchs_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0, transposed: bool = False
) -> Tensor:
    """Convolve with torch's own operation, in place of `convolve`."""
    function = torch.nn.functional.conv_transpose2d if transposed else torch.nn.functional.conv2d
    return function(x, weight, bias, stride, padding)


@torch.no_grad()
def update_ema_one_by_one(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """Update the moving average parameter by parameter, in place of `update_ema`."""
    for ours, theirs in zip(ema.parameters(), network.parameters(), strict=True):
        ours.lerp_(theirs, 1 - decay)


@dataclass(frozen=True)
class Variant:
    """A way to run this project's step.

    Attributes:
        options: options of the run. instead: functions to replace this project's operations with, by name.
        compiled: compile the generator. torch.compile does not support double backward, which the discriminator's
            gradient penalty needs.
        benchmark: let cuDNN choose kernels by timing them.
        eager: PyTorch sees every operation, so that they can be counted.
    """

    options: dict[str, Any] = field(default_factory=dict)
    instead: dict[str, Any] = field(default_factory=dict)
    compiled: bool = False
    benchmark: bool = False
    eager: bool = True


ABLATIONS = {  # --ablate: torch's operations that replace ours, one at a time
    "torch's convolution": Variant(instead={"convolve": torchs_convolution}),
    "torch's leaky ReLU": Variant(
        instead={"leaky_relu": functools.partial(torch.nn.functional.leaky_relu, negative_slope=0.2)}
    ),
}
VARIANTS = ABLATIONS | {
    "compiled": Variant(compiled=True, eager=False),
    "CUDA graphs": Variant(options={"cuda_graphs": True}, eager=False),
    "cudnn.benchmark": Variant(benchmark=True),
    "EMA one by one": Variant(instead={"update_ema": update_ema_one_by_one}),
    "kernels not shared": Variant(instead={"share_kernels": lambda network: None}),
}
STAGES = {  # (fmap_max, resolution, batch size); narrow networks on a CPU, the paper's 512 on a GPU
    "cpu": ((128, 8, 64), (128, 16, 32), (128, 32, 16)),
    "cuda": ((512, 32, 64), (512, 64, 32), (512, 128, 16), (128, 32, 64)),
}
Step = Callable[[], None]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: print the table only)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument(
        "--stages",
        type=parse_stages,
        metavar="MAPS:RESOLUTION:BATCH,...",
        help="stages to measure (default: depends on the device, see STAGES)",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=1.0,
        help="fade-in weight, 0 to 1; below 1 the stage is fading in (default: %(default)s)",
    )
    parser.add_argument(
        "--turns", type=int, default=5, help="number of measurements of each side (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="minimum length of a turn, seconds (default: %(default)s)"
    )
    parser.add_argument("--no-peer", action="store_true", help="measure this project only")
    parser.add_argument("--no-memory", action="store_true", help="skip the measurement of peak memory")
    beside = parser.add_mutually_exclusive_group()
    beside.add_argument("--ablate", action="store_true", help="compare with torch's own operations instead of the peer")
    beside.add_argument("--compile", action="store_true", help="compare with a compiled generator instead of the peer")
    parser.add_argument("--plain-memory", action="store_true", help="keep the default memory allocator settings")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)  # used by peak_in_own_process()
    return parser.parse_args()


def main() -> None:
    a = parse_options()
    if not a.plain_memory:
        keep_freed_memory()
    device = torch.device(a.device)
    a.stages = a.stages or STAGES[device.type]
    names = ["ours fp32", "ours bf16"]
    if device.type == "cpu" and not has_bf16_units():
        print("this CPU has no bf16 instructions: ours in bf16 is skipped, emulated it takes minutes", file=sys.stderr)
        names = names[:1]
    if a.ablate:
        names += [f"{name}, {variant}" for variant in ABLATIONS for name in names]
    elif a.compile:
        names += [f"{name}, compiled" for name in names]
    elif not a.no_peer:
        names.append(PEER)
    if a.peak_of:
        print(measure_peak(a.peak_of, a.stages[0], a.alpha, device))
        return
    # the attainable FLOP/s, to tell how much of them a step uses
    rates = {dtype: measure_matrix_rate(device, getattr(torch, dtype)) for dtype in ("float32", "bfloat16")}
    rows = []
    for stage in tqdm(a.stages, disable=None):
        row = compare(names, stage, a, device, rates)
        if device.type == "cpu" and not a.no_memory:
            for name in names:
                row["sides"][name]["peak_bytes"] = measure_peak_in_process(name, stage, a)
        rows.append(row)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "hardware": hardware(device),
        "torch": torch.__version__,
        "matrix_flops_per_second": rates,
        "alpha": a.alpha,
        "rows": rows,
    }
    text = format_table(report)
    print(text)
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        (a.out / "step-speed.json").write_text(json.dumps(report, indent=1) + "\n")
        (a.out / "step-speed.md").write_text(text + "\n")


def parse_stages(text: str) -> tuple[tuple[int, int, int], ...]:
    """Parse --stages, such as 128:16:32,512:32:64."""
    return tuple(tuple(int(number) for number in stage.split(":")) for stage in text.split(","))


def compare(
    names: list[str], stage: tuple[int, int, int], a: argparse.Namespace, device: torch.device, rates: dict[str, float]
) -> dict[str, Any]:
    """Return images per second and FLOPs of each side at one stage, measured alternately; on a GPU peak bytes, too.

    a: the options alpha, turns and seconds. rates: FLOP/s of a large matrix product by dtype.
    """
    maps, resolution, batch = stage
    steps, sides = {}, {}
    for name in names:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        with settings(name):
            steps[name] = make_step(name, stage, a.alpha, device)
            start = time.perf_counter()
            steps[name]()
            wait(device)
            first = time.perf_counter() - start
            if is_counted := name == PEER or find_variant(name).eager:
                with FlopCount() as counter:
                    steps[name]()
            for _ in range(4):  # warm up: cuDNN and the allocator settle; CUDA graphs are captured after three steps
                steps[name]()
            wait(device)
        flops = counter.total if is_counted else sides[name.partition(", ")[0]]["flops"]
        sides[name] = {"first_step_seconds": first, "flops": flops}
        if device.type == "cuda":
            sides[name]["peak_bytes"] = torch.cuda.max_memory_allocated(device) - before
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(a.turns):
        for name, step in steps.items():
            with settings(name):
                speeds[name].append(batch / time_step(step, a.seconds, device))
    for name, values in speeds.items():
        median = statistics.median(values)
        flops = sides[name]["flops"] * median / batch
        rate = rates["bfloat16" if "bf16" in name else "float32"]
        sides[name] |= {
            "images_per_second": median,
            "turns": values,
            "flops_per_second": flops,
            "of_rate": flops / rate,
        }
        if PEER in speeds:
            sides[name]["to_peer"] = median / statistics.median(speeds[PEER])
    return {"feature_maps": maps, "resolution": resolution, "batch": batch, "sides": sides}


def find_variant(name: str) -> Variant:
    """Return the variant of a side such as "ours bf16, compiled"."""
    variant = name.partition(", ")[2]
    return VARIANTS[variant] if variant else Variant()


@contextlib.contextmanager
def settings(name: str) -> Iterator[None]:
    """Set what cuDNN does for one side: whether it times kernels to choose one, and TF32.

    The peer has both, as in its own training script. Ours in full float32 chooses none by time: on an H200 that took
    over a minute for a step with 512 maps.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32 = name == PEER or find_variant(name).benchmark, name == PEER
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before


def time_step(step: Step, at_least: float, device: torch.device) -> float:
    """Return the mean seconds of a step over a turn of at least `at_least` seconds."""
    wait(device)
    start, count, at_once = time.perf_counter(), 0, 1
    while (elapsed := time.perf_counter() - start) < at_least:
        for _ in range(at_once):
            step()
        wait(device)
        count += at_once
        # more at a time once a step's time is known, so that waiting for a GPU does not interrupt its queue every step
        at_once = max(int((at_least - elapsed) * count / (time.perf_counter() - start)), 1)
    return elapsed / count


def wait(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_step(name: str, stage: tuple[int, int, int], alpha: float, device: torch.device) -> Step:
    """Return the training step of the side with this name."""
    if name == PEER:
        return make_peer_step(*stage, alpha, device)
    return make_our_step(*stage, alpha, device, name.startswith("ours bf16"), find_variant(name))


def make_our_step(
    maps: int, resolution: int, batch: int, alpha: float, device: torch.device, bf16: bool, variant: Variant
) -> Step:
    """Return this project's training step, on real images that are on the device as uint8; maps: fmap_max."""
    options = {"data": "synthetic", "channels": 3, "resolution": resolution, "fmap_max": maps, "cuda_graphs": False}
    config = resolve_config(options | variant.options)
    state = TrainState(config, 0, device)
    if variant.compiled:
        state.G = torch.compile(state.G)
    stepper = Stepper.from_config(config, bf16, device=device)
    images = torch.randint(256, (batch, 3, resolution, resolution), dtype=torch.uint8).to(device)
    reals = Batch(images, None, SINGLE_PROCESS.share(batch, config.mbstd_group))
    phase = Phase(resolution, alpha, batch, 0.001, 1)

    def step() -> None:
        # patched for each step, since sides alternate in one process
        with contextlib.ExitStack() as patches:
            for module in (layers, progressive, training_steps):
                for operation in variant.instead.keys() & vars(module).keys():
                    patches.enter_context(mock.patch.object(module, operation, variant.instead[operation]))
            stepper.step(state, reals, phase)

    return step


def make_peer_step(maps: int, resolution: int, batch: int, alpha: float, device: torch.device) -> Step:
    """Return the peer's training step, as in its `ProGAN.train`, on real images that are on the device as floats."""
    from pro_gan_pytorch import networks
    from pro_gan_pytorch.custom_layers import update_average
    from pro_gan_pytorch.gan import ProGAN
    from pro_gan_pytorch.losses import WganGP

    patch_transposed_convolution()
    depth, loss = resolution.bit_length() - 1, WganGP()
    networks.nf.__defaults__ = (16 << 10, 1.0, 1, maps)  # it has no option for the number of feature maps
    # it prints its networks
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        gan = ProGAN(
            networks.Generator(depth, latent_size=maps), networks.Discriminator(depth, latent_size=maps), device
        )
    rates = {"lr": 0.003, "betas": (0.0, 0.99), "eps": 1e-8}  # its own defaults
    g_optimizer, d_optimizer = (torch.optim.Adam(n.parameters(), **rates) for n in (gan.gen, gan.dis))
    reals = torch.rand(batch, 3, resolution, resolution, device=device) * 2 - 1

    def step() -> None:
        noise = torch.randn(batch, maps).to(device)
        gan.optimize_discriminator(loss, d_optimizer, noise, reals, depth, alpha)
        update_average(gan.gen_shadow, gan.gen, beta=gan.ema_beta)
        gan.optimize_generator(loss, g_optimizer, noise, reals, depth, alpha)

    return step


@functools.cache
def patch_transposed_convolution() -> None:
    """Make the peer run with current torch, which requires a number of spatial dimensions that the peer omits."""
    transposed = torch.nn.modules.conv._ConvTransposeNd
    transposed._output_padding = functools.partialmethod(transposed._output_padding, num_spatial_dims=2)


def measure_peak(name: str, stage: tuple[int, int, int], alpha: float, device: torch.device) -> int:
    """Return the peak memory of six steps in bytes, above the memory in use before the networks existed."""
    small = torch.nn.Conv2d(1, 1, 3).to(device)
    small(torch.zeros(1, 1, 4, 4, device=device)).sum().backward()  # loads libraries, whose memory does not count
    before = 0 if device.type == "cuda" else read_peak_memory(device)
    step = make_step(name, stage, alpha, device)
    for _ in range(6):  # the peak is reached in the second step, when the optimizers have their state
        step()
    wait(device)
    return read_peak_memory(device) - before


def measure_peak_in_process(name: str, stage: tuple[int, int, int], a: argparse.Namespace) -> int:
    """Return `measure_peak` from a new process: a peak cannot be reset on a CPU."""
    command = [sys.executable, __file__, "--peak-of", name, "--stages", ":".join(map(str, stage))]
    command += ["--alpha", str(a.alpha), "--device", a.device]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def hardware(device: torch.device) -> str:
    """Return the name of the GPU, or the CPU with its cores and torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def format_table(report: dict[str, Any]) -> str:
    """Return the report as a Markdown table."""
    rates = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in report["matrix_flops_per_second"].items())
    lines = [
        f"{report['hardware']}; torch {report['torch']}; {report['date']}; `{report['command']}`",
        f"GFLOP/s of a large matrix product: {rates}",
        "",
        "| stage | feature maps | batch | side | images/s | relative to peer | GFLOP/s | of matrix rate | peak, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        for name, values in row["sides"].items():
            peak = f"{values['peak_bytes'] / 2**20:,.0f}" if "peak_bytes" in values else "-"
            ratio = f"{values['to_peer']:.2f}" if "to_peer" in values else "-"
            lines.append(
                f"| {row['resolution']}x{row['resolution']} | {row['feature_maps']} | {row['batch']} | {name} | "
                f"{values['images_per_second']:,.1f} | {ratio} | {values['flops_per_second'] / 1e9:,.0f} | "
                f"{values['of_rate']:.0%} | {peak} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
