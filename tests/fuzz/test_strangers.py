"""Malicious files: rejected with a one-line error, without running code, and within bounded memory and time."""

import builtins
import contextlib
import io
import math
import os
import pickle
import struct
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from test_fuzz import (
    EXPECTED_ERRORS,
    encode_image,
    limit_memory,
    make_content,
    make_npz,
    make_tar,
    make_zip,
    read_checkpoint,
    read_dataset,
    read_grid,
    read_image,
    read_image_for_metrics,
    read_images,
    read_log,
    read_options,
    read_other_weights,
    read_records,
    read_statistics,
    read_target,
    resume_run,
    serialize,
)

pytestmark = pytest.mark.faults
assert limit_memory  # a fixture, which the test requests by name
CANARY = Path("/tmp/pggan-a-stranger-was-here")


class Calls:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


HARM = f"touch {CANARY}"
CODE = {
    "os.system": Calls(os.system, HARM),
    "eval": Calls(eval, f"__import__('os').system('{HARM}')"),
    "exec": Calls(exec, f"import os; os.system('{HARM}')"),
    "getattr": Calls(builtins.getattr, Calls(__import__, "os"), "system"),
    "nested": Calls(tuple, [Calls(map, os.system, [HARM])]),
    "in a tensor": {"w": [torch.ones(1), Calls(os.system, HARM)]},
}


def make_checkpoint(**parts):
    return serialize({"format": "pggan-checkpoint", "version": 1, **make_content(), **parts})


def make_billion_laughs():
    part = ["ha"]
    for _ in range(40):
        part = [part] * 10
    return part


def nest_lists(value=(), levels=200):
    for _ in range(levels):
        value = [value]
    return value


def make_compressed_checkpoint():
    """Return a checkpoint with 256 MB of compressed zeros as its largest tensor."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(make_checkpoint())) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(1 << 28) if name.endswith("data/0") else old.read(name))
    return file.getvalue()


def make_large_structure():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as new:
        new.writestr("archive/data.pkl", b"\x80\x02" + b"]" * (20 << 20) + b".")
        new.writestr("archive/version", "3\n")
    return file.getvalue()


def make_png_declaring(width, height):
    """Return a small PNG that declares this size in its header."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes(1000))
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def make_npz_declaring(shape):
    """Return a small .npz that declares this shape for its array."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return make_zip({"images.npy": header.getvalue() + bytes(64)})


def make_tar_with_link(kind):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return file.getvalue()


def make_zip_with_link():
    info = zipfile.ZipInfo("a.png")
    info.external_attr = 0o120777 << 16
    return make_zip({info: b"/etc/passwd"})


def declare_size(data, size):
    """Return a zip that declares this unpacked size for its first member."""
    place = data.rindex(b"PK\x01\x02") + 24
    return data[:place] + struct.pack("<I", size) + data[place + 4 :]


def make_record_with_many_keys():
    """Return a TFRecord of 1 MB with 250,000 keys and as many values for each."""
    entry = b"\x0a\x00\x12\x00" * 250_000

    def field(content):
        size, head = len(content), b""
        while size > 127:
            head, size = head + bytes([size & 127 | 128]), size >> 7
        return b"\x0a" + head + bytes([size]) + content

    message = field(field(entry))
    return (len(message).to_bytes(8, "little") + bytes(4) + message + bytes(4)) * 2


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(%pipe%" + HARM.encode() + b") (w) file\n"
FILES = {
    **{
        f"checkpoint, {n}": (".pt", lambda e=code: make_checkpoint(classes=[e]), read_checkpoint)
        for n, code in CODE.items()
    },
    **{f"run to resume, {n}": (".pt", lambda e=code: make_checkpoint(extra=e), resume_run) for n, code in CODE.items()},
    **{f"pickle, {n}": (".pt", lambda e=code: pickle.dumps(e), read_checkpoint) for n, code in CODE.items()},
    **{f"snapshot, {n}": (".pkl", lambda e=code: pickle.dumps(e), read_other_weights) for n, code in CODE.items()},
    **{
        f"others' weights, {n}": (".pth", lambda e=code: serialize({"a": e}), read_other_weights)
        for n, code in CODE.items()
    },
    "checkpoint, compressed bomb": (".pt", make_compressed_checkpoint, read_checkpoint),
    "checkpoint, 20 MB of empty lists": (".pt", make_large_structure, read_checkpoint),
    "checkpoint, exponentially nested lists": (
        ".pt",
        lambda: make_checkpoint(classes=make_billion_laughs()),
        read_checkpoint,
    ),
    "checkpoint, deeply nested lists": (".pt", lambda: make_checkpoint(classes=nest_lists()), read_checkpoint),
    "checkpoint, tensor of 8 TB": (
        ".pt",
        lambda: make_checkpoint(state={"G": {"w": torch.zeros(1, dtype=torch.float64).expand(10**12)}}),
        read_checkpoint,
    ),
    "checkpoint, network of 2^31 maps": (
        ".pt",
        lambda: make_checkpoint(
            networks={"generator": {"resolution": 8, "channels": 3, "fmap_max": 2**31, "fmap_base": 2**40}}
        ),
        read_checkpoint,
    ),
    "npz, 100 TB declared": (".npz", lambda: make_npz_declaring((10**9, 256, 256, 3)), read_dataset),
    "npz for metrics, 100 TB declared": (".npz", lambda: make_npz_declaring((10**9, 256, 256, 3)), read_images),
    "npz, negative shape": (".npz", lambda: make_npz_declaring((-1, 8, 8, 3)), read_dataset),
    "npz, overflowing shape": (".npz", lambda: make_npz_declaring((2**32, 2**32, 2**32, 3)), read_dataset),
    "npz, objects": (".npz", lambda: make_npz(images=np.array([CODE["os.system"]], dtype=object)), read_dataset),
    "statistics, objects": (
        ".npz",
        lambda: make_npz(mu=np.array([CODE["os.system"]], dtype=object), sigma=np.eye(1)),
        read_statistics,
    ),
    "npz, 1.5 GB of zeros": (
        ".npz",
        lambda: make_zip({"images.npy": make_npy_zeros((8 << 20, 8, 8, 3))}),
        read_dataset,
    ),
    "zip, 3 GB declared": (".zip", lambda: declare_size(make_zip({"a.png": encode_image()}), 3 << 30), read_dataset),
    "zip for metrics, 3 GB declared": (
        ".zip",
        lambda: declare_size(make_zip({"a.png": encode_image()}), 3 << 30),
        read_images,
    ),
    "zip, link": (".zip", make_zip_with_link, read_dataset),
    "tar, link": (".tar", lambda: make_tar_with_link(tarfile.SYMTYPE), read_dataset),
    "tar, hard link": (".tar", lambda: make_tar_with_link(tarfile.LNKTYPE), read_dataset),
    "tar, device": (".tar", lambda: make_tar_with_link(tarfile.CHRTYPE), read_dataset),
    "image, 10^9 pixels": (".png", lambda: make_png_declaring(40000, 40000), read_image),
    "image, 2^62 pixels": (".png", lambda: make_png_declaring(2**31 - 1, 2**31 - 1), read_image),
    "image, a PostScript program": (".png", lambda: EPS, read_image),
    "image for metrics, a PostScript program": (".png", lambda: EPS, read_image_for_metrics),
    "image for metrics in a zip, a PostScript program": (".zip", lambda: make_zip({"a.png": EPS}), read_images),
    "image for project, a PostScript program": (".png", lambda: EPS, read_target),
    "image for grow, a PostScript program": (".png", lambda: EPS, read_grid),
    "image for project, 10^9 pixels": (".png", lambda: make_png_declaring(40000, 40000), read_target),
    "tfrecords, a quarter of a million keys": (".tfrecords", make_record_with_many_keys, read_records),
    "npz for metrics, an image of 1.5 GB": (
        ".npz",
        lambda: make_zip({"images.npy": make_npy_zeros((1, 1500 << 10, 1024))}),
        read_images,
    ),
    "config.json, 100 MB": (".json", lambda: b'{"seed": "' + b"9" * (100 << 20) + b'"}', read_options),
    "config.json, deeply nested": (".json", lambda: b"[" * 200_000, read_options),
    "config.json, a number with a million digits": (".json", lambda: b'{"seed": ' + b"9" * 10**6 + b"}", read_options),
    "log.jsonl, 100 MB": (".jsonl", lambda: b'{"images": 1}\n' * (8 << 20), read_log),
}


def make_npy_zeros(shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue() + bytes(math.prod(shape))


@pytest.fixture
def isolate(tmp_path, monkeypatch):
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    CANARY.unlink(missing_ok=True)
    ghostscript = tmp_path / "bin" / "gs"  # Pillow starts it for EPS files
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {CANARY}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ghostscript.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)


def test_the_postscript_program_would_start_ghostscript(isolate, tmp_path):
    (tmp_path / "a.png").write_bytes(EPS)
    with contextlib.suppress(OSError), Image.open(tmp_path / "a.png") as image:
        image.load()
    assert CANARY.exists(), "the file is harmless, so the tests below prove nothing"
    CANARY.unlink()


LARGE = [name for name in FILES if "GB of zeros" in name or "1.5 GB" in name or "100 MB" in name or "bomb" in name]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] if n in LARGE else []) for n in FILES])
def test_malicious_file_is_rejected(name, isolate, tmp_path, count_fault, request):
    suffix, make, reader = FILES[name]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(make())
    request.getfixturevalue("limit_memory")
    start = time.perf_counter()
    with pytest.raises(EXPECTED_ERRORS) as error:
        reader(path)
    assert time.perf_counter() - start < 20 and not CANARY.exists()
    assert "\n" not in str(error.value).split(":\n")[0] and len(str(error.value)) < 1000
    count_fault("malicious files")


def test_archive_members_outside_the_archive_are_not_written(isolate, tmp_path, count_fault):
    for make in (make_zip, make_tar):
        inside = tmp_path / "a" / "b"
        inside.mkdir(parents=True, exist_ok=True)
        path = inside / "set.zip"
        names = ("../../escaped.png", "/tmp/pggan-escaped.png", "c\n.png")
        path.write_bytes(make(dict.fromkeys(names, encode_image())))
        read_dataset(path)
        assert not list(tmp_path.glob("escaped*")) and not Path("/tmp/pggan-escaped.png").exists()
        count_fault("malicious files")


@pytest.mark.parametrize("reader", [read_dataset, read_images])
@pytest.mark.parametrize("file_type", ["pipe", "endless", "loop"])
def test_special_files_in_a_folder_do_not_block_reading(reader, file_type, isolate, tmp_path, count_fault):
    folder = tmp_path / "art"
    folder.mkdir()
    special = folder / "z.png"
    if file_type == "pipe":
        os.mkfifo(special)
    else:
        special.symlink_to("/dev/zero" if file_type == "endless" else special)
    for name in "ab":
        (folder / f"{name}.png").write_bytes(encode_image())
    start = time.perf_counter()
    try:
        reader(folder)
    except EXPECTED_ERRORS as error:
        assert "z.png" in str(error)
    assert time.perf_counter() - start < 20
    count_fault("malicious files")
