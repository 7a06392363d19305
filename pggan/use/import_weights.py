"""python -m pggan import: convert weights of other codebases to a checkpoint of this one."""

from __future__ import annotations

import argparse
import platform
from dataclasses import fields
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from pggan import checkpoints

from ..config import ConfigError, TrainConfig
from ..interop import WeightsError, read_weights
from .options import Commands, add_command, add_force, int_parser
from .output import Output

TEXT = """\
Convert weights of another codebase to a checkpoint that every command here and train.py --resume accept.

TensorFlow is not needed, and no code in the file is executed. The format of SOURCE is detected from its content:
  snapshot of the paper authors' code (.pkl), with G, D and Gs
  TensorFlow Hub's progan-128 as converted for TensorFlow.js (its folder, or model.json)
  checkpoint of pro_gan_pytorch 3.4, or of pytorch_GAN_zoo
  .safetensors file written by export
"""
EXAMPLES = """\
  python -m pggan import karras2018iclr-celebahq-1024x1024.pkl --out celebahq.pt
  python -m pggan import package/progan --out celeba.pt
  python -m pggan import depth_5_epoch_20.bin --out mine.pt --resolution 32
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "import", run, "convert weights of other codebases to a checkpoint", TEXT, EXAMPLES)
    p.add_argument("source", type=Path, metavar="SOURCE", help="weights file, or folder with a model.json")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="output checkpoint, ending in .pt")
    add_force(p)
    p.add_argument(
        "--resolution",
        type=int_parser(4, 1024),
        metavar="N",
        help="resolution of the stage that training had reached, a power of two (default: from the file or its name, "
        "otherwise the highest)",
    )


def run(arguments: argparse.Namespace) -> None:
    output = Output(arguments.out, arguments.force, (".pt",))
    if arguments.source.suffix == ".safetensors":
        if arguments.resolution is not None:
            raise ConfigError("--resolution: a .safetensors file has its own stage; omit the option")
        content = checkpoints.load(arguments.source)
        notes: list[str] = []
    else:
        content, notes = to_checkpoint(arguments.source, arguments.resolution)
    with output.write_atomically() as path:
        checkpoints.save(path, content)
    print("\n".join([*describe_weights(content), *notes, format_training_command(arguments.out, content)]))


def to_checkpoint(source: Path, resolution: int | None) -> tuple[dict[str, Any], list[str]]:
    """Read weights of another codebase; return a checkpoint's content, and notes on anything that was not converted.

    Args:
        resolution: the stage that training had reached, or None to use what the file says.

    Raises:
        WeightsError: the weights cannot be read, or have no such stage.
    """
    weights = read_weights(source)
    generator = weights.networks["generator"]
    if resolution is not None:
        if resolution & (resolution - 1) or resolution > generator["resolution"]:
            largest = generator["resolution"]
            raise WeightsError(
                f"--resolution: {resolution} is not a power of two from 4 to {largest}, the resolution of these weights"
            )
        weights.resolution, weights.alpha = resolution, 1.0  # --resolution overrides the file
    # Only options that the weights determine: the rest of the run that trained them is unknown.
    known = {f.name for f in fields(TrainConfig)}
    shape = generator | weights.networks.get("discriminator", {})
    if shape["latent_size"] == min(shape["fmap_base"], shape["fmap_max"]):
        del shape["latent_size"]  # equal to the option's default, the feature maps of the first layer
    content = {
        "images": 0,  # of this project's training; fine-tuning counts from here
        "stage": {"resolution": weights.resolution, "alpha": weights.alpha},
        "config": {name: value for name, value in shape.items() if name in known},
        "networks": weights.networks,
        # other codebases do not store class names
        "classes": [str(index) for index in range(generator["label_size"])],
        "origin": weights.origin,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "state": weights.state,
    }
    return content, weights.notes


def describe_weights(content: dict[str, Any]) -> list[str]:
    """Return lines that describe the imported networks, and stages that cannot be drawn."""
    stage, generator = content["stage"], content["networks"]["generator"]
    alpha = f", alpha {stage['alpha']:g}" if stage["alpha"] != 1 else ""
    whole = generator["resolution"].bit_length() - 2  # number of stages, 1 for 4x4
    missing = [f"{4 << i}x{4 << i}" for i in range(whole) if f"to_rgb.{i}.weight" not in content["state"]["G_ema"]]
    lines = [f"{content.get('origin', 'a checkpoint')}: {stage['resolution']}x{stage['resolution']}{alpha}"]
    lines += [f"networks: {', '.join(content['state'])}"]
    if missing:
        lines.append(f"missing: the RGB layers of {', '.join(missing)}; images at these stages cannot be generated")
    return lines


def format_training_command(out: Path, content: dict[str, Any]) -> str:
    """Return the command that fine-tunes the weights; train.py takes the networks' options from the checkpoint."""
    shape = content["networks"]["generator"]
    labels, length = " --labels" if shape["label_size"] else "", ""
    if content["stage"] == {"resolution": shape["resolution"], "alpha": 1.0}:
        length = " (for 600 kimg; change this with --stabilize-kimg)"
    return f"to fine-tune: python train.py IMAGES --resume {quote(str(out))}{labels}{length}"
