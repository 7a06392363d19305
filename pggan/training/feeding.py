"""Real images from the pyramid to the device: the loop should never wait for them."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from datasets import Pyramid, shuffled

from .growth import Phase
from .ranks import ALONE, Ranks
from .steps import Batch

SHARE = 0.25  # of the memory that is free may be taken for a level
PIECE = 1 << 26  # bytes of a level read at once


class Feeder:
    """Batches of some of the real images as a function of the seed and the images seen.

    The level of a stage is held on the GPU where it takes at most a quarter of the memory free there, else in main
    memory under the same rule; else, and until a thread has taken it there, it is read from its map. What does not lie
    where it is used is gathered by another thread one step ahead.

    Args:
        chosen: indices of the images to walk through (default: all).
        group: samples in a minibatch-stddev group. ranks: the processes that share each batch; each reads its own part.

    Attributes:
        level: what is held, or None. taking: the thread that takes it, or None where it does not fit.
        waited: seconds that `batch` has taken, in all.
    """

    def __init__(
        self, pyramid: Pyramid, seed: int, device: torch.device, chosen: np.ndarray | None = None, group: int = 1,
        ranks: Ranks = ALONE,
    ):  # fmt: skip
        self.pyramid, self.seed, self.device, self.group, self.ranks = pyramid, seed, device, group, ranks
        self.chosen = np.arange(len(pyramid)) if chosen is None else chosen
        self.labels = None if pyramid.labels is None else torch.from_numpy(pyramid.labels[self.chosen])
        self.resolution = 0
        self.level: Tensor | None = None
        self.taking: threading.Thread | None = None
        self.lock = threading.Lock()  # of resolution and level, which belong together
        self.thread = ThreadPoolExecutor(1, "feeder")
        self.ahead: tuple[tuple[int, int, int], Future[Batch]] | None = None
        self.waited = 0.0

    def batch(self, images: int, phase: Phase) -> Batch:
        """This process' share of the next images after so many seen, uint8 [N, C, r, r], and their labels."""
        start, wanted = time.perf_counter(), (images, phase.batch_size, phase.resolution)
        if phase.resolution != self.resolution:
            self.hold(phase.resolution)
        batch = self.ahead[1].result() if self.ahead and self.ahead[0] == wanted else self.gather(*wanted)
        self.ahead = None
        if self.level is None or self.level.device.type != self.device.type:
            following = (images + phase.batch_size, *wanted[1:])
            self.ahead = following, self.thread.submit(self.gather, *following)
        self.waited += time.perf_counter() - start
        return batch

    def hold(self, resolution: int) -> None:
        """Let go of one stage's level and begin to take the next one where it fits."""
        if self.ahead:
            self.ahead[1].result()
        with self.lock:
            self.resolution, self.level, self.ahead, self.taking = resolution, None, None, None
        needed = len(self.chosen) * self.pyramid.channels * resolution**2
        on_device = self.device.type == "cuda" and needed <= SHARE * torch.cuda.mem_get_info(self.device)[0]
        if on_device or needed <= SHARE * free_memory():
            # a daemon: who ends the run does not wait for it
            self.taking = threading.Thread(target=self.take, args=(resolution, on_device), daemon=True)
            self.taking.start()

    def take(self, resolution: int, on_device: bool) -> None:
        """Read a level in pieces, and hold it; give up where the next stage has begun or memory was taken meanwhile."""
        try:
            level = torch.empty(len(self.chosen), self.pyramid.channels, resolution, resolution, dtype=torch.uint8)
            step = max(PIECE // level[0].numel(), 1)
            for start in range(0, len(level), step):
                if self.resolution != resolution:
                    return
                piece = self.pyramid.images(resolution, self.chosen[start : start + step])
                level[start : start + step] = torch.from_numpy(piece)
            level = level.to(self.device) if on_device else level
        except (MemoryError, RuntimeError):
            return
        with self.lock:
            if self.resolution == resolution:
                self.level = level

    def gather(self, images: int, count: int, resolution: int) -> Batch:
        share = self.ranks.share(count, self.group)
        places = share.of(torch.from_numpy(shuffled(self.seed, images, count, len(self.chosen))))
        if (level := self.level) is None:
            found = torch.from_numpy(self.pyramid.images(resolution, self.chosen[places.numpy()]))
        else:
            found = level[places.to(level.device)]
        return Batch(self.pinned(found), None if self.labels is None else self.pinned(self.labels[places]), share)

    def pinned(self, tensor: Tensor) -> Tensor:
        """In memory that a GPU reads by itself, so that copying does not hold up the loop."""
        return tensor.pin_memory() if self.device.type == "cuda" and tensor.device.type == "cpu" else tensor


def free_memory() -> int:
    """Bytes of main memory that nobody uses, not even for the disk's cache; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
