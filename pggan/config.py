"""What a run is: every option with its unit, range and default, the presets, and the way to and from a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from datasets import FITS, KINDS, native_format, open_source, percentage
from metrics import METRICS

Number = TypeVar("Number", int, float)
PerStage = Mapping[int, Number]
LARGEST = 1e12  # of any number; what is computed from it stays within a float

OF_ARCH: dict[str, dict[str, Any]] = {  # options that each architecture decides where they are not given
    "pggan": {},
    "mlp": {"hidden": (256, 256, 256, 128), "d_hidden": (256, 256)},
    "dcgan": {},
    "hybrid": {"hidden": (128, 128, 128, 128), "d_hidden": (64, 64)},
    "msg": {},
}
OF_LOSS: dict[str, dict[str, Any]] = {  # options that each loss decides where they are not given
    "wgan-gp": {"penalty": "gp", "drift": 0.001},
    "wgan": {"penalty": "clip", "drift": 0.0},
    "minimax": {"penalty": "none", "drift": 0.0},
    "nonsaturating": {"penalty": "none", "drift": 0.0},
    "lsgan": {"penalty": "none", "drift": 0.0},
    "hinge": {"penalty": "none", "drift": 0.0},
    "relativistic": {"penalty": "r1+r2", "drift": 0.0},
}


class ConfigError(ValueError):
    """An option that cannot be followed, in one sentence."""


def option(help: str, default: Any = MISSING, default_text: str | None = None, **kwargs: Any) -> Any:
    """A dataclass field that is also a command-line option.

    kwargs: `parse` (text or plain value -> value), `choices`, `minimum`, `maximum`, `metavar`; `identity=False` for
    options that may change when a run goes on, since they do not change what is trained.
    """
    shown = format_value(default) if default_text is None else default_text
    return field(default=default, metadata={"help": help, "default": shown, **kwargs})


def format_value(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, Mapping):
        return ",".join(f"{resolution}:{v:g}" for resolution, v in value.items())
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def per_stage(kind: type, minimum: float = 0) -> Callable[[Any], dict[int, Any]]:
    """Parser of numbers for each stage: "16" or "4:128,32:64", each holding from its resolution on upwards."""

    def parse(value: Any) -> dict[int, Any]:
        if isinstance(value, Mapping):
            pairs = list(value.items())
        elif isinstance(value, str) and ":" in value:
            pairs = [pair.split(":", 1) for pair in value.split(",")]
        else:
            pairs = [(4, value)]
        try:
            table = {int(resolution): number(kind, v) for resolution, v in pairs}
        except (TypeError, ValueError):
            raise ValueError(f"{value!r} is neither a number nor RESOLUTION:NUMBER pairs like 4:128,32:64") from None
        if len(table) != len(pairs):
            raise ValueError(f"{value!r} names a resolution twice")
        if not all(minimum < v <= LARGEST for v in table.values()):
            raise ValueError(f"{value!r}: every number must be above {minimum}, and at most {LARGEST:g}")
        if 4 not in table:
            raise ValueError(f"{value!r} does not say what holds at 4x4; begin with 4:")
        return dict(sorted(table.items()))

    return parse


def number(kind: type, value: Any) -> Any:
    """An int or a float from text or a plain value; 16.0 is an int, 16.5 is not."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    if kind is int and float(value) != int(float(value)):
        raise ValueError(f"{value!r} is not a whole number")
    return kind(float(value)) if kind is int else float(value)


def sizes(value: Any) -> tuple[int, ...]:
    """Layer sizes: "256,256,128"."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        found = tuple(number(int, part) for part in parts)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a list of whole numbers like 256,256,128") from None
    if not 1 <= len(found) <= 20 or not all(1 <= size <= 65536 for size in found):
        raise ValueError(f"{value!r}: 1 to 20 layers of 1 to 65536 each")
    return found


def metric_names(value: Any) -> tuple[str, ...]:
    """Names of metrics from text or a list, each known and once; () for none. Raises ValueError."""
    names = tuple(value.split(",")) if isinstance(value, str) else tuple(value)
    names = () if names in (("none",), ("",)) else names
    for name in names:
        if name not in METRICS:
            raise ValueError(f"{name!r} is not a metric; choose from {', '.join(METRICS)}, or none")
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class TrainConfig:
    """A run's options, checked. The defaults are the paper's, as in the authors' second release on one GPU.

    Not given, out, resolution and channels are None until `resolve` has asked the images.

    Raises:
        ConfigError: a value outside its range.
    """

    data: str = option(f"the images: {KINDS}", "", identity=False)
    out: str = option(
        "run directory; the same command run again resumes it", None, "runs/DATA-RESOLUTION", identity=False
    )
    preset: str | None = option("start from these options instead of the defaults", None, identity=False)
    resume: str | None = option(
        "checkpoint to start from in a new run directory, also with other options", None, metavar="CHECKPOINT",
        identity=False,
    )  # fmt: skip

    # Images
    resolution: int = option(
        "final image size in pixels, a power of two from 4 to 1024", None, "the images' own, rounded down", parse=int
    )
    channels: int = option("image channels", None, "the images' own", parse=int, minimum=1, maximum=4)
    fit: str = option("how images become square", FITS[0], choices=FITS)
    background: str = option(
        "under transparency and beside padded images, a name or #rrggbb", "white", metavar="COLOUR"
    )
    allow_upscale: bool = option("enlarge images that are smaller than the resolution", False, identity=False)
    max_bad: float = option(
        "largest share of images that may be left out because they cannot be read", 0.01, "1%", parse=percentage,
        metavar="N%", identity=False,
    )  # fmt: skip
    labels: bool = option("condition on classes (AC-GAN): class subfolders, dataset.json or the set's own", False)
    mirror: bool = option("mirror half of the real images", False)

    # Sets of few images
    augment: str = option(
        "augmentation of all that the discriminator sees: differentiable, or that with an adaptive probability", "none",
        choices=("none", "diffaug", "ada"),
    )  # fmt: skip
    ada_target: float = option("overfitting signal that ada aims at", 0.6, parse=float, minimum=0, maximum=1)
    ada_kimg: float = option(
        "thousands of images in which ada may go from no augmentation to all", 500.0, parse=float, minimum=0.001
    )
    holdout: float | None = option(
        "share of the images never trained on, to see overfitting by", None, "5% of 200 to 9,999 images, else none",
        parse=percentage, metavar="N%",
    )  # fmt: skip

    # Networks (paper, table 2)
    arch: str = option(
        "pggan; the older mlp, dcgan, and hybrid of a dense generator and a convolutional discriminator; msg, which "
        "trains every resolution at once", "pggan", "pggan", choices=("pggan", "mlp", "dcgan", "hybrid", "msg"),
    )  # fmt: skip
    growing: bool = option("grow stage by stage; the others than pggan never do", True, "on for pggan")
    fmap_base: int = option("feature maps times resolution / 2, before the limit", 8192, parse=int, minimum=1)
    fmap_decay: float = option("how fast feature maps fall with resolution", 1.0, parse=float, minimum=0, maximum=4)
    fmap_max: int = option("limit on feature maps in any layer", 512, parse=int, minimum=1, maximum=8192)
    latent_size: int | None = option(
        "latent vector length", None, "as the first layer", parse=int, minimum=1, maximum=8192
    )
    first_layer: str = option(
        "the generator's first layer: the paper's, or that of weights imported from pro_gan_pytorch or pytorch_GAN_zoo",
        "paper", choices=("paper", "no-norm", "pixel-bias"),
    )  # fmt: skip
    hidden: tuple[int, ...] | None = option(
        "generator's hidden layers, of mlp and hybrid", None, "256,256,256,128; hybrid: 128,128,128,128", parse=sizes,
        metavar="N,N,...",
    )  # fmt: skip
    d_hidden: tuple[int, ...] | None = option(
        "discriminator's hidden layers, of mlp, or feature maps, of hybrid", None, "256,256; hybrid: 64,64",
        parse=sizes, metavar="N,N,...",
    )  # fmt: skip
    mbstd_group: int = option("samples in a minibatch-stddev group", 4, parse=int, minimum=1)
    minibatch_stddev: bool = option("minibatch stddev in the discriminator", True)
    equalized_lr: bool = option("equalized learning rate, else He's initialisation", True)
    pixel_norm: bool = option("pixel norm after the generator's convolutions", True)
    fused_scale: bool = option("scale and convolve in one operation", True)

    # Growth, in thousands of real images seen by the discriminator
    fade_kimg: float = option("fading in each stage, in thousands of images", 600.0, parse=float, minimum=0)
    stabilize_kimg: float = option("then stabilising it, in thousands of images", 600.0, parse=float, minimum=0.001)
    total_kimg: float | None = option(
        "the whole run, in thousands of images", None, "until the last stage has stabilised", parse=float,
        minimum=0.001, identity=False,
    )  # fmt: skip

    growth: str = option(
        "fixed stages, or adaptive: a stage ends when its score has stopped improving, --stabilize-kimg at the latest",
        "fixed", choices=("fixed", "adaptive"),
    )  # fmt: skip
    growth_metric: str = option("score that adaptive growth looks at, one of --metrics", "swd", choices=("fid", "swd"))
    growth_share: float = option(
        "improvement in the last --growth-window that is too little to stay, as a share", 0.05, "5%", parse=percentage,
        metavar="N%",
    )  # fmt: skip
    growth_window: float = option("that window, in thousands of images", 100.0, parse=float, minimum=0.001)
    min_stabilize_kimg: float = option("least that adaptive growth stabilises", 100.0, parse=float, minimum=0)

    # Optimisation
    batch_size: PerStage[int] = option(
        "images per step, e.g. 16 or 4:128,32:64,128:16 from each resolution on",
        "4:128,32:64,64:32,128:16,256:8,512:4", parse=per_stage(int),
    )  # fmt: skip
    micro_batch: PerStage[int] | None = option(
        "images that a process computes at once, for want of memory, as for --batch-size; changes nothing else", None,
        "all of its own", parse=per_stage(int), identity=False,
    )  # fmt: skip
    lr: PerStage[float] = option(
        "learning rate of both networks, a number or per resolution", "4:0.001,1024:0.0015", parse=per_stage(float)
    )  # fmt: skip
    d_lr: PerStage[float] | None = option(
        "the discriminator's, where it is another, a number or per resolution", None, "as --lr", parse=per_stage(float)
    )  # fmt: skip
    optimizer: str = option("of both networks", "adam", choices=("adam", "rmsprop", "sgd"))
    adam_beta1: float = option("Adam's decay of the mean gradient", 0.0, parse=float, minimum=0, maximum=0.9999)
    adam_beta2: float = option("Adam's decay of the mean square", 0.99, parse=float, minimum=0, maximum=0.999999)
    n_critic: int = option("discriminator steps to one of the generator", 1, parse=int, minimum=1, maximum=1000)
    repeats: int = option("steps between two looks at the schedule", 4, parse=int, minimum=1, maximum=1000)
    ema_decay: float = option("EMA of the generator, per step; 0: none", 0.999, parse=float, minimum=0, maximum=1)

    # Loss
    loss: str = option("adversarial loss", "wgan-gp", choices=tuple(OF_LOSS))
    penalty: str = option(
        "what keeps the discriminator smooth: a gradient penalty, or weights clipped", None,
        "gp with wgan-gp, clip with wgan, r1+r2 with relativistic, else none",
        choices=("gp", "r1", "r2", "r1+r2", "clip", "none"),
    )  # fmt: skip
    gp_weight: float = option("lambda of the gradient penalty gp", 10.0, parse=float, minimum=0)
    gp_target: float = option("gamma, the gradient norm that gp aims at", 1.0, parse=float, minimum=1e-6)
    r_weight: float = option("gamma of r1 and r2, on half the squared gradient norm", 10.0, parse=float, minimum=1e-6)
    penalty_pixels: str = option(
        "whose pixels gradients are taken by: the final resolution's, as the official code does, or the stage's own",
        "full", choices=("full", "native"),
    )  # fmt: skip
    clip: float = option("bound on the discriminator's weights under --penalty clip", 0.01, parse=float, minimum=1e-6)
    drift: float = option(
        "epsilon, weight of the squared real scores", None, "0.001 with wgan-gp, else 0", parse=float, minimum=0
    )
    label_smoothing: float = option(
        "taken from the target 1 of real images, for minimax and nonsaturating", 0.0, parse=float, minimum=0,
        maximum=0.5,
    )  # fmt: skip
    label_weight: float = option("weight of the label terms", 1.0, parse=float, minimum=0)
    max_skipped: int = option(
        "steps in a row with gradients that are not finite, and so left out, before --on-nan", 50, parse=int, minimum=1,
        identity=False,
    )  # fmt: skip
    on_nan: str = option(
        "then stop, or go back to the last good checkpoint with a lower learning rate", "stop",
        choices=("stop", "rollback"), identity=False,
    )  # fmt: skip
    rollback_lr: float = option(
        "factor on all learning rates after each such rollback", 0.5, parse=float, minimum=0.01, maximum=1,
        identity=False,
    )  # fmt: skip

    # Judging
    metrics: tuple[str, ...] = option(
        f"any of {','.join(METRICS)} at the end of every stage, or none", ("fid", "is", "swd"), parse=metric_names,
        identity=False,
    )  # fmt: skip
    metric_images: int = option(
        "images of each kind to judge by", 10000, parse=int, minimum=2, maximum=1_000_000, identity=False
    )
    metric_every_kimg: float | None = option(
        "judge also every so many thousand images", None, "never", parse=float, minimum=0.001, identity=False
    )
    inception_weights: str | None = option(
        "file of the 2015 Inception weights", None, "cache, installed package or download", metavar="FILE",
        identity=False,
    )  # fmt: skip

    # Running
    seed: int = option("seed of everything random", 0, parse=int, minimum=0, maximum=2**32 - 1)
    tick_kimg: PerStage[float] = option(
        "thousands of images between log lines, samples and checkpoints, per resolution",
        "4:160,8:140,16:120,32:100,64:80,128:60,256:40,512:20,1024:10", parse=per_stage(float),
    )  # fmt: skip
    keep_last: int = option(
        "newest checkpoints kept, beside those of stages and the best", 2, parse=int, minimum=1, maximum=10_000,
        identity=False,
    )  # fmt: skip
    device: str = option("auto, cpu, cuda or cuda:N", "auto", identity=False)
    precision: str = option(
        "arithmetic of the convolutions; auto: bf16 if this device is faster in it",
        "auto",
        choices=("auto", "fp32", "bf16"),
    )
    deterministic: bool = option("the same bits each time also on a GPU, more slowly", False, identity=False)
    track: str = option(
        "where numbers also go", "tensorboard", choices=("tensorboard", "wandb", "none"), identity=False
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, checked(f, getattr(self, f.name)))
        settled = OF_LOSS[self.loss] | OF_ARCH[self.arch]
        for name, value in settled.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_together(self)

    @property
    def grows(self) -> bool:
        """Whether there is more than one stage."""
        return self.growing and self.arch == "pggan"

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what config.json holds and checkpoints carry."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: {str(r): v for r, v in x.items()} if isinstance(x, Mapping) else x for k, x in values.items()}


def checked(f: Field, value: Any) -> Any:
    """The field's value, parsed and within its range, or ConfigError naming the option."""
    name, rules = option_name(f), f.metadata
    if value is None and f.default is None:
        return None
    try:
        if value is None:
            raise ValueError("a value is needed")
        if f.type == "bool" and not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither true nor false")
        parse = rules.get("parse", lambda v: v)
        value = number(parse, value) if parse in (int, float) else parse(value)
        if f.type.startswith("str") and not isinstance(value, str):
            raise ValueError(f"{value!r} is not text")
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name}: {error}") from None
    low, high = rules.get("minimum", -LARGEST), rules.get("maximum", LARGEST)
    if parse in (int, float) and not low <= value <= high:
        raise ConfigError(f"{name}: {value} is outside the range from {low:g} to {high:g}")
    if "choices" in rules and value not in rules["choices"]:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(rules['choices'])}")
    return value


def check_together(config: TrainConfig) -> None:
    """Refuse options that contradict one another.

    Raises:
        ConfigError: naming them.
    """
    if config.label_smoothing and config.loss not in ("minimax", "nonsaturating"):
        raise ConfigError(
            f"--label-smoothing is for the losses minimax and nonsaturating, whose discriminator guesses a "
            f"probability; --loss {config.loss} has none"
        )
    if config.hidden and config.arch not in ("mlp", "hybrid"):
        raise ConfigError(f"--hidden is for --arch mlp and hybrid; the layers of {config.arch} go by --fmap-base")
    if config.d_hidden and config.arch not in ("mlp", "hybrid"):
        raise ConfigError(f"--d-hidden is for --arch mlp and hybrid; the layers of {config.arch} go by --fmap-base")
    for name in ("minibatch_stddev", "equalized_lr", "pixel_norm"):
        if not getattr(config, name) and config.arch not in ("pggan", "msg"):
            raise ConfigError(f"--no-{name.replace('_', '-')} is for --arch pggan and msg; {config.arch} has none")
    if config.arch == "dcgan" and config.resolution == 4:
        raise ConfigError("--arch dcgan begins with images of 8x8; give another --resolution")
    if config.growth == "adaptive":
        if not config.grows:
            raise ConfigError("--growth adaptive is for networks that grow: --arch pggan without --no-growing")
        if config.metric_every_kimg is None or config.growth_metric not in config.metrics:
            raise ConfigError(
                f"--growth adaptive looks at {config.growth_metric} during a stage: give --metric-every-kimg, and "
                f"{config.growth_metric} among --metrics"
            )
        if config.min_stabilize_kimg > config.stabilize_kimg:
            raise ConfigError("--min-stabilize-kimg is above --stabilize-kimg, the most that a stage may take")
    if config.arch == "dcgan" and config.micro_batch is not None:
        raise ConfigError("--micro-batch: the batch norm of --arch dcgan is of the batch as a whole; leave it out")
    if config.arch == "msg" and config.augment != "none":
        raise ConfigError(f"--augment {config.augment} is not there for --arch msg, whose images are of many sizes")


PRESETS: dict[str, dict[str, Any]] = {
    "paper-v1": {
        "fade_kimg": 800, "stabilize_kimg": 800, "total_kimg": 19000,
        "batch_size": "4:16,256:14,512:6,1024:3", "lr": 0.001, "mbstd_group": 16, "mirror": True,
    },
    "paper-v2": {
        "fade_kimg": 600, "stabilize_kimg": 600, "total_kimg": 12000,
        "batch_size": "4:128,32:64,64:32,128:16,256:8,512:4", "lr": "4:0.001,1024:0.0015",
        "mirror": True,
    },
    "cifar10": {
        "resolution": 32, "channels": 3, "fmap_base": 4096, "fmap_max": 128, "latent_size": 128, "batch_size": 16,
        "fade_kimg": 400, "stabilize_kimg": 400, "total_kimg": 20000, "gp_target": 750, "mirror": False,
    },
    # aims at the paper's level in 25 minutes on one H200; batch, lr, bf16, lengths, mirror and EMA are not the paper's
    "cifar10-fast": {
        "resolution": 32, "channels": 3, "fmap_base": 4096, "fmap_max": 128, "latent_size": 128, "batch_size": 128,
        "lr": 0.002, "precision": "bf16", "fade_kimg": 200, "stabilize_kimg": 200, "total_kimg": 6000,
        "gp_target": 750, "mirror": True, "ema_decay": 0.9995,
    },
    "lsun": {
        "resolution": 256, "channels": 3, "fade_kimg": 800, "stabilize_kimg": 800, "total_kimg": 20000,
        "batch_size": 16, "mirror": False,
    },
    "cifar10-cpu": {  # a first look in half an hour on two cores: narrow networks, small batches, quick growth
        "resolution": 32, "channels": 3, "fmap_base": 512, "fmap_max": 64, "batch_size": 8,
        "lr": "4:0.005,32:0.002", "ema_decay": 0.998, "mirror": True,
        "fade_kimg": 6, "stabilize_kimg": 6, "total_kimg": 72, "tick_kimg": 3,
        "metric_images": 300, "metric_every_kimg": 24,
    },
    # each of the older ones with its own objective, after the papers named in docs/architectures.md
    "mlp": {
        "arch": "mlp", "loss": "nonsaturating", "latent_size": 128, "batch_size": 64, "lr": 0.0002, "adam_beta1": 0.5,
        "adam_beta2": 0.999, "ema_decay": 0.999,
    },
    "dcgan": {
        "arch": "dcgan", "loss": "nonsaturating", "latent_size": 128, "fmap_base": 2048, "fmap_max": 512,
        "batch_size": 128, "lr": 0.0002, "adam_beta1": 0.5, "adam_beta2": 0.999, "ema_decay": 0.999,
    },
    "hybrid": {
        "arch": "hybrid", "loss": "nonsaturating", "latent_size": 128, "batch_size": 64, "lr": 0.0002,
        "adam_beta1": 0.5, "adam_beta2": 0.999, "ema_decay": 0.999,
    },
    "wgan": {"loss": "wgan", "optimizer": "rmsprop", "lr": 5e-5, "n_critic": 5, "batch_size": 64},
    "msg": {"arch": "msg", "lr": 0.003, "adam_beta1": 0.0, "adam_beta2": 0.99, "batch_size": 32},
    "r3gan": {"loss": "relativistic", "penalty": "r1+r2", "r_weight": 1.0, "growing": False, "lr": 0.0002,
              "adam_beta2": 0.99, "batch_size": 64},
    "demo": {  # minutes on two cores
        "resolution": 32, "fmap_base": 512, "fmap_max": 64, "batch_size": 8, "lr": "4:0.005,32:0.003",
        "ema_decay": 0.995, "fade_kimg": 4, "stabilize_kimg": 4, "total_kimg": 40, "tick_kimg": 2,
        "metric_images": 100,
    },
}  # fmt: skip


def option_name(f: Field) -> str:
    """As it is given on the command line."""
    return "DATA" if f.name == "data" else "--" + f.name.replace("_", "-")


def help_text(f: Field) -> str:
    """What the option does, its range and its default."""
    low, high = f.metadata.get("minimum"), f.metadata.get("maximum")
    bounds = "" if low is None else f"at least {low:g}; " if high is None else f"{low:g} to {high:g}; "
    return f"{f.metadata['help']} ({bounds}default: {f.metadata['default']})".replace("%", "%%")


GROUPS = {  # the first option of each group in --help
    "out": "the run",
    "resolution": "images",
    "augment": "sets of few images",
    "fmap_base": "networks (paper, table 2)",
    "fade_kimg": "growth, in thousands of real images that the discriminator has seen (kimg)",
    "batch_size": "optimisation",
    "loss": "loss",
    "metrics": "judging",
    "seed": "running",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """One command-line option for each field of TrainConfig."""
    group: Any = parser
    for f in fields(TrainConfig):
        rules, name = f.metadata, option_name(f)
        kwargs: dict[str, Any] = {"help": help_text(f), "default": None}
        if f.name == "data":
            parser.add_argument("data", nargs="?", metavar="DATA", help=rules["help"])
            continue
        if f.name in GROUPS:
            group = parser.add_argument_group(GROUPS[f.name])
        if f.type == "bool":
            kwargs["action"] = argparse.BooleanOptionalAction
        elif choices := tuple(PRESETS) if f.name == "preset" else rules.get("choices"):
            kwargs |= {"choices": choices, "metavar": "|".join(choices)}
        else:
            kwargs["metavar"] = rules.get("metavar", "N" if f.name != "out" else "FOLDER")
        group.add_argument(name, **kwargs)


def resolve(given: Mapping[str, Any], config_file: str | None = None) -> TrainConfig:
    """Defaults, then the preset, then the config file, then what was given (None: not given), then what the data says.

    Tables of the defaults and presets are cut at the target resolution; the user's own are the growth controller's
    to refuse.

    Raises:
        ConfigError: an unknown key or preset, or a value outside its range.
        datasets.DataError: images that cannot be found.
    """
    chosen = read_config_file(config_file) if config_file else {}
    chosen |= {k: v for k, v in given.items() if v is not None}
    preset = chosen.get("preset")
    if preset is not None and preset not in tuple(PRESETS):
        raise ConfigError(f"--preset: {preset!r} is not one of {', '.join(PRESETS)}")
    config = TrainConfig(**{**(PRESETS[preset] if preset else {}), **chosen})
    if not config.data:
        raise ConfigError(f"DATA: name {KINDS}")
    if config.resolution is None or config.channels is None:
        native = native_format(open_source(config.data), config.fit, config.resolution is None)
        if native.note and config.channels is None:
            print(native.note, file=sys.stderr)
        config = replace(
            config,
            resolution=config.resolution or native.resolution,
            channels=config.channels or native.channels,
        )
    out = config.out or f"runs/{Path(config.data).resolve().name}-{config.resolution}"
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in chosen}
    tables: dict[str, Any] = {
        name: cut(value, config.resolution) for name, value in values.items() if isinstance(value, Mapping)
    }
    return replace(config, out=out, **tables)


def cut(table: PerStage[Number], resolution: int) -> dict[int, Number]:
    """A table without the resolutions above the run's own."""
    return {r: value for r, value in table.items() if r <= max(resolution, 4)}


def read_config_file(path: str) -> dict[str, Any]:
    """The options in a JSON file. Raises ConfigError where it cannot be read or has other keys."""
    try:
        values = json.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"--config: {path} is not JSON: {error}") from None
    known = {f.name for f in fields(TrainConfig)}
    if not isinstance(values, dict) or (unknown := sorted(values.keys() - known)):
        what = f"has no option {unknown[0]!r}" if isinstance(values, dict) else "is not an object of options"
        raise ConfigError(f"--config: {path} {what}")
    return values
