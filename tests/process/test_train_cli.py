"""train.py as a user runs it."""

import json
import shutil
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from PIL import Image

from pggan.training import plan

SHORT = [*TINY, "--resolution", "8", "--fade-kimg", "0.1", "--stabilize-kimg", "0.1"]


def assert_rejected(process, *messages, code=2):
    assert process.returncode == code, process.err
    assert "Traceback" not in process.err and process.err.startswith(("train.py: ", "usage: "))
    assert all(text in process.err for text in messages), process.err


def write_class_folders(folder, count=24, size=(20, 20), mode="RGB"):
    rng = np.random.default_rng(0)
    for i in range(count):
        target = folder / f"class{i % 2}"
        target.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(target / f"{i}.png")


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_run_writes_all_promised_files(finished_run):
    names = {str(p.relative_to(finished_run)) for p in finished_run.rglob("*")}
    assert {
        "config.json",
        "log.jsonl",
        "metrics.jsonl",
        "checkpoints/latest.pt",
        "checkpoints/stage-0004.pt",
        "checkpoints/stage-0008.pt",
        "checkpoints/stage-0016.pt",
        "samples/reals-0004.png",
        "samples/reals-0016.png",
    } <= names
    log = [json.loads(line) for line in (finished_run / "log.jsonl").read_text().splitlines()]
    expected_keys = {
        "images",
        "resolution",
        "alpha",
        "d_loss",
        "g_loss",
        "real_score",
        "fake_score",
        "grad_norm",
        "g_lr",
        "d_lr",
        "images_per_second",
        "peak_memory_mb",
        "skipped",
    }
    assert all(expected_keys <= line.keys() for line in log)
    assert [line["images"] for line in log] == sorted({line["images"] for line in log})
    assert len(list((finished_run / "samples").glob("fakes-*.png"))) == len(log)
    metrics = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["resolution"] for line in metrics if line["stage_end"]] == [4, 8, 16]
    assert all(np.isfinite(line["swd"]) for line in metrics)
    table = (finished_run / "stdout").read_text()
    assert "16x16" in table and "SWD" in table and "final samples: " in table


@pytest.fixture
def dry_run(train, monkeypatch):
    """Return train with --dry-run, which times steps for 3 seconds at most."""
    monkeypatch.setattr(plan, "DRY_RUN_SECONDS", 3)
    return lambda *arguments: train(*arguments, "--dry-run")


def test_dry_run_prints_the_plan_and_writes_nothing(dry_run, tmp_path):
    process = dry_run(*TINY)
    assert process.returncode == 0, process.err
    assert "fade in" in process.out and "stabilize" in process.out and "16x16" in process.out
    table, _, estimates = process.out.partition("estimates for CPU")
    assert "G + D, million" in table and "memory" not in table
    assert [line.split()[0] for line in estimates.splitlines()[2:5]] == ["4x4", "8x8", "16x16"]
    assert "of training in total, evaluations not included" in estimates
    assert list(tmp_path.iterdir()) == []


def test_dry_run_prints_the_plan_before_timing_steps(commands):
    """Run at the paper's widths: the plan must be printed while steps are still being timed."""
    start = time.monotonic()
    process = commands.start(ROOT / "train.py", "synthetic", "--resolution", "32", "--dry-run")
    lines = []
    while not lines or not lines[-1].startswith("estimates for"):
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    waited, running = time.monotonic() - start, process.poll() is None
    process.kill()
    process.communicate()
    assert running and any("32x32" in line for line in lines)
    assert waited < 30  # 4 s on an idle machine


def test_dry_run_reports_the_remaining_training(dry_run, finished_run, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    process = dry_run(*TINY, "--out", finished_run)
    assert process.returncode == 0, process.err
    images = torch.load(finished_run / "checkpoints" / "latest.pt", weights_only=True)["images"]
    assert f"has finished: it has seen {images / 1000:g} kimg" in process.out
    assert "about 0s left" in process.out
    stage = finished_run / "checkpoints" / "stage-0008.pt"
    process = dry_run(*TINY, "--resume", stage, "--fade-kimg", "2")
    assert process.returncode == 0, process.err
    assert f"starting from {stage} at" in process.out and "--fade-kimg" in process.out
    assert "about 0s left" not in process.out
    assert_rejected(dry_run(*TINY, "--out", finished_run, "--batch-size", "16"), "other options")
    copy = shutil.copytree(finished_run, tmp_path / "copy")
    (copy / "checkpoints" / "latest.pt").write_bytes(b"damaged")
    process = dry_run(*TINY, "--out", copy)
    assert process.returncode == 0 and "damaged" in process.out and "instead" in process.out, process.err
    assert_rejected(dry_run(*TINY, "--out", copy, "--total-kimg", "1.25"), "already seen")
    assert before == {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}


@pytest.mark.parametrize(
    "options, message",
    [
        (["--resolution", "24"], "--resolution"),
        (["--batch-size", "4:8,64:4"], "--batch-size: there is no stage 64"),
        (["--batch-size", "10"], "--mbstd-group"),
        (["--total-kimg", "0.5"], "--total-kimg"),
        (["--metrics", "fid,luck"], "--metrics"),
        (["--device", "abacus"], "--device"),
        (["--resume", "missing.pt"], "missing.pt does not exist"),
        (["--config", "missing.json"], "--config"),
        (["--inception-weights", "missing.pth", "--metrics", "fid"], "missing.pth"),
        (["--loss", "hope"], "--loss"),
        (["--augment", "ada"], "--augment ada needs held-out images to measure overfitting; set --holdout"),
        (["--holdout", "100%"], "--holdout"),
        (["--fit", "zoom"], "--fit"),
        (["--background", "blurple"], "--background: 'blurple'"),
    ],
)
def test_bad_options_are_rejected_with_one_sentence_and_write_nothing(commands, options, message):
    assert_rejected(commands.train(*TINY, *options), message)
    assert list(commands.folder.iterdir()) == []


def test_missing_or_empty_data_is_rejected(commands):
    assert_rejected(commands.train("nowhere", "--resolution", "8"), "nowhere does not exist")
    (commands.folder / "empty").mkdir()
    assert_rejected(commands.train("empty", "--resolution", "8"), "contain no images")


def test_changed_config_is_rejected_with_the_differences(commands):
    assert commands.train(*SHORT, "--out", "run").returncode == 0
    before = (commands.folder / "run" / "config.json").read_text()
    assert_rejected(
        commands.train(*SHORT, "--out", "run", "--lr", "0.5", "--mirror"), "--lr", "0.5", "--mirror", "--resume"
    )
    assert (commands.folder / "run" / "config.json").read_text() == before


def test_config_file_of_a_run_reproduces_the_run(commands):
    assert commands.train(*SHORT, "--out", "one").returncode == 0
    assert commands.train("--config", "one/config.json", "--out", "two").returncode == 0
    a, b = (
        torch.load(commands.folder / run / "checkpoints" / "latest.pt", weights_only=True) for run in ("one", "two")
    )
    assert all(torch.equal(a["state"]["G"][name], b["state"]["G"][name]) for name in a["state"]["G"])


def test_stage_checkpoint_starts_a_run_to_a_higher_resolution(commands, finished_run):
    stage = finished_run / "checkpoints" / "stage-0008.pt"
    process = commands.train(*TINY, "--resolution", "32", "--out", "higher", "--resume", stage, "--lr", "0.0005")
    assert process.returncode == 0, process.err
    assert "--resolution: 16 -> 32" in process.err and "--lr" in process.err and "0.9" in process.err
    lines = [json.loads(x) for x in (commands.folder / "higher" / "metrics.jsonl").read_text().splitlines()]
    assert [line["resolution"] for line in lines if line["stage_end"]] == [16, 32]
    first = torch.load(commands.folder / "higher" / "checkpoints" / "stage-0016.pt", weights_only=True)
    assert first["images"] > torch.load(stage, weights_only=True)["images"]


def test_longer_plan_continues_from_the_last_checkpoint(commands, finished_run):
    last = finished_run / "checkpoints" / "latest.pt"
    process = commands.train(*TINY, "--out", "longer", "--resume", last, "--total-kimg", "1.8")
    assert process.returncode == 0, process.err
    assert torch.load(commands.folder / "longer" / "checkpoints" / "latest.pt", weights_only=True)["images"] >= 1800


def test_checkpoint_of_other_networks_is_rejected(commands, finished_run):
    last = finished_run / "checkpoints" / "latest.pt"
    assert_rejected(
        commands.train(*TINY, "--out", "other", "--resume", last, "--fmap-max", "4"),
        "was trained with other network options",
        "use --fmap-max 8",
    )
    assert not (commands.folder / "other").exists()


def test_existing_run_cannot_start_from_another_checkpoint(commands, finished_run):
    assert commands.train(*SHORT, "--out", "run").returncode == 0
    last = finished_run / "checkpoints" / "latest.pt"
    assert_rejected(
        commands.train(*SHORT, "--out", "run", "--resume", last), "was started from scratch", "--out ANOTHER"
    )


def test_total_kimg_below_the_images_already_seen_is_rejected(commands):
    assert commands.train(*SHORT, "--out", "run").returncode == 0
    assert_rejected(commands.train(*SHORT, "--out", "run", "--total-kimg", "0.24"), "--total-kimg", "already seen")


def test_copied_images_count_as_the_same_dataset(commands):
    write_class_folders(commands.folder / "art")
    assert commands.train("art", *SHORT[1:], "--out", "run").returncode == 0
    shutil.copytree(commands.folder / "art", commands.folder / "copy", copy_function=shutil.copyfile)
    process = commands.train("copy", *SHORT[1:], "--out", "run", "--total-kimg", "0.4")
    assert process.returncode == 0, process.err


def test_persistent_non_finite_gradients_stop_the_run_with_a_reason(commands):
    process = commands.train(*SHORT, "--out", "run", "--lr", "1e12", "--max-skipped", "6")
    assert_rejected(process, "non-finite", "--lr", code=1)


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGBA", 3)])
def test_training_accepts_non_square_images_of_any_mode(commands, mode, channels):
    write_class_folders(commands.folder / "art", size=(33, 20), mode=mode)
    (commands.folder / "art" / "notes.txt").write_text("not an image")
    process = commands.train("art", *SHORT[1:], "--out", "run")
    assert process.returncode == 0, process.err
    assert json.loads((commands.folder / "run" / "config.json").read_text())["channels"] == channels


def test_class_folders_become_labels(commands):
    write_class_folders(commands.folder / "art")
    process = commands.train("art", *SHORT[1:], "--labels", "--out", "run")
    assert process.returncode == 0, process.err
    saved = torch.load(commands.folder / "run" / "checkpoints" / "latest.pt", weights_only=True)
    assert saved["classes"] == ["class0", "class1"]


def test_changed_images_are_detected(commands):
    write_class_folders(commands.folder / "art")
    assert commands.train("art", *SHORT[1:], "--out", "run").returncode == 0
    (commands.folder / "art" / "class0" / "0.png").unlink()
    assert_rejected(commands.train("art", *SHORT[1:], "--out", "run"), "have changed since this run began")


def test_first_lines_summarize_the_dataset(commands):
    write_class_folders(commands.folder / "art")
    for name in ("1.heic", "2.HEIC"):
        (commands.folder / "art" / name).write_text("no image")
    summary = [
        "24 images in art, all 20x20",
        "2 classes: class0 (12), class1 (12)",
        "skipped files: 2 .heic (not supported: pip install pillow-heif, or convert them to .jpg or .png)",
    ]
    dry_run = commands.train("art", *SHORT[1:], "--labels", "--dry-run")
    assert dry_run.out.splitlines()[:3] == summary, dry_run.err
    process = commands.train("art", *SHORT[1:], "--labels", "--out", "run")
    assert process.out.splitlines()[:3] == summary, process.err
    saved = torch.load(commands.folder / "run" / "checkpoints" / "latest.pt", weights_only=True)
    assert saved["class_counts"] == [12, 12]


def test_run_inside_its_image_folder_resumes_and_is_not_read_as_data(commands):
    """Use the default --out, which is in the current folder: here the folder with the images."""
    write_class_folders(commands.folder / "art")
    commands.folder = commands.folder / "art"
    first = commands.start_training(".", *SHORT[1:], "--total-kimg", "100")
    samples = commands.folder / "runs" / "art-8" / "samples"
    wait_until(lambda: len(list(samples.glob("fakes-*.png"))) > 1)
    first.kill()
    first.communicate()
    again = commands.train(".", *SHORT[1:])
    assert again.returncode == 0 or "already seen" in again.err, again.err
    assert "24 images in art" in again.out and "runs/art-8/: a run directory" in again.out
    second = commands.train(".", *SHORT[1:], "--seed", "1", "--out", "runs/second")
    assert second.returncode == 0 and "24 images in art" in second.out, second.err


def test_classes_without_images_are_never_sampled(commands):
    write_class_folders(commands.folder / "art")
    names = sorted(f"{p.parent.name}/{p.name}" for p in (commands.folder / "art").rglob("*.png"))
    table = {"labels": [[name, 4 if "class0" in name else 1] for name in names]}
    (commands.folder / "art" / "dataset.json").write_text(json.dumps(table))
    process = commands.train("art", *SHORT[1:], "--labels", "--out", "run")
    assert process.returncode == 0 and "classes without images, never generated in training: 0, 2, 3" in process.out, (
        process.err
    )
    assert commands.run("-m", "pggan", "sample", "run", "--count", "30", "--out", "set").returncode == 0
    sampled = json.loads((commands.folder / "set" / "dataset.json").read_text())["labels"]
    assert {label for _, label in sampled} == {1, 4}
    one = commands.run("-m", "pggan", "sample", "run", "--labels", "3", "--out", "one.png")
    assert one.returncode == 2 and "class '3' had no training images; use one of class1, class0" in one.err


def test_tensorboard_files_are_written(commands):
    process = commands.train(*SHORT, "--track", "tensorboard", "--out", "run")
    assert process.returncode == 0, process.err
    assert list((commands.folder / "run" / "tensorboard").glob("events*"))


def test_wandb_logs_offline_without_a_key_and_resumes_the_same_run(commands):
    pytest.importorskip("wandb")
    commands.environment.pop("WANDB_API_KEY", None)
    commands.environment["HOME"] = str(commands.folder)  # no key in ~/.netrc
    for total in ("0.3", "0.5"):
        process = commands.train(*SHORT, "--track", "wandb", "--out", "run", "--total-kimg", total)
        assert process.returncode == 0, process.err
    offline = list((commands.folder / "run" / "wandb").glob("offline-run-*"))
    identity = (commands.folder / "run" / "wandb-id").read_text()
    assert len(offline) == 2 and all(folder.name.endswith(identity) for folder in offline)


def test_help_shows_common_options_and_help_all_shows_every_option(commands):
    short, long = commands.train("--help"), commands.train("--help-all")
    assert short.returncode == long.returncode == 0
    assert "--resolution" in short.out and "--gp-target" not in short.out and "--help-all" in short.out
    assert "--resolution" in long.out and "--gp-target" in long.out
    assert "python train.py photos" in short.out and "(1 to 8192" not in short.out and "1 to 8,192" in short.out
