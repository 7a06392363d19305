"""Transfer weights to a network with other classes: label weights are moved by class name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..networks import build


def find_kept_classes(old: list[str], new: list[str]) -> list[str] | None:
    """Return the classes in both lists; None if all are renamed and their number is equal, so that order decides."""
    kept = [name for name in new if name in old]
    return None if len(old) == len(new) and not kept else kept


def move_classes(
    saved: dict[str, Tensor],
    fresh: dict[str, Tensor],
    network: str,
    arguments: dict[str, Any],
    old: list[str],
    new: list[str],
) -> dict[str, Tensor]:
    """Return a network's saved weights for other classes, with the weights of `fresh` for each new class.

    Weights that do not depend on the label are kept unchanged: G's first layer scales its weights by sqrt(2 / inputs),
    and pixel norm its inputs by sqrt(inputs / sum of squares), so the number of classes cancels.

    Args:
        saved, fresh: state dicts of the checkpoint's and of the new network.
        network, arguments: type and arguments of the new network, as for `networks.build`.
        old, new: class names of the checkpoint and of the new network, [] for none.
    """
    if old == new or find_kept_classes(old, new) is None:
        return saved
    moved = dict(saved)
    pairs = [(old.index(name), i) for i, name in enumerate(new) if name in old]
    for name, axis in find_label_axes(network, arguments).items():
        if name in saved:
            shared = saved[name].shape[axis] - len(old)  # inputs before the labels: latents in G, the score in D
            sources, targets = ([*range(shared), *(shared + pair[i] for pair in pairs)] for i in (0, 1))
            weights = fresh[name].clone()
            part = saved[name].index_select(axis, torch.tensor(sources))
            moved[name] = weights.index_copy_(axis, torch.tensor(targets, device=weights.device), part.to(weights))
    return moved


def find_label_axes(network: str, arguments: dict[str, Any]) -> dict[str, int]:
    """Return, by name, the axis along which each tensor grows with the number of classes; others are omitted."""
    with torch.device("meta"):
        one, two = (build(network, {**arguments, "label_size": count}).state_dict() for count in (1, 2))
    changes = {name: torch.tensor(two[name].shape) - torch.tensor(one[name].shape) for name in one if one[name].ndim}
    return {name: int(change.argmax()) for name, change in changes.items() if change.any()}
