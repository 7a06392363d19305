"""Weights of a network with other classes: what depends on the label is moved class by class, by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..networks import build


def kept_classes(old: list[str], new: list[str]) -> list[str] | None:
    """Return the classes in both lists; None if there are as many, all under other names: then order decides."""
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
    """Return a network's saved weights for other classes, with `fresh` ones for each class that is new.

    What does not depend on the label is kept: G's first layer scales its weights by sqrt(2 / inputs), and pixel norm
    its inputs by sqrt(inputs / sum of squares), so that the number of classes cancels.

    Args:
        saved, fresh: state dicts. network, arguments: as for `networks.build`, of the fresh one.
        old, new: names of the classes, [] for none.
    """
    if old == new or kept_classes(old, new) is None:
        return saved
    moved = dict(saved)
    pairs = [(old.index(name), i) for i, name in enumerate(new) if name in old]
    for name, axis in label_axes(network, arguments).items():
        if name in saved:
            shared = saved[name].shape[axis] - len(old)  # latents in G, the score in D: they come before the labels
            sources, targets = ([*range(shared), *(shared + pair[i] for pair in pairs)] for i in (0, 1))
            weights = fresh[name].clone()
            part = saved[name].index_select(axis, torch.tensor(sources))
            moved[name] = weights.index_copy_(axis, torch.tensor(targets, device=weights.device), part.to(weights))
    return moved


def label_axes(network: str, arguments: dict[str, Any]) -> dict[str, int]:
    """Return the name and the axis of each tensor whose shape depends on the number of classes."""
    with torch.device("meta"):
        one, two = (build(network, {**arguments, "label_size": count}).state_dict() for count in (1, 2))
    changes = {name: torch.tensor(two[name].shape) - torch.tensor(one[name].shape) for name in one if one[name].ndim}
    return {name: int(change.argmax()) for name, change in changes.items() if change.any()}
