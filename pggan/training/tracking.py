"""Where numbers and pictures go: the console, JSON lines, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import netrc
import os
import queue
import secrets
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from checkpoints import RunDirectory
from checkpoints.run_directory import read_lines, write_text

from ..config import TrainConfig, format_value

CLOSE_TIMEOUT = 60.0  # seconds for what is on its way to a service at the end of a run


class Tracker:
    """Shows each tick's numbers, each evaluation's results and sample grids in every place asked for.

    None of these holds up training or ends it: each has a thread of its own, and one that fails is left out thereafter.
    """

    def __init__(self, run: RunDirectory, config: TrainConfig, images: int):
        self.run, self.sinks = run, []
        kinds: dict[str, Callable[..., Any]] = {"tensorboard": TensorBoard, "wandb": WandB}
        if config.track in kinds:
            self.sinks.append(BackgroundSink(config.track, partial(kinds[config.track], run, config, images)))

    def log_scalars(self, group: str, values: dict[str, Any]) -> None:
        """The numbers of one line of log.jsonl or metrics.jsonl; must hold "images"."""
        numbers = {k: v for k, v in values.items() if is_number(v) and k != "images"}
        for sink in self.sinks:
            sink.enqueue("log_scalars", group, numbers, values["images"])
            if values.get("stage_end"):
                sink.enqueue("log_stages", *build_stage_table(self.run), values["images"])

    def log_grid(self, name: str, sheet: Image.Image, images: int) -> None:
        for sink in self.sinks:
            sink.enqueue("log_image", name, np.asarray(sheet), images)

    def close(self, wait: float = CLOSE_TIMEOUT) -> None:
        for sink in self.sinks:
            sink.close(wait)


class BackgroundSink:
    """A sink made and called in a thread of its own, in order."""

    def __init__(self, name: str, make: Callable[[], Any]):
        self.name, self.failed = name, False
        self.calls: queue.Queue[Any] = queue.Queue(1000)
        self.thread = threading.Thread(target=self.run_sink, args=(make,), name=f"track {name}", daemon=True)
        self.thread.start()

    def run_sink(self, make: Callable[[], Any]) -> None:
        try:
            sink = make()
            while call := self.calls.get():
                method, arguments = call
                getattr(sink, method)(*arguments)
            sink.close()
        except ImportError:
            self.disable("the package is not installed")
        except Exception as error:  # a service's client raises what it likes
            self.disable(str(error).split("\n")[0] or type(error).__name__)

    def disable(self, why: str) -> None:
        self.failed = True
        log(f"--track {self.name}: {why}; going on without it")

    def enqueue(self, method: str, *arguments: Any) -> None:
        if self.failed:
            return
        try:
            self.calls.put_nowait((method, arguments))
        except queue.Full:
            self.disable("it does not keep up")

    def close(self, wait: float) -> None:
        """Wait for what is on its way, at most so many seconds."""
        if self.failed:
            return
        with suppress(queue.Full):
            self.calls.put_nowait(None)
        self.thread.join(wait)
        if self.thread.is_alive():
            self.disable("it has not taken everything yet")
        self.failed = True


def is_number(value: Any) -> bool:
    """An int or a float; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def build_stage_table(run: RunDirectory) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of what was measured at the end of each stage so far."""
    ends = [line for line in read_lines(run.metrics) if line.get("stage_end")]
    columns = list(dict.fromkeys(key for line in ends for key in line if key not in ("alpha", "stage_end")))
    return columns, [[line.get(key) for key in columns] for line in ends]


class TensorBoard:
    """Scalars and pictures with images seen as the step; config and stages as text. Steps after `images` are purged."""

    def __init__(self, run: RunDirectory, config: TrainConfig, images: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=images + 1)
        options = [[name, format_value(getattr(config, name))] for name in config.to_dict()]
        self.writer.add_text("config", format_markdown_table(["option", "value"], options), images)

    def log_scalars(self, group: str, numbers: dict[str, float], images: int) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(f"{group}/{name}", value, images)
        self.writer.flush()

    def log_image(self, name: str, pixels: np.ndarray, images: int) -> None:
        self.writer.add_image(name, pixels, images, dataformats="HWC" if pixels.ndim == 3 else "HW")

    def log_stages(self, columns: list[str], rows: list[list[Any]], images: int) -> None:
        self.writer.add_text("stages", format_markdown_table(columns, rows), images)

    def close(self) -> None:
        self.writer.close()


def format_markdown_table(columns: list[str], rows: list[list[Any]]) -> str:
    """Rows under a header, as Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    texts = [["" if cell is None else str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in texts)


class WandB:
    """The same in Weights & Biases: online where an API key is at hand, else offline for `wandb sync`.

    A resumed run goes on in the same W&B run; steps that were logged before a kill are kept as they are. W&B's own
    environment variables (WANDB_PROJECT, WANDB_NAME, WANDB_ENTITY, WANDB_DIR, WANDB_RUN_ID, ...) come first.
    """

    def __init__(self, run: RunDirectory, config: TrainConfig, images: int):
        import wandb

        self.wandb, folder, given = wandb, run.folder.resolve(), os.environ
        start: Callable[..., Any] = partial(
            wandb.init,
            project=given.get("WANDB_PROJECT") or "pggan",
            name=given.get("WANDB_NAME") or folder.name,
            id=given.get("WANDB_RUN_ID") or wandb_id(folder),
            dir=given.get("WANDB_DIR") or str(folder),
            resume="allow",
            config=config.to_dict(),
            settings=wandb.Settings(init_timeout=30),
        )
        try:
            self.writer = start(mode=given.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline"))
        except wandb.errors.Error as error:
            log(f"Weights & Biases cannot be reached ({str(error).splitlines()[0]}); going on offline")
            self.writer = start(mode="offline")
        self.writer.define_metric("images", hidden=True)
        self.writer.define_metric("*", step_metric="images")

    def log_scalars(self, group: str, numbers: dict[str, float], images: int) -> None:
        self.writer.log({f"{group}/{k}": v for k, v in numbers.items()} | {"images": images}, step=images)

    def log_image(self, name: str, pixels: np.ndarray, images: int) -> None:
        self.writer.log({name: self.wandb.Image(pixels), "images": images}, step=images)

    def log_stages(self, columns: list[str], rows: list[list[Any]], images: int) -> None:
        self.writer.log({"stages": self.wandb.Table(columns=list(columns), data=rows), "images": images}, step=images)

    def close(self) -> None:
        self.writer.finish()


def wandb_id(folder: Path) -> str:
    """Return the id of the W&B run that a run directory belongs to, a new one on its first use and for a copy.

    A copy is a folder that holds the id of another one that still exists; a folder that was moved keeps its id.
    """
    identity, place = folder / "wandb-id", folder / "wandb-folder"
    known = identity.read_text().strip() if identity.exists() else ""
    before = Path(json.loads(place.read_text())) if place.exists() else folder
    if known and before != folder and has_wandb_id(before, known) and not before.samefile(folder):
        log(f"{folder} is a copy of {before}: it becomes a W&B run of its own")
        known = ""
    if not known:
        known = secrets.token_hex(4)
        write_text(identity, known)
    if not place.exists() or before != folder:
        write_text(place, json.dumps(str(folder)))
    return known


def has_wandb_id(folder: Path, number: str) -> bool:
    """Return whether a run directory exists and belongs to that W&B run."""
    try:
        return (folder / "wandb-id").read_text().strip() == number
    except OSError:
        return False


def has_wandb_key() -> bool:
    """Whether somebody has logged in on this machine, or given a key."""
    try:
        logged_in = netrc.netrc().authenticators("api.wandb.ai")
    except (OSError, netrc.NetrcParseError):
        logged_in = None
    return bool(os.environ.get("WANDB_API_KEY") or logged_in)


def grid_sample_count(resolution: int) -> int:
    """How many fixed latents a run draws at every tick; fewer large ones, which are the first of the many."""
    return 64 if resolution <= 128 else 16


class Progress:
    """A bar with kimg, stage, losses, speed and the time left, where somebody is watching; else only lines."""

    def __init__(self, images: int, total: int):
        self.bar = tqdm(
            total=total, initial=images, unit="img", unit_scale=True, disable=None, dynamic_ncols=True, smoothing=0.05
        )

    def update(self, images: int, text: str) -> None:
        self.bar.update(images - self.bar.n)
        self.bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        self.bar.close()


def log(line: str) -> None:
    """A line on standard error, above the bar."""
    tqdm.write(line, file=sys.stderr)


def format_duration(seconds: float) -> str:
    """As in 2d 3h, 5h 12m, 4m 05s, 31s."""
    s = round(seconds)
    if s >= 86400:
        return f"{s // 86400}d {s % 86400 // 3600}h"
    if s >= 3600:
        return f"{s // 3600}h {s % 3600 // 60:02d}m"
    return f"{s // 60}m {s % 60:02d}s" if s >= 60 else f"{s}s"
