"""The training run.

The constructor derives the plan (which stage when), the data and the state from the options. `run` then repeats until
the plan ends: compute the phase, read a batch, take a step; and when due, log, draw samples, save and evaluate.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch

from pggan.checkpoints import RunDirectory
from pggan.checkpoints.run_directory import read_lines
from pggan.datasets import Source, make_grid, open_source, shuffled_indices
from pggan.metrics import PROVENANCE_LABELS, MetricError, Provenance, Suite, default_folder, is_out_of_memory

from ..config import ConfigError, TrainConfig, parse_duration
from ..networks import generate
from .augment import Augmentation, split_holdout
from .batch import Batch
from .budget import EVALUATION_SHARE, find_end
from .device import (
    choose_device,
    choose_kernels,
    choose_precision,
    describe_device,
    keep_freed_memory,
    read_peak_memory,
    release_unused_memory,
)
from .evaluation import Evaluator, synthetic_mode_metric
from .feeding import Feeder, describe_data, open_training_images
from .graphs import uses_graphs
from .growth import GrowthController, Phase, is_due
from .health import describe_sign, find_signs, measure_variety
from .losses import find_cautions
from .memory import explain_out_of_memory, suggest_less_memory
from .plan import describe_idle_processes, print_stages, try_stages
from .power_ema import round_to_half
from .ranks import SINGLE_PROCESS, ProcessLost, Ranks
from .remaining import count_evaluations_left, estimate_seconds_left, estimate_stage_times
from .resume import (
    check_networks,
    check_resumable,
    describe_finished_run,
    explain_mismatch,
    resolve_resumed_config,
    roll_back,
    start_new_run,
)
from .run_writer import RunWriter
from .signals import StopRequested, StopSignals, TrainingStopped, suggest_resuming
from .state import TrainState, draw_latents, to_device
from .steps import Stepper
from .tracking import Progress, Tracker, choose_grid_size, format_duration, log

SHORT_NAMES = {"D": "d_loss", "G": "g_loss", "|grad|": "grad_norm", "overfit": "overfitting"}


def train(
    config: TrainConfig,
    ranks: Ranks = SINGLE_PROCESS,
    open_images: Callable[[str, bool], Source] = open_source,
    started: float | None = None,
) -> None:
    """Start a run, or resume the one in the run directory.

    As a library: call it as often as you like, from any thread. In the main thread the first SIGINT or SIGTERM saves
    and stops the run. In other threads Python handles no signals, and only the last tick's checkpoint remains.

    Args:
        ranks: the processes that share the work; only rank 0 writes to the run directory.
        open_images: see `resolve_config`.
        started: `time.perf_counter()` from which the time of --budget counts; None: now.

    Raises:
        ConfigError, DataError, CheckpointError, MetricError: unusable options or files;
            nothing has been written to the run directory.
        TrainingStopped: a signal (the state is saved), persistently non-finite gradients, a checkpoint that cannot be
            written, too little memory, or the loss of another process.
    """
    directory = RunDirectory(config.out)
    keep_freed_memory()
    try:
        Training(config, directory, ranks, open_images, time.perf_counter() if started is None else started).run()
    finally:
        directory.release()


class Training:
    """A run in progress.

    The constructor goes from the options to a state that is ready to train; `run` is the training loop. On rank 0 it
    also has `writer`, `tracker`, `history` (the lines of log.jsonl) and `trial` (see `plan.try_stages`).
    """

    def __init__(
        self,
        config: TrainConfig,
        directory: RunDirectory,
        ranks: Ranks,
        open_images: Callable[[str, bool], Source],
        started: float,
    ):
        self.directory, self.ranks, self.started = directory, ranks, started
        self.signals = StopSignals(ranks.all_reduce_max)
        config, saved, is_resuming = self.find_run(config)
        self.device, self.config = self.choose_hardware(config, saved is not None)
        self.plan = self.make_plan(is_new=saved is None)
        suite = self.open_data(open_images)
        if saved:
            with explain_mismatch(directory.latest):
                check_resumable(saved, self.pyramid.compute_digest(), self.config)
        self.evaluator = Evaluator(
            self.pyramid,
            suite,
            self.config.metric_images,
            self.config.seed,
            self.signals.check,
            ranks,
            data=self.config.data,
            mirror=self.config.mirror,
        )
        self.time_stages()
        self.state, self.config = self.make_state(saved)
        self.make_stepper_and_feeders()
        for warning in [*find_cautions(self.config), *describe_idle_processes(self.plan, ranks)]:
            log(warning)
        if ranks.is_first:  # nothing was written until now, so that a refused run leaves nothing behind
            self.open_run_directory(is_resuming)
        self.broadcast_state()
        self.plan = GrowthController(self.config, self.state.stage_ends)
        self.start_tick()
        self.progress_text = ""
        self.previously_elapsed = self.state.elapsed

    def find_run(self, config: TrainConfig) -> tuple[TrainConfig, dict[str, Any] | None, bool]:
        """Lock an existing run and read its newest checkpoint.

        Returns:
            The options, with those that the run has settled; on rank 0 the checkpoint, or None; whether there is a run.
        """
        saved, is_resuming = None, self.ranks.is_first and self.directory.exists()
        if is_resuming:
            self.directory.lock(log)
            config, saved = resolve_resumed_config(self.directory, config), self.directory.load_newest(log)
        return self.ranks.broadcast(config), saved, is_resuming

    def choose_hardware(self, config: TrainConfig, is_resuming: bool) -> tuple[torch.device, TrainConfig]:
        """Choose the device and, on rank 0 for all, the precision."""
        choose_kernels(config.deterministic)
        device = choose_device(config.device, self.ranks)
        uses_graphs(config, device, self.ranks)  # raises ConfigError if --cuda-graphs is impossible here
        latest = self.directory.latest if is_resuming else None
        precision = choose_precision(config, device, latest, log) if self.ranks.is_first else None
        return device, replace(config, precision=self.ranks.broadcast(precision))

    def make_plan(self, is_new: bool) -> GrowthController:
        """Return the plan before the state is loaded; the end of a run started with --resume is not known yet."""
        end_is_open = self.ranks.broadcast(is_new and self.config.resume is not None)
        return GrowthController(replace(self.config, total_kimg=None) if end_is_open else self.config)

    def open_data(self, open_images: Callable[[str, bool], Source]) -> Suite:
        """Open the images, building their cache if needed, and the metrics; one rank of each machine goes first."""
        config = self.config
        with self.ranks.rank_by_rank():
            source = open_images(config.data, config.labels)
            if self.ranks.is_first:
                # on standard output: standard error is for warnings and errors
                print("\n".join(describe_data(config, source)), flush=True)
            self.pyramid = open_training_images(config, source)
            return self.build_suite()

    def build_suite(self) -> Suite:
        config = self.config
        more = synthetic_mode_metric(config.data, config.channels) if config.metrics else {}
        return Suite(config.metrics, config.inception_weights, self.device, more=more, cache=default_folder(), log=log)

    def time_stages(self) -> None:
        """Time a few steps of every stage, for the remaining time; before the state, so as not to hold both at once."""
        with explain_out_of_memory():
            if self.ranks.is_first:
                classes = len(self.pyramid.classes)
                self.trial = try_stages(self.config, self.plan, classes, self.device, self.ranks.world_size)
                release_unused_memory(self.device)

    def make_state(self, saved: dict[str, Any] | None) -> tuple[TrainState, TrainConfig]:
        """Return the state (from the run's checkpoint, --resume's, or from scratch) and the final options."""
        config = self.config
        with explain_out_of_memory():
            state = TrainState(config, len(self.pyramid.classes), self.device)
        if saved:
            with explain_mismatch(self.directory.latest):
                check_networks(str(self.directory.latest), saved["networks"], state.arguments)
                state.load_state_dict(saved["state"])
            log(f"resuming {self.directory.folder} at {state.images / 1000:g} kimg")
        elif config.resume and self.ranks.is_first:
            config, lines = start_new_run(state, config, self.pyramid.classes)
            log("\n".join(lines))
        return state, self.ranks.broadcast(config)

    def make_stepper_and_feeders(self) -> None:
        config, ranks = self.config, self.ranks
        if ranks.world_size > 1 and self.state.D.batch_norm:
            raise ConfigError(
                "--arch dcgan runs in one process only: its batch norm needs the whole batch; omit torchrun"
            )
        augment = Augmentation.from_config(config)
        self.stepper = Stepper.from_config(config, config.precision == "bf16", augment, ranks, self.device)
        train_indices, held_out_indices = split_holdout(config, len(self.pyramid))
        make_feeder = partial(Feeder, self.pyramid, config.seed, self.device, group=config.mbstd_group, ranks=ranks)
        self.feeder = make_feeder(train_indices)
        self.held_out = make_feeder(held_out_indices) if len(held_out_indices) else None
        if self.held_out:
            count, total = len(held_out_indices), len(self.pyramid)
            log(f"holding out {count:,} of {total:,} images to measure overfitting (--holdout 0 turns this off)")

    def open_run_directory(self, is_resuming: bool) -> None:
        """Write config.json, cut the logs back to the state, and open the writer and the tracker."""
        if not is_resuming:
            self.directory.lock(log)
            if self.directory.exists():
                raise ConfigError(
                    f"--out: another process has just started a run in {self.directory.folder}; use another --out"
                )
        self.directory.create(self.config.to_dict())
        self.directory.cut_logs(self.state.images)
        self.writer = RunWriter(self.directory, self.config.keep_last)
        self.tracker = Tracker(self.directory, self.config, self.state.images)
        self.history = read_lines(self.directory.log)

    def broadcast_state(self) -> None:
        """Give every rank the state of rank 0."""
        if self.ranks.world_size == 1:
            return
        on_cpu = to_device(self.state.state_dict(), torch.device("cpu")) if self.ranks.is_first else None
        shared = self.ranks.broadcast(on_cpu)
        if not self.ranks.is_first:
            self.state.load_state_dict(shared)

    def run(self) -> None:
        """Train until the plan ends: phase, batch, step; log, sample, save and evaluate when due."""
        state = self.state
        if state.images >= self.plan.total_images:
            log(describe_finished_run(self.config, self.plan, state.images))
        else:
            print(
                f"training to {self.plan.total_images / 1000:g} kimg at {self.config.resolution}x"
                f"{self.config.resolution} on {describe_device(self.device)} in {self.config.precision}; writing to "
                f"{self.directory.folder}",
                flush=True,
            )
        progress = Progress(state.images, self.plan.total_images)
        with self.signals, self.explain_stop(progress):
            while True:
                self.finish_stage_and_evaluate()
                if state.images >= self.plan.total_images:
                    break
                phase = self.current_phase()
                skipped = self.train_until_next_check(phase)
                if skipped >= self.config.max_skipped:
                    self.roll_back_or_stop(skipped)
                    continue
                if self.is_tick_due():
                    if self.ranks.is_first:
                        self.finish_tick(phase)
                    state.clear_sums()
                    self.share_stage_ends()
                    progress.set_total(self.plan.total_images)
                progress.update(state.images, f"{format_status(phase, state.images)}  {self.progress_text}")
                self.signals.check()
        if self.ranks.is_first:
            print_stages(read_lines(self.directory.metrics), self.directory, state.start)

    @contextmanager
    def explain_stop(self, progress: Progress) -> Iterator[None]:
        """Turn what ends a run early into TrainingStopped, with the state saved if possible; close the tracker."""
        try:
            yield
        except StopRequested as request:
            self.stop(request)
        except ProcessLost as lost:
            raise TrainingStopped(f"{lost}; {suggest_resuming(self.directory.latest)}") from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            phase = self.plan.phase(self.state.previous)
            advice = suggest_less_memory(self.config, phase, self.ranks, self.directory.latest)
            where = f"{format_status(phase, self.state.images)} with batches of {phase.batch_size}"
            raise TrainingStopped(f"out of memory at {where}; {advice}") from None
        except KeyboardInterrupt:  # the second Ctrl-C: do not wait for a service
            if self.ranks.is_first:
                self.tracker.close(wait=0)
            raise
        finally:
            progress.close()
            if self.ranks.is_first:
                self.tracker.close()

    def stop(self, request: StopRequested) -> None:
        """Save on rank 0 while the others, which stop at the same moment, wait."""
        if not self.ranks.is_first:
            self.ranks.broadcast(None)
            raise SystemExit(1)
        self.save(needed=str(request))
        self.ranks.broadcast(None)
        raise TrainingStopped(
            f"{request}: saved {self.directory.latest}; run the same command again to resume"
        ) from None

    def current_phase(self) -> Phase:
        """Return the phase of the next steps, with learning rates reduced by rollbacks."""
        return self.plan.phase(self.state.images).scale_lr(self.state.lr_factor)

    def train_until_next_check(self, phase: Phase) -> int:
        """Train for `--repeats` steps, between two updates of the schedule.

        Returns:
            The number of consecutive updates of D or G that were skipped last, whichever is larger.
        """
        state, start = self.state, time.perf_counter()
        state.previous = state.images
        held_out = self.held_out_images(phase)
        for _ in range(self.config.repeats):
            self.stepper.step(state, self.feeder.next_batch(state.images, phase), phase, held_out)
            held_out = None
        if self.plan.should_reset_optimizers(state.previous, state.images):
            state.reset_optimizers()
        skipped = int(state.skipped_in_a_row.max())  # waits for the GPU, so that the time below is the steps' own
        state.seconds[phase.resolution] = state.seconds.get(phase.resolution, 0.0) + time.perf_counter() - start
        return skipped

    def roll_back_or_stop(self, skipped: int) -> None:
        """Follow --on-nan after too many consecutive steps with non-finite gradients."""
        state, kimg = self.state, f"{self.state.images / 1000:g} kimg"
        problem = f"{skipped} consecutive steps had non-finite gradients (at {kimg})"
        if self.config.on_nan == "stop":
            latest = self.directory.latest
            start = f" --resume {quote(str(latest))}" if latest.exists() else ""
            raise TrainingStopped(
                f"{problem}; rerun with --on-nan rollback, or start a new run with a lower --lr or --precision fp32: "
                f"--out ANOTHER{start}"
            )
        if self.ranks.is_first:
            roll_back(state, self.directory, problem)
            self.tracker.close()
            self.writer.drop_lines_after(state.images)
            self.tracker = Tracker(self.directory, self.config, state.images)
            self.save()
        self.broadcast_state()
        self.plan = GrowthController(self.config, state.stage_ends)
        if self.ranks.is_first:
            self.history = [line for line in self.history if line["images"] <= state.images]
        self.start_tick()

    def held_out_images(self, phase: Phase) -> Batch | None:
        """Return held-out images to score beside the batch: at most as many, in whole minibatch-stddev groups."""
        if self.held_out is None:
            return None
        group = min(self.config.mbstd_group, phase.batch_size)
        count = min(phase.batch_size, len(self.held_out.indices)) // group * group
        until_next = self.config.repeats * phase.batch_size
        return self.held_out.next_batch(self.state.images, replace(phase, batch_size=count), until_next)

    def is_stage_end(self) -> bool:
        return self.plan.is_stage_end(self.state.previous, self.state.images)

    def is_evaluation_due(self) -> bool:
        every = self.config.metric_every_kimg
        return self.is_stage_end() or bool(every and is_due(self.state.previous, self.state.images, every * 1000))

    def is_tick_due(self) -> bool:
        tick = self.plan.phase(self.state.previous).tick_images
        return self.is_evaluation_due() or is_due(self.state.previous, self.state.images, tick)

    def finish_tick(self, phase: Phase) -> None:
        """Log, draw samples, save."""
        state = self.state
        values = state.average_sums()
        if "held_out_score" in values:
            seen, held_out, faked = (values.pop(f"{name}_score") for name in ("seen", "held_out", "faked"))
            values["overfitting"] = (seen - held_out) / (seen - faked) if seen != faked else 0.0
        if self.config.augment == "ada":
            values["augment_p"] = float(state.augment_p)
        start, images = self.tick_start
        elapsed = time.perf_counter() - start
        speed = (state.images - images) / elapsed
        line: dict[str, Any] = {
            "images": state.images,
            "resolution": phase.resolution,
            "alpha": phase.alpha,
            **{name: value if math.isfinite(value) else None for name, value in values.items()},
            "g_lr": phase.d_and_g_lr[1],
            "d_lr": phase.d_and_g_lr[0],
            "batch_size": phase.batch_size,
            "images_per_second": float(f"{speed:.4g}"),
            "loader_share": round(self.feeder.wait_seconds / elapsed, 4),
            "seconds": round(sum(state.seconds.values()), 1),
            "peak_memory_mb": round(read_peak_memory(self.device) / 2**20),
            **self.writer.checkpoint_cost,
        }
        if state.rollbacks:
            line["rollbacks"] = len(state.rollbacks)
        line |= self.save_samples(phase)
        line["health"] = find_signs([*self.history, line])
        self.log_line(self.directory.log, line)
        if self.config.budget and phase.resolution == self.config.resolution and not self.is_stage_end():
            self.move_end(line)
        self.progress_text = self.format_progress(line, speed)
        log(f"{format_status(phase, state.images)}  {self.progress_text}")
        for sign in line["health"]:
            if sign not in (self.history[-1].get("health") or () if self.history else ()):
                log(f"  health: {describe_sign(sign)}")
        self.history.append(line)
        state.clear_sums()
        self.save(needed="a stage ends here" if self.is_stage_end() else "")
        self.start_tick()

    def move_end(self, line: dict[str, Any]) -> None:
        """Move the end of the last stage to when --budget will be used up.

        Until then the end is the plan's. The decision is saved, so that a resumed run continues the same schedule.
        """
        state, evaluations = self.state, read_lines(self.directory.metrics)
        seconds = estimate_stage_times(self.trial, [*self.history, line])[self.config.resolution]
        budget, evaluation = parse_duration(self.config.budget), 0.0
        if self.evaluator.suite.metrics:  # planned, until one has been timed
            evaluation = EVALUATION_SHARE * budget / len(self.plan.resolutions)
        if evaluations:
            evaluation = evaluations[-1]["evaluation_seconds"]
        end = find_end(budget, self.measure_elapsed(), evaluation, seconds, state.images)
        soonest = max(self.earliest_end(), self.plan.next_check(state.images))
        state.stage_ends[self.config.resolution] = max(end, soonest)
        self.plan = GrowthController(self.config, state.stage_ends)

    def earliest_end(self) -> int:
        """Return the images seen at which the last stage has faded in and trained for an update at alpha 1."""
        return self.plan.next_check(self.plan.fade_ends[-1])

    def measure_elapsed(self) -> float:
        """Return the seconds of the run so far, earlier sessions included up to their last checkpoint."""
        return self.previously_elapsed + time.perf_counter() - self.started

    def share_stage_ends(self) -> None:
        """Broadcast rank 0's stage ends, and rebuild the plan from them."""
        self.state.stage_ends = self.ranks.broadcast(self.state.stage_ends)
        self.plan = GrowthController(self.config, self.state.stage_ends)

    def log_line(self, path: Path, line: dict[str, Any]) -> None:
        self.writer.write_line(path, line)
        self.tracker.log_scalars(path.stem, {key: line[key] for key in line if key not in PROVENANCE_LABELS})

    def save_grid(self, name: str, images: np.ndarray) -> None:
        """Save uint8 images [N, C, r, r] as one grid in samples/, and send it to the tracker."""
        grid = make_grid(images)
        self.writer.write_image(name, grid)
        self.tracker.log_grid(name.split("-")[0], grid, self.state.images)

    def start_tick(self) -> None:
        self.tick_start, self.feeder.wait_seconds = (time.perf_counter(), self.state.images), 0.0

    def format_progress(self, line: dict[str, Any], speed: float) -> str:
        """Return losses, gradient norm, speed and the time left."""
        losses = [f"{short} {line[name]:.3g}" for short, name in SHORT_NAMES.items() if line.get(name) is not None]
        return "  ".join([*losses, f"{speed:.1f} img/s", self.format_time_left(line)])

    def format_time_left(self, line: dict[str, Any]) -> str:
        """Return the time left in this stage and in total, evaluations included once one has been timed.

        With --budget, the total is what is left of it, or what the run has to do in any case if that is longer.
        """
        times = estimate_stage_times(self.trial, [*self.history, line])
        stage, training = estimate_seconds_left(self.plan, times, self.state.images, line["resolution"])
        count, evaluations = 0, read_lines(self.directory.metrics)
        if self.evaluator.suite.metrics:
            count = count_evaluations_left(self.plan, self.state.images, self.is_evaluation_due())
        each = evaluations[-1]["evaluation_seconds"] if evaluations else 0.0
        if self.config.budget:
            rest = parse_duration(self.config.budget) - self.measure_elapsed()
            ends = {**self.state.stage_ends, self.config.resolution: self.earliest_end()}
            shortest = GrowthController(self.config, ends)
            _, least = estimate_seconds_left(shortest, times, self.state.images, line["resolution"])
            if self.evaluator.suite.metrics:
                count = count_evaluations_left(shortest, self.state.images, self.is_evaluation_due())
            total = max(rest, stage, least + count * each)
            return f"{format_duration(stage)} left in this stage, {format_duration(total)} in total"
        left = f"{format_duration(stage)} left in this stage, {format_duration(training + count * each)} in total"
        if count and not evaluations:
            left += f", plus {count} evaluation" + "s" * (count > 1)
        return left

    def save_samples(self, phase: Phase) -> dict[str, float]:
        """Save a grid of images of fixed latents, once per stage one of real images too, and measure their variety."""
        count = choose_grid_size(phase.resolution)
        z = draw_latents(self.config.seed, 0, "grid", count, self.state.G.latent_size)
        present = torch.tensor(self.pyramid.class_counts).nonzero().flatten()  # never a class without images
        labels = present[torch.arange(count) % len(present)] if len(present) else None
        fakes = generate(self.state.G_ema, z, labels, phase.resolution, phase.alpha)
        self.save_grid(f"fakes-{self.state.images:08d}", fakes.numpy())
        indices = shuffled_indices(self.config.seed, 0, min(count, len(self.pyramid)), len(self.pyramid))
        reals = self.pyramid.read_images(phase.resolution, indices)
        if not (self.directory.samples / f"reals-{phase.resolution:04d}.png").exists():
            self.save_grid(f"reals-{phase.resolution:04d}", reals)
        return measure_variety(
            fakes, torch.from_numpy(reals), bool(synthetic_mode_metric(self.config.data, fakes.shape[1]))
        )

    def save(self, needed: str = "") -> None:
        """Save a checkpoint; `needed` is the reason if the run cannot continue without it."""
        phase = self.plan.phase(self.state.previous)
        self.state.elapsed = self.measure_elapsed()
        content = {
            "images": self.state.images,
            "stage": {"resolution": phase.resolution, "alpha": phase.alpha},
            "config": self.config.to_dict(),
            "networks": self.state.arguments,
            "classes": self.pyramid.classes,
            "class_counts": self.pyramid.class_counts,
            "data": self.pyramid.compute_digest(),
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "device": describe_device(self.device),
            },
        }
        self.writer.write_checkpoint({**content, "state": self.state.state_dict()}, needed)
        if averages := self.state.power_averages:
            half = {std: round_to_half(average.state_dict()) for std, average in averages.items()}
            self.writer.write_averages({**content, "start": self.state.start, "state": {"power_averages": half}})

    def finish_stage_and_evaluate(self) -> None:
        """Evaluate and save the stage's checkpoint, if due after the last tick; also after a kill in between."""
        if not self.is_evaluation_due():
            return
        state, phase = self.state, self.plan.phase(self.state.previous)
        is_evaluated = self.ranks.broadcast(self.ranks.is_first and self.find_evaluation() is not None)
        start = time.perf_counter()
        if not is_evaluated and self.evaluator.suite.metrics:
            reals, size = self.evaluator.num_reals, f"{phase.resolution}x{phase.resolution}"
            log(f"evaluating {self.config.metric_images:,} generated against {reals:,} real images at {size}")
        results = {} if is_evaluated else self.evaluate(phase)
        release_unused_memory(self.device)  # Inception's, and the previous stage's
        if self.config.growth == "adaptive" and not phase.is_fading:
            self.end_stage_early(phase, results)
        if not self.ranks.is_first:
            return
        if self.is_stage_end():
            self.writer.keep_stage(phase.resolution)
        if is_evaluated:
            self.keep_best()
            return
        seconds = state.seconds.get(phase.resolution, 0.0)
        line = {
            "images": state.images,
            "resolution": phase.resolution,
            "alpha": phase.alpha,
            "stage_end": self.is_stage_end(),
            "stage_seconds": round(seconds, 1),
            "evaluation_seconds": round(time.perf_counter() - start, 1),
            **self.evaluator.describe(phase.resolution).to_dict(),
            **results,
        }
        self.log_line(self.directory.metrics, line)
        self.keep_best()
        if results:
            log("  " + "  ".join(f"{name.upper()} {value:.4g}" for name, value in results.items() if "_" not in name))
        self.start_tick()

    def evaluate(self, phase: Phase) -> dict[str, float]:
        """Return the metrics, or {} with a warning if they cannot be computed: that must not end the training."""
        try:
            return self.evaluator(self.state.G_ema, phase.resolution, phase.alpha)
        except (RuntimeError, MemoryError, OSError, MetricError) as error:
            if not isinstance(error, MetricError) and not is_out_of_memory(error):
                raise
            reason = str(error) if isinstance(error, MetricError) else "out of memory"
            log(f"warning: no metrics at {phase.resolution}x{phase.resolution}: {reason}; training continues")
            return {}

    def find_evaluation(self) -> dict[str, Any] | None:
        """Return the line of metrics.jsonl for this moment, or None."""
        lines = read_lines(self.directory.metrics)
        return next((line for line in lines if line["images"] == self.state.images), None)

    def keep_best(self) -> None:
        """Keep this moment's checkpoint as best.pt if its FID is the lowest of all comparable ones so far.

        Comparable are those of the same resolution, at alpha 1, computed in the same way.
        """
        now = self.find_evaluation()
        if now is None or self.writer.is_behind or now["alpha"] != 1 or "fid" not in now:
            return
        how = Provenance.from_line(now)
        lines = [line for line in read_lines(self.directory.metrics) if line["alpha"] == 1 and "fid" in line]
        if now["fid"] == min(line["fid"] for line in lines if how.is_comparable(Provenance.from_line(line))):
            self.writer.keep_best()

    def end_stage_early(self, phase: Phase, results: dict[str, float]) -> None:
        """End the stage now if its score has stopped improving (adaptive growth)."""
        state, metric, resolution = self.state, self.config.growth_metric, phase.resolution
        if self.ranks.is_first and resolution not in state.stage_ends:
            now = {"images": state.images, "resolution": resolution, "alpha": 1.0, **results}
            lines = [*read_lines(self.directory.metrics), now]
            stable = [line for line in lines if line["resolution"] == resolution and line["alpha"] == 1]
            scores = [(line["images"], line[metric]) for line in stable if line.get(metric) is not None]
            if self.plan.should_end_stage(state.images, scores):
                state.stage_ends[resolution] = state.images
                log(f"{metric.upper()} has stopped improving at {resolution}x{resolution}: growing")
                self.save()
        self.share_stage_ends()


def format_status(phase: Phase, images: int) -> str:
    """Return the status, such as "16x16 alpha 0.25 12.5 kimg"."""
    alpha = f" alpha {phase.alpha:.2f}" if phase.is_fading else ""
    return f"{phase.resolution}x{phase.resolution}{alpha} {images / 1000:.1f} kimg"
