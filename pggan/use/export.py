"""python -m pggan export: convert a trained generator to formats that other programs read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pggan import checkpoints
from pggan.checkpoints import resolve_checkpoint, save_safetensors

from ..config import ConfigError
from ..interop.exported import ExportModule, export_onnx, export_torch
from .model_card import format_card, write_pictures
from .options import Commands, add_checkpoint, add_command, add_force
from .output import CONFIG, Output
from .trained import Trained, load

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2", "hub": ""}  # "": a folder
# Options with paths of the machine that trained: of no use to others, and they may contain a user's name.
PATHS = ("data", "out", "resume", "inception_weights")
TEXT = """\
Convert a checkpoint's EMA generator to a format that other programs read.

  safetensors    weights and all options in one file, accepted by every command here in place of a checkpoint
  onnx           inputs latents [N, L] (and labels, int64 [N]), output images [N, C, r, r] around [-1, 1], any N
  torch-export   the same inputs and output as a torch.export program, which runs without this codebase
  hub            a folder for the Hugging Face Hub: the safetensors file, a model card and a sample grid

onnx and torch-export produce images at the checkpoint's stage.
"""
EXAMPLES = """\
  python -m pggan export runs/faces-128 --format onnx --out faces.onnx
  python -m pggan export runs/faces-128/checkpoints/stage-0064.pt --format safetensors --out faces-64.safetensors
  python -m pggan export runs/faces-128 --format hub --license cc-by-nc-4.0 --out faces-128
"""


def add_parser(commands: Commands) -> None:
    p = add_command(
        commands, "export", run, "convert a generator to ONNX, safetensors and other formats", TEXT, EXAMPLES
    )
    add_checkpoint(p)
    p.add_argument("--format", required=True, choices=tuple(SUFFIXES), help="output format, see above")
    endings = ", ".join(f"{suffix} for {name}" for name, suffix in SUFFIXES.items() if suffix)
    p.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help=f"output path: {endings}, a new folder for hub"
    )
    add_force(p)
    p.add_argument(
        "--license",
        metavar="NAME",
        help="license of the weights in the Hub's spelling, such as mit or cc-by-4.0; hub only (default: unknown)",
    )


def run(arguments: argparse.Namespace) -> None:
    license_name = "unknown" if arguments.license is None else arguments.license
    # The name is written into the model card's YAML header: other characters could add fields to it.
    if not license_name.replace("-", "").replace(".", "").isalnum():
        raise ConfigError(f"--license: {license_name!r} is not a license name; use one such as mit or cc-by-4.0")
    if arguments.license and arguments.format != "hub":
        raise ConfigError(f"--license is for --format hub only, since {arguments.format} has no model card; omit it")
    output = Output(arguments.out, arguments.force, (SUFFIXES[arguments.format],))
    path = resolve_checkpoint(arguments.checkpoint)
    # On the CPU: exported programs record the device they were traced on.
    trained, content = load(path), keep_generator_only(checkpoints.load(path))
    with output.write_atomically() as temporary:
        if arguments.format == "safetensors":
            save_safetensors(temporary, content)
        elif arguments.format == "hub":
            write_folder(temporary, path, trained, content, license_name, arguments.out.name)
        else:
            drawing = ExportModule(trained.generator, trained.resolution, trained.alpha)
            if arguments.format == "onnx":
                export_onnx(drawing, temporary, describe_generator(trained))
            else:
                export_torch(drawing, temporary)


def keep_generator_only(content: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's content reduced to the EMA generator, without paths of the machine it was trained on."""
    networks = {"generator": content["networks"]["generator"]}
    kept: dict[str, Any] = {
        key: content[key]
        for key in ("images", "stage", "classes", "class_counts", "origin", "versions")
        if key in content
    }
    config = {key: value for key, value in content["config"].items() if key not in PATHS}
    if isinstance(data := content["config"].get("data"), str):
        config["data"] = Path(data).name  # the dataset's name is worth keeping, its place is not
    return {**kept, "config": config, "networks": networks, "state": {"G_ema": content["state"]["G_ema"]}}


def describe_generator(trained: Trained) -> dict[str, Any]:
    """Return the metadata that a user of an ONNX file needs, which does not contain the run's options."""
    return {
        "resolution": trained.resolution,
        "alpha": trained.alpha,
        "latent_size": trained.generator.latent_size,
        "range": [-1, 1],
        "classes": trained.classes,
        "images_seen": trained.images,
    }


def write_folder(
    folder: Path, checkpoint: Path, trained: Trained, content: dict[str, Any], license_name: str, name: str
) -> None:
    """Write a folder that `hf upload` or git can push to the Hugging Face Hub unchanged."""
    folder.mkdir()
    # safetensors rather than .pt: the Hub scans pickles and warns of them
    save_safetensors(folder / "model.safetensors", content)
    # The Hub counts downloads by config.json, and "made_by" lets --force recognize the folder.
    plain = {key: value for key, value in content.items() if key != "state"}
    (folder / CONFIG).write_text(json.dumps({"made_by": "python -m pggan export", **plain}, indent=2), encoding="utf-8")
    write_pictures(folder, trained)
    (folder / "README.md").write_text(format_card(checkpoint, trained, content, license_name, name), encoding="utf-8")
