"""`python -m benchmarks.gpu` runs from start to end on a CPU, and resumes training on another machine."""

import json


def test_the_gpu_benchmark_runs_on_a_cpu_and_hands_its_run_on(commands):
    command = ["-m", "benchmarks.gpu", "--device", "cpu", "--toy", "--minutes", "9", "--data", "synthetic"]
    process = commands.run(*command, "--out", "a", "--work", "first")
    assert process.returncode == 0, process.err
    parts = json.loads((commands.folder / "a" / "results.json").read_text())["parts"]
    assert parts.keys() == {"check", "speed", "inception", "train"}
    evaluation = parts["train"]["FID of 16 images"]
    assert evaluation.get("error", "").startswith("not available: needs") or evaluation["rows"][0]["name"] == "FID"
    for entries in parts.values():
        for name, entry in entries.items():
            assert "error" not in entry or entry["error"].startswith("not available: "), (name, entry)
    missed = [row for entry in parts["check"].values() for row in entry.get("rows", ()) if row["at_most"] == 0]
    assert missed and not any(row["value"] for row in missed)  # nothing differs after resuming
    assert "deterministic resume in fp32: ok" in process.out

    # the parts of the checkpoint are all that another machine gets; it finds nothing left to train
    process = commands.run(*command, "--parts", "train", "--resume-from", "a", "--out", "b", "--work", "second")
    assert process.returncode == 0, process.err
    rows = json.loads((commands.folder / "b" / "results.json").read_text())["parts"]["train"]["cifar10-fast"]["rows"]
    values = {row["name"]: row["value"] for row in rows}
    assert values["end"] == "finished" and values["images seen"] == 416
