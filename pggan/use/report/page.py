"""The report page: what its template shows."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tqdm import tqdm

from checkpoints import CheckpointError
from checkpoints.run_directory import write_text

from ...config import format_value
from ...training.growth import Row
from ...training.health import SIGNS
from ...training.tracking import duration
from .charts import Axis, Chart, Line, chart, number, short
from .pictures import data_uri, grids, spread
from .run import Run, read_run

GRIDS, ROWS, COLUMNS, OPTIONS = 40, 64, 40, 200  # at most so many of each in the page
BOOKKEEPING = {"images", "resolution", "alpha", "stage_end"}
DETAIL = re.compile(r"_(std|error|[0-9]+)$")  # deviations and pyramid levels: in the table only
BESIDES = {"stage_seconds", "evaluation_seconds", "metric_images", "metric_reals"}
HOW = {  # how metrics were made: under their table, neither columns nor curves
    "metric_images": "generated images",
    "metric_reals": "real images",
    "resize": "resize",
    "inception_precision": "Inception in",
    "weights": "weights",
    "metrics_version": "version of the metrics",
}

# What is known of the numbers a run may log: (title, note, {key: label}).
CURVES = (
    ("Losses", "as minimised; Wasserstein losses have no zero to reach",
     {"d_loss": "discriminator", "g_loss": "generator"}),
    ("Critic scores", "the discriminator's mean output", {"real_score": "real images", "fake_score": "generated"}),
    ("Gradient norm", "of the critic by its input; the penalty pulls it to the dashed line",
     {"grad_norm": "mean norm"}),
    ("Gradients of the weights", "mean norms; neither towards 0 nor ever larger",
     {"d_gradient": "discriminator", "g_gradient": "generator"}),
    ("Alpha", "weight of the newest block: from 0 to 1 in every fade", {"alpha": "alpha"}),
    ("Speed", "real images per second, without judging", {"images_per_second": "images/s"}),
    ("Learning rate", "of Adam", {"d_lr": "discriminator", "g_lr": "generator"}),
    ("Memory", "at the peak, in MB", {"peak_memory_mb": "MB"}),
    ("Waiting for images", "share of the time in which training waits for the data; near 0 where loading keeps up",
     {"loader_share": "share"}),
    ("Augmentation", "probability of each transformation, moved by the overfitting signal", {"augment_p": "p"}),
    ("Skipped steps", "left out since a gradient was not finite; 0 in a healthy run", {"skipped": "steps"}),
)  # fmt: skip
PLAIN = {
    "images",
    "resolution",
    "seconds",
    "batch_size",
    "overfitting",
    *("variety", "likeness", "likeness_real", "modes_shown", "modes_shown_real"),
    *(key for _, _, names in CURVES for key in names),
}
METRICS = {
    "fid": "lower is better",
    "is": "Inception Score, higher is better",
    "fid_inf": "FID as it would be of infinitely many images, lower is better",
    "kid": "lower is better; 0 where both sets are alike",
    "swd": "sliced Wasserstein distance x 1000, lower is better",
}
COVERAGE = {
    "modes": "kinds of image shown, of 32; more is better",
    "modes_kl": "KL divergence to the data's share of each kind, in nats; 0 is balanced",
    "recall": "share of the real images within reach of the generated; 1 is best",
    "coverage": "share of real images with a generated neighbour; 1 is best",
    "precision": "share of the generated images within reach of the real; 1 is best",
    "density": "generated images in dense real regions; 1 is as in the data",
    "msssim": "likeness between generated images; far above that between real ones means few modes",
    "msssim_real": "the same between real images",
}


@dataclass(frozen=True)
class Grid:
    """A sample grid. source: data URI. line, scores: what was logged at it."""

    source: str
    images: int
    line: Line
    scores: str


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page, at most about 20 MB, and return where (by default report.html in the run directory).

    Raises:
        CheckpointError: see `read_run`; or the page cannot be written.
    """
    run = read_run(folder)
    path = Path(out or run.directory.folder / "report.html")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"short": short, "cell": cell, "label": label, "side": side}
    page = environment.get_template("page.html").render(contents(run), ids=itertools.count(), next=next)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page.encode("utf-8", "replace").decode())  # JSON can hold what UTF-8 cannot
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from None
    return path


def contents(run: Run) -> dict[str, Any]:
    """What the template shows."""
    axis, config = Axis(run.log), run.config
    target = number(config.get("gp_target"))
    curves = [
        chart(title, note, names, run.log, axis, target if "grad_norm" in names else None)
        for title, note, names in CURVES
    ]
    others = [key for key in numeric_keys(run.log) if key not in PLAIN]
    scores = [key for key in numeric_keys(run.metrics) if not DETAIL.search(key) and key not in BESIDES | HOW.keys()]
    stages, missing = sample_stages(run)
    return {
        "name": run.directory.folder.resolve().name,
        "run": run,
        "final": judged_rows(run)[-1] if run.metrics else None,
        "total": run.rows[-1].end if run.rows else None,
        "seconds": seconds_text(run.log[-1].get("seconds")),
        "plan": [plan_row(row, run) for row in run.rows],
        "curves": present([*curves, *(chart(label(key), "", {key: label(key)}, run.log, axis) for key in others)]),
        "scores": present(
            chart(label(key), METRICS.get(key, ""), {key: label(key)}, run.metrics, axis, apart=True)
            for key in scores
            if key not in COVERAGE
        ),
        "signals": present(
            [
                chart("Score gap", "real minus generated; growing while FID worsens: the critic learns images by heart",
                      {"gap": "real - generated"}, [gap(line) for line in run.log], axis),
                chart("Overfitting", "0: the critic knows training images as it knows held-out ones; 1: by heart",
                      {"overfitting": "of training images"}, run.log, axis),
                chart("Variety", "distance of a generated image to its nearest, by that of real ones; near 0: collapse",
                      {"variety": "of a grid's images"}, run.log, axis),
                chart("Likeness", "MS-SSIM of pairs of images; generated far above real means few kinds",
                      {"likeness": "generated", "likeness_real": "real"}, run.log, axis),
                chart("Modes shown", "kinds of image in a sample grid", 
                      {"modes_shown": "generated", "modes_shown_real": "real"}, run.log, axis),
                *(chart(label(key), COVERAGE[key], {key: label(key)}, run.metrics, axis, apart=True)
                  for key in scores if key in COVERAGE),
            ]
        ),
        "turn": turning_point(run.metrics),
        "health": health_rows(run.log),
        "covers": not {"modes", "recall", "coverage", "msssim"}.isdisjoint(scores),
        "how": how_judged(run),
        "columns": metric_columns(run.metrics),
        "judged": judged_rows(run),
        "stages": stages,
        "missing": missing,
        "options": {key[:100]: option_text(value) for key, value in list(config.items())[:OPTIONS]},
        "written": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }  # fmt: skip


def present(charts: Iterable[Chart | None]) -> list[Chart]:
    """The charts that there are."""
    return [c for c in charts if c]


def numeric_keys(lines: Sequence[Line]) -> list[str]:
    """Keys with a number in any line, in order, without the bookkeeping."""
    keys = dict.fromkeys(key for line in lines for key in line if number(line[key]) is not None)
    return [key for key in keys if key not in BOOKKEEPING][:COLUMNS]


def gap(line: Line) -> Line:
    """A log line with the real score minus the fake one, as gap."""
    real, fake = number(line.get("real_score")), number(line.get("fake_score"))
    return line if real is None or fake is None else {**line, "gap": real - fake}


def turning_point(metrics: Sequence[Line]) -> dict[str, float] | None:
    """The best and the last FID of the last resolution, where it was judged there more than once at alpha 1."""
    if not metrics:
        return None
    last = metrics[-1].get("resolution")
    stable = [line for line in metrics if line.get("resolution") == last and line.get("alpha") == 1]
    judged = [(fid, line["images"] / 1000) for line in stable if (fid := number(line.get("fid"))) is not None]
    if len(judged) < 2:
        return None
    (best, kimg), (final, end) = min(judged), judged[-1]
    return {"best": best, "kimg": kimg, "final": final, "end": end}


def health_rows(log: Sequence[Line]) -> list[dict[str, Any]]:
    """Each sign of ill health: at how many of the ticks that were watched it showed, and when; [] of older logs."""
    watched = [line for line in log if isinstance(line.get("health"), list)]
    rows = []
    for name, sign in SIGNS.items() if watched else ():
        at = [line["images"] / 1000 for line in watched if name in line["health"]]
        rows.append({"sign": sign, "ticks": len(at), "of": len(watched), "first": at[:1], "last": at[-1:]})
    return rows


def plan_row(row: Row, run: Run) -> dict[str, Any]:
    """A row of the plan and how it went: share done, training time, median speed."""
    ticks = [line for line in run.log if row.start < line["images"] <= row.end]
    speeds = sorted(v for line in ticks if (v := number(line.get("images_per_second"))) is not None)
    before = [line for line in run.log if line["images"] <= row.start]
    begun, now = (number(lines[-1].get("seconds")) if lines else 0 for lines in (before, ticks))
    return {
        "row": row,
        "done": min(max((run.seen - row.start) / (row.end - row.start), 0), 1),
        "time": seconds_text(now - begun) if ticks and now is not None and begun is not None else "",
        "speed": short(speeds[len(speeds) // 2]) if speeds else "",
    }


def seconds_text(value: Any) -> str:
    """A time in words."""
    seconds = number(value)
    return duration(seconds) if seconds is not None and 0 <= seconds < 1e10 else ""


def metric_columns(metrics: Sequence[Line]) -> list[str]:
    """Keys of the metrics to show, without their deviations and without how they were made; the main ones first."""
    keys = dict.fromkeys(key for line in metrics for key in line)
    spreads = {key + suffix for key in keys for suffix in ("_std", "_error")}
    shown = [key for key in keys if key not in BOOKKEEPING | HOW.keys() and key not in spreads]
    return sorted(shown, key=lambda key: key in BESIDES)[:COLUMNS]


def label(key: str) -> str:
    """As in FID, SWD 16, modes kl."""
    text = key.replace("_", " ")[:60]
    return text.upper() if text.split(" ")[0] in METRICS else text


def judged_rows(run: Run) -> list[Line]:
    """Each stage's end, and the newest evaluation."""
    return [line for line in run.metrics if line.get("stage_end") or line is run.metrics[-1]][-ROWS:]


def how_judged(run: Run) -> str:
    """How the table's numbers were made, with every value where its rows differ."""
    rows = judged_rows(run)
    parts = []
    for key, name in HOW.items():
        values = list(dict.fromkeys(text for line in rows if (text := cell(line, key))))
        parts += [f"{name}: {' / '.join(values)}"] if values else []
    return "; ".join(parts)


def cell(line: Line, key: str) -> str:
    """A value of a table, with its standard deviation where there is one."""
    value = line.get(key)
    deviation = next((d for s in ("_std", "_error") if (d := number(line.get(key + s))) is not None), None)
    if (figure := number(value)) is None:
        return "" if value is None or isinstance(value, (dict, list)) else str(value)[:40]
    return short(figure) + ("" if deviation is None else f" ± {short(deviation)}")


def side(resolution: Any) -> str:
    """As in 32x32; ? where the log does not say."""
    return f"{resolution}x{resolution}" if isinstance(resolution, int) else "?"


def option_text(value: Any) -> str:
    """An option's value as the command line has it, in at most 400 letters."""
    text = format_value(tuple(map(str, value)) if isinstance(value, list) else value if not isinstance(value, dict)
                        else {k: v for k, v in value.items() if number(v) is not None})  # fmt: skip
    return text if len(text) <= 400 else text[:400] + "..."


def sample_stages(run: Run) -> tuple[list[dict[str, Any]], int]:
    """Sample grids grouped by resolution, each group beside its real images; and how many could not be read."""
    fakes, reals = (grids(run.directory.samples, kind) for kind in ("fakes", "reals"))
    ticks = [line["images"] for line in run.log]
    lines = {images: run.log[min(bisect_left(ticks, images), len(ticks) - 1)] for images in fakes}
    ends = {lines[images].get("resolution"): images for images in fakes}
    chosen = spread(list(fakes), set(ends.values()), GRIDS)
    scores = {line["images"]: headline(line) for line in run.metrics}
    stages: dict[Any, dict[str, Any]] = {}
    missing = 0
    for images in tqdm(chosen, desc="report", unit="grid", disable=None, leave=False):
        resolution = lines[images].get("resolution")
        if resolution not in stages:
            real = reals.get(resolution) if isinstance(resolution, int) else None
            source = data_uri(real) if real else None
            missing += bool(real and not source)
            stages[resolution] = {"resolution": resolution, "real": source, "grids": []}
        if source := data_uri(fakes[images]):
            stages[resolution]["grids"].append(Grid(source, images, lines[images], scores.get(images, "")))
        else:
            missing += 1
    return [stage for stage in stages.values() if stage["grids"]], missing


def headline(line: Line) -> str:
    """As in "FID 88.5, SWD 18.4"."""
    return ", ".join(f"{k.upper()} {short(line[k])}" for k in METRICS if number(line.get(k)) is not None)
