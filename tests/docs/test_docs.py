"""The commands and snippets in README.md and docs/ run, and their links resolve."""

import argparse
import re
import shutil
import sys
import urllib.parse
from pathlib import Path

import generated
import numpy as np
import pytest
import torch
from fences import PAGES, ROOT, read_blocks, read_commands
from PIL import Image

from pggan import Generator, checkpoints
from pggan.config import PRESETS, TrainConfig
from pggan.training import plan, train

TINY = {
    "resolution": 16,
    "fmap_base": 64,
    "fmap_max": 8,
    "batch_size": 8,
    "fade_kimg": 0.05,
    "stabilize_kimg": 0.05,
    "tick_kimg": 0.05,
    "lr": 0.001,
    "metrics": "swd",
    "metric_images": 48,
    "track": "none",
    "device": "cpu",
    "holdout": "25%",
    "total_kimg": 0.3,
}
# run names used in the pages
RUNS = ("photos-64", "photos-ema", "faces-128", "cifar", "cifar10-fast", "another", "synthetic-10m")

# Options appended to the pages' commands so that each takes a second or two: later options win.
SHORTENED = {
    "python -m pggan sample": "--count 12 --truncation 1",
    "python -m pggan interpolate": "--frames 2",
    "python -m pggan fade": "--frames 2 --seeds 0,1",
    "python -m pggan evaluate": "--num-images 32 --num-reals 32 --metrics swd --data synthetic",
    "python -m pggan compare": "--num-images 32 --num-reals 32 --metrics swd --data synthetic --force",
    "python -m pggan project": "--steps 2 --searches 2",
    "python -m pggan upscale": "--steps 2 --searches 2 --tolerance 255",
    "python -m metrics stats": None,
    "python -m metrics": "--num-images 32 --metrics swd",
    "python -m datasets": None,
}
ONLY_PARSED = {  # commands that take minutes, or need something that a test machine may lack
    "python -m pggan explore": "serves until Ctrl-C",
    "python -m pggan nearest": "needs the Inception weights",
    "python -m pggan perceptual": "needs the LPIPS weights",
    "python -m metrics stats": "needs the Inception weights",
    "python -m metrics photos.npz": "needs the output of stats",
    "python -m metrics .assets": "needs downloaded images",
    "python -m datasets clean": "would delete the reader's caches",
}
OTHER_PROGRAMS = {"make", "pip", "npm", "tar", "git", "source", "cd", "ssh", "wandb", "hf", "export", "mkdir", "sbatch"}


class OptionsParsed(Exception):
    """Stop a command once its options are parsed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cache):
    """Yield a folder with everything that the pages' commands use: images, runs, latents."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PGGAN_CACHE", str(cache))
        torch.set_num_threads(1)
        with np.load(ROOT / "tests" / "golden" / "cifar10_64.npz") as file:
            for name, split in (("photos", "train"), ("generated", "test")):
                for i, image in enumerate(file[split].transpose(0, 2, 3, 1)):
                    path = Path(name, str(i % 4), f"{i:02d}.png")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image).save(path)
        shutil.copytree("photos", "new_photos")
        Image.open("photos/0/00.png").resize((16, 16)).save("ship.png")
        Image.open("photos/0/00.png").resize((4, 4)).save("ship-4x4.png")
        shutil.copy("ship-4x4.png", "small.png")
        shutil.make_archive("photos", "zip", "photos")
        np.savez("generated.npz", np.zeros((40, 32, 32, 3), np.uint8))
        np.savez("mnist.npz", x=np.zeros((40, 28, 28), np.uint8), y=np.arange(40) % 10)
        train(TrainConfig(data="synthetic", out="runs/tiny", channels=3, power_ema=True, **TINY))
        for name in RUNS:
            kept = Path(shutil.copytree("runs/tiny", f"runs/{name}"), "checkpoints")
            for stage in ("0032", "0064"):
                shutil.copy(kept / "stage-0016.pt", kept / f"stage-{stage}.pt")
        found = Path("runs/cifar/outputs/project-32x32-72kimg-ship")
        found.mkdir(parents=True)
        np.savez(found / "latents.npz", latents=np.ones((4, 8), np.float32))
        arguments = {"resolution": 8, "channels": 1, "label_size": 10, "fmap_base": 32, "fmap_max": 8}
        content = {
            "images": 0,
            "stage": {"resolution": 8, "alpha": 1.0},
            "config": {},
            "networks": {"generator": arguments},
            "classes": list("0123456789"),
            "state": {"G_ema": Generator(**arguments).state_dict()},
        }
        Path("runs/digits/checkpoints").mkdir(parents=True)
        checkpoints.save(Path("runs/digits/checkpoints/latest.pt"), content)
        yield folder


@pytest.fixture
def enter_folder(folder, cache, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PGGAN_CACHE", str(cache))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(plan, "DRY_RUN_SECONDS", 3)
    return folder


def find_program(words):
    """Return (name, main, arguments) of this project's command, also behind a launcher, or None for other commands."""
    names = {"train.py": "train.py", **{name: name for name in generated.load_programs()}}
    for start, word in enumerate(words):
        two = " ".join(words[start : start + 3])
        if words[0] == "torchrun" and word == "-m":
            start, two = start - 1, f"python -m {words[start + 1]}"
        name = "train.py" if word.endswith("train.py") else two if two.startswith("python") and two in names else None
        if name:
            rest = words[start + (1 if name == "train.py" else 3) :]
            return name, generated.load_programs()[name], list(rest)
    return None


def join_subcommand(name, rest):
    return f"{name} {rest[0]}" if rest and not rest[0].startswith("-") and name != "train.py" else name


def find_prefix(table, name):
    return next((key for key in sorted(table, key=len, reverse=True) if name.startswith(key)), None)


COMMANDS = read_commands()


@pytest.mark.parametrize("command", COMMANDS, ids=[f"{c.location} {' '.join(c.words)}" for c in COMMANDS])
def test_commands_run(command, enter_folder, monkeypatch, capsys):
    found = find_program(command.words)
    if found is None:
        return check_other_program(command.words)
    name, main, rest = found
    check_options(name, main, rest, monkeypatch)
    full_name = join_subcommand(name, rest)
    if command.is_only_parsed or find_prefix(ONLY_PARSED, full_name) or {"--help", "--budget"} & set(rest):
        return None
    monkeypatch.setattr(sys, "argv", ["train.py", *shorten(full_name, rest, command.location)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda _: None)
        try:
            main()
        except SystemExit as system_exit:
            assert not system_exit.code, capsys.readouterr().err
    return None


def check_other_program(words):
    """Check another program's command: a target of the Makefile, a file in the repository, or a known program."""
    words = [word for word in words if not re.fullmatch(r"\w+=\S*", word)]
    if words[:2] == ["python", "-m"]:
        assert (ROOT / (words[2].replace(".", "/") + ".py")).is_file(), words
    elif words[:1] == ["python"] and len(words) > 1:
        assert (ROOT / words[1]).is_file(), words
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    else:
        assert words[0] in OTHER_PROGRAMS, words


def check_options(name, main, rest, monkeypatch):
    """Let the program parse its options and stop there."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *arguments):
        options = vars(parse_args(self, *arguments))
        if name == "train.py":
            specified = {k: v for k, v in options.items() if v is not None and k not in ("config", "dry_run")}
            TrainConfig(**{**PRESETS.get(specified.get("preset"), {}), **specified})
        raise OptionsParsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", ["train.py", *rest])
        with pytest.raises((OptionsParsed, SystemExit)) as stop:
            main()
    assert isinstance(stop.value, OptionsParsed) or not stop.value.code, rest


def shorten(full_name, rest, location):
    """Return the command's arguments, extended by options that shorten it."""
    rest = [re.sub(r"^(64|128|256|512|1024)$", "16", word) if i else word for i, word in enumerate(rest)]
    if full_name == "train.py":
        out = [] if "--out" in rest or "--dry-run" in rest else ["--out", f"runs/{location}".replace(":", "-")]
        tiny = {key: value for key, value in TINY.items() if key != "total_kimg" or "--resume" not in rest}
        options = [f"--{key.replace('_', '-')}={value}" for key, value in tiny.items()]
        return [*rest, *options, "--channels=3", *out]
    more = SHORTENED.get(find_prefix(SHORTENED, full_name)) or ""
    if full_name == "python -m pggan sample" and "--seeds" in rest:
        more = ""
    return [*rest, *more.split()]


SNIPPETS = [(p, line, text) for p in PAGES for line, language, text in read_blocks(p) if language == "python"]


@pytest.mark.parametrize("page, line, text", SNIPPETS, ids=[f"{p.name}:{line}" for p, line, _ in SNIPPETS])
def test_snippets_run(page, line, text, enter_folder):
    text = text.replace("FOLDER_OF_THE_CLONE", str(ROOT))
    before = "\n".join(t for p, n, t in SNIPPETS if p == page and n < line)
    names = {}
    for found in re.findall(r"^import .*|^G = .*", before, re.MULTILINE):  # imports and models loaded above
        exec(found, names) if found.startswith("import") else None
    exec(compile(text, f"{page.name}:{line}", "exec"), names)
    if "images" in names:
        assert names["images"].ndim == 4


LINK = re.compile(r"\]\(([^)\s]+)\)")
FOLDERS = ("docs", "benchmarks", "tests", *generated.PACKAGES)  # not the reader's runs or virtual environment
EVERY_PAGE = [*sorted(ROOT.glob("*.md")), *(p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.md")))]


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in LINK.findall(text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = urllib.parse.unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in read_anchors(target), f"{page.name}: {link}"


def read_anchors(page):
    """Return the anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", generated.PAGES)
def test_generated_pages_are_up_to_date(name):
    """Update them with: python tests/docs/generated.py"""
    written, expected = (ROOT / "docs" / name).read_text(encoding="utf-8"), generated.PAGES[name]()
    if sys.version_info[:2] == (3, 11):
        assert written == expected, "python tests/docs/generated.py"
    else:  # other versions of Python wrap and style argparse's help differently
        assert len(written.split()) == pytest.approx(len(expected.split()), rel=0.02), "python tests/docs/generated.py"
