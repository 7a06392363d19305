"""python -m pggan export: a trained generator for other programs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import checkpoints
from checkpoints import newest, save_safetensors

from ..config import ConfigError
from ..interop.exported import Drawing, export_onnx, export_torch
from .model_card import card, write_pictures
from .options import Commands, add_checkpoint, add_command
from .output import CONFIG, Output
from .trained import Trained, load

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2", "hub": ""}
PATHS = ("data", "out", "resume", "inception_weights")
TEXT = """\
Write a checkpoint's EMA generator for other programs.

  safetensors    weights and every option in one file, which all commands here take instead of a checkpoint
  onnx           inputs latents [N, L] (and labels, int64 [N]); output images [N, C, r, r] around [-1, 1]; any N
  torch-export   the same as a program for torch.export.load, which needs nothing of this code
  hub            a folder for the Hugging Face Hub: the safetensors, a model card and a sample grid

onnx and torch-export draw at the stage of the checkpoint.
"""
EXAMPLES = """\
  python -m pggan export runs/faces-128 --format onnx --out faces.onnx
  python -m pggan export runs/faces-128/checkpoints/stage-0064.pt --format safetensors --out faces-64.safetensors
  python -m pggan export runs/faces-128 --format hub --license cc-by-nc-4.0 --out faces-128
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "export", run, "write a generator for other programs", TEXT, EXAMPLES)
    add_checkpoint(p)
    p.add_argument("--format", required=True, choices=tuple(SUFFIXES), help="see above")
    endings = ", ".join(f"{suffix} for {name}" for name, suffix in SUFFIXES.items() if suffix)
    p.add_argument("--out", type=Path, required=True, metavar="PATH", help=f"{endings}; a folder for hub")
    p.add_argument("--force", action="store_true", help="overwrite what is there")
    p.add_argument(
        "--license", metavar="NAME",
        help="hub: the weights' licence, as the Hub names it: mit, cc-by-4.0, ... (default: unknown)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    licence = "unknown" if arguments.license is None else arguments.license
    if not licence.replace("-", "").replace(".", "").isalnum():
        raise ConfigError(f"--license: {licence!r} is not a name such as mit or cc-by-4.0")
    if arguments.license and arguments.format != "hub":
        raise ConfigError(f"--license is for the model card of --format hub; {arguments.format} has none")
    output = Output(arguments.out, arguments.force, (SUFFIXES[arguments.format],))
    path = newest(arguments.checkpoint)
    trained, content = load(path), generator_only(checkpoints.load(path))
    with output.writing() as temporary:
        if arguments.format == "safetensors":
            save_safetensors(temporary, content)
        elif arguments.format == "hub":
            write_folder(temporary, path, trained, content, licence, arguments.out.name)
        else:
            drawing = Drawing(trained.generator, trained.resolution, trained.alpha)
            if arguments.format == "onnx":
                export_onnx(drawing, temporary, described(trained))
            else:
                export_torch(drawing, temporary)


def generator_only(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's content with the EMA generator alone, and without the paths of the machine it is from."""
    networks = {"generator": content["networks"]["generator"]}
    kept: dict[str, Any] = {
        key: content[key]
        for key in ("images", "stage", "classes", "class_counts", "origin", "versions")
        if key in content
    }
    config = {key: value for key, value in content["config"].items() if key not in PATHS}
    if isinstance(data := content["config"].get("data"), str):
        config["data"] = Path(data).name
    return {**kept, "config": config, "networks": networks, "state": {"G_ema": content["state"]["G_ema"]}}


def described(trained: Trained) -> dict[str, Any]:
    """What a user of a file without options has to know."""
    return {
        "resolution": trained.resolution,
        "alpha": trained.alpha,
        "latent_size": trained.generator.latent_size,
        "range": [-1, 1],
        "classes": trained.classes,
        "images_seen": trained.images,
    }


def write_folder(
    folder: Path, checkpoint: Path, trained: Trained, content: dict[str, Any], licence: str, name: str
) -> None:
    """A folder that `hf upload` or git puts on the Hub as it is."""
    folder.mkdir()
    save_safetensors(folder / "model.safetensors", content)
    plain = {key: value for key, value in content.items() if key != "state"}
    (folder / CONFIG).write_text(json.dumps({"made_by": "python -m pggan export", **plain}, indent=2), encoding="utf-8")
    write_pictures(folder, trained)
    (folder / "README.md").write_text(card(checkpoint, trained, content, licence, name), encoding="utf-8")
