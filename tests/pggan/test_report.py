"""The report page without a browser: its contents, escaping, and errors."""

import json
import math
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from pggan.checkpoints import CheckpointError, RunDirectory
from pggan.training.health import SIGNS
from pggan.use.report import write_final_report, write_report
from pggan.use.report.charts import BOTTOM, LEFT, RIGHT, TOP, Axis, build_chart, compute_ticks
from pggan.use.report.pictures import MAX_FILE_BYTES, encode_data_uri, thin_numbers

CONFIG = {
    "data": "photos",
    "resolution": 8,
    "channels": 3,
    "fade_kimg": 1,
    "stabilize_kimg": 1,
    "batch_size": "8",
    "lr": 0.001,
    "tick_kimg": 0.25,
}
VOID = {"meta", "img", "input", "br", "path", "rect", "line", "circle"}


class Page(HTMLParser):
    """Collect the tags, attributes and text of a page, and check that its tags are balanced."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def make_log_line(images, **more):
    resolution = 4 if images <= 1000 else 8
    alpha = min(max((images - 1000) / 1000, 0.1), 1.0) if resolution == 8 else 1.0
    return {
        "images": images,
        "resolution": resolution,
        "alpha": alpha,
        "d_loss": -images / 100,
        "g_loss": 1.5,
        "real_score": 2.0,
        "fake_score": 1.0,
        "grad_norm": 1.01,
        "skipped": 0,
        "g_lr": 0.001,
        "d_lr": 0.001,
        "images_per_second": 50.0,
        "seconds": images / 50,
        "peak_memory_mb": 900,
        **more,
    }


def test_health_section_lists_detected_signs_and_when(run):
    write_lines(
        run.log,
        [make_log_line(i, health=["collapse", "unheard of"] if i > 2000 else []) for i in range(250, 3001, 250)],
    )
    text = Page(write_report(run.folder)).text
    assert "4 of 12, 2.25 to 3 kimg" in text and SIGNS["collapse"].advice in text
    assert text.count("not detected") == len(SIGNS) - 1 and "unheard of" not in text


def make_metrics_line(images, resolution, **scores):
    return {"images": images, "resolution": resolution, "alpha": 1.0, "stage_end": True, "metric_images": 64, **scores}


def save_image(path, size=64, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(tmp_path):
    """Return the directory of a finished run of two stages, written by hand."""
    directory = RunDirectory(tmp_path / "runs" / "faces")
    directory.create(CONFIG)
    write_lines(directory.log, [make_log_line(images) for images in range(250, 3001, 250)])
    scores = [
        make_metrics_line(1000, 4, fid=123.25, swd=41.5),
        make_metrics_line(3000, 8, fid=87.125, swd=20.75, swd_8=20.75),
    ]
    write_lines(directory.metrics, scores)
    for images in range(250, 3001, 250):
        save_image(directory.samples / f"fakes-{images:08d}.png", seed=images)
    for resolution in (4, 8):
        save_image(directory.samples / f"reals-{resolution:04d}.png", seed=resolution)
    return directory


def test_the_page_shows_everything_in_the_run_directory(run):
    page = Page(write_report(run.folder))
    assert {a["id"] for a in page.all("section")} == {
        *("samples", "plan", "curves", "scores", "health", "signals", "options")
    }
    assert page.all("h1") and "faces" in page.text and "photos" in page.text
    for title in ("Losses", "Critic scores", "Gradient norm", "Alpha", "Speed", "Learning rate", "Score gap"):
        assert title in page.text
    for number in ("123.2", "87.12", "41.5", "20.75"):  # rounded to four significant digits
        assert number in page.text
    assert len(page.all("img")) == 12 + 2 and len({a["src"] for a in page.all("img")}) == 14
    assert [float(a["value"]) for a in page.all("progress")] == [1, 1, 1]
    assert "fade in" in page.text and "finished" in page.text
    assert "No metric of mode coverage was logged" in page.text
    assert [a["data-stage"] for a in page.all("div") if "data-stage" in a] == ["4x4", "8x8"]


def test_the_page_is_self_contained(run):
    path = write_report(run.folder)
    page = Page(path)
    assert all(a["src"].startswith("data:image/webp;base64,") for a in page.all("img"))
    assert page.all("link") == [] and all("src" not in a for a in page.all("script"))
    assert "default-src 'none'" in page.all("meta")[2]["content"]
    assert "http:" not in path.read_text().replace("http-equiv", "") and "https:" not in path.read_text()


def test_unknown_metrics_are_shown_too(run):
    write_lines(run.log, [make_log_line(images, held_out_score=0.25) for images in (500, 1000, 2000)])
    line = make_metrics_line(1000, 4, kid=0.5, kid_std=0.0625, recall=0.375, resize="tf1", surprise=7)
    write_lines(run.metrics, [line, line | {"images": 2000, "resolution": 8}])
    page = Page(write_report(run.folder))
    for text in ("held out score", "0.25", "KID", "0.5 ± 0.0625", "recall", "0.375", "tf1", "surprise"):
        assert text in page.text
    assert "No metric of mode coverage" not in page.text


def test_a_rising_fid_is_reported(run):
    scores = [make_metrics_line(images, 8, fid=fid) for images, fid in ((2200, 50.0), (2600, 40.0), (3000, 60.0))]
    write_lines(run.metrics, scores)
    text = " ".join(Page(write_report(run.folder)).text.split())
    assert "lowest at 2.6 kimg (40) and is 60 at 3 kimg. It has risen since" in text
    write_lines(run.metrics, scores[:2])
    assert "is lowest at the latest evaluation: 40" in " ".join(Page(write_report(run.folder)).text.split())


EVIL = "'\"></script><script>alert(1)</script><img src=x onerror=alert(1)><b>"


def test_text_from_files_is_escaped(tmp_path, run):
    folder = tmp_path / EVIL.replace("/", "")
    run.folder.rename(folder)
    run = RunDirectory(folder)
    run.create(CONFIG | {"data": EVIL, "preset": EVIL, EVIL: EVIL, "metrics": [EVIL], "lr": {EVIL: EVIL}})
    write_lines(run.log, [make_log_line(images, **{EVIL: images}) for images in (500, 1000, 2000)])
    write_lines(run.metrics, [make_metrics_line(1000, 4, **{EVIL: 2, "fid": EVIL, "note": EVIL})])
    versions = {"images": 1, "stage": {}, "networks": {}, "state": {}, "config": {}, "versions": {EVIL: EVIL}}
    run.save(versions)
    page = Page(write_report(folder))
    assert page.all("b") == [] or all(a == {"class": "value"} for a in page.all("b"))
    assert len(page.all("script")) == 1
    assert all(a["src"].startswith("data:") for a in page.all("img"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert EVIL in page.text


def test_a_run_without_scores_samples_checkpoints_or_a_schedule_has_a_page(run):
    run.metrics.unlink()
    for path in run.samples.iterdir():
        path.unlink()
    run.config.write_text('{"batch_size": "?"}')
    text = Page(write_report(run.folder)).text
    for message in (
        *("Not evaluated yet", "No readable sample grids", "cannot derive a schedule", "no readable checkpoint"),
        "an unknown dataset",
    ):
        assert message in text


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -1e300, 1e-300, 10**400, "high", True, [], {}, "\ud800"])
def test_non_numeric_values_leave_gaps(run, value):
    names = ("d_loss", "alpha", "seconds", "images_per_second", "resolution", "real_score")
    lines = [make_log_line(images) for images in range(250, 3001, 250)]
    lines[4] |= dict.fromkeys(names, value)
    write_lines(run.log, lines)
    write_lines(
        run.metrics, [make_metrics_line(1000, value, fid=value, fid_std=value), make_metrics_line(3000, 8, fid=value)]
    )
    Page(write_report(run.folder))
    write_lines(run.log, [lines[4]])
    Page(write_report(run.folder))


def test_unreadable_images_are_counted(run):
    (run.samples / "fakes-00000500.png").write_bytes(b"not an image")
    whole = (run.samples / "fakes-00000750.png").read_bytes()
    (run.samples / "fakes-00000750.png").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (10_000, 10_000)).save(run.samples / "reals-0008.png")  # a small file with many pixels
    (run.samples / "fakes-0000x.png").touch()
    page = Page(write_report(run.folder))
    assert "3 images in samples/ could not be read" in page.text and len(page.all("img")) == 11


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("config.json", None, "no config.json"),
        ("config.json", "[1]", "no options"),
        ("config.json", '{"a', "cannot be read"),
        ("log.jsonl", None, "no line yet"),
        ("log.jsonl", "", "no line yet"),
        ("log.jsonl", '{"images": 1}\n{"ima\n{"images": 3}\n', "line 2 is not JSON"),
        ("log.jsonl", '{"images": 1}\n[2]\n', "line 2 has no number of"),
        ("log.jsonl", '{"images": "many"}\n', "line 1 has no number of"),
        ("metrics.jsonl", '{"fid": 1}\n', "line 1 has no number of"),
        ("metrics.jsonl", b"\xff\xfe", "cannot be read"),
        ("log.jsonl", "[" * 100_000 + "\n{}\n", "line 1 is not JSON"),
    ],
)
def test_a_damaged_run_is_rejected_with_one_sentence(run, file, content, message):
    path = run.folder / file
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message) as error:
        write_report(run.folder)
    assert "\n" not in str(error.value) and not (run.folder / "report.html").exists()


def test_an_oversized_log_is_rejected(run):
    with run.log.open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(CheckpointError, match="larger than 64 MiB"):
        write_report(run.folder)


def test_an_embedded_noise_image_stays_small(tmp_path):
    save_image(tmp_path / "noise.png", size=1024)
    uri = encode_data_uri(tmp_path / "noise.png")
    assert uri and len(uri) <= MAX_FILE_BYTES * 4 / 3 + 100


def test_long_runs_show_a_bounded_number_of_grids():
    numbers = list(range(1, 1001))
    chosen = thin_numbers(numbers, {100, 400, 1000}, 40)
    assert len(chosen) == 40 and chosen == sorted(chosen) and {100, 400, 1000} <= set(chosen)
    assert max(b - a for a, b in pairwise(chosen)) < 60
    assert thin_numbers([1, 2, 3], {3}, 40) == [1, 2, 3]
    assert thin_numbers(numbers, set(numbers), 40) == numbers[-40:]


def test_a_curve_passes_through_its_values():
    lines = [{"images": i, "resolution": 4, "alpha": 1, "x": x} for i, x in ((100, 0.0), (200, None), (300, 1.0))]
    axis = Axis(lines)
    assert (axis.x(0), axis.x(300)) == (LEFT, RIGHT)
    chart = build_chart("t", "", {"x": "x"}, lines, axis)
    (curve,) = chart.curves
    low, high = (TOP + (BOTTOM - TOP) * (1 - share) for share in (0.04 / 1.08, 1.04 / 1.08))
    assert curve.points == [(axis.x(100), round(low, 1)), (axis.x(300), round(high, 1))]
    assert curve.path.count("M") == 2 and "L" not in curve.path  # interrupted at a missing value
    assert chart.data == {
        "x": [axis.x(100), axis.x(200), axis.x(300)],
        "kimg": ["0.1", "0.2", "0.3"],
        "series": [["0", None, "1"]],
    }
    assert build_chart("t", "", {"y": "y"}, lines, axis) is None


def test_stages_are_placed_where_they_were_trained():
    stages = Axis([make_log_line(images) for images in range(250, 3001, 250)]).stages
    assert [(s.resolution, s.start) for s in stages] == [(4, LEFT), (8, round(LEFT + (RIGHT - LEFT) / 3, 1))]
    assert stages[0].stable == stages[0].start and stages[1].start < stages[1].stable < stages[1].end == RIGHT


def test_long_logs_are_averaged_and_outliers_counted():
    lines = [{"images": i, "resolution": 4, "alpha": 1, "x": 1e6 if i == 5000 else i % 2} for i in range(1, 10_001)]
    chart = build_chart("t", "", {"x": "x"}, lines, Axis(lines))
    values = chart.curves[0].values
    assert len(values) == 400 and values[0] == pytest.approx(13 / 25) and chart.outside == 1


@pytest.mark.parametrize("low, high", [(0, 1), (-3.2, 7.9), (1e-9, 2e-9), (0, 12_000_000), (-1e30, 1e30), (99.9, 100)])
def test_ticks_are_round_numbers_in_range(low, high):
    found = compute_ticks(low, high)
    assert 2 <= len(found) <= 6 and all(low <= tick <= high * (1 + 1e-12) for tick in found)


def test_a_failed_report_does_not_fail_the_run(tmp_path, capsys):
    write_final_report(tmp_path / "gone")
    assert "report.html was not written" in capsys.readouterr().err
