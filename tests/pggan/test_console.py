"""Terminal handling that all programs share, tested with a program of a few lines."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = [
    ROOT / "train.py",
    *(ROOT / name / "__main__.py" for name in ("pggan", "checkpoints", "datasets", "metrics")),
]
PROGRAM = """
import os, signal, sys
from pggan.console import command
class Stop(Exception): pass
with command("program", ValueError, stops=Stop):
    print({text})
    {body}
"""
NAME = r"'\u5199\u771f caf\udce9'"  # two characters missing from cp1252, and a byte that is not valid UTF-8


def run(body="pass", text="'text'", redirect="", **environment):
    program = PROGRAM.format(text=text, body=body)
    return subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {redirect}', sys.executable, program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""} | environment,
        timeout=60,
    )


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8:strict"])
def test_any_text_can_be_printed_in_any_encoding(encoding):
    process = run(f"print({NAME}, file=sys.stderr); raise ValueError({NAME})", NAME, PYTHONIOENCODING=encoding)
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert "\\udce9" in process.stdout and process.stderr.count("\\udce9") == 2
    assert "\nprogram: " in process.stderr


def test_any_text_can_be_printed_without_a_locale():
    process = run("pass", NAME, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (process.returncode, process.stdout.strip(), process.stderr) == (0, r"\u5199\u771f caf\udce9", "")


@pytest.mark.parametrize("body", ["pass", "sys.stdout.flush()", "print('text', file=sys.stderr)", "raise ValueError"])
@pytest.mark.parametrize("redirect", ["| true", "2>&1 | true"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_program_exits_quietly_when_its_output_pipe_closes(body, redirect, unbuffered):
    wait = "import time; time.sleep(0.2); "  # until the reader has exited
    process = run(wait + body + f"; print({NAME})", redirect=redirect, PYTHONUNBUFFERED=unbuffered)
    assert process.stdout == "" and process.stderr in ("", "text\n", "program: \n")


def test_broken_pipe_inside_the_program_is_reported_as_an_error():
    body = "r, w = os.pipe(); os.close(r); os.write(w, b'text')"
    process = run(body)
    assert (process.returncode, process.stderr) == (2, "program: Broken pipe\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_behind_stdout_is_reported():
    process = run(redirect="> /dev/full")
    assert (process.returncode, process.stderr) == (2, "program: No space left on device: <stdout>\n")


def test_program_runs_with_closed_standard_streams():
    body = "print('text', file=sys.stderr); assert sys.stdin.read() == ''; assert min(os.pipe()) > 2"
    assert run(body, redirect="<&- >&- 2>&-").returncode == 0


@pytest.mark.parametrize(
    ("body", "code", "err"),
    [
        ("pass", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("raise ValueError('no')", 2, "program: no\n"),
        ("raise Stop('stopped')", 1, "program: stopped\n"),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, ""),
        ("open('/nowhere/file')", 2, "program: No such file or directory: /nowhere/file\n"),
    ],
)
def test_program_exits_with_a_code_and_a_one_line_message(body, code, err):
    process = run(body)
    assert (process.returncode, process.stdout, process.stderr) == (code, "text\n", err)


@pytest.mark.parametrize("path", ENTRY_POINTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_program_uses_the_command_context(path):
    main = next(n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == "main")
    calls = [item.context_expr for node in main.body if isinstance(node, ast.With) for item in node.items]
    assert "command" in [call.func.id for call in calls if isinstance(call, ast.Call)]


def test_escape_codes_in_a_message_do_not_reach_the_terminal():
    process = run(r"raise ValueError('a\x1b[31m\x1b]0;title\x07\u202e.png\nsecond line')")
    assert process.stderr == "program: a\\x1b[31m\\x1b]0;title\\x07\\u202e.png\nsecond line\n"
