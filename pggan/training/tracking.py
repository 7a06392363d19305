"""Report training: console lines, a progress bar, TensorBoard and Weights & Biases."""

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

from pggan.checkpoints import RunDirectory
from pggan.checkpoints.run_directory import read_lines, write_text

from ..config import ConfigError, TrainConfig, format_value

CLOSE_TIMEOUT = 60.0  # seconds to wait at the end of a run for a service to receive the last lines and images


class Tracker:
    """Sends each tick's numbers, each evaluation's results and sample grids to the service of --track.

    A slow or failing service never delays or ends training: it runs in its own thread, and is turned off with a warning
    if it fails.
    """

    def __init__(self, run: RunDirectory, config: TrainConfig, images: int):
        self.run = run
        self.sinks: list[BackgroundSink] = []
        services: dict[str, Callable[..., Any]] = {"tensorboard": TensorBoard, "wandb": WandB}
        if config.track in services:
            self.sinks.append(BackgroundSink(config.track, partial(services[config.track], run, config, images)))

    def log_scalars(self, group: str, values: dict[str, Any]) -> None:
        """Log the numbers of a line of log.jsonl or metrics.jsonl, with its "images" as the step."""
        numbers = {k: v for k, v in values.items() if is_number(v) and k != "images"}
        for sink in self.sinks:
            sink.enqueue("log_scalars", group, numbers, values["images"])
            if values.get("stage_end"):
                sink.enqueue("log_stages", *build_stage_table(self.run), values["images"])

    def log_grid(self, name: str, grid: Image.Image, images: int) -> None:
        """Log a sample grid."""
        for sink in self.sinks:
            sink.enqueue("log_image", name, np.asarray(grid), images)

    def close(self, wait: float = CLOSE_TIMEOUT) -> None:
        """Wait up to `wait` seconds until everything has been sent."""
        for sink in self.sinks:
            sink.close(wait)


class BackgroundSink:
    """Creates a service's client in a thread of its own, and calls it there in order.

    Args:
        name: the service's name in --track, for warnings. make: returns the client.
    """

    def __init__(self, name: str, make: Callable[[], Any]):
        self.name, self.failed = name, False
        self.calls: queue.Queue[Any] = queue.Queue(1000)  # bounds memory; a tick makes about two calls
        self.thread = threading.Thread(target=self.run_sink, args=(make,), name=f"track {name}", daemon=True)
        self.thread.start()

    def run_sink(self, make: Callable[[], Any]) -> None:
        """Make the calls in the queue until it ends with None."""
        try:
            sink = make()
            while call := self.calls.get():
                method, arguments = call
                getattr(sink, method)(*arguments)
            sink.close()
        except ImportError:
            self.disable(f"its package is not installed: pip install {self.name}")
        except Exception as error:  # a service's client may raise anything
            self.disable(str(error).split("\n")[0] or type(error).__name__)

    def disable(self, why: str) -> None:
        """Print a warning and ignore all further calls."""
        self.failed = True
        log(f"warning: --track {self.name}: {why}; training continues without it")

    def enqueue(self, method: str, *arguments: Any) -> None:
        """Have a method of the client called in its thread, and return immediately."""
        if self.failed:
            return
        try:
            self.calls.put_nowait((method, arguments))
        except queue.Full:
            self.disable("it is too slow (1,000 calls are waiting)")

    def close(self, wait: float) -> None:
        """Wait up to `wait` seconds until all calls have been made."""
        if self.failed:
            return
        with suppress(queue.Full):
            self.calls.put_nowait(None)
        self.thread.join(wait)
        if self.thread.is_alive():
            self.disable(f"some data was not sent within {wait:g} s")
        self.failed = True


def is_number(value: Any) -> bool:
    """Return whether a value is an int or a float, but not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def build_stage_table(run: RunDirectory) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of a table of the evaluations at the end of each stage so far."""
    ends = [line for line in read_lines(run.metrics) if line.get("stage_end")]
    columns = list(dict.fromkeys(key for line in ends for key in line if key not in ("alpha", "stage_end")))
    return columns, [[line.get(key) for key in columns] for line in ends]


class TensorBoard:
    """Writes TensorBoard events: scalars and images with images seen as the step, config and stages as text.

    Args:
        images: images seen at the start; events after it, of a run that was killed later, are hidden by TensorBoard.
    """

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
    """Return rows under a header as a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    texts = [["" if cell is None else str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in texts)


class WandB:
    """Logs to Weights & Biases: online if an API key is available, else offline for `wandb sync`.

    A resumed run continues the same W&B run; steps that were logged before a kill are kept. W&B's own environment
    variables (WANDB_PROJECT, WANDB_NAME, WANDB_ENTITY, WANDB_DIR, WANDB_RUN_ID, ...) override these settings.
    """

    def __init__(self, run: RunDirectory, config: TrainConfig, images: int):
        import wandb

        self.wandb, folder, env = wandb, run.folder.resolve(), os.environ
        start: Callable[..., Any] = partial(
            wandb.init,
            project=env.get("WANDB_PROJECT") or "pggan",
            name=env.get("WANDB_NAME") or folder.name,
            id=env.get("WANDB_RUN_ID") or load_or_create_wandb_id(folder),
            dir=env.get("WANDB_DIR") or str(folder),
            resume="allow",
            config=config.to_dict(),
            settings=wandb.Settings(init_timeout=30),  # seconds, then offline
        )
        try:
            self.writer = start(mode=env.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline"))
        except wandb.errors.Error as error:
            reason = str(error).splitlines()[0]
            log(f"warning: cannot reach Weights & Biases ({reason}); logging offline (upload later with wandb sync)")
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


def load_or_create_wandb_id(folder: Path) -> str:
    """Return a run directory's W&B run id, which is created on first use and for a copied directory.

    A directory is a copy if the one it was created in still exists with the same id; a moved one keeps its id.

    Raises:
        ConfigError: the file that records the directory it was created in is damaged.
    """
    identity, place = folder / "wandb-id", folder / "wandb-folder"
    run_id = identity.read_text().strip() if identity.exists() else ""
    try:
        previous = Path(json.loads(place.read_text())) if place.exists() else folder
    except (ValueError, TypeError):  # not UTF-8, not JSON, not a string
        raise ConfigError(f"{place} is damaged; delete it to continue the W&B run in {identity.name}") from None
    if run_id and previous != folder and has_wandb_id(previous, run_id) and not previous.samefile(folder):
        log(f"{folder} is a copy of {previous}: it gets its own W&B run")
        run_id = ""
    if not run_id:
        run_id = secrets.token_hex(4)  # 8 characters, like W&B's own ids
        write_text(identity, run_id)
    if not place.exists() or previous != folder:
        write_text(place, json.dumps(str(folder)))
    return run_id


def has_wandb_id(folder: Path, run_id: str) -> bool:
    """Return whether a run directory exists and has this W&B run id."""
    try:
        return (folder / "wandb-id").read_text().strip() == run_id
    except (OSError, ValueError):  # ValueError: not UTF-8, or a path with a null character
        return False


def has_wandb_key() -> bool:
    """Return whether a W&B API key is available, from `wandb login` (~/.netrc) or WANDB_API_KEY."""
    try:
        logged_in = netrc.netrc().authenticators("api.wandb.ai")
    except (OSError, netrc.NetrcParseError):
        logged_in = None
    return bool(os.environ.get("WANDB_API_KEY") or logged_in)


def choose_grid_size(resolution: int) -> int:
    """Return the number of images in a tick's sample grid; the first 16 latents are the same at every resolution."""
    return 64 if resolution <= 128 else 16  # at most 1024 pixels per side up to 128x128, 4096 at 1024x1024


class Progress:
    """Shows a progress bar with stage, losses, speed and time left if standard error is a terminal."""

    def __init__(self, images: int, total: int):
        self.bar = tqdm(
            total=total, initial=images, unit="img", unit_scale=True, disable=None, dynamic_ncols=True, smoothing=0.05
        )

    def update(self, images: int, text: str) -> None:
        """Move the bar to `images` images, with `text` after it."""
        self.bar.update(images - self.bar.n)
        self.bar.set_postfix_str(text, refresh=False)

    def set_total(self, total: int) -> None:
        """Set the images seen at the end of the run, which adaptive growth and --budget may change."""
        self.bar.total = total

    def close(self) -> None:
        self.bar.close()


def log(line: str) -> None:
    """Print a line on standard error, above the progress bar."""
    tqdm.write(line, file=sys.stderr)


def format_duration(seconds: float) -> str:
    """Return a duration like 2d 3h, 5h 12m, 4m 05s or 31s."""
    s = round(seconds)
    if s >= 86400:
        return f"{s // 86400}d {s % 86400 // 3600}h"
    if s >= 3600:
        return f"{s // 3600}h {s % 3600 // 60:02d}m"
    return f"{s // 60}m {s % 60:02d}s" if s >= 60 else f"{s}s"
