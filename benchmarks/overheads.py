"""Measure the overhead of a run besides its training steps: startup, log lines, samples and checkpoints.

    python benchmarks/overheads.py                      # cifar10-cpu up to 16x16: one or two minutes on two cores
    python benchmarks/overheads.py photos --preset cifar10-cpu --resolution 16 --total-kimg 29

Options are train.py's. Evaluation is turned off. "start" is the time from the start of the process to the first step,
with the dataset cache already built.
"""

from __future__ import annotations

import time

START = time.perf_counter()  # before importing torch, which takes most of the startup

import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

ROOT = Path(__file__).parents[1]
DEFAULT = "synthetic --preset cifar10-cpu --resolution 16 --total-kimg 27".split()
WARM = "--fade-kimg 0.1 --stabilize-kimg 0.1 --total-kimg 0.5".split()  # the shortest run that builds the dataset cache


def main() -> None:
    options = sys.argv[1:] or DEFAULT
    with tempfile.TemporaryDirectory() as folder:
        if options[-1] == "--measure":  # this process was started below, to include the imports in the time
            return measure(options[:-1])
        always = ["--metrics", "none"]
        for name, more in (("warm", [*always, *WARM]), ("run", [*always, "--measure"])):
            command = [sys.executable, __file__ if name == "run" else str(ROOT / "train.py"), *options]
            subprocess.run([*command, "--out", f"{folder}/{name}", *more], check=True, stdout=subprocess.DEVNULL)


def measure(options: list[str]) -> None:
    """Train with these options in this process, and print the share of the time that is not spent in steps."""
    sys.path.insert(0, str(ROOT))
    sys.argv = ["train.py", *options]
    import train
    from pggan.training.loop import Training
    from pggan.training.steps import Stepper

    # Steps are timed by wrapping the two methods that contain them; the loop itself stays as it is.
    step, learn, times, steps = Stepper.step, Training.train_until_next_check, [], [0.0]

    def timed(*arguments: object) -> None:
        times.append(time.perf_counter())
        step(*arguments)
        times.append(time.perf_counter())

    def summed(training: Training, *arguments: object) -> None:
        start = time.perf_counter()
        learn(training, *arguments)
        steps[0] += time.perf_counter() - start

    Stepper.step, Training.train_until_next_check = timed, summed
    train.main()
    whole = times[-1] - times[0]
    print(
        f"start {times[0] - START:.1f} s; {len(times) // 2} steps in {whole:.1f} s, of which log lines, samples, "
        f"checkpoints and the rest of the loop take {1 - steps[0] / whole:.1%}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
