"""Malicious files: rejected with a one-line error, without running code, and within bounded memory and time."""

import builtins
import io
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
from test_fuzz import (
    REFUSALS,
    arrays,
    bounded,
    content,
    png,
    read_checkpoint,
    read_image,
    read_images,
    read_log,
    read_options,
    read_others,
    read_set,
    read_statistics,
    resume_run,
    saved,
    tarred,
    zipped,
)

pytestmark = pytest.mark.faults
assert bounded
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


def whole(**parts):
    return saved({"format": "pggan-checkpoint", "version": 1, **content(), **parts})


def laughs():
    part = ["ha"]
    for _ in range(40):
        part = [part] * 10
    return part


def deep(value=(), levels=200):
    for _ in range(levels):
        value = [value]
    return value


def packed_checkpoint():
    """Return a checkpoint with 256 MB of compressed zeros as its largest tensor."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole())) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(1 << 28) if name.endswith("data/0") else old.read(name))
    return file.getvalue()


def large_structure():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as new:
        new.writestr("archive/data.pkl", b"\x80\x02" + b"]" * (20 << 20) + b".")
        new.writestr("archive/version", "3\n")
    return file.getvalue()


def header_of(width, height):
    """Return a small PNG that declares this size in its header."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes(1000))
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def claiming(shape):
    """Return a small .npz that declares this shape for its array."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return zipped({"images.npy": header.getvalue() + bytes(64)})


def linked(kind):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return file.getvalue()


def link_in_zip():
    info = zipfile.ZipInfo("a.png")
    info.external_attr = 0o120777 << 16
    return zipped({info: b"/etc/passwd"})


def false_size(data, size):
    """Return a zip that declares this unpacked size for its first member."""
    place = data.rindex(b"PK\x01\x02") + 24
    return data[:place] + struct.pack("<I", size) + data[place + 4 :]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(%pipe%" + HARM.encode() + b") (w) file\n"
FILES = {
    **{f"checkpoint, {n}": (".pt", lambda e=evil: whole(classes=[e]), read_checkpoint) for n, evil in CODE.items()},
    **{f"run to resume, {n}": (".pt", lambda e=evil: whole(extra=e), resume_run) for n, evil in CODE.items()},
    **{f"pickle, {n}": (".pt", lambda e=evil: pickle.dumps(e), read_checkpoint) for n, evil in CODE.items()},
    **{f"snapshot, {n}": (".pkl", lambda e=evil: pickle.dumps(e), read_others) for n, evil in CODE.items()},
    **{f"others' weights, {n}": (".pth", lambda e=evil: saved({"a": e}), read_others) for n, evil in CODE.items()},
    "checkpoint, packed to a bomb": (".pt", packed_checkpoint, read_checkpoint),
    "checkpoint, 20 MB of empty lists": (".pt", large_structure, read_checkpoint),
    "checkpoint, lists of lists of lists": (".pt", lambda: whole(classes=laughs()), read_checkpoint),
    "checkpoint, lists in one another": (".pt", lambda: whole(classes=deep()), read_checkpoint),
    "checkpoint, tensor of 8 TB": (
        ".pt",
        lambda: whole(state={"G": {"w": torch.zeros(1, dtype=torch.float64).expand(10**12)}}),
        read_checkpoint,
    ),
    "checkpoint, network of 2^31 maps": (
        ".pt",
        lambda: whole(networks={"generator": {"resolution": 8, "channels": 3, "fmap_max": 2**31, "fmap_base": 2**40}}),
        read_checkpoint,
    ),
    "npz, 100 TB claimed": (".npz", lambda: claiming((10**9, 256, 256, 3)), read_set),
    "npz to judge, 100 TB claimed": (".npz", lambda: claiming((10**9, 256, 256, 3)), read_images),
    "npz, negative shape": (".npz", lambda: claiming((-1, 8, 8, 3)), read_set),
    "npz, overflowing shape": (".npz", lambda: claiming((2**32, 2**32, 2**32, 3)), read_set),
    "npz, objects": (".npz", lambda: arrays(images=np.array([CODE["os.system"]], dtype=object)), read_set),
    "statistics, objects": (
        ".npz",
        lambda: arrays(mu=np.array([CODE["os.system"]], dtype=object), sigma=np.eye(1)),
        read_statistics,
    ),
    "npz, 1.5 GB of zeros": (".npz", lambda: zipped({"images.npy": npy_zeros(1500 << 20)}), read_set),
    "zip, 3 GB claimed": (".zip", lambda: false_size(zipped({"a.png": png()}), 3 << 30), read_set),
    "zip to judge, 3 GB claimed": (".zip", lambda: false_size(zipped({"a.png": png()}), 3 << 30), read_images),
    "zip, link": (".zip", link_in_zip, read_set),
    "tar, link": (".tar", lambda: linked(tarfile.SYMTYPE), read_set),
    "tar, hard link": (".tar", lambda: linked(tarfile.LNKTYPE), read_set),
    "tar, device": (".tar", lambda: linked(tarfile.CHRTYPE), read_set),
    "image, 10^9 pixels": (".png", lambda: header_of(40000, 40000), read_image),
    "image, 2^62 pixels": (".png", lambda: header_of(2**31 - 1, 2**31 - 1), read_image),
    "image, a program": (".png", lambda: EPS, read_image),
    "config.json, 100 MB": (".json", lambda: b'{"seed": "' + b"9" * (100 << 20) + b'"}', read_options),
    "config.json, deep": (".json", lambda: b"[" * 200_000, read_options),
    "config.json, a number of a million digits": (".json", lambda: b'{"seed": ' + b"9" * 10**6 + b"}", read_options),
    "log.jsonl, 100 MB": (".jsonl", lambda: b'{"images": 1}\n' * (8 << 20), read_log),
}


def npy_zeros(size):
    header = io.BytesIO()
    shape = (size // 192, 8, 8, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue() + bytes(shape[0] * 192)


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    CANARY.unlink(missing_ok=True)


LARGE = [name for name in FILES if "GB of zeros" in name or "100 MB" in name or "bomb" in name]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] if n in LARGE else []) for n in FILES])
def test_a_file_made_to_harm_is_refused(name, quiet, tmp_path, count_fault, request):
    suffix, make, reader = FILES[name]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(make())
    request.getfixturevalue("bounded")
    start = time.perf_counter()
    with pytest.raises(REFUSALS) as refusal:
        reader(path)
    assert time.perf_counter() - start < 20 and not CANARY.exists()
    assert "\n" not in str(refusal.value).split(":\n")[0] and len(str(refusal.value)) < 1000
    count_fault("files made to harm")


def test_names_that_lead_elsewhere_lead_nowhere(quiet, tmp_path, count_fault):
    for make in (zipped, tarred):
        inside = tmp_path / "a" / "b"
        inside.mkdir(parents=True, exist_ok=True)
        path = inside / "set.zip"
        path.write_bytes(make({"../../escaped.png": png(), "/tmp/pggan-escaped.png": png(), "c\n.png": png()}))
        read_set(path)
        assert not list(tmp_path.glob("escaped*")) and not Path("/tmp/pggan-escaped.png").exists()
        count_fault("files made to harm")


@pytest.mark.parametrize("reader", [read_set, read_images])
@pytest.mark.parametrize("what", ["pipe", "endless", "loop"])
def test_what_is_no_file_in_a_folder_is_not_waited_for(reader, what, quiet, tmp_path, count_fault):
    folder = tmp_path / "art"
    folder.mkdir()
    odd = folder / "z.png"
    if what == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/dev/zero" if what == "endless" else odd)
    for name in "ab":
        (folder / f"{name}.png").write_bytes(png())
    start = time.perf_counter()
    try:
        reader(folder)
    except REFUSALS as refusal:
        assert "z.png" in str(refusal)
    assert time.perf_counter() - start < 20
    count_fault("files made to harm")
