"""python -m datasets as a process: killed, run twice in parallel, on a full disk, with defective files."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Commands
from PIL import Image

from pggan.datasets import open_source


@pytest.fixture
def commands(tmp_path):
    """Return commands with an empty cache folder."""
    (tmp_path / "home").mkdir()
    return Commands(tmp_path, tmp_path / "home")


def run_datasets(commands, *arguments):
    return commands.run("-m", "datasets", *arguments)


def get_output(process):
    assert process.returncode == 0, process.err
    return process.out


def assert_rejected(process, *texts):
    assert process.returncode == 2, process.out + process.err
    assert "Traceback" not in process.err
    assert all(text in process.out + process.err for text in texts), process.out + process.err


def write_images(folder, count, size=(40, 30), seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"{i:05d}.png")


def list_caches(commands):
    return sorted(p.name for p in (commands.folder / "home" / "datasets").glob("*"))


def read_levels(commands):
    (folder,) = (commands.folder / "home" / "datasets").glob("*")
    return {p.name: p.read_bytes() for p in folder.glob("*.npy")}


def test_plan_build_verify_grid_clean(commands):
    write_images(commands.folder / "art" / "cat", 30)
    write_images(commands.folder / "art" / "dog", 20, seed=1)
    plan = get_output(run_datasets(commands, "plan", "art", "--resolution", "16", "--labels"))
    assert "50 in art, 2 classes" in plan and "all 40x30 pixels" in plan
    assert "0.1 MB; " in plan and "not built yet" in plan and list_caches(commands) == []
    assert_rejected(
        run_datasets(commands, "verify", "art", "--resolution", "16"), "there is no cache of art in its present state"
    )
    assert "50 images in " in get_output(run_datasets(commands, "build", "art", "--resolution", "16"))
    assert "already built" in get_output(run_datasets(commands, "plan", "art", "--resolution", "16"))
    assert "is intact: 50 images, 50 of them decoded again" in get_output(
        run_datasets(commands, "verify", "art", "--resolution", "16")
    )
    assert "9 images at 16x16 in grid.png\n" in get_output(
        run_datasets(commands, "grid", "art", "--resolution", "16", "--count", "9", "--out", "grid.png")
    )
    assert "9 images at 64x64 in large.png, 9 of them enlarged" in get_output(
        run_datasets(commands, "grid", "art", "--resolution", "64", "--count", "9", "--out", "large.png")
    )
    with Image.open(commands.folder / "grid.png") as grid:
        assert grid.size == (1008, 1008)
    listing = get_output(run_datasets(commands, "clean"))
    assert "art, 50 images" in listing and len(list_caches(commands)) == 1
    assert "art, 50 images  removed" in get_output(run_datasets(commands, "clean", listing.split()[0]))
    assert list_caches(commands) == []
    assert_rejected(run_datasets(commands, "clean", "nothing"), "there is no cache nothing")


def test_inspect_reports_the_files_of_a_folder_with_defects(commands):
    art = commands.folder / "art"
    write_images(art / "cat", 6)
    write_images(art / "dog", 3, (100, 50), seed=1)
    Image.new("L", (33, 64), 9).save(art / "dog" / "gray.png")
    shutil.copy(art / "cat" / "00002.png", art / "dog" / "copy.png")
    (art / "dog" / "empty.jpg").touch()
    (art / "dog" / "cut.png").write_bytes((art / "dog" / "00000.png").read_bytes()[:900])
    (art / "dog" / "song.jpg").write_bytes(b"ID3 not an image")
    Image.new("F", (50, 50), 0.5).save(art / "dog" / "float.tif")
    (art / "notes.txt").write_text("hello")
    out = get_output(run_datasets(commands, "inspect", "art", "--labels"))
    for text in (
        "15 in art",
        "40x30 to 100x50",
        "7 up to 16, 6 up to 32",
        "11 RGB, 1 F, 1 L",
        "2 of 13 images are gray",
        "duplicates  1",
        "dog/copy.png: same as art/cat/00002.png",
        "unreadable  4",
        "empty.jpg: empty file",
        "float.tif: 32-bit grayscale has no defined range",
        "cut.png: image file is truncated",
        "song.jpg: not an image",
        "other files 1",
        "notes.txt",
    ):
        assert text in out, (text, out)
    rows = [line.split() for line in out.splitlines() if line.startswith("  cat") or line.startswith("  dog")]
    assert [row[:2] for row in rows] == [["cat", "6"], ["dog", "9"]]


def test_inspect_accepts_the_synthetic_dataset(commands):
    out = get_output(run_datasets(commands, "inspect", "synthetic"))
    assert "unreadable  0" in out and "duplicates  0" in out


def test_inspect_reports_dark_16_bit_images(commands):
    (commands.folder / "scans").mkdir()
    for i in range(3):
        values = np.full((8, 8), 4095 - i, np.uint16)
        Image.fromarray(values).save(commands.folder / "scans" / f"{i}.png")
    assert "16-bit images reach at most 4095 of 65535" in get_output(run_datasets(commands, "inspect", "scans"))


def test_unreadable_files_are_rejected_unless_max_bad_allows_skipping_them(commands):
    write_images(commands.folder / "art", 20)
    (commands.folder / "art" / "bad.png").write_bytes(b"no")
    build = ["build", "art", "--resolution", "16"]
    assert_rejected(
        run_datasets(commands, *build), "1 of 21 images cannot be read", "--max-bad 4.8%", "bad.png: not an image"
    )
    process = run_datasets(commands, *build, "--max-bad", "4.8%")
    assert "20 images in " in get_output(process) and "1 cannot be read and are skipped" in process.err
    (report,) = (commands.folder / "home" / "datasets").glob("*/report.txt")
    assert "bad.png: not an image" in report.read_text()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["plan", "nowhere"], "nowhere does not exist; pass a folder"),
        (["build", "art", "--resolution", "30"], "30 is not a power of two"),
        (["build", "art", "--resolution", "64"], "20 of 20 images are smaller than 64x64"),
        (["plan", "art", "--resolution", "64"], "20 images are smaller than 64: pass --allow-upscale"),
        (["build", "art", "--background", "blurple"], "--background: 'blurple'"),
        (["build", "art", "--max-bad", "200%"], "max-bad"),
        (["grid", "art", "--out", "nowhere/x.png"], "cannot be written"),
        (["grid", "art", "--count", "0"], "--count"),
        (["inspect", "art", "--labels"], "--labels: 00000.png is not in a class folder"),
    ],
)
def test_errors_are_one_sentence(commands, arguments, text):
    write_images(commands.folder / "art", 20)
    assert_rejected(run_datasets(commands, *arguments), text)


def test_build_killed_repeatedly_writes_the_same_cache(commands, tmp_path):
    write_images(commands.folder / "art", 1500, (64, 64))
    arguments = ["-m", "datasets", "build", "art", "--resolution", "64", "--workers", "2"]
    kills, rng = 0, random.Random(time.time_ns())
    for _ in range(30):
        process = commands.start(*arguments)
        journal = next((commands.folder / "home" / "datasets").glob("*/journal"), None)
        before = journal.stat().st_size if journal else 0
        while process.poll() is None:  # until it has written more
            journal = next((commands.folder / "home" / "datasets").glob("*/journal"), None)
            if journal and journal.stat().st_size > before:
                break
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if kills == 4 or process.returncode == 0:
            break
    assert kills >= 2
    get_output(commands.run(*arguments))
    resumed = read_levels(commands)
    shutil.rmtree(commands.folder / "home")
    (commands.folder / "home").mkdir()
    get_output(commands.run(*arguments))
    assert read_levels(commands) == resumed and len(resumed) == 6


def test_ctrl_c_ends_a_build_quietly_and_the_next_build_resumes(commands):
    art, commands.is_new = commands.folder / "art", True
    write_images(art, 40, (160, 160))
    for number in range(40, 2000):
        os.link(art / f"{number % 40:05d}.png", art / f"{number:05d}.png")
    arguments = ["-m", "datasets", "build", "art", "--resolution", "64", "--workers", "2"]
    for _ in range(5):  # on a busy machine a build may finish before this test notices that it began
        process = commands.start(*arguments)
        while process.poll() is None and not list((commands.folder / "home" / "datasets").glob("*/journal")):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
        if process.returncode:
            break
        shutil.rmtree(commands.folder / "home" / "datasets")
    assert process.returncode == 130 and "Traceback" not in errors
    assert list_caches(commands)[0].startswith("building-")
    assert "unfinished" in get_output(run_datasets(commands, "clean"))
    assert "partly built" in get_output(run_datasets(commands, "plan", "art", "--resolution", "64"))
    assert "2000 images" in get_output(commands.run(*arguments))


def test_two_simultaneous_builds_share_one_cache(commands):
    write_images(commands.folder / "art", 600, (64, 64))
    arguments = ["-m", "datasets", "build", "art", "--resolution", "64", "--workers", "2"]
    processes = [commands.start(*arguments) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all("600 images in " in out for out, _ in outputs) and len(list_caches(commands)) == 1
    assert "is intact" in get_output(run_datasets(commands, "verify", "art", "--resolution", "64"))


def test_verify_detects_a_changed_folder(commands):
    write_images(commands.folder / "art", 20)
    get_output(run_datasets(commands, "build", "art", "--resolution", "16"))
    write_images(commands.folder / "art", 1, seed=5)
    assert_rejected(
        run_datasets(commands, "verify", "art", "--resolution", "16"), "there is no cache of art in its present state"
    )
    get_output(run_datasets(commands, "build", "art", "--resolution", "16"))
    assert len(list_caches(commands)) == 2


@pytest.mark.skipif(
    sys.platform != "linux" or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="needs Linux and permission to mount a small disk; test_pyramid.py simulates a full disk",
)
@pytest.mark.parametrize("count", [60, 15])
def test_full_disk_leaves_no_partial_files(commands, count):
    write_images(commands.folder / "art", count, (64, 64))  # 60 images do not fit; 15 would, if the disk were empty
    filled = "" if count == 60 else "head -c 150k /dev/zero > home/other; "
    script = f"mount -t tmpfs -o size=300k none home; {filled}{sys.executable} -m datasets build art --resolution 64"
    script += ' --workers 2; echo "exit $?"; find home -type f'
    process = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=commands.folder,
        env=commands.environment,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert "exit 2" in process.stdout and "Traceback" not in process.stderr, process.stdout + process.stderr
    assert "the image cache needs" in process.stderr and "free some space, or set PGGAN_CACHE" in process.stderr
    remaining = process.stdout.split("exit 2")[1].split()
    assert not [path for path in remaining if "datasets" in path]


def test_training_from_a_zip_resumes_from_a_folder_of_the_same_images(commands):
    write_images(commands.folder / "art" / "cat", 12)
    write_images(commands.folder / "art" / "dog", 12, seed=1)
    shutil.make_archive(str(commands.folder / "packed"), "zip", commands.folder / "art")
    options = """--resolution 8 --fmap-base 64 --fmap-max 8 --batch-size 8 --fade-kimg 0.1 --stabilize-kimg 0.1
        --metrics none --track none --labels --fit pad --background black --out run""".split()
    process = commands.train("packed.zip", *options)
    assert process.returncode == 0, process.err
    process = commands.train("art", *options)
    assert process.returncode == 0 and "resuming run" in process.err, process.err
    assert_rejected(commands.train("art", *options, "--fit", "stretch"), "--fit: pad -> stretch")


@pytest.mark.parametrize("out", ["reals.zip", "reals"])
def test_exported_images_are_those_of_training(commands, out):
    write_images(commands.folder / "art" / "cat", 5)
    write_images(commands.folder / "art" / "dog", 3, seed=1)
    options = ("art", "--resolution", "16", "--out", out)
    assert f"wrote 8 images of 16x16 pixels to {out}" in get_output(run_datasets(commands, "export", *options))
    levels = read_levels(commands)["0016.npy"]
    source = open_source(str(commands.folder / out))
    read = [np.asarray(source.read_image(i, 0, 3)).transpose(2, 0, 1) for i in range(len(source))]
    assert (np.stack(read) == np.load(io.BytesIO(levels))).all()
    assert_rejected(run_datasets(commands, "export", *options), f"--out: {out} exists already")
    labeled = "labeled" + Path(out).suffix
    get_output(run_datasets(commands, "export", *options[:3], "--labels", "--out", labeled))
    found = open_source(str(commands.folder / labeled), labels=True)
    assert found.classes == ["cat", "dog"] and found.labels.tolist() == [0] * 5 + [1] * 3
    assert not list(commands.folder.glob("*.part"))
