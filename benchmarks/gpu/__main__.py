"""Check training on a GPU, measure its speed and train on CIFAR-10, all within a time limit.

    python -m benchmarks.gpu --minutes 9 --out results --data cifar10.npz --inception-weights pool3.pt
    python -m benchmarks.gpu --device cpu --toy --out results                     a rehearsal in a minute
    python -m benchmarks.gpu --split FILE --out parts                             parts of at most 15 MiB
    python -m benchmarks.gpu --join parts --out folder                            the file again

Four parts run one after another, each in a process of its own, so that an error or a hang ends one part only. Every
result is written at once to OUT/results.json, with a table in OUT/results.md, so that a kill loses the item in progress
at most. Start the same command again to continue: finished items are skipped, and training resumes. On another
machine, --resume-from continues a run from the checkpoint parts run-*.tar.* that an earlier one left in OUT.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

START = time.monotonic()  # before torch is imported, which takes seconds

# Seconds of each part, importing torch and starting CUDA included; the time available is shared in this proportion
SECONDS = {"check": 110.0, "speed": 240.0, "inception": 80.0, "train": 300.0}
DEFAULT_MINUTES = 9.0
MARGIN = 10.0  # seconds between the end of the last part's work and the end of the time, for writing and exiting
WHOLE_PART = "the whole part"  # the item that records that a part was stopped or crashed
GRACE = 8.0  # seconds that a part may go on after its time before it is stopped


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--minutes", type=float, default=DEFAULT_MINUTES, help="time limit of the whole command (default: %(default)s)"
    )
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal (default: %(default)s)")
    parser.add_argument(
        "--parts",
        type=lambda text: text.split(","),
        default=list(SECONDS),
        metavar="PART,...",
        help=f"any of {','.join(SECONDS)} (default: all)",
    )
    parser.add_argument("--toy", action="store_true", help="tiny networks and few images, to rehearse")
    parser.add_argument("--data", metavar="IMAGES", help="images of CIFAR-10 to train on: a folder or .npz file")
    parser.add_argument(
        "--inception-weights", metavar="FILE", help="file of the 2015 Inception weights (default: random ones, no FID)"
    )
    parser.add_argument("--resume-from", type=Path, metavar="DIR", help="folder of an earlier run's checkpoint parts")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/gpu"),
        metavar="DIR",
        help="folder of the training run (default: %(default)s)",
    )
    parser.add_argument("--config", metavar="FILE", help="JSON file of further options of the training run")
    parser.add_argument("--split", type=Path, metavar="FILE", help="only split this file into parts in --out")
    parser.add_argument(
        "--join", type=Path, metavar="DIR", help="only join the parts in this folder to a file in --out"
    )
    options = parser.parse_args()
    if unknown := set(options.parts) - set(SECONDS):
        parser.error(f"--parts: {', '.join(sorted(unknown))} is unknown; choose from {', '.join(SECONDS)}")
    return options


def main() -> None:
    options = parse_options()
    if options.split or options.join:
        transfer(options)
        return
    from .results import Clock, Results

    end = START + 60 * options.minutes
    from . import check, inception, speed, training

    modules = {"check": check, "speed": speed, "inception": inception, "train": training}
    for index, part in enumerate(options.parts):
        share = SECONDS[part] / sum(SECONDS[other] for other in options.parts[index:])
        limit = (end - MARGIN - time.monotonic()) * share
        clock = Clock(time.monotonic() + limit)
        # a fork has torch imported already; CUDA starts in the child only
        process = multiprocessing.get_context("fork").Process(
            target=run_part, args=(part, modules[part], options, clock)
        )
        print(f"{part}: {limit:.0f} s", flush=True)
        process.start()
        if problem := wait_for(process, clock.end + GRACE):
            Results(options.out).record(part, WHOLE_PART, {"error": problem})
            print(f"{part}: {problem}", flush=True)
    print(f"\n{Results(options.out).format_summary()}")


def run_part(part: str, module, options: argparse.Namespace, clock) -> None:
    """Run a part's items in this process."""
    import torch

    from pggan.training.device import keep_freed_memory

    from ..step_speed import hardware
    from .results import Results, run_items

    keep_freed_memory()
    results = Results(options.out)
    results.content["setup"] |= {
        "hardware": hardware(torch.device(options.device)),
        "torch": str(torch.__version__),
        "CUDA": str(torch.version.cuda),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
    }
    results.content["parts"].get(part, {}).pop(WHOLE_PART, None)
    results.write()
    run_items(part, module.items(options), results, clock)


def wait_for(process: multiprocessing.process.BaseProcess, end: float) -> str | None:
    """Wait until a process ends; stop it after `end`. Return what went wrong, or None."""
    process.join(max(end - time.monotonic(), 0.0))
    problem = None
    if process.is_alive():
        problem = "stopped at its time limit"
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.kill(process.pid, number)  # type: ignore[arg-type]
            process.join(3.0)
            if not process.is_alive():
                break
    elif process.exitcode:
        problem = f"ended with exit code {process.exitcode}"
    return problem


def transfer(options: argparse.Namespace) -> None:
    """Split a file into parts, or join them."""
    from .archive import join, split
    from .results import write_atomically

    if options.split:
        for path in split(options.split.name, options.split.read_bytes(), options.out):
            print(path)
        return
    try:
        name, content = join(options.join)
    except (OSError, ValueError) as error:
        sys.exit(f"--join: {error}")
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / name, content)
    print(options.out / name)


if __name__ == "__main__":
    main()
