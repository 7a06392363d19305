"""Contents of the report page, computed from a run for the template page.html."""

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
from markupsafe import Markup, escape
from tqdm import tqdm

from pggan.checkpoints import CheckpointError
from pggan.checkpoints.run_directory import write_text
from pggan.metrics import PROVENANCE_LABELS

from ...config import format_value
from ...training.growth import PlanRow
from ...training.health import SIGNS
from ...training.tracking import format_duration
from .charts import Axis, Chart, Line, build_chart, format_short, to_number
from .pictures import encode_data_uri, find_grids, thin_numbers
from .run import Run, read_run

# Maximum numbers of grids, table rows, charts or columns of unknown keys, and options in a page: files may come from a
# stranger. 40 grids and their real images keep the page below 20 MB (MAX_FILE_BYTES); no run reaches the other limits.
GRIDS, ROWS, COLUMNS, OPTIONS = 40, 64, 40, 200
BOOKKEEPING = {"images", "resolution", "alpha", "stage_end"}
BOOKKEEPING |= {
    "checkpoint",
    "training_images",
    "metrics",
    "data_images",
    "num_images",
    "num_reals",
}  # of evaluations.jsonl
DETAIL = re.compile(r"_(std|error|[0-9]+)$")  # standard deviations and pyramid levels: in the table, without a chart
# Not metrics: in the last columns of the table, without a chart.
NOT_CURVES = {"stage_seconds", "evaluation_seconds"}
# Charts of the numbers in log.jsonl: (title, note, {key: label in the legend}). Other numbers get a chart each.
CURVES = (
    (
        "Losses",
        "Wasserstein losses have no target value: read the trend, not the level",
        {"d_loss": "discriminator", "g_loss": "generator"},
    ),
    ("Critic scores", "mean discriminator output", {"real_score": "real images", "fake_score": "generated"}),
    (
        "Gradient norm",
        "of the critic with respect to its input; dashed: the penalty's target",
        {"grad_norm": "mean norm"},
    ),
    (
        "Weight gradients",
        "mean norm; should neither vanish nor keep growing",
        {"d_gradient": "discriminator", "g_gradient": "generator"},
    ),
    ("Alpha", "fade-in weight of the newest block, 0 to 1", {"alpha": "alpha"}),
    ("Speed", "real images per second, excluding evaluation", {"images_per_second": "images/s"}),
    ("Learning rate", "of each optimizer", {"d_lr": "discriminator", "g_lr": "generator"}),
    ("Memory", "peak, in MB", {"peak_memory_mb": "MB"}),
    (
        "Data loading",
        "fraction of the time spent waiting for images; near 0 if loading keeps up",
        {"loader_share": "fraction waiting"},
    ),
    ("Augmentation", "probability p of each transformation; --augment ada adapts it", {"augment_p": "p"}),
    ("Skipped steps", "steps with a non-finite gradient; 0 in a healthy run", {"skipped": "steps"}),
    ("Checkpoint size", "in MB; drops when a stage resets the optimizers", {"checkpoint_mb": "MB"}),
    ("Checkpoint time", "seconds to write a checkpoint", {"checkpoint_seconds": "seconds"}),
)
# Charts of the section on overfitting and mode coverage, as CURVES; "gap" is computed by `add_gap`.
SIGNALS = (
    ("Score gap", "growing while FID worsens: the critic is memorizing the training set", {"gap": "real - generated"}),
    (
        "Overfitting",
        "0: held-out images score like training images; 1: like generated ones (memorized)",
        {"overfitting": "signal"},
    ),
    (
        "Variety",
        "nearest-neighbor distance in a sample grid, relative to real images; near 0: collapse",
        {"variety": "generated / real"},
    ),
    (
        "Similarity",
        "mean MS-SSIM of image pairs; generated far above real: few modes",
        {"likeness": "generated", "likeness_real": "real"},
    ),
    (
        "Modes in a grid",
        "of the synthetic dataset's 32, in a sample grid",
        {"modes_shown": "generated", "modes_shown_real": "real"},
    ),
)
STANDARD_KEYS = {  # keys of log.jsonl that need no further chart
    "images",
    "resolution",
    "seconds",
    "batch_size",
    *(key for _, _, names in (*CURVES, *SIGNALS) for key in names),
}
METRICS = {  # notes of the image-quality metrics
    "fid": "Fréchet Inception Distance, lower is better",
    "is": "Inception Score, higher is better",
    "fid_inf": "FID extrapolated to infinitely many images, lower is better",
    "kid": "Kernel Inception Distance, lower is better; 0 for equal distributions",
    "mind": "Monge Inception Distance, lower is better",
    "swd": "sliced Wasserstein distance x 1000, lower is better",
}
COVERAGE = {  # notes of the metrics of mode coverage, which are shown in a section of their own
    "modes": "of the synthetic dataset's 32, with at least a tenth of their real share",
    "modes_kl": "of generated from real mode frequencies, in nats; 0: balanced",
    "recall": "fraction of real images covered by generated ones; 1 is best",
    "coverage": "fraction of real images with a generated neighbor; 1 is best",
    "precision": "fraction of generated images within the real manifold; 1 is best",
    "density": "generated images in dense regions of real ones; 1: as real images",
    "msssim": "mean similarity of generated pairs; far above real pairs: few modes",
    "msssim_real": "mean similarity of real pairs, for comparison",
}
LABELS = {  # where a key with its underscores replaced would not read well
    "fid_inf": "FID∞",
    "modes_kl": "KL divergence of modes",
    "msssim": "MS-SSIM",
    "msssim_real": "MS-SSIM of real images",
}


@dataclass(frozen=True)
class Grid:
    """A sample grid of generated images.

    Attributes:
        source: data URI of the image.
        images: real images seen.
        line: the log line of its tick.
        scores: metrics evaluated at its tick, as text; "" if there were none.
    """

    source: str
    images: int
    line: Line
    scores: str


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write a run's report and return its path.

    Args:
        folder: run directory, finished or still training.
        out: HTML file to write, at most about 20 MB; report.html in the run directory by default.

    Raises:
        CheckpointError: the run cannot be read, see `read_run`, or the page cannot be written.
    """
    run = read_run(folder)
    path = Path(out or run.directory.folder / "report.html")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names and options come from files: none of them may add HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "short": format_short,
        "cell": format_cell,
        "label": format_label,
        "side": format_side,
        "code": code,
    }
    page = environment.get_template("page.html").render(build_context(run), ids=itertools.count(), next=next)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page.encode("utf-8", "replace").decode())  # JSON may contain lone surrogates
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from None
    return path


def build_context(run: Run) -> dict[str, Any]:
    """Return the variables of the template."""
    axis, config = Axis(run.log), run.config
    target = to_number(config.get("gp_target"))
    curves = [
        build_chart(name, note, names, run.log, axis, target if "grad_norm" in names else None)
        for name, note, names in CURVES
    ]
    others = [key for key in numeric_keys(run.log) if key not in STANDARD_KEYS]
    scores = [
        key
        for key in numeric_keys(run.metrics)
        if not DETAIL.search(key) and key not in NOT_CURVES | PROVENANCE_LABELS.keys()
    ]
    stages, missing = collect_samples(run)
    gaps = [add_gap(line) for line in run.log]
    return {
        "name": run.directory.folder.resolve().name,
        "run": run,
        # the latest evaluation; before the first, the page has no tiles for metrics
        "final": select_evaluations(run)[-1] if run.metrics else None,
        "total": run.rows[-1].end if run.rows else None,
        "seconds": format_seconds(run.log[-1].get("seconds")),
        "plan": [build_plan_row(row, run) for row in run.rows],
        "curves": drop_missing(
            [*curves, *(build_chart(title(key), "", {key: format_label(key)}, run.log, axis) for key in others)]
        ),
        "scores": drop_missing(
            build_chart(title(key), METRICS.get(key, ""), {key: format_label(key)}, run.metrics, axis, apart=True)
            for key in scores
            if key not in COVERAGE
        ),
        "signals": drop_missing(
            [
                *(build_chart(name, note, names, gaps, axis) for name, note, names in SIGNALS),
                *(
                    build_chart(title(key), COVERAGE[key], {key: format_label(key)}, run.metrics, axis, apart=True)
                    for key in scores
                    if key in COVERAGE
                ),
            ]
        ),
        "turn": find_turning_point(run.metrics),
        "health": build_health_rows(run.log),
        # whether any metric of mode coverage was computed
        "covers": not {"modes", "recall", "coverage", "msssim"}.isdisjoint(scores),
        "how": describe_settings(select_evaluations(run)),
        "evaluations": run.evaluations[-ROWS:],
        "evaluation_columns": metric_columns(run.evaluations),
        "evaluation_settings": describe_settings(run.evaluations[-ROWS:]),
        "columns": metric_columns(run.metrics),
        "metric_rows": select_evaluations(run),
        "stages": stages,
        "missing": missing,
        "options": {key[:100]: format_option(value) for key, value in list(config.items())[:OPTIONS]},
        "written": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def drop_missing(charts: Iterable[Chart | None]) -> list[Chart]:
    """Return the charts that have data."""
    return [c for c in charts if c]


def numeric_keys(lines: Sequence[Line]) -> list[str]:
    """Return the keys that have a number in any line, in order of appearance, except for BOOKKEEPING."""
    keys = dict.fromkeys(key for line in lines for key in line if to_number(line[key]) is not None)
    return [key for key in keys if key not in BOOKKEEPING][:COLUMNS]


def add_gap(line: Line) -> Line:
    """Return a log line with the real score minus the fake score added under "gap"."""
    real, fake = to_number(line.get("real_score")), to_number(line.get("fake_score"))
    return line if real is None or fake is None else {**line, "gap": real - fake}


def find_turning_point(metrics: Sequence[Line]) -> dict[str, float] | None:
    """Return the best and the last FID at the last resolution, and when (in kimg) each was evaluated.

    None if there are fewer than two evaluations at alpha 1: during a fade-in, FID rises and falls for other reasons.
    """
    if not metrics:
        return None
    last = metrics[-1].get("resolution")
    # alpha is exactly 1.0 once a fade-in has ended
    stable = [line for line in metrics if line.get("resolution") == last and line.get("alpha") == 1]
    scored = [(fid, line["images"] / 1000) for line in stable if (fid := to_number(line.get("fid"))) is not None]
    if len(scored) < 2:
        return None
    (best, kimg), (final, end) = min(scored), scored[-1]
    return {"best": best, "kimg": kimg, "final": final, "end": end}


def build_health_rows(log: Sequence[Line]) -> list[dict[str, Any]]:
    """Return a table row for each problem that training checks for: at how many ticks it was detected, and when.

    [] for logs of versions without health checks.
    """
    watched = [line for line in log if isinstance(line.get("health"), list)]
    rows = []
    for name, sign in SIGNS.items() if watched else ():
        at = [line["images"] / 1000 for line in watched if name in line["health"]]
        rows.append({"sign": sign, "ticks": len(at), "of": len(watched), "first": at[:1], "last": at[-1:]})
    return rows


def build_plan_row(row: PlanRow, run: Run) -> dict[str, Any]:
    """Return a row of the training schedule with its progress, 0 to 1, training time and median speed."""
    ticks = [line for line in run.log if row.start < line["images"] <= row.end]
    # the median, since ticks with a restart or a busy machine are slower
    speeds = sorted(v for line in ticks if (v := to_number(line.get("images_per_second"))) is not None)
    before = [line for line in run.log if line["images"] <= row.start]
    # "seconds" is the training time of the whole run so far
    begun, now = (to_number(lines[-1].get("seconds")) if lines else 0 for lines in (before, ticks))
    return {
        "row": row,
        "done": min(max((run.images_seen - row.start) / (row.end - row.start), 0), 1),
        "time": format_seconds(now - begun) if ticks and now is not None and begun is not None else "",
        "speed": format_short(speeds[len(speeds) // 2]) if speeds else "",
    }


def format_seconds(value: Any) -> str:
    """Return a logged time such as "5h 12m", or "" if it is not a sensible number of seconds."""
    seconds = to_number(value)
    return format_duration(seconds) if seconds is not None and 0 <= seconds < 1e10 else ""  # 1e10 s: 300 years


def metric_columns(metrics: Sequence[Line]) -> list[str]:
    """Return the columns of the table of metrics, with NOT_CURVES last.

    Standard deviations are shown beside their metric, and the settings below the table.
    """
    keys = dict.fromkeys(key for line in metrics for key in line)
    spreads = {key + suffix for key in keys for suffix in ("_std", "_error")}
    shown = [key for key in keys if key not in BOOKKEEPING | PROVENANCE_LABELS.keys() and key not in spreads]
    # The levels of SWD follow SWD itself, also those that only later stages have.
    order = list(dict.fromkeys(DETAIL.sub("", key) for key in shown))
    return sorted(shown, key=lambda key: (key in NOT_CURVES, order.index(DETAIL.sub("", key))))[:COLUMNS]


def format_label(key: str) -> str:
    """Return a key as text for legends and table headings, such as FID, SWD 16 or held out score."""
    if key in LABELS:
        return LABELS[key]
    text = key.replace("_", " ")[:60]
    return text.upper() if text.split(" ")[0] in METRICS else text


def title(key: str) -> str:
    """Return a key as the title of its chart: its label, capitalized."""
    return format_label(key)[:1].upper() + format_label(key)[1:]


def select_evaluations(run: Run) -> list[Line]:
    """Return the metrics at the end of each stage, and the latest ones."""
    return [line for line in run.metrics if line.get("stage_end") or line is run.metrics[-1]][-ROWS:]


def describe_settings(rows: Sequence[Line]) -> str:
    """Return how the metrics in a table were computed, as one line; values that differ are separated by slashes."""
    parts = []
    for key, name in PROVENANCE_LABELS.items():
        values = list(dict.fromkeys(text for line in rows if (text := format_cell(line, key))))
        parts += [f"{name}: {' / '.join(values)}"] if values else []
    return "; ".join(parts)


def format_cell(line: Line, key: str) -> str:
    """Return a value as the text of a table cell, with its standard deviation if there is one."""
    value = line.get(key)
    deviation = next((d for s in ("_std", "_error") if (d := to_number(line.get(key + s))) is not None), None)
    if (figure := to_number(value)) is None:
        return "" if value is None or isinstance(value, (dict, list)) else str(value)[:40]
    return format_short(figure) + ("" if deviation is None else f" ± {format_short(deviation)}")


def format_side(resolution: Any) -> str:
    """Return a resolution as text, such as 32x32, or ? if the log has none."""
    return f"{resolution}x{resolution}" if isinstance(resolution, int) else "?"


def code(text: str) -> Markup:
    """Return text as HTML, with option names such as --lr in <code>."""
    return Markup(re.sub(r"--[a-z0-9-]+", r"<code>\g<0></code>", str(escape(text))))


def format_option(value: Any) -> str:
    """Return an option's value as it is written on the command line, cut to 400 characters."""
    if isinstance(value, list):
        value = tuple(map(str, value))
    elif isinstance(value, dict):  # a value per resolution
        value = {k: v for k, v in value.items() if to_number(v) is not None}
    text = format_value(value)
    return text if len(text) <= 400 else text[:400] + "..."


def collect_samples(run: Run) -> tuple[list[dict[str, Any]], int]:
    """Return the sample grids by resolution with real images of the same resolution, and how many were unreadable.

    At most GRIDS grids: the last of each resolution, and others evenly spaced.
    """
    fakes, reals = (find_grids(run.directory.samples, kind) for kind in ("fakes", "reals"))
    ticks = [line["images"] for line in run.log]
    # A grid belongs to the first line at or after it: the last grid of a killed run may have no line of its own.
    lines = {images: run.log[min(bisect_left(ticks, images), len(ticks) - 1)] for images in fakes}
    ends = {lines[images].get("resolution"): images for images in fakes}
    chosen = thin_numbers(list(fakes), set(ends.values()), GRIDS)
    scores = {line["images"]: format_headline(line) for line in run.metrics}
    stages: dict[Any, dict[str, Any]] = {}
    missing = 0
    for images in tqdm(chosen, desc="report", unit="grid", disable=None, leave=False):
        resolution = lines[images].get("resolution")
        if resolution not in stages:
            real = reals.get(resolution) if isinstance(resolution, int) else None
            source = encode_data_uri(real) if real else None
            missing += bool(real and not source)
            stages[resolution] = {"resolution": resolution, "real": source, "grids": []}
        if source := encode_data_uri(fakes[images]):
            stages[resolution]["grids"].append(Grid(source, images, lines[images], scores.get(images, "")))
        else:
            missing += 1
    return [stage for stage in stages.values() if stage["grids"]], missing


def format_headline(line: Line) -> str:
    """Return the main metrics of a line as text, such as "FID 88.5, SWD 18.4"."""
    return ", ".join(f"{k.upper()} {format_short(line[k])}" for k in METRICS if to_number(line.get(k)) is not None)
