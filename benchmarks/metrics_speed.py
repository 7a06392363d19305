"""Compare the speed of the metrics with torch-fidelity, pytorch-fid, NumPy and SciPy, alternately in one process.

    python benchmarks/metrics_speed.py IMAGES --out benchmarks/results/metrics-speed

IMAGES is a folder, zip or .npz of real images. Needs tests/requirements.txt and the 2015 Inception weights. Writes
speed.json and speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pggan.datasets import ImageStream, open_source  # noqa: E402
from pggan.metrics import MetricError  # noqa: E402
from pggan.metrics.features import FeatureStatistics  # noqa: E402
from pggan.metrics.fid import FID  # noqa: E402
from pggan.metrics.inception import Inception  # noqa: E402
from pggan.metrics.swd import PatchDescriptors, sliced_wasserstein  # noqa: E402
from pggan.metrics.weights import load_weights  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", metavar="IMAGES", help="folder, zip or .npz of real images")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument(
        "--num-images", type=int, default=256, help="images through Inception per turn (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=32, help="batch size of Inception (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="number of measurements of each (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    stream = ImageStream(open_source(arguments.images), max(arguments.num_images, 2048))
    images = torch.cat(list(map(torch.from_numpy, stream.batches())))
    device = torch.device(arguments.device)
    weights = load_weights()
    rows, features = inception_rows(weights, images[: arguments.num_images], device, arguments.batch, arguments.turns)
    rows += swd_rows(images[:2048], arguments.turns)
    rows += trace_rows(arguments.turns)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "hardware": f"{platform.processor() or platform.machine()}, {cpu_name()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads" + (f", {torch.cuda.get_device_name()}" if device.type == "cuda" else ""),
        "torch": torch.__version__,
        "rows": rows,
        "features_off": features,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "speed.json").write_text(json.dumps(report, indent=1) + "\n")
    (arguments.out / "speed.md").write_text(format_markdown(report))
    print(format_markdown(report))


def time_in_turns(what: str, jobs: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Return the seconds of each job by name. Every job runs once per turn, and a first turn is not counted.

    Alternating spreads changes of the machine's speed evenly over the jobs.

    Args:
        what: name in the progress bar.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in tqdm(range(turns + 1), desc=what, disable=None):
        for name, job in jobs.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # CUDA runs asynchronously: wait for the previous job
            start = time.perf_counter()
            job()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def format_row(what: str, name: str, seconds: list[float], peer: float, rate: float | None = None) -> dict:
    """Return a row of the table.

    Args:
        what: the task.
        name: the implementation.
        seconds: one measurement per turn.
        peer: median seconds of the faster peer, to compare with.
        rate: items per task, if speed per second is of interest.
    """
    median = statistics.median(seconds)
    return {"what": what, "who": name, "seconds": seconds, "per_second": rate and rate / median, "ratio": peer / median}


def inception_rows(
    weights: dict, images: torch.Tensor, device: torch.device, batch: int, turns: int
) -> tuple[list[dict], dict]:
    """Return rows for Inception features, and the effect of bf16 on them (see `measure_feature_error`)."""
    networks = {"ours, fp32": Inception(weights, device)}
    try:
        networks["ours, bf16"] = Inception(weights, device, precision="bf16")
    except MetricError as error:  # this device has no bf16
        print(error)
    peers = peer_networks(weights, device)
    batches = images.split(batch)
    # n=network binds each network now; a plain closure would call the last one in all jobs
    jobs = {name: lambda n=network: [n(b) for b in batches] for name, network in (networks | peers).items()}
    seconds = time_in_turns("Inception", jobs, turns)
    fastest_peer = min((statistics.median(seconds[name]) for name in peers), default=float("nan"))
    rows = [format_row("Inception features", name, s, fastest_peer, len(images)) for name, s in seconds.items()]
    return rows, measure_feature_error(networks, batches)


def peer_networks(weights: dict, device: torch.device) -> dict[str, Callable]:
    """Return the installed peers' feature extractors, functions of a uint8 batch, with the same weights as ours."""
    # Both load the classifier too, which features do not use.
    state = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)} | weights
    peers = {"torch-fidelity": make_torch_fidelity, "pytorch-fid": make_pytorch_fid}
    networks = {}
    for name, make in peers.items():
        try:
            networks[name] = torch.inference_mode()(make(state, device))
        except ImportError as error:
            print(f"{name} is not compared: {error}", file=sys.stderr)
    return networks


def make_torch_fidelity(state: dict, device: torch.device) -> Callable:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    file = Path(os.environ.get("TMPDIR", "/tmp")) / f"inception-{os.getpid()}.pth"
    torch.save(state, file)
    network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(file)).to(device)
    file.unlink()  # loaded
    return lambda x: network(x.to(device))[0]


def make_pytorch_fid(state: dict, device: torch.device) -> Callable:
    import pytorch_fid.inception

    pytorch_fid.inception.load_state_dict_from_url = lambda *_, **__: state  # it would download its weights
    network = pytorch_fid.inception.InceptionV3([3]).eval().to(device)
    return lambda x: network(x.to(device).float() / 255)[0]


def measure_feature_error(networks: dict[str, Inception], batches: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Return the relative difference of bf16 from fp32 features, and FID between halves of the images with both."""
    features = {name: torch.cat([network(b)[0].cpu() for b in batches]) for name, network in networks.items()}
    if len(features) < 2:
        return {}
    exact, rounded = features.values()
    fids = []
    for x in (exact, rounded):
        # two halves of one dataset: a small FID, where rounding would show
        halves = FeatureStatistics(), FeatureStatistics()
        for kept, half in zip(halves, x.tensor_split(2), strict=True):
            kept.update(half)
        fids.append(FID().compare(*halves)["fid"])
    off = ((rounded - exact).norm(dim=1) / exact.norm(dim=1)).mean().item()
    return {"bf16_features_relative": off, "fid_halves_fp32": fids[0], "fid_halves_bf16": fids[1]}


def swd_rows(images: torch.Tensor, turns: int) -> list[dict]:
    """Return rows for the distance between descriptors of one level, ours and as the official code does with NumPy."""
    halves = []
    for half in images.tensor_split(2):
        kept = PatchDescriptors()
        kept.update(half)
        halves.append(kept.normalize(images.shape[-1]))
    arrays = [half.numpy() for half in halves]

    def plain() -> float:
        """Return the distance as the official code computes it: 4 repeats of 128 random directions."""
        rng, distances = np.random.default_rng(0), []
        for _ in range(4):
            directions = rng.standard_normal((arrays[0].shape[1], 128)).astype(np.float32)
            directions /= np.linalg.norm(directions, axis=0)
            projected = [np.sort(np.matmul(a, directions), axis=0) for a in arrays]
            distances.append(np.abs(projected[0] - projected[1]).mean())
        return float(np.mean(distances))

    jobs = {"ours": lambda: sliced_wasserstein(*halves), "NumPy, along the first axis": plain}
    seconds = time_in_turns("SWD", jobs, turns)
    peer = statistics.median(seconds["NumPy, along the first axis"])
    return [format_row(f"SWD of 2 x {len(arrays[0])} patches", name, s, peer) for name, s in seconds.items()]


def trace_rows(turns: int) -> list[dict]:
    """Return rows for FID from statistics: the trace of a matrix square root, ours and with scipy.linalg.sqrtm."""
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    spectrum = np.logspace(0, -2, 2048)  # a full-rank covariance whose eigenvalues span four orders of magnitude
    kept = []
    for _ in range(2):
        kept.append(FeatureStatistics())
        kept[-1].update(torch.from_numpy(rng.standard_normal((5000, 2048)) * spectrum))
    c1, c2 = (k.moments()[1].numpy() for k in kept)
    jobs = {"ours": lambda: FID().compare(*kept), "scipy.linalg.sqrtm": lambda: sqrtm(c1 @ c2)}
    seconds = time_in_turns("trace", jobs, turns)
    peer = statistics.median(seconds["scipy.linalg.sqrtm"])
    return [format_row("FID of 2048-d statistics", name, s, peer) for name, s in seconds.items()]


def cpu_name() -> str:
    """Return the model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown CPU"


def format_markdown(report: dict) -> str:
    """Return the report as a Markdown table."""
    lines = [
        f"`{report['command']}`, {report['date']}, {report['hardware']}, torch {report['torch']}",
        "",
        "| task | implementation | median seconds | per second | speed relative to the faster peer |",
        "|---|---|---|---|---|",
    ]
    for r in report["rows"]:
        rate = f"{r['per_second']:.1f}" if r["per_second"] else ""
        median = statistics.median(r["seconds"])
        lines.append(f"| {r['what']} | {r['who']} | {median:.3f} | {rate} | {r['ratio']:.2f} |")
    off = report["features_off"]
    if off:
        lines += ["", ", ".join(f"{name.replace('_', ' ')} {value:.5g}" for name, value in off.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
