"""python -m pggan import: weights of other codebases as a checkpoint of this one."""

from __future__ import annotations

import argparse
import platform
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

import checkpoints

from ..config import TrainConfig, spell_option
from ..interop import WeightsError, read_weights
from .options import Commands, add_command, whole_number
from .output import Output

TEXT = """\
Read weights of another codebase, without TensorFlow and without running anything in them, and write a checkpoint that
every command here takes, and train.py --resume continues from. SOURCE is recognised by what is in it:
  a snapshot of the paper authors' code (.pkl), with G, D and Gs
  TensorFlow Hub's progan-128 as converted for TensorFlow.js (its folder, or model.json)
  a checkpoint of pro_gan_pytorch 3.4, or of pytorch_GAN_zoo
  a .safetensors file that `export` wrote
"""
EXAMPLES = """\
  python -m pggan import karras2018iclr-celebahq-1024x1024.pkl --out celebahq.pt
  python -m pggan import package/progan --out celeba.pt
  python -m pggan import depth_5_epoch_20.bin --out mine.pt --resolution 32
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "import", run, "read weights of other codebases", TEXT, EXAMPLES)
    p.add_argument("source", type=Path, metavar="SOURCE", help="a file of weights, or the folder of a model.json")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write, ending in .pt")
    p.add_argument("--force", action="store_true", help="overwrite what is there")
    p.add_argument(
        "--resolution", type=whole_number(4, 1024), metavar="N",
        help="the stage that they were trained to (default: what the file or its name says, else the last one)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    output = Output(arguments.out, arguments.force, (".pt",))
    if arguments.source.suffix == ".safetensors":
        content = checkpoints.load(arguments.source)
        notes: list[str] = []
    else:
        content, notes = as_checkpoint(arguments.source, arguments.resolution)
    with output.writing() as path:
        checkpoints.save(path, content)
    print("\n".join([*told(content), *notes, fine_tuning(arguments.out, content)]))


def as_checkpoint(source: Path, resolution: int | None) -> tuple[dict[str, Any], list[str]]:
    """The content of a checkpoint holding the weights, and what of them is not carried.

    Raises:
        WeightsError: they cannot be read, or have no such stage.
    """
    weights = read_weights(source)
    generator = weights.networks["generator"]
    if resolution is not None:
        if resolution & (resolution - 1) or resolution > generator["resolution"]:
            largest = generator["resolution"]
            raise WeightsError(f"--resolution: {resolution} is not a power of two up to {largest}, the weights' own")
        weights.resolution, weights.alpha = resolution, 1.0
    known = {f.name for f in fields(TrainConfig)}
    shape = generator | weights.networks.get("discriminator", {})
    if shape["latent_size"] == min(shape["fmap_base"], shape["fmap_max"]):
        del shape["latent_size"]  # as the first layer, which the option means where it is not given
    content = {
        "images": 0,
        "stage": {"resolution": weights.resolution, "alpha": weights.alpha},
        "config": {name: value for name, value in shape.items() if name in known},
        "networks": weights.networks,
        "classes": [str(index) for index in range(generator["label_size"])],
        "origin": weights.origin,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "state": weights.state,
    }
    return content, weights.notes


def told(content: dict[str, Any]) -> list[str]:
    """What was found, in lines."""
    stage, generator = content["stage"], content["networks"]["generator"]
    alpha = f", alpha {stage['alpha']:g}" if stage["alpha"] != 1 else ""
    whole = generator["resolution"].bit_length() - 2
    missing = [f"{4 << i}x{4 << i}" for i in range(whole) if f"to_rgb.{i}.weight" not in content["state"]["G_ema"]]
    lines = [f"{content.get('origin', 'a checkpoint')}: {stage['resolution']}x{stage['resolution']}{alpha}"]
    lines += [f"networks: {', '.join(content['state'])}"]
    if missing:
        lines.append(f"the RGB layers of {', '.join(missing)} are not in it: these stages cannot be drawn")
    return lines


def fine_tuning(out: Path, content: dict[str, Any]) -> str:
    """Return the command that continues training, with every option that the weights need and defaults do not give."""
    networks = content["networks"]
    shape = networks["generator"] | networks.get("discriminator", {})
    first_maps = min(shape["fmap_base"], shape["fmap_max"])
    options = [f"--resolution {shape['resolution']} --channels {shape['channels']}"]
    for f in fields(TrainConfig):
        default = first_maps if f.name == "latent_size" else f.default
        if f.name in ("resolution", "channels") or shape.get(f.name, default) == default:
            continue
        options.append(spell_option(f.name, shape[f.name]))
    if shape["label_size"]:
        options.append("--labels")
    length = ""
    if content["stage"] == {"resolution": shape["resolution"], "alpha": 1.0}:
        length = " (for --stabilize-kimg thousand images, 600 if not specified)"
    return f"continue training: python train.py IMAGES --resume {out} {' '.join(options)}{length}"
