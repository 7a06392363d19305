import pytest
import torch

from pggan.checkpoints.run_directory import read_lines
from pggan.config import resolve_config
from pggan.training import TrainingStopped, train
from pggan.training.evaluation import Evaluator
from pggan.training.growth import GrowthController
from pggan.training.memory import is_out_of_memory, read_usable_memory, suggest_less_memory
from pggan.training.ranks import SINGLE_PROCESS, Ranks
from pggan.training.steps import Stepper

OPTIONS = {
    "data": "synthetic",
    "channels": 3,
    "resolution": 8,
    "fmap_base": 32,
    "fmap_max": 4,
    "batch_size": "4:16,8:8",
    "fade_kimg": 0.1,
    "stabilize_kimg": 0.1,
    "tick_kimg": 0.05,
    "metrics": "none",
    "track": "none",
    "device": "cpu",
}


def suggest(path, ranks=SINGLE_PROCESS, **options):
    config = resolve_config(OPTIONS | options)
    return suggest_less_memory(config, GrowthController(config).phase(1000), ranks, path)


def test_micro_batch_is_halved_down_to_one_group(tmp_path):
    assert " --micro-batch 4:16,8:4," in suggest(tmp_path)
    assert " --micro-batch 4:32,8:8," in suggest(tmp_path, batch_size="4:32,8:16", fade_kimg=0.2)
    assert " --micro-batch 4:8,8:4," in suggest(tmp_path, batch_size=16, micro_batch=8)
    assert " --micro-batch 4:16,8:4," in suggest(tmp_path, ranks=Ranks(0, 2), batch_size=16)
    assert "--micro-batch" not in suggest(tmp_path, batch_size=4)


def test_before_the_first_checkpoint_the_run_starts_over(tmp_path):
    assert suggest(tmp_path / "latest.pt").startswith(
        "run the same command again to start over (nothing was saved yet) with --micro-batch 4:16,8:4, which needs less"
    )


def test_with_one_group_left_a_smaller_batch_is_suggested(tmp_path):
    assert "--batch-size 4:16,8:4 --out ANOTHER" in suggest(tmp_path / "none", micro_batch=4)
    (tmp_path / "latest.pt").touch()
    assert f"--out ANOTHER --resume {tmp_path / 'latest.pt'};" in suggest(tmp_path / "latest.pt", micro_batch=4)


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in ..."),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("NCCL error in: ...\nLast error:\nCuda failure 2 'out of memory'"),
]
OTHER_ERRORS = [
    RuntimeError("shapes differ"),
    RuntimeError("The size of tensor a (2) must match the size of tensor b (3) at non-singleton dimension 0"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
    RuntimeError("CUDA driver error: invalid argument"),
    ValueError("CUDA error: out of memory"),
]


def test_only_out_of_memory_errors_are_recognized():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert [e for e in [error.value, *OUT_OF_MEMORY] if not is_out_of_memory(e)] == []
    assert [e for e in OTHER_ERRORS if is_out_of_memory(e)] == []


@pytest.mark.parametrize("error", [OUT_OF_MEMORY[0], OUT_OF_MEMORY[4]])
def test_out_of_memory_at_a_growth_step_suggests_an_option_that_resumes(tmp_path, cache, monkeypatch, error):
    monkeypatch.setenv("PGGAN_CACHE", str(cache))
    options = OPTIONS | {"out": str(tmp_path / "run")}
    d_terms = Stepper.compute_d_terms

    def limited(self, state, stage, loss, part):
        if stage["resolution"] == 8 and len(part.images) > 4:
            raise error
        return d_terms(self, state, stage, loss, part)

    monkeypatch.setattr(Stepper, "compute_d_terms", limited)
    with pytest.raises(TrainingStopped) as stopped:
        train(resolve_config(options))
    assert str(stopped.value) == (
        "out of memory at 8x8 alpha 0.28 0.1 kimg with batches of 8; run the same command again to resume from "
        f"{tmp_path}/run/checkpoints/latest.pt with --micro-batch 4:16,8:4, which needs less memory and gives the same "
        "result"
    )
    train(resolve_config(options | {"micro_batch": "4:16,8:4"}))
    saved = torch.load(tmp_path / "run" / "checkpoints" / "latest.pt", weights_only=True)
    assert saved["images"] >= 300


GIB = 2**30
FILES = "active_file {}\ninactive_file {}\n"


@pytest.fixture
def usable(tmp_path):
    """Return a function of this process's groups and of control files by path: GiB usable of a machine's 64."""

    def measure(groups, files=()):
        proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
        meminfo = f"MemTotal: {90 * 2**20} kB\nMemFree: 1 kB\nMemAvailable:   {64 * 2**20} kB\n"
        for path, text in {proc / "meminfo": meminfo, proc / "self" / "cgroup": groups}.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name, value in dict(files).items():
            (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
            (cgroup / name).write_text(str(value))
        return read_usable_memory(torch.device("cpu"), proc, cgroup) / GIB

    return measure


def test_without_limits_what_linux_can_free_is_usable(usable):
    assert usable("") == usable("0::/\n") == usable("9:name=systemd:/\n4:memory:/a/b\n0::/\n") == 64


@pytest.mark.parametrize("folder", ["", "system.slice/job/"])  # a container's, or a SLURM job's
def test_limits_of_control_groups_version_2_count(usable, folder):
    files = {"memory.max": 10 * GIB, "memory.current": 8 * GIB, "memory.stat": FILES.format(GIB, 2 * GIB)}
    assert usable("0::/system.slice/job/step/user\n", {folder + name: text for name, text in files.items()}) == 5


def test_the_tightest_of_nested_limits_counts(usable):
    files = {}
    for folder, limit in (("", 9 * GIB), ("a/", 3 * GIB), ("a/b/", 6 * GIB), ("a/b/c/", "max")):
        files |= {f"{folder}memory.max": limit, f"{folder}memory.current": GIB}
        files |= {f"{folder}memory.stat": FILES.format(0, 0)}
    assert usable("0::/a/b/c\n", files) == 2


def test_limits_of_control_groups_version_1_count(usable):
    files = {"limit_in_bytes": 4 * GIB, "usage_in_bytes": 3 * GIB}
    files["stat"] = f"active_file 0\ninactive_file 0\ntotal_active_file {GIB}\ntotal_inactive_file 0\n"
    groups = "5:cpu:/docker/1\n4:cpuset,memory:/docker/1\n0::/\n"  # as in a container, which sees only its own group
    assert usable(groups, {f"memory/memory.{name}": text for name, text in files.items()}) == 2
    files |= {"limit_in_bytes": 2**63 - 4096}
    assert usable(groups, {f"memory/memory.{name}": text for name, text in files.items()}) == 64


def test_a_group_above_its_limit_leaves_nothing_and_other_systems_tell_nothing(usable, tmp_path):
    files = {"memory.max": GIB, "memory.current": 2 * GIB, "memory.stat": FILES.format(0, 0)}
    assert usable("0::/\n", files) == 0
    assert read_usable_memory(torch.device("cpu"), tmp_path / "missing", tmp_path) == 0


def test_an_evaluation_without_enough_memory_does_not_end_the_training(tmp_path, cache, monkeypatch, capsys):
    monkeypatch.setenv("PGGAN_CACHE", str(cache))
    evaluate, asked = Evaluator.extract_features, []

    def limited(self, images, total, takes, what):
        asked.append(what)
        if what == "fake 8x8":
            raise MemoryError
        return evaluate(self, images, total, takes, what)

    monkeypatch.setattr(Evaluator, "extract_features", limited)
    options = OPTIONS | {"out": str(tmp_path / "run"), "metrics": "swd", "metric_images": 16}
    train(resolve_config(options))
    assert "warning: no metrics at 8x8: out of memory; training continues" in capsys.readouterr().err
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [("swd" in line, line["resolution"]) for line in lines] == [(True, 4), (False, 8)]
    train(resolve_config(options))  # finished: does not evaluate again
    assert asked.count("fake 8x8") == 1
