import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from pggan.datasets import Pyramid, SyntheticShapes, open_pyramid, shuffled_indices
from pggan.training import feeding
from pggan.training.feeding import Feeder
from pggan.training.growth import Phase
from pggan.training.ranks import Ranks


@pytest.fixture
def pyramid(tmp_path):
    return open_pyramid(SyntheticShapes(50, labeled=True), 16, 3, cache=tmp_path)


def make_phase(resolution, batch):
    return Phase(resolution, 1.0, batch, 0.001, 1)


@pytest.fixture(params=[False, True])
def on_device(request, monkeypatch):
    """Let levels fit on the device or not; a CPU stands in for a GPU."""
    monkeypatch.setattr(feeding, "fits_on_gpu", lambda *_: request.param)
    return request.param


REQUESTS = [(0, 8, 4), (8, 8, 4), (16, 16, 8), (32, 16, 8), (100, 16, 8), (116, 4, 16), (116, 4, 16), (0, 8, 4)]


def test_batches_follow_the_shuffled_order_whether_read_from_the_device_or_from_the_cache(pyramid, on_device):
    feeder = Feeder(pyramid, 3, torch.device("cpu"))
    for images, count, resolution in REQUESTS:
        batch = feeder.next_batch(images, make_phase(resolution, count))
        indices = shuffled_indices(3, images, count, 50)
        assert (batch.images.numpy() == pyramid.read_images(resolution, indices)).all()
        assert batch.images.dtype == torch.uint8 and (batch.labels.numpy() == pyramid.labels[indices]).all()
        if feeder.loader:
            feeder.loader.join()
        assert (feeder.level is not None) == on_device and (on_device or feeder.prefetched)
    assert on_device or feeder.wait_seconds > 0


def test_batches_are_served_while_a_level_loads_and_each_stage_loads_its_own(pyramid, monkeypatch):
    monkeypatch.setattr(feeding, "fits_on_gpu", lambda *_: True)
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


@pytest.mark.parametrize("until_next", [None, 8, 32])
def test_the_next_batch_is_prefetched(pyramid, monkeypatch, until_next):
    requests, step = [], until_next or 8
    feeder = Feeder(pyramid, 0, torch.device("cpu"))
    read = feeder.read_batch
    monkeypatch.setattr(feeder, "read_batch", lambda *request: requests.append(request) or read(*request))
    for i in range(3):
        feeder.next_batch(i * step, make_phase(8, 8), until_next)
    feeder.executor.shutdown()
    assert requests == [(i * step, 8, 8) for i in range(4)]


def test_only_waiting_for_images_to_be_read_counts_as_waiting(pyramid, monkeypatch):
    monkeypatch.setattr(feeding, "fits_on_gpu", lambda *_: True)
    feeder = Feeder(pyramid, 0, torch.device("cpu"))
    with monkeypatch.context() as patch:
        patch.setattr(feeder, "load_level", lambda *_: None)
        feeder.next_batch(0, make_phase(8, 8))
    before, read = feeder.wait_seconds, feeder.read_batch
    assert before > 0  # read from the cache
    feeder.load_level(8, True)
    monkeypatch.setattr(feeder, "read_batch", lambda *request: time.sleep(0.01) or read(*request))
    feeder.next_batch(8, make_phase(8, 8))  # waits for the device, as for the previous step
    assert feeder.wait_seconds == before


def test_each_process_reads_its_share(pyramid, on_device):
    whole = Feeder(pyramid, 0, torch.device("cpu")).next_batch(16, make_phase(8, 16))
    for rank in range(3):
        ranks = Ranks(rank, 3)
        batch = Feeder(pyramid, 0, torch.device("cpu"), group=4, ranks=ranks).next_batch(16, make_phase(8, 16))
        assert batch.share == ranks.share(16, 4) and len(batch.images) == (4, 4, 8)[rank]
        assert torch.equal(batch.images, batch.share.select(whole.images))
        assert torch.equal(batch.labels, batch.share.select(whole.labels))


def test_a_level_is_read_in_advance_by_one_process_of_a_machine_if_it_fits(pyramid, monkeypatch):
    needed, read = 50 * 3 * 16 * 16, []
    monkeypatch.setattr(feeding, "READ_BYTES", 10_000)
    for free, local_rank, expected in ((needed, 0, 50), (needed - 1, 0, 0), (needed, 1, 0)):
        monkeypatch.setattr(feeding, "read_usable_memory", lambda device, free=free: free)
        feeder = Feeder(pyramid, 0, torch.device("cpu"), ranks=Ranks(local_rank, 2, local_rank))
        monkeypatch.setattr(
            pyramid, "read_images", lambda r, indices: read.extend(indices) or Pyramid.read_images(pyramid, r, indices)
        )
        feeder.start_stage(16)
        if feeder.loader:
            feeder.loader.join()
        assert read == list(range(expected)) and feeder.level is None  # main memory holds no copy
        read.clear()


def test_a_level_may_take_a_quarter_of_a_gpus_usable_memory(monkeypatch):
    monkeypatch.setattr(feeding, "read_usable_memory", lambda device: 400)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert feeding.fits_on_gpu(100, cuda) and not feeding.fits_on_gpu(101, cuda) and not feeding.fits_on_gpu(1, cpu)


@pytest.mark.parametrize(
    "error, is_raised", [(torch.OutOfMemoryError, False), (MemoryError, False), (RuntimeError, True)]
)
def test_batches_come_from_the_cache_if_the_device_runs_out_of_memory(
    pyramid, on_device, monkeypatch, error, is_raised
):
    feeder = Feeder(pyramid, 0, torch.device("cpu"))
    feeder.resolution = 16

    def fail(*_):
        raise error("...")

    monkeypatch.setattr(pyramid, "read_images", fail)
    with pytest.raises(error) if is_raised else nullcontext():
        feeder.load_level(16, on_device)
    assert feeder.level is None


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
