"""The reader for untrusted pickles, with benign and hostile ones."""

import io
import os
import pickle
import struct
import sys
import time
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest

from pggan.untrusted.pickles import Record, UntrustedFileError, read_snapshot

PLAIN = {
    "numbers": [1, -5, 2**40, -(2**70), 1.5, True, None],
    "text": ("a", "\u00e4\u20ac", b"\x00\xff", "x" * 300),
    "nested": [[], {}, (), (1, (2, [3])), {"a": {"b": (1, 2, 3, 4)}}],
    "ordered": OrderedDict(),
}
ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    np.arange(4, dtype=">i2"),
    np.array(2.5),
    np.array([True, False]),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_and_arrays_are_read_as_pickle_reads_them(protocol):
    assert read_snapshot(pickle.dumps(PLAIN, protocol)) == PLAIN
    for array in ARRAYS:
        read = read_snapshot(pickle.dumps([array, array], protocol))
        assert read[0] is read[1] or protocol < 2
        assert np.array_equal(read[0], array) and read[0].dtype == array.dtype and read[0].shape == array.shape
    assert read_snapshot(pickle.dumps(np.float32(0.25), protocol)) == 0.25


def test_python_2_pickles_are_read():
    """Read protocol 2 as Python 2 wrote it: byte strings, NumPy's old module names, numeric type flags."""
    string = lambda text: b"U" + bytes([len(text)]) + text  # noqa: E731
    pickled = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R(K\x01"
        b"K\x02\x85cnumpy\ndtype\n" + string(b"f4") + b"K\x00K\x01\x87R(K\x03" + string(b"<") + b"NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89" + string(struct.pack("<2f", 1.5, -2.0)) + b"tb."
    )
    assert read_snapshot(pickled).tolist() == [1.5, -2.0]
    assert pickle.loads(pickled, encoding="latin1").tolist() == [1.5, -2.0]
    assert read_snapshot(b"\x80\x02" + string(b"\xe9t\xe9") + b".") == "été"


class Network:
    def __init__(self):
        self.weight = np.ones(3, np.float32)


def test_listed_classes_become_records_of_their_state():
    name = f"{__name__}.Network"
    for protocol in (2, 4):
        record = read_snapshot(pickle.dumps([Network()], protocol), records=(name,))[0]
        assert isinstance(record, Record) and record.name == name
        assert record.state["weight"].tolist() == [1, 1, 1]


class RunsOnLoad:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def make_hostile_pickles():
    yield "posix.system", pickle.dumps(RunsOnLoad(os.system, "touch pwned"))
    yield "eval", pickle.dumps({"G": RunsOnLoad(eval, "open('pwned', 'w')")}, 2)
    yield "exec", pickle.dumps([RunsOnLoad(exec, "open('pwned', 'w')")], 0)
    yield "io.open", pickle.dumps(RunsOnLoad(io.open, "pwned", "w"), 4)
    yield "os.system", b"cos\nsystem\n(S'touch pwned'\ntR."
    yield "os.system", b"(S'touch pwned'\nios\nsystem\n."  # INST
    yield "os.system", b"(cos\nsystem\nS'touch pwned'\no."  # OBJ
    yield "opcode", b"\x80\x02\x82\x01."  # EXT1, from copyreg's registry
    yield "opcode", b"Popen\n."  # PERSID
    yield "numpy.ndarray", b"cnumpy\nndarray\n(tR."
    yield "numpy.load", b"cnumpy\nload\n(S'pwned'\ntR."
    yield "a non-numeric dtype", b"cnumpy\ndtype\n(S'O'\ntR."
    yield "builtins.getattr", pickle.dumps(RunsOnLoad(getattr, "", "__class__"))
    yield "builtins.dict", b"cbuiltins\ndict\n."  # referred to, but not called
    yield "damaged", b"(lp0\n(dp1\nb."  # BUILD on a list
    yield "damaged", pickle.dumps(PLAIN)[:-20]
    yield "damaged", b"\x80\x04]\x94(K\x01K\x02e"  # no STOP
    yield "too deeply nested", b"K\x01" + b"\x85" * 100_000 + b"."  # nested tuples
    yield "too deeply nested", b"]q\x00h\x00a."  # a list that contains itself
    yield "refers to x{100}, which", b"c" + b"x" * 1000 + b"\nsystem\n."


@pytest.mark.parametrize("message, pickled", list(make_hostile_pickles()))
def test_nothing_in_a_hostile_pickle_runs(message, pickled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UntrustedFileError, match=message) as error:
        read_snapshot(pickled)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def make_array_claiming(shape, dtype="f4", content=b"1234"):
    """Return a pickled array with a shape that needs more bytes than it has."""
    good = pickle.dumps(np.zeros(1, dtype), 2)
    assert b"K\x01\x85" in good
    shapes = b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in shape) + b"t"
    return good.replace(b"K\x01\x85", shapes, 1)


SHARED = b"K\x01" + b"".join(b"q\x00h\x00\x86" for _ in range(60))  # a tuple of twice the same tuple, 60 deep


def make_slow_pickles():
    """Yield pickles of up to 10 MB that would take hours to read, and which part of them is slow."""
    yield "hashing a key in SETITEM", b"}" + SHARED + b"K\x01s."
    yield "hashing a key in SETITEMS", b"}(" + SHARED + b"K\x01u."
    yield "hashing a key in DICT", b"(" + SHARED + b"K\x01d."
    yield "formatting a class's name", SHARED + b"\x8c\x01x\x93."
    yield "hashing a byte order", b"cnumpy\ndtype\n(X\x02\0\0\0f4K\x00K\x01tR(K\x03" + SHARED + b"tb."
    yield "comparing a class", b"cnumpy.core.multiarray\n_reconstruct\n" + SHARED + b"\x85R."
    # multiples of 2^61 - 1 all have the hash 0
    keys = b"".join(b"\x8a\x0b" + (n * (2**61 - 1)).to_bytes(11, "little") + b"N" for n in range(8, 300_000))
    yield "keys with colliding hashes", b"}(" + keys + b"u."
    yield "executing millions of opcodes", b"]" + b"N0" * 5_000_000 + b"."
    yield "visiting shared lists", b"]" + b"".join(b"q\x00]h\x00ah\x00a" for _ in range(60)) + b"."


@pytest.mark.parametrize(
    "part, pickled", list(make_slow_pickles()), ids=lambda value: value if type(value) is str else ""
)
def test_time_is_bounded_by_the_file(part, pickled):
    start = time.perf_counter()
    with pytest.raises(UntrustedFileError):
        read_snapshot(pickled)
    assert time.perf_counter() - start < 10


def make_bombs():
    yield make_array_claiming([2**40])
    yield make_array_claiming([2**31, 2**31])
    yield b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc."  # BINBYTES8 of a terabyte
    yield b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc."  # BYTEARRAY8
    yield b"K\x01r\xff\xff\xff\x7f" + b"."  # a memo entry of number 2^31: gigabytes in C's unpickler
    yield SHARED + b"."  # 2^60 leaves
    text = b"X" + struct.pack("<I", 10**5) + b"x" * 10**5  # converted to bytes 1,000 times
    yield b"]q\x00(" + text + b"q\x010" + 1000 * b"c_codecs\nencode\nh\x01X\x06\0\0\0latin1\x86R" + b"e."


@pytest.mark.parametrize("pickled", list(make_bombs()))
def test_memory_is_bounded_by_the_file(pickled):
    tracemalloc.start()
    try:
        read_snapshot(pickled)
    except UntrustedFileError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10e6 and sys.getsizeof(pickled) < 10e6
