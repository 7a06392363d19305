"""Read the fenced code blocks and the shell commands in README.md and docs/*.md."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```([\w-]*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELLS = ("sh", "bash", "console")


@dataclass(frozen=True)
class Command:
    """One command line of a page: its words without the comment, and the comment."""

    location: str
    words: tuple[str, ...]
    comment: str

    @property
    def is_only_parsed(self) -> bool:
        """Return whether the comment begins with "needs", as in "# needs 8 GPUs" or "# needs the network"."""
        return self.comment.startswith("needs ")


def read_blocks(page: Path) -> list[tuple[int, str, str]]:
    """Return (line, language, text) for every fenced block."""
    text = page.read_text(encoding="utf-8")
    return [(text[: match.start()].count("\n") + 2, match[1], match[2]) for match in FENCE.finditer(text)]


def read_commands() -> list[Command]:
    """Return every command in the shell blocks; in a console block, the lines that begin with "$ "."""
    found = []
    for page in PAGES:
        for first, language, text in read_blocks(page):
            if language not in SHELLS:
                continue
            for line, command in join_continued_lines(first, text):
                if language == "console":
                    if not command.startswith("$ "):
                        continue
                    command = command[2:]
                words, comment = split_comment(command)
                if words:
                    found.append(Command(f"{page.name}:{line}", words, comment))
    return found


def join_continued_lines(first: int, text: str) -> list[tuple[int, str]]:
    """Return the numbered lines, with each line that ends in a backslash joined to the next."""
    lines: list[tuple[int, str]] = []
    open_line = ""
    for number, line in enumerate(text.splitlines(), first):
        if line.endswith("\\"):
            open_line += line[:-1] + " "
            continue
        lines.append((number, open_line + line))
        open_line = ""
    return lines


def split_comment(command: str) -> tuple[tuple[str, ...], str]:
    """Return the words of a command and its comment."""
    code, _, comment = command.partition(" #") if not command.lstrip().startswith("#") else ("", "", command)
    return tuple(shlex.split(code)), comment.strip()
