"""Load batches of real images ahead of the training loop, so that it does not wait for them."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pggan.datasets import Pyramid, shuffled_indices

from .batch import Batch
from .growth import Phase
from .ranks import SINGLE_PROCESS, Ranks

MEMORY_FRACTION = 0.25  # of free memory for a level; the rest is for activations, evaluation and other jobs
READ_BYTES = 1 << 26  # per read (64 MiB); between two reads the loader checks whether the stage has ended


class Feeder:
    """Returns batches of real images as a function of the seed and the number of images seen.

    The images of the current stage (a level of the pyramid) are kept in GPU memory if they take at most a quarter of
    what is free there, otherwise in main memory under the same rule. If they do not fit, and until a thread has loaded
    them, batches are read from the memory-mapped cache. Unless images and networks are on the same device, a thread
    prepares the next batch during the current step.

    Args:
        indices: indices of the images to use (default: all).
        group: samples per minibatch-stddev group. ranks: each reads its own share of a batch.

    Attributes:
        level: the loaded images, or None. loader: the thread that loads them, or None if they do not fit.
        wait_seconds: total seconds spent in `next_batch`.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        seed: int,
        device: torch.device,
        indices: np.ndarray | None = None,
        group: int = 1,
        ranks: Ranks = SINGLE_PROCESS,
    ):
        self.pyramid, self.seed, self.device, self.group, self.ranks = pyramid, seed, device, group, ranks
        self.indices = np.arange(len(pyramid)) if indices is None else indices
        self.labels = None if pyramid.labels is None else torch.from_numpy(pyramid.labels[self.indices])
        self.resolution = 0
        self.level: Tensor | None = None
        self.loader: threading.Thread | None = None
        self.lock = threading.Lock()  # guards resolution and level, which must change together
        self.executor = ThreadPoolExecutor(1, "feeder")
        self.prefetched: tuple[tuple[int, int, int], Future[Batch]] | None = None
        self.wait_seconds = 0.0

    def next_batch(self, images: int, phase: Phase) -> Batch:
        """Return this rank's share of the batch after `images` images, uint8 [N, C, r, r], and its labels."""
        start, key = time.perf_counter(), (images, phase.batch_size, phase.resolution)
        if phase.resolution != self.resolution:
            self.start_stage(phase.resolution)
        batch = self.prefetched[1].result() if self.prefetched and self.prefetched[0] == key else self.read_batch(*key)
        self.prefetched = None
        if self.level is None or self.level.device.type != self.device.type:
            next_key = (images + phase.batch_size, *key[1:])
            self.prefetched = next_key, self.executor.submit(self.read_batch, *next_key)
        self.wait_seconds += time.perf_counter() - start
        return batch

    def start_stage(self, resolution: int) -> None:
        """Release the previous stage's images and start loading the next stage's, if they fit in memory."""
        if self.prefetched:
            self.prefetched[1].result()
        with self.lock:
            self.resolution, self.level, self.prefetched, self.loader = resolution, None, None, None
        needed = len(self.indices) * self.pyramid.channels * resolution**2
        on_device = self.device.type == "cuda" and needed <= MEMORY_FRACTION * torch.cuda.mem_get_info(self.device)[0]
        if on_device or needed <= MEMORY_FRACTION * read_free_memory():
            # daemon: the process can exit while it loads
            self.loader = threading.Thread(target=self.load_level, args=(resolution, on_device), daemon=True)
            self.loader.start()

    def load_level(self, resolution: int, on_device: bool) -> None:
        """Load a level piece by piece; give up if the next stage has begun, or memory has become scarce meanwhile."""
        try:
            level = torch.empty(len(self.indices), self.pyramid.channels, resolution, resolution, dtype=torch.uint8)
            step = max(READ_BYTES // level[0].numel(), 1)
            for start in range(0, len(level), step):
                if self.resolution != resolution:
                    return
                piece = self.pyramid.read_images(resolution, self.indices[start : start + step])
                level[start : start + step] = torch.from_numpy(piece)
            level = level.to(self.device) if on_device else level
        except (MemoryError, RuntimeError):
            return
        with self.lock:
            if self.resolution == resolution:
                self.level = level

    def read_batch(self, images: int, count: int, resolution: int) -> Batch:
        """Read this rank's share of the batch after `images` images, from the loaded level or from the cache."""
        share = self.ranks.share(count, self.group)
        places = share.select(torch.from_numpy(shuffled_indices(self.seed, images, count, len(self.indices))))
        if (level := self.level) is None:
            images_read = torch.from_numpy(self.pyramid.read_images(resolution, self.indices[places.numpy()]))
        else:
            images_read = level[self.pin_memory(places).to(level.device, non_blocking=True)]
        return Batch(
            self.pin_memory(images_read), None if self.labels is None else self.pin_memory(self.labels[places]), share
        )

    def pin_memory(self, tensor: Tensor) -> Tensor:
        """Return a tensor in pinned memory if it goes to a GPU, so that copying it does not block."""
        return tensor.pin_memory() if self.device.type == "cuda" and tensor.device.type == "cpu" else tensor


def read_free_memory() -> int:
    """Return the unused bytes of main memory, disk cache not included; 0 if the system does not report them."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
