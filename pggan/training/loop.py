"""The training run: phase -> batch -> steps -> what is due (log, sample, checkpoint, evaluate)."""

from __future__ import annotations

import math
import platform
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from checkpoints import RunDirectory
from checkpoints.run_directory import read_lines
from datasets import contact_sheet, open_pyramid, open_source, shuffled, summarize
from metrics import Suite, default_folder

from ..config import ConfigError, TrainConfig
from ..networks import generate
from .augment import Augmentation, split
from .device import (
    choose_device,
    choose_precision,
    compute_deterministically,
    device_name,
    keep_freed_memory,
    peak_memory,
)
from .evaluation import Judge, modes_of_embedded_set
from .feeding import Feeder
from .growth import GrowthController, Phase, crosses
from .health import sentence, signs, variety
from .losses import cautions
from .memory import is_out_of_memory, less_memory, room_for_networks
from .plan import costs_per_image, idle_processes, print_stages, time_left
from .ranks import ALONE, ProcessLost, Ranks
from .resume import adopt, check_fits, fitting, go_back, same_run
from .saving import Keeper
from .signals import StopRequested, StopSignals, TrainingStopped
from .state import TrainState, latents, to_device
from .steps import Batch, Stepper
from .tracking import Progress, Tracker, duration, samples_in_grid, say

SHORT_NAMES = {"D": "d_loss", "G": "g_loss", "|grad|": "grad_norm", "overfit": "overfitting"}


def train(config: TrainConfig, ranks: Ranks = ALONE) -> None:
    """Carry out a run, or go on with it where it was left.

    ranks: the processes that share the work; only the first one writes in the run directory.

    Raises:
        ConfigError, datasets.DataError, checkpoints.CheckpointError, metrics.MetricError: options or files that
            cannot be used; nothing is written in the run directory then.
        TrainingStopped: a signal (the state is saved), gradients that stay non-finite, a state that cannot be saved,
            memory that does not suffice, or another process that has ended.
    """
    directory = RunDirectory(config.out)
    keep_freed_memory()
    try:
        Training(config, directory, ranks).run()
    finally:
        directory.release()


class Training:
    """A run under way: its parts, put together from the config and the run directory."""

    def __init__(self, config: TrainConfig, directory: RunDirectory, ranks: Ranks):
        self.directory, self.ranks, saved = directory, ranks, None
        if began := ranks.first and self.directory.exists():
            self.directory.lock()
            config, saved = same_run(self.directory, config), self.directory.load_newest(say)
        config = ranks.from_first(config)
        if config.deterministic:
            compute_deterministically()
        self.device, self.plan = choose_device(config.device, ranks), GrowthController(config)
        latest = self.directory.latest if saved else None
        precision = ranks.from_first(ranks.first and choose_precision(config, self.device, latest))
        self.config = config = replace(config, precision=precision)
        self.signals = StopSignals(ranks.largest)
        with ranks.in_turn():
            source = open_source(config.data, config.labels)
            if ranks.first:
                print("\n".join(summarize(source)), flush=True)  # standard error begins with what is wrong
            self.pyramid = open_pyramid(
                source, config.resolution, config.channels, fit=config.fit,
                background=config.background, allow_upscale=config.allow_upscale, max_bad=config.max_bad,
            )  # fmt: skip
            suite = self.suite()
        if saved:
            with fitting(self.directory.latest):
                check_fits(saved, self.pyramid.digest(), config, self.plan)
        self.judge = Judge(self.pyramid, suite, config.metric_images, config.seed, self.signals.check, ranks)
        with room_for_networks():
            self.state = TrainState(config, len(self.pyramid.classes), self.device)
        if saved:
            with fitting(self.directory.latest):
                self.state.load_state_dict(saved["state"])
            say(f"resuming {self.directory.folder} at {self.state.images / 1000:g} kimg")
        elif config.resume and ranks.first:
            lines = adopt(self.state, config.resume, config, self.plan, self.pyramid.classes)
            say("\n".join([f"starting from {config.resume} at {self.state.images / 1000:g} kimg", *lines]))
        augment = Augmentation(config.augment, config.ada_target, config.ada_kimg * 1000, config.repeats)
        if ranks.count > 1 and self.state.D.batch_norm:
            raise ConfigError("--arch dcgan is for one process: its batch norm is of the batch as a whole")
        self.stepper = Stepper.of(config, config.precision == "bf16", augment, ranks)
        trained, held_out = split(config, len(self.pyramid))
        feed = partial(Feeder, self.pyramid, config.seed, self.device, group=config.mbstd_group, ranks=ranks)
        self.feeder, self.held_out = feed(trained), feed(held_out) if len(held_out) else None
        if self.held_out:
            say(f"{len(held_out)} of {len(self.pyramid)} images are held out to see overfitting by (--holdout 0: none)")
        for caution in [*cautions(config), *idle_processes(self.plan, ranks)]:
            say(caution)
        if ranks.first:
            self.begin_to_write(began)
        self.share_state()
        self.plan = GrowthController(config, self.state.stage_ends)
        self.costs = costs_per_image(self.state.arguments)
        self.start_tick()
        self.recent = ""

    def begin_to_write(self, began: bool) -> None:
        """In the run directory, where nothing was written until now."""
        if not began:
            self.directory.lock()
            if self.directory.exists():
                raise ConfigError(f"--out: {self.directory.folder} was begun by another process just now")
        self.directory.create(self.config.to_dict())
        self.directory.cut_logs(self.state.images)
        self.keeper = Keeper(self.directory, self.config.keep_last)
        self.tracker = Tracker(self.directory, self.config, self.state.images)
        self.history = read_lines(self.directory.log)

    def share_state(self) -> None:
        """Every process gets the first one's state."""
        if self.ranks.count == 1:
            return
        held = self.ranks.from_first(
            to_device(self.state.state_dict(), torch.device("cpu")) if self.ranks.first else None
        )
        if not self.ranks.first:
            self.state.load_state_dict(held)

    def run(self) -> None:
        state = self.state
        progress = Progress(state.images, self.plan.total_images)
        with self.signals:
            try:
                while True:
                    self.finish_stage_and_judge()
                    if state.images >= self.plan.total_images:
                        break
                    phase = self.phase()
                    self.train_until_next_look(phase)
                    if int(state.skipped_in_a_row.max()) >= self.config.max_skipped:
                        self.go_back_or_stop()
                        continue
                    if self.ticks():
                        if self.ranks.first:
                            self.tick(phase)
                        state.clear_sums()
                    progress.update(state.images, f"{status(phase, state.images)}  {self.recent}")
                    self.signals.check()
            except StopRequested as request:
                self.stop(request)
            except ProcessLost as lost:
                raise TrainingStopped(f"{lost}; {self.to_go_on()}") from None
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                phase = self.plan.phase(state.previous)
                advice = less_memory(self.config, phase, self.ranks, self.directory.latest)
                where = f"{status(phase, state.images)} with batches of {phase.batch_size}"
                raise TrainingStopped(f"out of memory at {where}; {self.to_go_on()}{advice}") from None
            except KeyboardInterrupt:  # the second Ctrl-C: nobody waits for a service
                if self.ranks.first:
                    self.tracker.close(wait=0)
                raise
            finally:
                progress.close()
                if self.ranks.first:
                    self.tracker.close()
        if self.ranks.first:
            print_stages(read_lines(self.directory.metrics), self.directory)

    def stop(self, request: StopRequested) -> None:
        """All processes come here at the same moment; the first one saves it."""
        if not self.ranks.first:
            self.ranks.from_first(None)
            raise SystemExit(1)
        self.save(needed=str(request))
        self.ranks.from_first(None)
        raise TrainingStopped(f"{request}: saved {self.directory.latest}; the same command goes on") from None

    def to_go_on(self) -> str:
        latest = self.directory.latest
        return f"the same command goes on from {latest}" if latest.exists() else "nothing was saved yet"

    def phase(self) -> Phase:
        """What is trained next."""
        return self.plan.phase(self.state.images).slowed(self.state.lr_factor)

    def train_until_next_look(self, phase: Phase) -> None:
        """The steps between two looks at the schedule."""
        state, start = self.state, time.perf_counter()
        state.previous = state.images
        held_out = self.held_out_images(phase)
        for _ in range(self.config.repeats):
            self.stepper.step(state, self.feeder.batch(state.images, phase), phase, held_out)
            held_out = None
        if self.plan.resets_optimizers(state.previous, state.images):
            state.reset_optimizers()
        state.seconds[phase.resolution] = state.seconds.get(phase.resolution, 0.0) + time.perf_counter() - start

    def go_back_or_stop(self) -> None:
        """After too many steps without finite gradients."""
        state = self.state
        say_what = f"{int(state.skipped_in_a_row.max())} steps in a row had gradients that are not finite, at "
        say_what += f"{state.images / 1000:g} kimg"
        if self.config.on_nan == "stop":
            latest = self.directory.latest
            start = f"--resume {latest}, the last good checkpoint" if latest.exists() else "nothing was saved yet"
            raise TrainingStopped(
                f"{say_what}; try a lower --lr, or --precision fp32, in another --out ({start}), or the same command "
                "with --on-nan rollback"
            )
        if self.ranks.first:
            go_back(state, self.directory, self.config.rollback_lr, say_what)
            self.tracker.close()
            self.keeper.forget(state.images)
            self.tracker = Tracker(self.directory, self.config, state.images)
            self.save()
        self.share_state()
        self.plan = GrowthController(self.config, state.stage_ends)
        if self.ranks.first:
            self.history = [line for line in self.history if line["images"] <= state.images]
        self.start_tick()

    def held_out_images(self, phase: Phase) -> Batch | None:
        """Images that are never trained on, at most a batch of them, in whole minibatch-stddev groups."""
        if self.held_out is None:
            return None
        group = min(self.config.mbstd_group, phase.batch_size)
        count = min(phase.batch_size, len(self.held_out.chosen)) // group * group
        return self.held_out.batch(self.state.images, replace(phase, batch_size=count))

    def ends_stage(self) -> bool:
        return self.plan.ends_stage(self.state.previous, self.state.images)

    def suite(self) -> Suite:
        config = self.config
        more = modes_of_embedded_set(config.data, config.channels) if config.metrics else {}
        return Suite(
            config.metrics, config.inception_weights, self.device, more=more, cache=default_folder(), say=say
        )  # fmt: skip

    def judges(self) -> bool:
        every = self.config.metric_every_kimg
        return self.ends_stage() or bool(every and crosses(self.state.previous, self.state.images, every * 1000))

    def ticks(self) -> bool:
        tick = self.plan.phase(self.state.previous).tick
        return self.judges() or crosses(self.state.previous, self.state.images, tick)

    def tick(self, phase: Phase) -> None:
        """Log, draw samples, save."""
        state = self.state
        values = state.means()
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
            "g_lr": phase.lrs[1],
            "d_lr": phase.lrs[0],
            "batch_size": phase.batch_size,
            "images_per_second": round(speed, 2),
            "loader_share": round(self.feeder.waited / elapsed, 4),
            "seconds": round(sum(state.seconds.values()), 1),
            "peak_memory_mb": round(peak_memory(self.device) / 2**20),
            **self.keeper.cost,
        }
        if state.rollbacks:
            line["rollbacks"] = len(state.rollbacks)
        line |= self.samples(phase)
        line["health"] = signs([*self.history, line])
        self.record(self.directory.log, line)
        self.recent = self.recent_text(line, speed, phase)
        say(f"{status(phase, state.images)}  {self.recent}")
        for sign in line["health"]:
            if sign not in (self.history[-1].get("health") or () if self.history else ()):
                say(f"  health: {sentence(sign)}")
        self.history.append(line)
        state.clear_sums()
        self.save(needed="a stage ends here" if self.ends_stage() else "")
        self.start_tick()

    def record(self, path: Path, line: dict[str, Any]) -> None:
        self.keeper.line(path, line)
        self.tracker.scalars(path.stem, line)

    def draw(self, name: str, images: np.ndarray) -> None:
        """uint8 images [N, C, r, r] as one picture in samples/."""
        sheet = contact_sheet(images)
        self.keeper.picture(name, sheet)
        self.tracker.grid(name.split("-")[0], sheet, self.state.images)

    def start_tick(self) -> None:
        self.tick_start, self.feeder.waited = (time.perf_counter(), self.state.images), 0.0

    def recent_text(self, line: dict[str, Any], speed: float, phase: Phase) -> str:
        """Losses, gradient norm, speed and the time left."""
        losses = [f"{short} {line[name]:.3g}" for short, name in SHORT_NAMES.items() if line.get(name) is not None]
        stage, whole = time_left(self.plan, self.costs, self.state.images, phase.resolution, speed)
        left = f"left {duration(stage)} in this stage, {duration(whole)} in all"
        return "  ".join([*losses, f"{speed:.1f} img/s", left])

    def samples(self, phase: Phase) -> dict[str, float]:
        """A grid of the EMA generator's images of fixed latents, and once a stage one of reals; how varied they are."""
        count = samples_in_grid(phase.resolution)
        z = latents(self.config.seed, 0, "grid", count, self.state.G.latent_size)
        present = torch.tensor(self.pyramid.class_counts).nonzero().flatten()  # never a class without images
        labels = present[torch.arange(count) % len(present)] if len(present) else None
        fakes = generate(self.state.G_ema, z, labels, phase.resolution, phase.alpha)
        self.draw(f"fakes-{self.state.images:08d}", fakes.numpy())
        indices = shuffled(self.config.seed, 0, min(count, len(self.pyramid)), len(self.pyramid))
        reals = self.pyramid.images(phase.resolution, indices)
        if not (self.directory.samples / f"reals-{phase.resolution:04d}.png").exists():
            self.draw(f"reals-{phase.resolution:04d}", reals)
        return variety(fakes, torch.from_numpy(reals), bool(modes_of_embedded_set(self.config.data, fakes.shape[1])))

    def save(self, needed: str = "") -> None:
        """Write a checkpoint; `needed` says why the run cannot go on without."""
        phase = self.plan.phase(self.state.previous)
        self.keeper.checkpoint(
            {
                "images": self.state.images,
                "stage": {"resolution": phase.resolution, "alpha": phase.alpha},
                "config": self.config.to_dict(),
                "networks": self.state.arguments,
                "classes": self.pyramid.classes,
                "class_counts": self.pyramid.class_counts,
                "data": self.pyramid.digest(),
                "versions": {
                    "python": platform.python_version(),
                    "torch": str(torch.__version__),
                    "device": device_name(self.device),
                },
                "state": self.state.state_dict(),
            },
            needed,
        )

    def finish_stage_and_judge(self) -> None:
        """What is due after the last tick, also where a killed process left it undone."""
        if not self.judges():
            return
        state, phase = self.state, self.plan.phase(self.state.previous)
        judged = self.ranks.from_first(self.ranks.first and self.judged())
        start = time.perf_counter()
        results = {} if judged else self.judge(state.G_ema, phase.resolution, phase.alpha)
        if self.config.growth == "adaptive" and not phase.fading:
            self.grow_early(phase, results)
        if not self.ranks.first:
            return
        if self.ends_stage():
            self.keeper.name_stage(phase.resolution)
        if judged:
            return
        seconds = state.seconds.get(phase.resolution, 0.0)
        line = {
            "images": state.images,
            "resolution": phase.resolution,
            "alpha": phase.alpha,
            "stage_end": self.ends_stage(),
            "stage_seconds": round(seconds, 1),
            "evaluation_seconds": round(time.perf_counter() - start, 1),
            "metric_images": self.config.metric_images,
            "metric_reals": min(self.config.metric_images, len(self.pyramid)),
            **self.judge.suite.how(),
            **results,
        }
        self.record(self.directory.metrics, line)
        self.judged()
        if results:
            say("  " + "  ".join(f"{name.upper()} {value:.4g}" for name, value in results.items() if "_" not in name))
        self.start_tick()

    def judged(self) -> bool:
        """Whether metrics.jsonl holds this moment; if with the lowest FID at its resolution, it is kept as the best."""
        lines = read_lines(self.directory.metrics)
        now = next((line for line in lines if line["images"] == self.state.images), None)
        if now and not self.keeper.behind and "fid" in now:
            rivals = [line["fid"] for line in lines if line["resolution"] == now["resolution"] and "fid" in line]
            if now["fid"] == min(rivals):
                self.keeper.name_best()
        return now is not None

    def grow_early(self, phase: Phase, results: dict[str, float]) -> None:
        """Adaptive growth: end the stage here where its score has stopped improving, as the metrics so far say."""
        state, metric, resolution = self.state, self.config.growth_metric, phase.resolution
        if self.ranks.first and resolution not in state.stage_ends:
            now = {"images": state.images, "resolution": resolution, "alpha": 1.0, **results}
            lines = [*read_lines(self.directory.metrics), now]
            stable = [line for line in lines if line["resolution"] == resolution and line["alpha"] == 1]
            scores = [(line["images"], line[metric]) for line in stable if line.get(metric) is not None]
            if self.plan.ended_early(state.images, scores):
                state.stage_ends[resolution] = state.images
                say(f"{metric.upper()} has stopped improving at {resolution}x{resolution}: growing on")
                self.save()
        state.stage_ends = self.ranks.from_first(state.stage_ends)
        self.plan = GrowthController(self.config, state.stage_ends)


def status(phase: Phase, images: int) -> str:
    """As in "16x16 alpha 0.25 12.5 kimg"."""
    alpha = f" alpha {phase.alpha:.2f}" if phase.fading else ""
    return f"{phase.resolution}x{phase.resolution}{alpha} {images / 1000:.1f} kimg"
