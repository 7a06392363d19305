"""README.md and docs/ tell the truth: their commands and snippets run, their links lead somewhere."""

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
from fences import PAGES, ROOT, blocks, commands
from PIL import Image

import checkpoints
from pggan import Generator
from pggan.config import PRESETS, TrainConfig
from pggan.training import train

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
RUNS = ("photos-64", "faces-128", "cifar", "another", "synthetic-32")  # names of runs in the pages

# What the pages' commands are given besides, so that each takes a second or two: later options win.
SHORTENED = {
    "python -m pggan sample": "--count 12 --truncation 1",
    "python -m pggan interpolate": "--frames 2",
    "python -m pggan fade": "--frames 2 --seeds 0,1",
    "python -m pggan evaluate": "--num-images 32 --metrics swd --data synthetic",
    "python -m pggan compare": "--num-images 32 --metrics swd --data synthetic --force",
    "python -m pggan project": "--steps 2 --searches 2",
    "python -m pggan upscale": "--steps 2 --searches 2 --tolerance 255",
    "python -m metrics stats": None,
    "python -m metrics": "--num-images 32 --metrics swd",
    "python -m datasets": None,
}
ONLY_PARSED = {  # what would take minutes, or needs what a test machine may not have
    "python -m pggan explore": "serves until Ctrl-C",
    "python -m pggan nearest": "Inception",
    "python -m metrics stats": "Inception",
    "python -m metrics photos.npz": "what stats would have written",
    "python -m metrics .assets": "images of the network",
    "python -m datasets clean": "the reader's own caches",
}
OTHER_PROGRAMS = {"make", "pip", "npm", "tar", "git", "source", "cd", "ssh", "wandb", "hf", "export", "mkdir", "sbatch"}


class Parsed(Exception):
    """Ends a command when its options are parsed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which what the pages name is there: images, runs, latents."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PGGAN_CACHE", str(folder / "cache"))
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
        train(TrainConfig(data="synthetic", out="runs/tiny", channels=3, **TINY))
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
def at(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PGGAN_CACHE", str(folder / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    return folder


def program(words):
    """(name, main, arguments) of a command of this project, also behind a launcher; None for others."""
    names = {"train.py": "train.py", **{name: name for name in generated.programs()}}
    for start, word in enumerate(words):
        two = " ".join(words[start : start + 3])
        name = "train.py" if word.endswith("train.py") else two if word.startswith("python") and two in names else None
        if name:
            rest = words[start + (1 if name == "train.py" else 3) :]
            return name, generated.programs()[name], list(rest)
    return None


def full_name(name, rest):
    return f"{name} {rest[0]}" if rest and not rest[0].startswith("-") and name != "train.py" else name


def lookup(table, name):
    return next((key for key in sorted(table, key=len, reverse=True) if name.startswith(key)), None)


COMMANDS = commands()


@pytest.mark.parametrize("command", COMMANDS, ids=[f"{c.place} {' '.join(c.words)}" for c in COMMANDS])
def test_commands_run(command, at, monkeypatch, capsys):
    found = program(command.words)
    if found is None:
        return check_other(command.words)
    name, main, rest = found
    parse(name, main, rest, monkeypatch)
    whole = full_name(name, rest)
    if command.only_parsed or lookup(ONLY_PARSED, whole) or "--help" in rest:
        return None
    monkeypatch.setattr(sys, "argv", ["train.py", *shortened(whole, rest, command.place)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda _: None)
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, capsys.readouterr().err
    return None


def check_other(words):
    """A command of another program: a target of the Makefile, a file of the repository, or a known program."""
    words = [word for word in words if not re.fullmatch(r"\w+=\S*", word)]
    if words[:2] == ["python", "-m"]:
        assert (ROOT / (words[2].replace(".", "/") + ".py")).is_file(), words
    elif words[:1] == ["python"] and len(words) > 1:
        assert (ROOT / words[1]).is_file(), words
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    else:
        assert words[0] in OTHER_PROGRAMS, words


def parse(name, main, rest, monkeypatch):
    """Let the program parse its options, and nothing more."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_end(self, *arguments):
        options = vars(parse_args(self, *arguments))
        if name == "train.py":
            given = {k: v for k, v in options.items() if v is not None and k not in ("config", "dry_run")}
            TrainConfig(**{**PRESETS.get(given.get("preset"), {}), **given})
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_end)
        patch.setattr(sys, "argv", ["train.py", *rest])
        with pytest.raises((Parsed, SystemExit)) as ended:
            main()
    assert isinstance(ended.value, Parsed) or not ended.value.code, rest


def shortened(whole, rest, place):
    """The command's arguments, and those that shorten it."""
    rest = [re.sub(r"^(64|128|256|512|1024)$", "16", word) if i else word for i, word in enumerate(rest)]
    if whole == "train.py":
        out = [] if "--out" in rest or "--dry-run" in rest else ["--out", f"runs/{place}".replace(":", "-")]
        tiny = {key: value for key, value in TINY.items() if key != "total_kimg" or "--resume" not in rest}
        options = [f"--{key.replace('_', '-')}={value}" for key, value in tiny.items()]
        return [*rest, *options, "--channels=3", *out]
    more = SHORTENED.get(lookup(SHORTENED, whole)) or ""
    if whole == "python -m pggan sample" and "--seeds" in rest:
        more = ""
    return [*rest, *more.split()]


SNIPPETS = [(p, line, text) for p in PAGES for line, language, text in blocks(p) if language == "python"]


@pytest.mark.parametrize("page, line, text", SNIPPETS, ids=[f"{p.name}:{line}" for p, line, _ in SNIPPETS])
def test_snippets_run(page, line, text, at):
    text = text.replace("FOLDER_OF_THE_CLONE", str(ROOT))
    before = "\n".join(t for p, n, t in SNIPPETS if p == page and n < line)
    names = {}
    for found in re.findall(r"^import .*|^G = .*", before, re.MULTILINE):  # what the page imported and loaded above
        exec(found, names) if found.startswith("import") else None
    exec(compile(text, f"{page.name}:{line}", "exec"), names)
    if "images" in names:
        assert names["images"].ndim == 4


LINK = re.compile(r"\]\(([^)\s]+)\)")
FOLDERS = ("docs", "benchmarks", "tests", *generated.ROOMS)  # not runs, nor an environment of the reader's
EVERY_PAGE = [*sorted(ROOT.glob("*.md")), *(p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.md")))]


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in LINK.findall(text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = urllib.parse.unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def anchors(page):
    """What GitHub calls the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", generated.PAGES)
def test_pages_read_off_the_code_are_up_to_date(name):
    """Where they are not: python tests/docs/generated.py"""
    said, now = (ROOT / "docs" / name).read_text(encoding="utf-8"), generated.PAGES[name]()
    if sys.version_info[:2] == (3, 11):
        assert said == now, "python tests/docs/generated.py"
    else:  # argparse breaks its lines elsewhere, and in another style, in other versions of Python
        assert len(said.split()) == pytest.approx(len(now.split()), rel=0.02), "python tests/docs/generated.py"
