import pytest
import torch

from pggan.config import resolve_config
from pggan.training import TrainingStopped, train
from pggan.training.growth import GrowthController
from pggan.training.memory import is_out_of_memory, suggest_less_memory
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
    assert " --micro-batch 4:32,8:8," in suggest(tmp_path, batch_size="4:32,8:16")
    assert " --micro-batch 4:8,8:4," in suggest(tmp_path, batch_size=16, micro_batch=8)
    assert " --micro-batch 4:16,8:4," in suggest(tmp_path, ranks=Ranks(0, 2), batch_size=16)
    assert "--micro-batch" not in suggest(tmp_path, batch_size=4)


def test_with_one_group_left_a_smaller_batch_is_suggested(tmp_path):
    assert "--batch-size 4:16,8:4 --out ANOTHER" in suggest(tmp_path / "none", micro_batch=4)
    (tmp_path / "latest.pt").touch()
    assert suggest(tmp_path / "latest.pt", micro_batch=4).endswith(f"--out ANOTHER --resume {tmp_path / 'latest.pt'}")


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
def test_out_of_memory_at_a_growth_step_suggests_an_option_that_resumes(tmp_path, monkeypatch, error):
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "cache"))
    options = OPTIONS | {"out": str(tmp_path / "run")}
    d_terms = Stepper.compute_d_terms

    def limited(self, state, stage, part):
        if stage["resolution"] == 8 and len(part.images) > 4:
            raise error
        return d_terms(self, state, stage, part)

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
