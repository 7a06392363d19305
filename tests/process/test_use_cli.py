"""The commands of python -m pggan, run as a user would."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pggan.datasets import open_source


@pytest.fixture
def run_folder(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def labeled(tmp_path):
    """Return the path of a checkpoint of an untrained conditional generator."""
    from pggan import Generator
    from pggan.checkpoints import save

    arguments = {"resolution": 8, "channels": 1, "label_size": 2, "fmap_base": 32, "fmap_max": 8}
    content = {
        "images": 0,
        "stage": {"resolution": 8, "alpha": 1.0},
        "config": {},
        "networks": {"generator": arguments},
        "classes": ["cat", "dog"],
        "state": {"G_ema": Generator(**arguments).state_dict()},
    }
    save(tmp_path / "labeled.pt", content)
    return tmp_path / "labeled.pt"


def get_path(result):
    """Return the one path that a command printed as written."""
    assert result.code == 0, result.err
    (line,) = (line for line in result.out.splitlines() if line.startswith("wrote "))
    return line.removeprefix("wrote ")


def read_frames(path):
    with Image.open(path) as video:
        return [np.asarray((video.seek(i), video.convert("RGB"))[1]) for i in range(video.n_frames)]


def test_help_lists_every_command(commands):
    process = commands.run("-m", "pggan", "--help")
    assert process.returncode == 0
    for name in "sample interpolate grow fade evaluate compare nearest project upscale info".split():
        assert any(line.split()[:1] == [name] for line in process.out.splitlines())


def test_every_command_accepts_its_own_examples(pggan):
    for module in importlib.import_module("pggan.__main__").COMMANDS:
        assert "python -m pggan " in module.EXAMPLES
        for line in module.EXAMPLES.strip().splitlines():
            words = line.strip().split("   ")[0].split()
            if words[0] != "python":
                continue
            profile = words[3] == "profile"  # with a preset it needs no images, and succeeds
            result = pggan(*words[3:], *(["--at", "4", "--steps", "1"] if profile else []))
            is_rejected = result.code == 2 and result.err.count("\n") == 1
            assert "usage:" not in result.err and (is_rejected or (profile and result.code == 0)), (line, result.err)


def test_sample_writes_a_grid_to_the_run_outputs(pggan, run_folder):
    path = get_path(pggan("sample", run_folder, "--seeds", "0-3"))
    assert path == str(run_folder / "outputs" / "sample-16x16-2kimg-seeds-0-3.png")
    grid = np.asarray(Image.open(path))
    assert grid.shape == (512, 512, 3)
    alone = np.asarray(Image.open(get_path(pggan("sample", run_folder, "--seeds", "2", "--out", "two.png"))))
    assert np.array_equal(grid[256:, :256], alone[::2, ::2])


def test_sample_options_change_the_grid_and_its_file_name(pggan, run_folder):
    options = [[], ["--resolution", "8"], ["--alpha", "0.5"], ["--truncation", "0.5"], ["--resolution", "4"]]
    grids = [np.asarray(Image.open(get_path(pggan("sample", run_folder, "--seeds", "0-3", *more)))) for more in options]
    assert len({grid.tobytes() for grid in grids}) == 5 and len(list((run_folder / "outputs").iterdir())) == 5


def test_sample_writes_a_dataset(pggan, labeled):
    assert get_path(pggan("sample", labeled, "--labels", "all", "--count", "24", "--out", "set")) == "set"
    source = open_source("set", labels=True)
    assert source.classes == ["cat", "dog"] and np.bincount(source.labels).tolist() == [24, 24]
    grid = np.asarray(Image.open(get_path(pggan("sample", labeled, "--labels", "dog,cat", "--seeds", "0-4"))))
    assert grid.shape[0] / grid.shape[1] == 5 / 2


def test_interpolate_fade_and_grow_write_videos(pggan, run_folder):
    walk = read_frames(get_path(pggan("interpolate", run_folder, "--seeds", "0-2", "--frames", "4", "--out", "a.webp")))
    assert len(walk) == 9
    still = np.asarray(Image.open(get_path(pggan("sample", run_folder, "--seeds", "1", "--out", "one.png"))), int)
    assert np.abs(walk[4] - still).mean() < 5 < np.abs(walk[0] - still).mean()
    fade = read_frames(get_path(pggan("fade", run_folder, "--frames", "5", "--out", "b.webp")))
    assert len(fade) == 5
    grow = read_frames(get_path(pggan("grow", run_folder, "--fps", "5", "--out", "c.webp")))
    ticks = sorted((run_folder / "samples").glob("fakes-*.png"))
    assert len(ticks) - 1 <= len(grow) <= len(ticks) + 1
    first, last = (Image.open(ticks[i]).convert("RGB") for i in (0, -1))
    for frame, expected in ((grow[0], first.resize(last.size, Image.Resampling.NEAREST)), (grow[-1], last)):
        assert np.abs(frame[: last.height].astype(int) - np.asarray(expected, int)).mean() < 16  # lossy


def test_fade_grid_starts_with_the_upscaled_lower_stage(pggan, run_folder):
    rows = np.asarray(Image.open(get_path(pggan("fade", run_folder, "--seeds", "0,1", "--out", "fade.png"))))
    cell = rows.shape[0] // 2
    assert rows.shape[1] == 9 * cell
    first = rows[:cell, :cell].reshape(8, cell // 8, 8, cell // 8, 3)
    assert (first == first[:, :1, :, :1]).all()


def test_compare_prints_a_table_and_writes_both_grids(pggan, run_folder):
    stage = run_folder / "checkpoints" / "stage-0008.pt"
    command = ["compare", stage, run_folder, "--metrics", "swd", "--num-images", "32", "--num-reals", "32"]
    result = pggan(*command, "--seeds", "0-3")
    assert get_path(result) == "compare.png"
    (row,) = (line.split() for line in result.out.splitlines() if line.split()[:1] == ["swd"])
    assert len(row) == 3 and row[1] != row[2]
    assert Image.open("compare.png").width == 2 * 512 + 16
    lines = pggan(*command, "--json", "--force").out
    assert [json.loads(line)["resolution"] for line in lines.splitlines()[:2]] == [8, 16]


class Pixels:
    """Stand in for Inception: the features are the pixels."""

    def __init__(self, weights, device):
        pass

    def __call__(self, images):
        return images.flatten(1).float(), None


def test_nearest_finds_memorized_images(pggan, run_folder, monkeypatch):
    nearest = importlib.import_module("pggan.use.nearest")
    monkeypatch.setattr(nearest, "Inception", Pixels)
    monkeypatch.setattr(nearest, "load_weights", lambda path: None)
    get_path(pggan("sample", run_folder, "--count", "12", "--out", "set"))
    result = pggan(
        "nearest", run_folder, "--data", "set", "--seeds", "3,5,40", "--neighbours", "2", "--out", "near.png"
    )
    assert get_path(result) == "near.png"
    lines = result.out.splitlines()
    assert "seed00000003.png, distance 0.00" in lines[0] and "seed00000005.png, distance 0.00" in lines[1]
    assert "distance 0.00" not in lines[2] and "reference" in lines[3]
    assert lines[4].startswith("2 of 3 samples are near-copies of real images")
    assert lines[5] == "the generator has memorized training images"
    grid = np.asarray(Image.open("near.png"))  # sample, gap, two neighbors
    sample, gap, first, second = np.split(grid[: len(grid) // 3], 4, axis=1)
    assert np.array_equal(sample, first) and (gap == 255).all() and not np.array_equal(sample, second)


def test_nearest_names_the_files_where_they_are_now(pggan, run_folder, monkeypatch, tmp_path):
    """The cache is shared by content and was built under another path; one of its images is unreadable."""
    nearest = importlib.import_module("pggan.use.nearest")
    monkeypatch.setattr(nearest, "Inception", Pixels)
    monkeypatch.setattr(nearest, "load_weights", lambda path: None)
    get_path(pggan("sample", run_folder, "--count", "120", "--out", "set"))
    Path("set/seed00000001.png").write_bytes(b"broken")
    arguments = ("--seeds", "0,2-9", "--rows", "9", "--num-reals", "120", "--force", "--out", "near.png")
    for folder in ("set", "moved", str(tmp_path / "moved")):
        if folder == "moved":
            Path("set").rename("moved")
        result = pggan("nearest", run_folder, "--data", folder, *arguments)
        lines = {line.split(":")[0]: line for line in result.out.splitlines() if line.startswith("seed ")}
        assert len(lines) == 9
        for seed in (0, *range(2, 10)):
            assert f"{folder}/seed{seed:08d}.png, distance 0.00" in lines[f"seed {seed}"]


@pytest.mark.parametrize(
    ("samples", "reals", "answer"),
    [
        ([9.0] * 20, [8.0] * 500, "no sign of memorization"),
        ([9.0] * 18 + [3.9] * 2, [8.0] * 500, "the generator has memorized training images"),
        ([9.0] * 19 + [0.0], [8.0] * 450 + [0.0] * 50, "no sign of memorization: the dataset itself has as many"),
        ([9.0] * 10 + [0.0] * 10, [8.0] * 450 + [0.0] * 50, "the generator has memorized training images"),
    ],
)
def test_the_answer_about_memorization_takes_copies_among_real_images_into_account(samples, reals, answer):
    lines = importlib.import_module("pggan.use.nearest").summarize_copies(torch.tensor(samples), torch.tensor(reals))
    assert lines[-1].startswith(answer)


def test_project_and_upscale_report_their_errors(pggan, run_folder, monkeypatch):
    get_path(pggan("sample", run_folder, "--count", "1", "--out", "set"))
    result = pggan("project", run_folder, "set/seed00000000.png", "--searches", "2", "--steps", "60", "--out", "found")
    assert get_path(result) == "found" and "root mean square error" in result.out
    found = json.loads(Path("found/found.json").read_text())["images"]
    image, target = (np.asarray(Image.open(path), float) for path in ("found/image-00.png", "set/seed00000000.png"))
    assert found[0]["rms_error"] == pytest.approx(np.sqrt(((image - target) ** 2).mean()), abs=1e-3) and len(found) == 2

    class MeanSquare:
        device = torch.device("cpu")

        def __call__(self, x, y):
            return (x - y).square().flatten(1).mean(dim=1)

    monkeypatch.setattr("pggan.use.project.load_lpips", lambda path, device: MeanSquare())
    image_path, lpips = "set/seed00000000.png", ("--loss", "lpips", "--searches", "1", "--steps", "1", "--out", "lpips")
    result = pggan("project", run_folder, image_path, *lpips)
    found = json.loads(Path("lpips/found.json").read_text())["images"]
    assert float(result.out.split(", LPIPS ")[1]) == pytest.approx((found[0]["rms_error"] / 127.5) ** 2, abs=6e-4)
    import pggan as library

    latents = torch.from_numpy(np.load("found/latents.npz")["latents"])
    assert np.array_equal(library.load(run_folder).draw(latents)[0].permute(1, 2, 0).numpy(), image)

    Image.open("set/seed00000000.png").reduce(4).save("small.png")
    result = pggan("upscale", run_folder, "small.png", "--searches", "2", "--steps", "60", "--tolerance", "60")
    folder = get_path(result)
    image = np.asarray(Image.open(f"{folder}/image-00.png"), float).reshape(4, 4, 4, 4, 3).mean(axis=(1, 3))
    error = np.sqrt(((image - np.asarray(Image.open("small.png"))) ** 2).mean())
    assert json.loads(Path(folder, "found.json").read_text())["images"][0]["rms_error"] == pytest.approx(
        error, abs=1e-3
    )


def test_info_reports_stage_options_and_metrics(pggan, run_folder):
    result = pggan("info", run_folder)
    assert result.code == 0
    for text in ("16x16, stabilizing", "torch", "fmap_max", "100% done", "stage-0008.pt", "SWD"):
        assert text in result.out
    earlier = json.loads(pggan("info", run_folder / "checkpoints" / "stage-0008.pt", "--json").out)
    assert earlier["stage"] == {"resolution": 8, "alpha": 1.0}
    assert max(line["images"] for line in earlier["metrics"]) <= earlier["images"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("sample empty", "contains no checkpoints/latest.pt"),
        ("sample nowhere", "does not exist"),
        ("sample old.pt", "version 0"),
        ("sample text.png", "not a checkpoint"),
        ("sample RUN --seeds 9-3", "3-9"),
        ("sample RUN --seeds 0-3 --count 4", "not allowed with"),
        ("sample RUN --labels dog", "without labels"),
        ("sample labeled.pt --labels cow", "cat, dog"),
        ("sample RUN --out there.png", "--force"),
        ("sample RUN --out photos --force", "other contents"),
        ("sample RUN --out a.tiff", "does not end in"),
        ("sample RUN --count 900000", "write a folder"),
        ("sample RUN --resolution 32", "not trained"),
        ("sample RUN --resolution 12", "power of two"),
        ("sample RUN --alpha 1.5", "range"),
        ("sample RUN --device abacus", "--device"),
        ("interpolate RUN --seeds 3", "two seeds"),
        ("interpolate RUN --out a.avi", "does not end in"),
        ("interpolate RUN --label cat", "without labels"),
        ("interpolate RUN --frames 10000 --out a.gif", "choose an .mp4"),
        ("interpolate RUN --seeds 0-99 --frames 10000", "exceed"),
        ("compare RUN RUN --seeds 0-20000", "too many"),
        ("nearest labeled.pt", "--data"),
        ("evaluate labeled.pt", "--data"),
        ("grow empty", "samples/fakes-"),
        ("fade RUN --resolution 4", "does not fade in"),
        ("compare RUN", "two or more"),
        ("compare RUN nowhere --metrics none", "does not exist"),
        ("nearest RUN --data nowhere", "nowhere does not exist"),
        ("project RUN there.png", "5x7"),
        ("project RUN missing.png", "cannot be read"),
        ("project RUN text.png", "cannot be read"),
        ("upscale RUN there.png", "square"),
        ("upscale RUN four.png --searches 1 --steps 1 --tolerance 0.01", "none of 1 searches"),
        ("info text.png", "not a checkpoint"),
    ],
)
def test_bad_input_is_rejected_with_one_sentence_and_overwrites_nothing(
    pggan, run_folder, labeled, tmp_path, arguments, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("dear")
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (5, 7)).save(tmp_path / "there.png")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "four.png")
    torch.save({"format": "pggan-checkpoint", "version": 0}, tmp_path / "old.pt")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    result = pggan(*(str(run_folder) if word == "RUN" else word for word in arguments.split()))
    assert result.code == 2 and message in result.err, result
    assert "Traceback" not in result.err and result.err.splitlines()[-1].startswith("python -m pggan")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_missing_pyav_is_reported_with_the_install_command(pggan, run_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for command in ("interpolate", "grow", "fade"):
        result = pggan(command, run_folder)
        assert result.code == 2 and "pip install av" in result.err


def test_unwritable_output_is_rejected(pggan, run_folder, tmp_path):
    (tmp_path / "file").write_text("")
    result = pggan("sample", run_folder, "--seeds", "0", "--out", tmp_path / "file" / "a.png")
    assert result.code == 2 and "file" in result.err and "Traceback" not in result.err
