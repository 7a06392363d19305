"""Options of a training run: `TrainConfig` with units, ranges and defaults, presets, command line and config files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from pggan.checkpoints import CheckpointError, load, resolve_checkpoint
from pggan.datasets import FITS, SOURCE_TYPES, Source, open_source, parse_fraction, read_native_format
from pggan.metrics import METRICS

from .paths import (
    RECORDED,
    choose_out,
    find_run_started_from,
    is_same_path,
    make_absolute,
    read_options,
    relocate_paths,
)

Number = TypeVar("Number", int, float)
PerStage = Mapping[int, Number]
MIN_BUDGET = 60  # seconds; starting, planning and evaluating take about half of that
MAX_NUMBER = 1e12  # largest value of any option, so that numbers computed from options stay within a float

ARCH_DEFAULTS: dict[str, dict[str, Any]] = {  # defaults of options that depend on --arch; sizes are ours
    "pggan": {},
    "mlp": {"hidden": (256, 256, 256, 128), "d_hidden": (256, 256)},
    "dcgan": {},
    "hybrid": {"hidden": (128, 128, 128, 128), "d_hidden": (64, 64)},
    "msg": {},
    "r3gan": {},
}
# Defaults of options that depend on --loss. Karras et al. 2020 (arXiv 2006.06676), section 3 and their code: 0.6 for
# the signal r_t, 0.5 for r_v
LOSS_DEFAULTS: dict[str, dict[str, Any]] = {
    "wgan-gp": {"penalty": "gp", "drift": 0.001, "ada_target": 0.5},  # Karras et al. 2018, appendix A.1
    "wgan": {"penalty": "clip", "drift": 0.0, "ada_target": 0.5},  # Arjovsky et al. 2017, algorithm 1
    "minimax": {"penalty": "none", "drift": 0.0, "ada_target": 0.6},
    "nonsaturating": {"penalty": "none", "drift": 0.0, "ada_target": 0.6},
    "lsgan": {"penalty": "none", "drift": 0.0, "ada_target": 0.6},
    "hinge": {"penalty": "none", "drift": 0.0, "ada_target": 0.6},
    "relativistic": {"penalty": "r1+r2", "drift": 0.0, "ada_target": 0.5},  # Huang et al. 2024, section 2
}


class ConfigError(ValueError):
    """An unusable option or combination of options; carries one sentence that names it and the remedy."""


def option(help: str, default: Any = MISSING, default_text: str | None = None, **kwargs: Any) -> Any:
    """Return a dataclass field that is also a command-line option.

    Args:
        help: noun phrase with the unit. default_text: the default as printed in --help, if not the value itself.
        kwargs: `parse` (function from text or plain value to value), `choices`, `minimum`, `maximum`, `metavar`;
            `identity=False` for options that may change when a run is resumed, since the training result does not
            depend on them.
    """
    text = format_value(default) if default_text is None else default_text
    return field(default=default, metadata={"help": help, "default": text, **kwargs})


def format_value(value: Any) -> str:
    """Return an option's value as written on the command line."""
    if isinstance(value, Mapping) and list(value) == [4]:
        return f"{value[4]:g}"
    if isinstance(value, Mapping):
        return ",".join(f"{resolution}:{v:g}" for resolution, v in value.items())
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def make_per_stage_parser(kind: type, minimum: float | None = None) -> Callable[[Any], dict[int, Any]]:
    """Return a parser of per-stage numbers: "16", or "4:128,32:64" for 128 up to 16x16 and 64 from 32x32 up.

    Args:
        kind: int or float. minimum: smallest number; None: any above 0.

    Returns:
        A function from text, a number or a mapping to a dict by resolution; it raises ValueError for anything else.
    """

    def parse(value: Any) -> dict[int, Any]:
        if isinstance(value, Mapping):
            pairs = list(value.items())
        elif isinstance(value, str) and ":" in value:
            pairs = [pair.split(":", 1) for pair in value.split(",")]
        else:
            pairs = [(4, value)]
        try:
            table = {int(resolution): parse_number(kind, v) for resolution, v in pairs}
        except (TypeError, ValueError):
            raise ValueError(f"{value!r} is neither a number nor RESOLUTION:NUMBER pairs like 4:128,32:64") from None
        if len(table) != len(pairs):
            raise ValueError(f"{value!r} has a resolution twice")
        if not all(0 <= v <= MAX_NUMBER and (v > 0 if minimum is None else v >= minimum) for v in table.values()):
            low = "greater than 0" if minimum is None else f"at least {minimum:g}"
            raise ValueError(f"{value!r}: every number must be {low} and at most {MAX_NUMBER:g}")
        if 4 not in table:
            raise ValueError(f"{value!r} has no value for 4x4; begin with 4:")
        return dict(sorted(table.items()))

    return parse


def parse_number(kind: type, value: Any) -> Any:
    """Return an int or a float from text or a plain value. Raises ValueError, for kind int also for 16.5 (not 16.0)."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number") from None
    if kind is int and number != int(number):
        raise ValueError(f"{value!r} is not a whole number")
    return int(number) if kind is int else number


def parse_duration(text: Any) -> float:
    """Return the seconds of a duration such as 90s, 30m, 8h or 2d. Raises ValueError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    try:
        seconds = float(text[:-1]) * units[text[-1]]
    except (TypeError, ValueError, LookupError):
        raise ValueError(f"{text!r} is not a duration like 30m, 8h or 2d") from None
    if not MIN_BUDGET <= seconds <= MAX_NUMBER:
        raise ValueError(f"{text} is too {'long' if seconds > MIN_BUDGET else f'short; the shortest is {MIN_BUDGET}s'}")
    return seconds


def parse_sizes(value: Any) -> tuple[int, ...]:
    """Return layer sizes from text like "256,256,128" or a list. Raises ValueError."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        found = tuple(parse_number(int, part) for part in parts)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a list of whole numbers like 256,256,128") from None
    if not 1 <= len(found) <= 20 or not all(1 <= size <= 65536 for size in found):
        raise ValueError(f"{value!r}: needs 1 to 20 layers with sizes from 1 to 65536")
    return found


def parse_metric_names(value: Any) -> tuple[str, ...]:
    """Return metric names without repetitions from text or a list, () for "none". Raises ValueError."""
    names = tuple(value.split(",")) if isinstance(value, str) else tuple(value)
    names = () if names in (("none",), ("",)) else names
    for name in names:
        if name not in METRICS:
            raise ValueError(f"{name!r} is not a metric; choose from {', '.join(METRICS)}, or none")
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class TrainConfig:
    """The validated options of a run. Defaults are the paper's, as in the authors' TensorFlow code for one GPU.

    If not specified, out, resolution and channels are None until `resolve_config` derives them from the images.

    Raises:
        ConfigError: a value outside its range, or options that contradict each other.
    """

    data: str = option(f"the training images: {SOURCE_TYPES}", "", identity=False)
    out: str = option(
        "run directory; run the same command again to resume",
        None,
        "runs/DATA-RESOLUTION",
        metavar="FOLDER",
        identity=False,
    )
    preset: str | None = option("known recipe that replaces the defaults below", None, identity=False)
    budget: str | None = option(
        "time for the whole run, evaluations included, such as 30m, 8h or 2d: chooses networks, batches, learning "
        "rates, stage lengths and evaluations for these images on this machine; other options override its choices",
        None,
        parse=lambda text: text if parse_duration(text) else None,
        metavar="TIME",
    )
    resume: str | None = option(
        "checkpoint (or run directory, for its latest one) that a new run starts from, possibly with other images, "
        "options or resolution",
        None,
        metavar="CHECKPOINT",
        identity=False,
    )

    # Images
    resolution: int = option(
        "final image size in pixels, a power of two from 4 to 1024",
        None,
        "native size, rounded down; with --resume, the checkpoint's",
        parse=int,
    )
    channels: int = option(
        "image channels",
        None,
        "1 for gray images, else 3; with --resume, the checkpoint's",
        parse=int,
        minimum=1,
        maximum=4,
    )
    fit: str = option(
        "how images become square: crop the center, pad with --background, or stretch", FITS[0], choices=FITS
    )
    background: str = option(
        "color under transparent pixels and around padded images, a name or #rrggbb", "white", metavar="COLOR"
    )
    allow_upscale: bool = option("enlarge images smaller than --resolution", False, identity=False)
    max_bad: float = option(
        "largest fraction of unreadable images to skip before refusing the dataset, 1% or 0.01",
        0.01,
        "1%",
        parse=parse_fraction,
        metavar="N%",
        identity=False,
    )
    labels: bool = option(
        "train a class-conditional model (AC-GAN); classes come from subfolders, dataset.json or the dataset itself",
        False,
    )
    mirror: bool = option("mirror real images horizontally with probability 1/2", False)

    # Small datasets
    augment: str = option(
        "augmentation of everything the discriminator sees: DiffAugment, or ADA, which adapts its probability",
        "none",
        choices=("none", "diffaug", "ada"),
    )
    ada_target: float | None = option(
        "overfitting signal at which ada holds its probability",
        None,
        "0.6 (r_t) with minimax, nonsaturating, lsgan and hinge, else 0.5 (r_v)",
        parse=float,
        minimum=0,
        maximum=1,
    )
    ada_kimg: float = option(
        "thousands of images in which ada's probability can rise from 0 to 1, at the fastest",
        500.0,
        parse=float,
        minimum=0.001,
        metavar="KIMG",
    )
    holdout: float | None = option(
        "fraction of images held out to measure overfitting, 5% or 0.05",
        None,
        "5% of 200 to 9,999 images, else 0",
        parse=parse_fraction,
        metavar="N%",
    )

    # Networks (paper, table 2)
    arch: str = option(
        "network family: pggan (the paper's), msg (MSG-GAN, all resolutions at once), r3gan, dcgan, mlp, or hybrid "
        "(dense generator, convolutional discriminator)",
        "pggan",
        "pggan",
        choices=tuple(ARCH_DEFAULTS),
    )
    growing: bool = option("grow stage by stage; only pggan does", True, "on for pggan")
    fmap_base: int = option(
        "feature maps at resolution r are 2 * fmap_base / r, up to --fmap-max", 8192, parse=int, minimum=1
    )
    fmap_decay: float = option(
        "exponent of the decrease of feature maps with resolution", 1.0, parse=float, minimum=0, maximum=4
    )
    fmap_max: int = option("largest number of feature maps in a layer", 512, parse=int, minimum=1, maximum=8192)
    latent_size: int | None = option(
        "length of the latent vector", None, "feature maps of the first layer", parse=int, minimum=1, maximum=8192
    )
    first_layer: str = option(
        "the generator's first layer: the paper's, or that of weights imported from pro_gan_pytorch (no-norm) or "
        "pytorch_GAN_zoo (pixel-bias)",
        "paper",
        choices=("paper", "no-norm", "pixel-bias"),
    )
    hidden: tuple[int, ...] | None = option(
        "hidden layers of the mlp or hybrid generator",
        None,
        "256,256,256,128; hybrid: 128,128,128,128",
        parse=parse_sizes,
        metavar="N,N,...",
    )
    d_hidden: tuple[int, ...] | None = option(
        "hidden layers of the mlp discriminator, or feature maps of the hybrid's",
        None,
        "256,256; hybrid: 64,64",
        parse=parse_sizes,
        metavar="N,N,...",
    )
    mbstd_group: int = option("samples per minibatch-stddev group", 4, parse=int, minimum=1)
    minibatch_stddev: bool = option("minibatch stddev in the discriminator", True)
    equalized_lr: bool = option("equalized learning rate; without it, He initialization", True)
    pixel_norm: bool = option("pixel norm after the generator's convolutions", True)
    fused_scale: bool = option("scale and convolve in one operation", True)

    # Growth, in thousands of real images seen by the discriminator
    fade_kimg: PerStage[float] = option(
        "length of each fade-in, in thousands of images: a number, or one per resolution, valid from there up",
        600.0,
        parse=make_per_stage_parser(float, 0),
        minimum=0,
        metavar="KIMG",
    )
    stabilize_kimg: PerStage[float] = option(
        "length of training at alpha 1 after each fade-in, in thousands of images: a number, or one per resolution, "
        "valid from there up: 4:2,16:10,32:50",
        600.0,
        parse=make_per_stage_parser(float, 0.001),
        minimum=0.001,
        metavar="KIMG",
    )
    total_kimg: float | None = option(
        "length of the whole run, in thousands of images; with --resume, including the checkpoint's",
        None,
        "to the end of the last stage; with --resume in that stage, --stabilize-kimg more",
        parse=float,
        minimum=0.001,
        metavar="KIMG",
        identity=False,
    )

    growth: str = option(
        "fixed stage lengths, or adaptive: end a stage once its score stops improving, after --stabilize-kimg at most",
        "fixed",
        choices=("fixed", "adaptive"),
    )
    growth_metric: str = option("score that adaptive growth follows, one of --metrics", "swd", choices=("fid", "swd"))
    growth_share: float = option(
        "end the stage if the score improved by less than this fraction within --growth-window, 5% or 0.05",
        0.05,
        "5%",
        parse=parse_fraction,
        metavar="N%",
    )
    growth_window: float = option(
        "window of --growth-share, in thousands of images", 100.0, parse=float, minimum=0.001, metavar="KIMG"
    )
    min_stabilize_kimg: float = option(
        "shortest training at alpha 1 under adaptive growth, in thousands of images",
        100.0,
        parse=float,
        minimum=0,
        metavar="KIMG",
    )

    # Optimization
    batch_size: PerStage[int] = option(
        "images per step over all processes; a number, or one from each resolution up: 4:128,32:64,128:16",
        "4:128,32:64,64:32,128:16,256:8,512:4",
        parse=make_per_stage_parser(int),
    )
    micro_batch: PerStage[int] | None = option(
        "images per process in one forward/backward pass (gradient accumulation); saves memory, same result",
        None,
        "the whole batch",
        parse=make_per_stage_parser(int),
        identity=False,
    )
    lr: PerStage[float] = option(
        "learning rate of both networks: a number, or one per resolution, valid from there up",
        "4:0.001,1024:0.0015",
        parse=make_per_stage_parser(float),
        metavar="RATE",
    )
    d_lr: PerStage[float] | None = option(
        "learning rate of the discriminator alone",
        None,
        "same as --lr",
        parse=make_per_stage_parser(float),
        metavar="RATE",
    )
    optimizer: str = option("optimizer of both networks", "adam", choices=("adam", "rmsprop", "sgd"))
    adam_beta1: float = option("Adam's decay of the mean gradient", 0.0, parse=float, minimum=0, maximum=0.9999)
    adam_beta2: float = option(
        "Adam's decay of the mean squared gradient", 0.99, parse=float, minimum=0, maximum=0.999999
    )
    n_critic: int = option("discriminator steps per generator step", 1, parse=int, minimum=1, maximum=1000)
    repeats: int = option("steps between schedule updates (alpha, stage)", 4, parse=int, minimum=1, maximum=1000)
    ema_decay: float = option(
        "decay per step of the generator's moving average; 0 turns it off", 0.999, parse=float, minimum=0, maximum=1
    )
    burn_in_kimg: float = option(
        "length of R3GAN's burn-in, in thousands of images: on a cosine, --lr falls from 4 times its value, --r-weight "
        "from 10 times, 1 - --adam-beta2 from 10 times, and the moving average's half-life rises from 0",
        0.0,
        parse=float,
        minimum=0,
        metavar="KIMG",
    )

    decay_kimg: float = option(
        "length of the cosine decay of the learning rates to 0 at the end of the run, in thousands of images",
        0.0,
        parse=float,
        minimum=0,
        metavar="KIMG",
    )
    power_ema: bool = option(
        "also keep two averages of G from which `python -m pggan ema` computes averages of any length after training; "
        "each tick saves a snapshot of them, as large as G's weights in float32",
        False,
    )

    # Loss
    loss: str = option("adversarial loss", "wgan-gp", choices=tuple(LOSS_DEFAULTS))
    penalty: str = option(
        "regularization of the discriminator: gradient penalty (gp, r1, r2), or weight clipping (clip)",
        None,
        "gp with wgan-gp, clip with wgan, r1+r2 with relativistic, else none",
        choices=("gp", "r1", "r2", "r1+r2", "clip", "none"),
    )
    gp_weight: float = option("lambda, weight of the gradient penalty gp", 10.0, parse=float, minimum=0)
    gp_target: float = option("gamma, target gradient norm of gp", 1.0, parse=float, minimum=1e-6)
    r_weight: float = option(
        "gamma of r1 and r2: weight of half the squared gradient norm", 10.0, parse=float, minimum=1e-6
    )
    penalty_every: int = option(
        "steps between computations of gp, r1 and r2, with their weight multiplied accordingly (lazy regularization)",
        1,
        parse=int,
        minimum=1,
        maximum=1000,
    )
    penalty_pixels: str = option(
        "pixels with respect to which gradients are taken: the final resolution's (as in the official code) or the "
        "stage's",
        "full",
        choices=("full", "native"),
    )
    clip: float = option("bound on the discriminator's weights under --penalty clip", 0.01, parse=float, minimum=1e-6)
    drift: float = option(
        "epsilon, weight of the squared real scores", None, "0.001 with wgan-gp, else 0", parse=float, minimum=0
    )
    label_smoothing: float = option(
        "one-sided label smoothing: reduction of the real images' target 1, for minimax and nonsaturating",
        0.0,
        parse=float,
        minimum=0,
        maximum=0.5,
    )
    label_weight: float = option("weight of the classification loss with --labels", 1.0, parse=float, minimum=0)
    scale_consistency: float = option(
        "weight of CAT's scale consistency for --arch msg: lower scales' squared distance from the final image",
        0.0,
        parse=float,
        minimum=0,
    )
    max_skipped: int = option(
        "consecutive steps with non-finite gradients (each is skipped) that trigger --on-nan",
        50,
        parse=int,
        minimum=1,
        identity=False,
    )
    on_nan: str = option(
        "response to --max-skipped: stop, or roll back to the last good checkpoint with half the learning rate",
        "stop",
        choices=("stop", "rollback"),
        identity=False,
    )

    # Evaluation
    metrics: tuple[str, ...] = option(
        f"metrics at the end of every stage, any of {','.join(METRICS)}; or none",
        ("fid", "is", "swd"),
        parse=parse_metric_names,
        metavar="NAME,...",
        identity=False,
    )
    metric_images: int = option(
        "generated images per evaluation, and real images at most",
        10000,
        parse=int,
        minimum=2,
        maximum=1_000_000,
        identity=False,
    )
    metric_every_kimg: float | None = option(
        "interval between additional evaluations, in thousands of images",
        None,
        "off",
        parse=float,
        minimum=0.001,
        metavar="KIMG",
        identity=False,
    )
    inception_weights: str | None = option(
        "file of the 2015 Inception weights",
        None,
        "torch hub cache, installed package, or download",
        metavar="FILE",
        identity=False,
    )

    # Running
    seed: int = option("random seed", 0, parse=int, minimum=0, maximum=2**32 - 1)
    tick_kimg: PerStage[float] = option(
        "thousands of images between log lines, sample grids and checkpoints: a number, or one per resolution, valid "
        "from there up",
        "4:160,8:140,16:120,32:100,64:80,128:60,256:40,512:20,1024:10",
        parse=make_per_stage_parser(float),
        metavar="KIMG",
    )
    keep_last: int = option(
        "newest checkpoints to keep, besides those of the stages and the best",
        2,
        parse=int,
        minimum=1,
        maximum=10_000,
        identity=False,
    )
    workers: int | None = option(
        "processes that decode images while their cache is built",
        None,
        "one per core",
        parse=int,
        minimum=1,
        maximum=1024,
        identity=False,
    )
    device: str = option("auto, cpu, cuda or cuda:N", "auto", metavar="DEVICE", identity=False)
    precision: str = option(
        "arithmetic of convolutions; fp32 does not use TF32; auto is bf16 on GPUs of compute capability 8.0 and up, "
        "and on CPUs where a short trial finds it faster",
        "auto",
        choices=("auto", "fp32", "bf16"),
    )
    cuda_graphs: bool | None = option(
        "replay each training step as one CUDA graph: 2 to 10 times as fast at low resolutions or with narrow networks",
        None,
        "on with --arch pggan on one GPU, with Adam",
        identity=False,
    )
    deterministic: bool = option("use deterministic GPU kernels (bit-reproducible, slower)", False, identity=False)
    track: str = option(
        "where to send numbers and samples besides the run directory",
        "tensorboard",
        choices=("tensorboard", "wandb", "none"),
        identity=False,
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, validate_field(f, getattr(self, f.name)))
        for name, value in (LOSS_DEFAULTS[self.loss] | ARCH_DEFAULTS[self.arch]).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_combinations(self)

    @property
    def has_default_end(self) -> bool:
        """Whether --total-kimg is a default: not specified, or the preset's."""
        return self.total_kimg in (None, PRESETS.get(self.preset or "", {}).get("total_kimg"))

    @property
    def is_growing(self) -> bool:
        """Whether there is more than one stage."""
        return self.growing and self.arch == "pggan"

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain data, as stored in config.json and checkpoints."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: {str(r): v for r, v in x.items()} if isinstance(x, Mapping) else x for k, x in values.items()}


def validate_field(f: Field, value: Any) -> Any:
    """Return an option's value, parsed and checked.

    Raises:
        ConfigError: the value is outside the option's range; the message names the option.
    """
    name, rules = option_name(f), f.metadata
    if value is None and f.default is None:
        return None
    try:
        if value is None:
            raise ValueError("needs a value")
        if f.type.startswith("bool") and not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither true nor false")
        parse = rules.get("parse", lambda v: v)
        value = parse_number(parse, value) if parse in (int, float) else parse(value)
        if f.type.startswith("str") and not isinstance(value, str):
            raise ValueError(f"{value!r} is not text")
        if value == "" and f.default != "":  # as by --out "$RUN" when RUN is not set
            raise ValueError("the value is empty")
        if isinstance(value, str) and "\0" in value:  # from a JSON file: no path can have it
            raise ValueError(f"{value!r} contains a NUL character")
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name}: {error}") from None
    low, high = rules.get("minimum", -MAX_NUMBER), rules.get("maximum", MAX_NUMBER)
    if parse in (int, float) and not low <= value <= high:
        if value != value:
            raise ConfigError(f"{name}: {value} is not a number")
        limits = f"at least {low:,.10g}" if low > -MAX_NUMBER and value < low else f"at most {high:,.10g}"
        raise ConfigError(f"{name}: {value} is out of range; use {limits}")
    if "choices" in rules and value not in rules["choices"]:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(rules['choices'])}")
    return value


def check_combinations(config: TrainConfig) -> None:
    """Refuse options that contradict each other.

    Raises:
        ConfigError: names them, with a remedy.
    """
    if config.label_smoothing and config.loss not in ("minimax", "nonsaturating"):
        raise ConfigError(
            f"--label-smoothing needs a discriminator that estimates a probability: use --loss minimax or "
            f"nonsaturating instead of --loss {config.loss}, or remove --label-smoothing"
        )
    if config.penalty_every > 1 and config.penalty in ("clip", "none"):
        raise ConfigError(
            f"--penalty-every needs a gradient penalty: use --penalty gp, r1, r2 or r1+r2 instead of {config.penalty}, "
            "or remove --penalty-every"
        )
    if config.hidden and config.arch not in ("mlp", "hybrid"):
        raise ConfigError(
            f"--hidden applies to --arch mlp and hybrid only; use --fmap-base and --fmap-max for {config.arch}"
        )
    if config.d_hidden and config.arch not in ("mlp", "hybrid"):
        raise ConfigError(
            f"--d-hidden applies to --arch mlp and hybrid only; use --fmap-base and --fmap-max for {config.arch}"
        )
    for name in ("minibatch_stddev", "equalized_lr", "pixel_norm"):
        if not getattr(config, name) and config.arch not in ("pggan", "msg"):
            raise ConfigError(
                f"{spell_option(name, False)} applies to --arch pggan and msg only; remove it for {config.arch}"
            )
    if config.arch == "dcgan" and config.resolution == 4:
        raise ConfigError("--arch dcgan needs at least 8x8 pixels; use --resolution 8 or more")
    if config.growth == "adaptive":
        if not config.is_growing:
            raise ConfigError("--growth adaptive needs networks that grow: use --arch pggan without --no-growing")
        if config.metric_every_kimg is None or config.growth_metric not in config.metrics:
            raise ConfigError(
                f"--growth adaptive needs evaluations of {config.growth_metric} during a stage: add "
                f"--metric-every-kimg 50, and include {config.growth_metric} in --metrics"
            )
        if config.min_stabilize_kimg > min(config.stabilize_kimg.values()):
            raise ConfigError(
                f"--min-stabilize-kimg: {config.min_stabilize_kimg:g} is more than --stabilize-kimg "
                f"{format_value(config.stabilize_kimg)}, the longest that a stage may stabilize; lower it, or raise "
                "--stabilize-kimg"
            )
    if config.arch == "dcgan" and config.micro_batch is not None:
        raise ConfigError(
            "--micro-batch does not work with --arch dcgan, whose batch norm needs the whole batch; remove it"
        )
    if config.scale_consistency and config.arch != "msg":
        raise ConfigError("--scale-consistency needs images of several scales: use --arch msg, or remove it")
    if config.arch == "msg" and config.augment != "none":
        raise ConfigError(
            f"--augment {config.augment} does not work with --arch msg, whose images have many sizes; remove it"
        )
    if config.augment == "ada" and config.channels in (2, 4):
        raise ConfigError("--augment ada needs gray or RGB images; use --channels 1 or 3, or --augment diffaug")


# Presets replace the defaults of TrainConfig. "Theano config.py" and "TensorFlow config.py" are the authors' code,
# branches original-theano-version and master of github.com/tkarras/progressive_growing_of_gans.
PRESETS: dict[str, dict[str, Any]] = {
    "paper-v1": {  # CelebA-HQ 1024x1024 (section 6.3), Theano config.py; 16: it takes the stddev over the whole batch
        "fade_kimg": 800,
        "stabilize_kimg": 800,
        "total_kimg": 19000,
        "batch_size": "4:16,256:14,512:6,1024:3",
        "lr": 0.001,
        "mbstd_group": 16,
        "mirror": True,
    },
    "paper-v2": {  # CelebA-HQ 1024x1024 on one GPU (preset-v2-1gpu), TensorFlow config.py
        "fade_kimg": 600,
        "stabilize_kimg": 600,
        "total_kimg": 12000,
        "batch_size": "4:128,32:64,64:32,128:16,256:8,512:4",
        "lr": "4:0.001,1024:0.0015",
        "mirror": True,
    },
    "cifar10": {  # section 6.5 and Theano config.py
        "resolution": 32,
        "channels": 3,
        "fmap_base": 4096,
        "fmap_max": 128,
        "latent_size": 128,
        "batch_size": 16,
        "fade_kimg": 400,
        "stabilize_kimg": 400,
        "total_kimg": 20000,
        "gp_target": 750,
        "mirror": False,
    },
    # Aims at the paper's scores within 25 minutes on one H200; not reached, see docs/experiments.md. Networks and
    # gp_target are the paper's; batch size, learning rate, bf16, stage lengths, mirroring and EMA are ours.
    "cifar10-fast": {
        "resolution": 32,
        "channels": 3,
        "fmap_base": 4096,
        "fmap_max": 128,
        "latent_size": 128,
        "batch_size": 128,
        "lr": 0.002,
        "precision": "bf16",
        "fade_kimg": 200,
        "stabilize_kimg": 200,
        "total_kimg": 6000,
        "gp_target": 750,
        "mirror": True,
        "ema_decay": 0.9995,
    },
    "lsun": {  # LSUN bedroom 256x256 (section 6.4), Theano config.py
        "resolution": 256,
        "channels": 3,
        "fade_kimg": 800,
        "stabilize_kimg": 800,
        "total_kimg": 20000,
        "batch_size": 16,
        "mirror": False,
    },
    # CIFAR-10 in half an hour on two cores: FID 88.5 in 23 minutes. Tuned by short runs, see docs/lab-notes.md
    # (2026-11-21) and docs/results.md.
    "cifar10-cpu": {
        "resolution": 32,
        "channels": 3,
        "fmap_base": 512,
        "fmap_max": 64,
        "batch_size": 8,
        "lr": "4:0.005,32:0.002",
        "ema_decay": 0.998,
        "mirror": True,
        "fade_kimg": 6,
        "stabilize_kimg": 6,
        "total_kimg": 72,
        "tick_kimg": 3,
        # MIND notices a missing class with fewer images than FID does: docs/metrics.md
        "metrics": ("mind", "fid", "is", "swd"),
        "metric_images": 300,
        "metric_every_kimg": 24,
    },
    # Older architectures with their own objective; docs/architectures.md has the papers.
    "mlp": {  # optimizer as dcgan's; layer sizes, latent size and batch size are ours
        "arch": "mlp",
        "loss": "nonsaturating",
        "latent_size": 128,
        "batch_size": 64,
        "lr": 0.0002,
        "adam_beta1": 0.5,
        "adam_beta2": 0.999,
        "ema_decay": 0.999,
    },
    "dcgan": {  # batch size, learning rate, beta1: Radford et al. 2016, section 4; beta2: Adam's default
        "arch": "dcgan",
        "loss": "nonsaturating",
        "latent_size": 128,
        "fmap_base": 2048,
        "fmap_max": 512,
        "batch_size": 128,
        "lr": 0.0002,
        "adam_beta1": 0.5,
        "adam_beta2": 0.999,
        "ema_decay": 0.999,
    },
    # ours; with mlp's loss and optimizer it collapses: docs/lab-notes.md, 2026-11-27
    "hybrid": {
        "arch": "hybrid",
        "loss": "relativistic",
        "r_weight": 1.0,
        "latent_size": 128,
        "batch_size": 64,
        "lr": 0.001,
        "ema_decay": 0.999,
    },
    # Arjovsky et al. 2017, algorithm 1 (--clip 0.01 is the default), on the DCGAN of section 4. Latent size and feature
    # maps are those of the authors' code (nz 100, ngf 64).
    "wgan": {
        "arch": "dcgan",
        "loss": "wgan",
        "latent_size": 100,
        "fmap_base": 1024,
        "fmap_max": 512,
        "optimizer": "rmsprop",
        "lr": 5e-5,
        "n_critic": 5,
        "batch_size": 64,
    },
    # first layer, learning rate and betas: the authors' code (github.com/akanimax/BMSG-GAN); the batch size is ours
    "msg": {
        "arch": "msg",
        "first_layer": "no-norm",
        "lr": 0.003,
        "adam_beta1": 0.0,
        "adam_beta2": 0.99,
        "batch_size": 32,
    },
    # Huang et al. 2024, the authors' code (github.com/brownvc/R3GAN) for FFHQ-64, without its augmentation. Their
    # half-life of the moving average is 500,000 images. The length is ours: the end of the burn-in.
    "r3gan": {
        "arch": "r3gan",
        "loss": "relativistic",
        "penalty": "r1+r2",
        "r_weight": 0.2,
        "latent_size": 64,
        "fmap_base": 12288,
        "fmap_max": 768,
        "batch_size": 256,
        "lr": 5e-5,
        "adam_beta2": 0.99,
        "ema_decay": 0.999645,
        "burn_in_kimg": 20000,
        "stabilize_kimg": 20000,
        "repeats": 1,
        "mirror": True,
    },
}


def option_name(f: Field | str) -> str:
    """Return an option's name on the command line."""
    name = f if isinstance(f, str) else f.name
    return "DATA" if name == "data" else "--" + name.replace("_", "-")


def spell_option(name: str, value: Any) -> str:
    """Return an option with its value as it is typed, such as "--lr 4:0.01" or "--no-mirror"."""
    if value is False:
        return option_name(name).replace("--", "--no-", 1)
    return option_name(name) if value is True else f"{option_name(name)} {format_value(value)}"


def format_help(f: Field) -> str:
    """Return an option's help text: its meaning, range and default."""
    low, high = f.metadata.get("minimum"), f.metadata.get("maximum")
    bounds = "" if low is None else f"at least {low:,.10g}; " if high is None else f"{low:,.10g} to {high:,.10g}; "
    return f"{f.metadata['help']} ({bounds}default: {f.metadata['default']})".replace("%", "%%")


# options of earlier versions that nobody set: still accepted in --config files, and ignored
RETIRED_OPTIONS = {"rollback_lr"}  # factor on learning rates after a rollback, now always 0.5

GROUPS = {  # the first option of each group in --help
    "out": "the run",
    "resolution": "images",
    "augment": "small datasets",
    "arch": "networks (paper, table 2)",
    "fade_kimg": "growth, in thousands of real images seen by the discriminator (kimg)",
    "batch_size": "optimization",
    "loss": "loss",
    "metrics": "evaluation",
    "seed": "running",
}
# The options that most runs need: --help lists these, --help-all lists all.
COMMON_OPTIONS = {
    *("data", "out", "preset", "budget", "resume", "resolution", "fit", "labels", "mirror", "augment", "holdout"),
    *("fmap_base", "fmap_max", "fade_kimg", "stabilize_kimg", "total_kimg", "batch_size", "micro_batch", "lr"),
    *("metrics", "metric_images", "seed", "device", "precision", "track"),
}


def add_options(parser: argparse.ArgumentParser, common_only: bool = False) -> None:
    """Add one command-line option for each field of TrainConfig.

    common_only: list only `COMMON_OPTIONS` in the help text; the others still work.
    """
    group: Any = parser
    for f in fields(TrainConfig):
        rules, name = f.metadata, option_name(f)
        kwargs: dict[str, Any] = {"help": format_help(f), "default": None}
        if f.name == "data":
            parser.add_argument("data", nargs="?", metavar="DATA", help=rules["help"])
            continue
        if f.name in GROUPS:
            group = parser.add_argument_group(GROUPS[f.name])
        if common_only and f.name not in COMMON_OPTIONS:
            kwargs["help"] = argparse.SUPPRESS
        if f.type.startswith("bool"):
            kwargs["action"] = argparse.BooleanOptionalAction
        elif choices := tuple(PRESETS) if f.name == "preset" else rules.get("choices"):
            kwargs |= {"choices": choices, "metavar": "|".join(choices)}
        else:
            kwargs["metavar"] = rules.get("metavar", "N")
        group.add_argument(name, **kwargs)


def resolve_config(
    options: Mapping[str, Any],
    config_file: str | None = None,
    open_images: Callable[[str, bool], Source] = open_source,
) -> TrainConfig:
    """Return the options of a run: defaults, overridden by the preset, the config file and `options`, in this order.

    Resolution, channels and out, if not specified, are derived from the images. Per-stage tables of defaults and
    presets are cut at the final resolution; in the user's own, the growth controller refuses stages that do not exist.

    Args:
        options: values by field name; None: not specified. config_file: path of a JSON file, such as a config.json.
        open_images: `open_source`, or the same with a memory: a million files take seconds to list.

    Raises:
        ConfigError: an unknown option or preset, or a value outside its range.
        pggan.datasets.DataError: images that cannot be found.
    """
    options = {k: v for k, v in options.items() if v is not None}
    chosen = (read_config_file(config_file, options) if config_file else {}) | options
    preset = chosen.get("preset")
    if preset is not None and preset not in tuple(PRESETS):
        raise ConfigError(f"--preset: {preset!r} is not one of {', '.join(PRESETS)}")
    config = TrainConfig(**{**(PRESETS[preset] if preset else {}), **chosen})
    if not config.data:
        raise ConfigError(f"DATA is missing: specify {SOURCE_TYPES}")
    if config.resume is not None:
        config = inherit_networks(config, set(chosen))
    if config.resolution is None or config.channels is None:
        source = open_images(make_absolute(config.data), config.labels)
        native = read_native_format(source, config.fit, config.resolution is None, config.workers)
        if native.note and config.channels is None:
            print(native.note, file=sys.stderr)
        config = replace(
            config,
            resolution=config.resolution or native.resolution,
            channels=config.channels or native.channels,
        )
    out = config.out
    if out is None:
        out, note = choose_out(config.data, config.budget or config.resolution)
        if note:
            print(note, file=sys.stderr)
    paths: dict[str, Any] = {
        name: make_absolute(path) for name in RECORDED if (path := getattr(config, name)) is not None
    }
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in chosen}
    tables: dict[str, Any] = {
        name: truncate_table(value, config.resolution) for name, value in values.items() if isinstance(value, Mapping)
    }
    return replace(config, out=out, **paths, **tables)


# what --resume takes from the checkpoint if it is not specified, since a checkpoint's weights fit no other networks
NETWORK_OPTIONS = {
    *("fmap_base", "fmap_decay", "fmap_max", "latent_size", "first_layer", "hidden", "d_hidden"),
    *("minibatch_stddev", "equalized_lr", "pixel_norm", "fused_scale"),
}


def inherit_networks(config: TrainConfig, specified: set[str]) -> TrainConfig:
    """Return the config of a run begun by --resume with the checkpoint's resolution, channels and network options.

    They come from the run itself if --out has one, which then no longer needs the checkpoint. An architecture that
    differs, as with --preset dcgan, is left for `training.resume` to refuse.

    Args:
        specified: names of the options that the user specified; these win. A preset's do not.

    Raises:
        pggan.checkpoints.CheckpointError: there is no checkpoint to take them from.
    """
    known = read_options(Path(config.out)) if config.out else {}
    try:
        known = known or name_network_options(load(resolve_checkpoint(config.resume or ""))["networks"])
    except CheckpointError:
        known = find_run_started_from(
            config.data, config.resume or "", config.resolution if "resolution" in specified else None
        )
        if not known and None in (config.resolution, config.channels):
            raise  # else the run refuses the checkpoint, if it still needs it
    arch = known.get("arch", config.arch)
    if "arch" not in specified | PRESETS.get(config.preset or "", {}).keys():
        config = replace(config, arch=arch)
    inherited = {"resolution", "channels", *(NETWORK_OPTIONS if config.arch == arch else ())} - specified
    inherited &= known.keys()
    other = replace(config, **{name: known[name] for name in inherited})
    presets = PRESETS.get(config.preset or "", {}).keys()
    if ignored := [f for f in sorted(inherited & presets) if getattr(other, f) != getattr(config, f)]:
        used = " ".join(spell_option(name, getattr(other, name)) for name in ignored)
        print(f"--resume: using the checkpoint's {used}, not --preset {config.preset}'s", file=sys.stderr)
    return other


def spell_preset(name: str, config: TrainConfig | None = None) -> str:
    """Return a preset's options as they are typed; with a run's config, those that it has from the preset."""
    values = {option: getattr(TrainConfig(**PRESETS[name]), option) for option in PRESETS[name]}
    if config:
        side = config.resolution
        tables = {option: truncate_table(value, side) for option, value in values.items() if isinstance(value, dict)}
        values = {option: x for option, x in {**values, **tables}.items() if getattr(config, option) == x}
    return " ".join(spell_option(option, value) for option, value in values.items())


def name_network_options(networks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the arguments of a checkpoint's networks by the names of their options."""
    generator, discriminator = networks["generator"], networks.get("discriminator", {})
    options = {**discriminator, **generator}
    if generator.get("latent_size") == min(generator.get("fmap_base", 0), generator.get("fmap_max", 0)):
        options["latent_size"] = None  # as without the option
    if "hidden" in discriminator:
        options["d_hidden"] = discriminator["hidden"]
    if "mbstd_group" in discriminator:
        options["minibatch_stddev"] = bool(discriminator["mbstd_group"])
    return options


def truncate_table(table: PerStage[Number], resolution: int) -> dict[int, Number]:
    """Return a per-stage table without the resolutions above the run's own."""
    return {r: value for r, value in table.items() if r <= max(resolution, 4)}


def read_config_file(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options in a JSON file.

    A run directory's config.json continues that run, wherever the directory is now. If `options` has other images, its
    options start a new run instead.

    Raises:
        ConfigError: the file cannot be read, or has unknown keys.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8-sig"))  # editors on Windows begin files with a BOM
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--config: {path} is not JSON: {error}") from None
    known = {f.name for f in fields(TrainConfig)}
    if isinstance(values, dict):
        values = {name: value for name, value in values.items() if name not in RETIRED_OPTIONS}
    if not isinstance(values, dict) or (unknown := sorted(values.keys() - known)):
        problem = (
            f"has an unknown option, {unknown[0]!r}; remove it"
            if isinstance(values, dict)
            else "is not a JSON object of options"
        )
        raise ConfigError(f"--config: {path} {problem}")
    run = Path(path).parent
    if not (Path(path).name == "config.json" and (run / "checkpoints").is_dir()):
        return values
    values = relocate_paths(values, run) | {"out": str(run)}
    recorded = values.get("data")
    if isinstance(recorded, str) and not is_same_path(options.get("data", recorded), recorded):
        del values["out"]
    return values
