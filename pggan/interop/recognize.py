"""Recognize which codebase a weights file comes from, and read its networks. Nothing in the file is run."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from ..untrusted.files import has_zip_directory, identify_file
from ..untrusted.pickles import Record, UntrustedFileError, read_snapshot
from .errors import WeightsError
from .official import ARGUMENTS, from_official
from .tfjs import read_tfjs
from .torch_files import read_torch
from .weights import Weights

MAX_PICKLE_BYTES = 4 << 30  # bytes; it is read into memory, and the authors' 1024x1024 snapshots take 0.3 GB
KNOWN_FORMATS = (
    "the paper authors' .pkl, progan-128's model.json for TensorFlow.js, and checkpoints of pro_gan_pytorch and "
    "pytorch_GAN_zoo"
)
# Files of torch before 1.6 begin with this pickled magic number, after the two bytes of the protocol.
TORCH_BEFORE_ZIP = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def read_weights(path: Path) -> Weights:
    """Read the networks in a file of another codebase.

    Args:
        path: a file, or a folder with a model.json.

    Raises:
        WeightsError: the file's format is unknown, the file is damaged, or its networks are not supported.
        OSError: the file cannot be read.
    """
    path = path / "model.json" if path.is_dir() else path
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise WeightsError("not a regular file")
        with path.open("rb") as file:
            start = file.read(16)
        if path.suffix == ".json":
            return read_tfjs(path)
        if start[2:15] == TORCH_BEFORE_ZIP or has_zip_directory(path):
            return read_torch(path)
        if start[:1] == b"\x80":  # the PROTO opcode, with which pickles of protocol 2 and above begin
            return read_official(path)
        raise WeightsError(
            f"this is {found}"
            if (found := identify_file(path))
            else f"unknown file format; supported are {KNOWN_FORMATS}"
        )
    except (WeightsError, UntrustedFileError) as error:
        # on one line: names in a file may contain line breaks
        raise WeightsError(f"{path}: {' '.join(str(error).split())}") from None


def read_official(path: Path) -> Weights:
    """Read the networks in a snapshot of the paper authors' code, a pickled tuple (G, D, Gs).

    Raises:
        WeightsError: the pickle holds something else, or networks with unsupported arguments.
    """
    if path.stat().st_size > MAX_PICKLE_BYTES:
        raise WeightsError(f"larger than {MAX_PICKLE_BYTES >> 30} GiB, too large for a snapshot")
    content = read_snapshot(path.read_bytes(), ("tfutil.Network",))
    # (G, D, Gs), or a single network
    found = content if isinstance(content, (tuple, list)) else [content]
    records = {
        r.state["name"]: r.state
        for r in found
        if isinstance(r, Record) and isinstance(r.state, dict) and "name" in r.state
    }
    if "Gs" not in records:
        raise WeightsError("a pickle, but not of the official networks (G, D, Gs)")
    weights = Weights("the paper authors' snapshot", {}, {}, 0)
    try:
        for name, ours in (("Gs", "G_ema"), ("G", "G"), ("D", "D")):
            if name in records:
                variables, options = dict(records[name]["variables"]), records[name]["static_kwargs"]
                network = from_official(variables, name, **options)
                weights.state[ours] = network.state_dict()
                weights.networks["discriminator" if name == "D" else "generator"] = read_arguments(network, options)
        lod = float(dict(records["Gs"]["variables"]).get("lod", 0.0))
        weights.resolution, weights.alpha = lod_to_stage(weights.networks["generator"]["resolution"], lod)
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError) as error:
        raise WeightsError(f"unsupported networks: {str(error).splitlines()[0] if str(error) else 'damaged'}") from None
    return weights


def read_arguments(network: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments with which `type(network)` builds the network again."""
    known = inspect.signature(type(network)).parameters
    given = {ARGUMENTS[name]: value for name, value in options.items() if ARGUMENTS.get(name) in known}
    names = ("resolution", "channels", "label_size", "latent_size")
    return given | {name: getattr(network, name) for name in names if name in known}


def lod_to_stage(resolution: int, lod: float) -> tuple[int, float]:
    """Return resolution and alpha at an official level of detail.

    A lod of 0 is the full resolution; 1.75 is one level below it, fading in at alpha 0.25.

    Raises:
        ValueError: the network has no such level.
    """
    below = int(lod)
    if lod < 0 or resolution >> below < 4:
        raise ValueError(f"level of detail {lod:g} at {resolution}x{resolution}")
    return resolution >> below, 1 - (lod - below)
