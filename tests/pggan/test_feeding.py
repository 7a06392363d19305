import threading

import numpy as np
import pytest
import torch

from pggan.datasets import SyntheticShapes, open_pyramid, shuffled_indices
from pggan.training import feeding
from pggan.training.feeding import Feeder
from pggan.training.growth import Phase
from pggan.training.ranks import Ranks


@pytest.fixture
def pyramid(tmp_path):
    return open_pyramid(SyntheticShapes(50, labelled=True), 16, 3, cache=tmp_path)


def make_phase(resolution, batch):
    return Phase(resolution, 1.0, batch, 0.001, 1)


REQUESTS = [(0, 8, 4), (8, 8, 4), (16, 16, 8), (32, 16, 8), (100, 16, 8), (116, 4, 16), (116, 4, 16), (0, 8, 4)]


@pytest.mark.parametrize("memory", [0, 1 << 40])
def test_batches_follow_the_shuffled_order_whether_read_from_memory_or_from_the_cache(pyramid, monkeypatch, memory):
    monkeypatch.setattr(feeding, "read_free_memory", lambda: memory)
    feeder = Feeder(pyramid, 3, torch.device("cpu"))
    for images, count, resolution in REQUESTS:
        batch = feeder.next_batch(images, make_phase(resolution, count))
        indices = shuffled_indices(3, images, count, 50)
        assert (batch.images.numpy() == pyramid.read_images(resolution, indices)).all()
        assert batch.images.dtype == torch.uint8 and (batch.labels.numpy() == pyramid.labels[indices]).all()
        if feeder.loader:
            feeder.loader.join()
        assert (feeder.level is None) == (memory == 0) and (memory or feeder.prefetched)
    assert feeder.wait_seconds > 0


def test_batches_are_served_while_a_level_loads_and_each_stage_loads_its_own(pyramid, monkeypatch):
    monkeypatch.setattr(feeding, "read_free_memory", lambda: 1 << 40)
    monkeypatch.setattr(feeding, "READ_BYTES", 1000)
    feeder, allowed = Feeder(pyramid, 3, torch.device("cpu")), threading.Event()
    load = feeder.load_level
    monkeypatch.setattr(feeder, "load_level", lambda *level: allowed.wait() and load(*level))
    threads = []
    for images, resolution in ((0, 4), (8, 4), (16, 16), (24, 16)):
        found = feeder.next_batch(images, make_phase(resolution, 8)).images.numpy()
        assert (
            found == pyramid.read_images(resolution, shuffled_indices(3, images, 8, 50))
        ).all() and feeder.level is None
        threads.append(feeder.loader)
    allowed.set()
    for thread in threads:
        thread.join()
    assert (feeder.level.numpy() == pyramid.read_images(16, range(50))).all()
    for images in (32, 40):
        found = feeder.next_batch(images, make_phase(16, 8)).images.numpy()
        assert (
            found == pyramid.read_images(16, shuffled_indices(3, images, 8, 50))
        ).all() and feeder.prefetched is None


def test_the_next_batch_is_prefetched_if_the_level_does_not_fit_in_memory(pyramid, monkeypatch):
    monkeypatch.setattr(feeding, "read_free_memory", lambda: 0)
    requests = []
    feeder = Feeder(pyramid, 0, torch.device("cpu"))
    read = feeder.read_batch
    monkeypatch.setattr(feeder, "read_batch", lambda *request: requests.append(request) or read(*request))
    for images in (0, 8, 16):
        feeder.next_batch(images, make_phase(8, 8))
    feeder.executor.shutdown()
    assert requests == [(0, 8, 8), (8, 8, 8), (16, 8, 8), (24, 8, 8)]


@pytest.mark.parametrize("memory", [0, 1 << 40])
def test_each_process_reads_its_share(pyramid, monkeypatch, memory):
    monkeypatch.setattr(feeding, "read_free_memory", lambda: memory)
    whole = Feeder(pyramid, 0, torch.device("cpu")).next_batch(16, make_phase(8, 16))
    for rank in range(3):
        ranks = Ranks(rank, 3)
        batch = Feeder(pyramid, 0, torch.device("cpu"), group=4, ranks=ranks).next_batch(16, make_phase(8, 16))
        assert batch.share == ranks.share(16, 4) and len(batch.images) == (4, 4, 8)[rank]
        assert torch.equal(batch.images, batch.share.select(whole.images))
        assert torch.equal(batch.labels, batch.share.select(whole.labels))


def test_only_a_quarter_of_the_free_memory_is_used(pyramid, monkeypatch):
    needed = 50 * 3 * 16 * 16
    for free, fits in ((4 * needed, True), (4 * needed - 1, False)):
        monkeypatch.setattr(feeding, "read_free_memory", lambda free=free: free)
        feeder = Feeder(pyramid, 0, torch.device("cpu"))
        feeder.next_batch(0, make_phase(16, 8))
        assert (feeder.loader is not None) == fits


def test_images_skipped_in_the_cache_are_never_served(tmp_path):
    class WithDamagedImage(SyntheticShapes):
        def read_image(self, index, *size):
            if index == 7:
                raise OSError("damaged")
            return super().read_image(index, *size)

    pyramid = open_pyramid(WithDamagedImage(50), 8, 3, max_bad=0.1, cache=tmp_path)
    batch = Feeder(pyramid, 0, torch.device("cpu")).next_batch(0, make_phase(8, 49))
    expected = {SyntheticShapes().image(i, 8).tobytes() for i in range(50) if i != 7}
    assert {np.asarray(image).tobytes() for image in batch.images} == expected
