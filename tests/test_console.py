"""What every program does with its terminal, tried on one of a few lines."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRIES = [
    ROOT / "train.py",
    *(ROOT / name / "__main__.py" for name in ("pggan", "checkpoints", "datasets", "metrics")),
]
PROGRAM = """
import os, signal, sys
from console import command
class Stop(Exception): pass
with command("program", ValueError, stops=Stop):
    print({text})
    {body}
"""
NAME = r"'\u5199\u771f caf\udce9'"  # two characters that cp1252 lacks, and a byte that is no text


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
def test_a_closed_pipe_ends_quietly(body, redirect, unbuffered):
    wait = "import time; time.sleep(0.2); "  # the reader is gone by then
    process = run(wait + body + f"; print({NAME})", redirect=redirect, PYTHONUNBUFFERED=unbuffered)
    assert process.stdout == "" and process.stderr in ("", "text\n", "program: \n")


def test_a_closed_pipe_within_the_program_is_no_terminal():
    body = "r, w = os.pipe(); os.close(r); os.write(w, b'text')"
    process = run(body)
    assert (process.returncode, process.stderr) == (2, "program: Broken pipe\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_the_output_is_said():
    process = run(redirect="> /dev/full")
    assert (process.returncode, process.stderr) == (2, "program: No space left on device: <stdout>\n")


def test_closed_streams_do_no_harm():
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
def test_a_program_ends_with_a_code_and_a_sentence(body, code, err):
    process = run(body)
    assert (process.returncode, process.stdout, process.stderr) == (code, "text\n", err)


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_program_runs_in_it(path):
    main = next(n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == "main")
    calls = [item.context_expr for node in main.body if isinstance(node, ast.With) for item in node.items]
    assert "command" in [call.func.id for call in calls if isinstance(call, ast.Call)]
