"""Load batches of real images ahead of the training loop, so that it does not wait for them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pggan.datasets import (
    Preparation,
    Pyramid,
    Source,
    open_pyramid,
    shuffled_indices,
    summarize,
)

from ..config import TrainConfig
from .batch import Batch
from .growth import Phase
from .memory import is_out_of_memory, read_usable_memory
from .ranks import SINGLE_PROCESS, Ranks

GPU_FRACTION = 0.25  # of usable GPU memory for a level; the rest is for activations, evaluation and other jobs
CPU = torch.device("cpu")
READ_BYTES = 1 << 26  # per read (64 MiB); between two reads the loader checks whether the stage has ended


def describe_data(config: TrainConfig, source: Source) -> list[str]:
    """Return console lines that describe the images, and what preparing them changes."""
    prepare = Preparation(config.resolution, config.channels, config.fit, config.background)
    return summarize(source, prepare)


def open_training_images(config: TrainConfig, source: Source) -> Pyramid:
    """Return the images at all resolutions, building their cache if needed. For errors see `datasets.open_pyramid`."""
    return open_pyramid(
        source,
        config.resolution,
        config.channels,
        fit=config.fit,
        background=config.background,
        allow_upscale=config.allow_upscale,
        max_bad=config.max_bad,
        workers=config.workers,
    )


class Feeder:
    """Returns batches of real images as a function of the seed and the number of images seen.

    The images of the current stage (a level of the pyramid) are kept in GPU memory if they take at most a quarter of
    what is usable there. Otherwise, and until a thread has loaded them, a thread reads the next batch from the
    memory-mapped cache during the current step. Main memory holds no copy of a level: if it fits, one process of each
    machine reads the file once, and then all of them find it in the system's file cache.

    Args:
        indices: indices of the images to use (default: all).
        group: samples per minibatch-stddev group. ranks: each reads its own share of a batch.

    Attributes:
        level: the images on the device, or None. loader: the thread that reads them in advance, or None if they do not
            fit in memory.
        wait_seconds: total seconds that `next_batch` waited for images to be read.
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

    def next_batch(self, images: int, phase: Phase, until_next: int | None = None) -> Batch:
        """Return this rank's share of the batch after `images` images, uint8 [N, C, r, r], and its labels.

        until_next: images that the run sees before the next call, whose batch is read ahead (default: this batch).
        """
        start, key = time.perf_counter(), (images, phase.batch_size, phase.resolution)
        if phase.resolution != self.resolution:
            self.start_stage(phase.resolution)
        batch = self.prefetched[1].result() if self.prefetched and self.prefetched[0] == key else self.read_batch(*key)
        self.prefetched = None
        if self.level is None:  # on a GPU, nothing is read, but indexing may wait for earlier steps to finish
            self.wait_seconds += time.perf_counter() - start
            next_key = (images + (until_next or phase.batch_size), *key[1:])
            self.prefetched = next_key, self.executor.submit(self.read_batch, *next_key)
        return batch

    def start_stage(self, resolution: int) -> None:
        """Release the previous stage's images and start reading the next stage's, if they fit in memory."""
        if self.prefetched:
            self.prefetched[1].result()
        with self.lock:
            self.resolution, self.level, self.prefetched, self.loader = resolution, None, None, None
        needed = len(self.indices) * self.pyramid.channels * resolution**2
        on_device = fits_on_gpu(needed, self.device)
        if on_device or (self.ranks.local_rank == 0 and needed <= read_usable_memory(CPU)):
            # daemon: the process can exit while it loads
            self.loader = threading.Thread(target=self.load_level, args=(resolution, on_device), daemon=True)
            self.loader.start()

    def load_level(self, resolution: int, on_device: bool) -> None:
        """Read a level once, piece by piece, and keep it if `on_device`; otherwise the system's file cache does.

        Give up if the next stage has begun, or memory has become scarce meanwhile.
        """
        shape = len(self.indices), self.pyramid.channels, resolution, resolution
        try:
            level = torch.empty(shape, dtype=torch.uint8, device=self.device) if on_device else None
            step = max(READ_BYTES // (self.pyramid.channels * resolution**2), 1)
            for start in range(0, len(self.indices), step):
                if self.resolution != resolution:
                    return
                piece = self.pyramid.read_images(resolution, self.indices[start : start + step])
                if level is not None:
                    level[start : start + step] = torch.from_numpy(piece)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
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


def fits_on_gpu(needed: int, device: torch.device) -> bool:
    """Return whether the device is a GPU with room for `needed` bytes of images."""
    return device.type == "cuda" and needed <= GPU_FRACTION * read_usable_memory(device)
