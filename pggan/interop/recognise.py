"""Which codebase a file of weights is from, and its networks. Nothing in the file is run."""

from __future__ import annotations

import inspect
import zipfile
from pathlib import Path
from typing import Any

from .errors import WeightsError
from .official import ARGUMENTS, from_official
from .pickles import Record, read_pickle
from .tfjs import read_tfjs
from .torch_files import read_torch
from .weights import Weights

LARGEST_PICKLE = 4 << 30
KNOWN = (
    "the paper authors' .pkl, progan-128's model.json for TensorFlow.js, and checkpoints of pro_gan_pytorch and "
    "pytorch_GAN_zoo"
)
TORCH_BEFORE_ZIP = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before 1.6 begin, after the protocol


def read_weights(path: Path) -> Weights:
    """The networks of a file of another codebase.

    Args:
        path: a file, or a folder with a model.json.

    Raises:
        WeightsError: of no kind that is known here, damaged, or of networks that cannot be followed. OSError.
    """
    path = path / "model.json" if path.is_dir() else path
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if path.suffix == ".json":
            return read_tfjs(path)
        if start[2:15] == TORCH_BEFORE_ZIP or zipfile.is_zipfile(path):
            return read_torch(path)
        if start[:1] == b"\x80":
            return read_snapshot(path)
        raise WeightsError(f"it is none of what can be read: {KNOWN}")
    except (WeightsError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path}: {' '.join(str(error).split())}") from None  # names in a file may hold line ends


def read_snapshot(path: Path) -> Weights:
    """The three networks of the paper authors' snapshot: pickled (G, D, Gs).

    Raises:
        WeightsError: another pickle, or networks with switches that these do not have.
    """
    if path.stat().st_size > LARGEST_PICKLE:
        raise WeightsError(f"it is larger than {LARGEST_PICKLE >> 30} GiB")
    content = read_pickle(path.read_bytes(), records=("tfutil.Network",))
    found = content if isinstance(content, (tuple, list)) else [content]
    records = {
        r.state["name"]: r.state
        for r in found
        if isinstance(r, Record) and isinstance(r.state, dict) and "name" in r.state
    }
    if "Gs" not in records:
        raise WeightsError("it is a pickle, but not of the official networks (G, D, Gs)")
    weights = Weights("the paper authors' snapshot", {}, {}, 0)
    try:
        for name, ours in (("Gs", "G_ema"), ("G", "G"), ("D", "D")):
            if name in records:
                variables, options = dict(records[name]["variables"]), records[name]["static_kwargs"]
                network = from_official(variables, name, **options)
                weights.state[ours] = network.state_dict()
                weights.networks["discriminator" if name == "D" else "generator"] = arguments_of(network, options)
        lod = float(dict(records["Gs"]["variables"]).get("lod", 0.0))
        weights.resolution, weights.alpha = stage(weights.networks["generator"]["resolution"], lod)
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError) as error:
        raise WeightsError(
            f"its networks cannot be followed: {str(error).splitlines()[0] if str(error) else 'damaged'}"
        ) from None
    return weights


def arguments_of(network: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments that build the network again."""
    known = inspect.signature(type(network)).parameters
    given = {ARGUMENTS[name]: value for name, value in options.items() if ARGUMENTS.get(name) in known}
    names = ("resolution", "channels", "label_size", "latent_size")
    return given | {name: getattr(network, name) for name in names if name in known}


def stage(resolution: int, lod: float) -> tuple[int, float]:
    """Resolution and alpha at a level of detail: 0 is the full resolution; 1.75 is one level below, at alpha 0.25."""
    below = int(lod)
    if lod < 0 or resolution >> below < 4:
        raise ValueError(f"a level of detail {lod:g} at {resolution}x{resolution}")
    return resolution >> below, 1 - (lod - below)
