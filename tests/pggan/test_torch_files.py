"""The reader for untrusted torch files: the same tensors as torch.load, and bounded time and memory."""

import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict

import pytest
import torch

from pggan.checkpoints import CheckpointError
from pggan.checkpoints import load as load_checkpoint
from pggan.interop import WeightsError, read_weights
from pggan.metrics import MetricError
from pggan.metrics.weights import read_state_dict
from pggan.untrusted.pickles import UntrustedFileError
from pggan.untrusted.torch_files import DTYPES, read_torch_file

SHARED = b"K\x01" + b"".join(b"q\x00h\x00\x86" for _ in range(60))  # a tuple of twice the same tuple, 60 deep


def make_content():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer = torch.optim.Adam(network.parameters(), betas=(0.0, 0.99))
    optimizer.step()
    shared = torch.arange(12.0)
    return {
        "state": network.state_dict(),  # an OrderedDict with the attribute _metadata
        "optimizer": optimizer.state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "strided": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "views": [shared[2:5], shared.view(3, 4).T, shared[:0]],
        "empty": torch.zeros(0, 5),
        "scalar": torch.tensor(1.5, dtype=torch.float64),
        "dtypes": [torch.ones(3).to(dtype) for dtype in DTYPES.values()],
        "plain": OrderedDict(a=[1, 2.5, None, True, "é", (2**40, -1)], b={4: 0.001}),
    }


def assert_equal(read, expected):
    if isinstance(expected, torch.Tensor):
        assert type(read) is torch.Tensor and not read.requires_grad and read.stride() == expected.stride()
        assert read.dtype == expected.dtype and torch.equal(read, expected.detach())
    elif isinstance(expected, (dict, list, tuple)):
        assert len(read) == len(expected)
        pairs = expected.items() if isinstance(expected, dict) else enumerate(expected)
        for key, value in pairs:
            assert_equal(read[key], value)
    else:
        assert type(read) is type(expected) and read == expected


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_and_plain_data_are_read_as_torch_reads_them(zipped, tmp_path):
    torch.save(make_content(), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    read = read_torch_file(tmp_path / "a.pt")
    assert_equal(read, torch.load(tmp_path / "a.pt", weights_only=True))
    views = read["views"]
    assert views[0].untyped_storage().data_ptr() == views[1].untyped_storage().data_ptr(), "storages stay shared"


@pytest.mark.parametrize("zipped", [True, False])
def test_every_flipped_or_missing_byte_is_found_or_harmless(zipped, tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.arange(3.0), "n": 5}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place])
        with pytest.raises(UntrustedFileError):
            read_torch_file(path)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            read = read_torch_file(path)
        except UntrustedFileError:
            continue
        if zipped:  # the older format has no checksums
            assert_equal(read, {"w": torch.arange(3.0), "n": 5})  # the byte was padding


def make_file(pickled, members=()):
    """Return a torch file with this data.pkl and further members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little", **dict(members)}.items():
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()


def make_tensor_pickle(size, stride=(1,), offset=0, count=1, kind="FloatStorage"):
    """Return a data.pkl with one tensor that claims this shape on a storage of `count` elements."""

    def number(n):
        return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(X\x07\0\0\0storagectorch\n" + kind.encode() + b"\nX\x01\0\0\0" + b"0X\x03\0\0\0cpu" + number(count)
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ" + number(offset) + numbers(size)
        + numbers(stride) + b"\x89ccollections\nOrderedDict\n)Rt" + b"R."
    )  # fmt: skip


class Calls:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def make_overlapping_members():
    """Return a zip whose list names the same 1 MB of data as 4,000 members: 4 GB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(1 << 20))
        first = archive.getinfo("archive/data/0")
        for number in range(1, 4000):
            copy = zipfile.ZipInfo(f"archive/data/{number}")
            copy.header_offset, copy.file_size, copy.compress_size = first.header_offset, 1 << 20, 1 << 20
            copy.CRC = first.CRC
            archive.filelist.append(copy)
    return file.getvalue()


ONE = [("data/0", bytes(4))]
HOSTILE = {
    "bytearray of 4 GB": make_file(pickle.dumps({"a": Calls(bytearray, 4 << 30)}, 2)),
    "bytes of 4 GB": make_file(pickle.dumps({"a": Calls(bytes, 4 << 30)}, 2)),
    "code": make_file(pickle.dumps([Calls(os.system, "touch pwned")], 2)),
    "a key that takes years to hash": make_file(b"\x80\x02}" + SHARED + b"K\x01s."),
    "a set that takes years to hash": make_file(b"\x80\x02cbuiltins\nset\n(]" + SHARED + b"atR."),
    "an element repeated to terabytes": make_file(make_tensor_pickle([2**40], [0]), ONE),
    "more elements than the storage": make_file(make_tensor_pickle([2]), ONE),
    "a storage of another size": make_file(make_tensor_pickle([2**40], count=2**40), ONE),
    "an offset beyond the storage": make_file(make_tensor_pickle([1], offset=2**40), ONE),
    "a stride beyond the storage": make_file(make_tensor_pickle([2], [2**40], count=2), [("data/0", bytes(8))]),
    "a negative size": make_file(make_tensor_pickle([-1]), ONE),
    "sizes that overflow": make_file(make_tensor_pickle([2**62, 2**62, 0], [1, 1, 1]), ONE),
    "a missing storage": make_file(make_tensor_pickle([1])),
    "an unknown class of storage": make_file(make_tensor_pickle([1], kind="QInt8Storage"), ONE),
    "a storage outside a tensor": make_file(
        b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x01tQ.", ONE
    ),
    "one storage under many names": make_overlapping_members(),
    "a storage of a terabyte in the old format": (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\0\0\0little_endian\x88s."
        + make_tensor_pickle([2**38], count=2**38)
    ),
    "a text of 4 GB in the old format": (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02\x8d" + struct.pack("<Q", 4 << 30) + b"x."
    ),
}
READERS = {"checkpoint": (load_checkpoint, CheckpointError), "weights": (read_weights, WeightsError)}
READERS["Inception weights"] = read_state_dict, MetricError


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_rejected_in_bounded_time_and_memory(reader, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    path.write_bytes(HOSTILE[case])
    read, error = READERS[reader]
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(error) as raised:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 5 and peak < 20e6
    assert "\n" not in str(raised.value) and [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_a_torchscript_program_is_named_and_not_run(tmp_path):
    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    for read, error in READERS.values():
        with pytest.raises(error) as raised:
            read(path)
        assert read is load_checkpoint or "a TorchScript program" in str(raised.value)


@pytest.mark.parametrize("read, error", READERS.values(), ids=list(READERS))
def test_a_pipe_does_not_block(read, error, tmp_path):
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(error, match=r"a regular file|damaged|neither a file"):
        read(tmp_path / "a.pt")
