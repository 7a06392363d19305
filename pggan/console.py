"""Set up the terminal for a command: print any text safely, and end with an error line instead of a traceback."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def command(name: str, *refusals: type[Exception], stops: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Run the body of a program's main().

    Exit with 2 and one line for the exceptions in `refusals` and for the operating system's, with 1 for `stops`,
    with 130 after Ctrl-C, and silently with 1 when the reader of a pipe is gone, as in `| head -1`.

    Args:
        name: the command as the user types it; each error line begins with it.
        refusals: exceptions for wrong options or files; 2 is argparse's exit code, too.
        stops: exceptions that end a run later on.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    open_closed_streams()
    accept_any_text()
    try:
        try:
            yield
        finally:
            flush()
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells report it
    except refusals as error:
        fail(name, str(error), 2)
    except stops as error:
        fail(name, str(error), 1)
    except OSError as error:
        if silence_failed_streams() and isinstance(error, BrokenPipeError):
            sys.exit(1)
        where = f": {error.filename}" if error.filename else ""
        fail(name, f"{error.strerror or error}{where}", 2)


def fail(name: str, why: str, code: int) -> None:
    """Print the error line and exit with `code`; exit without the line if standard error cannot be written."""
    try:
        # here, too, because not every message escapes the names in it; some have several lines
        print(f"{name}: " + "\n".join(map(escape_for_terminal, why.split("\n"))), file=sys.stderr, flush=True)
    except OSError:
        silence_failed_streams()
    sys.exit(code)


def escape_for_terminal(text: str) -> str:
    """Return text from a file, such as a file name in an archive, for a message.

    Line breaks, invisible characters and escape codes, which could control the terminal, become Python escapes.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def open_closed_streams() -> None:
    """Open /dev/null for every standard stream that was closed (as by `>&-`).

    Otherwise print() fails, and the next file that is opened gets the stream's descriptor, the lowest free one, so that
    output of C libraries would be written into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (stays open)


def accept_any_text() -> None:
    """Print characters that the terminal's encoding lacks, and undecodable bytes in file names, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's streams accept any text
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Flush the standard streams. Raises OSError here, where `command` reports it, rather than at Python's exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, stream.name) from None


def silence_failed_streams() -> bool:
    """Redirect standard streams that cannot be written to /dev/null; return whether there was one.

    Their unwritten text is still buffered: without the redirection, Python would print an error about it at its exit.
    """
    failed = [stream for stream in (sys.stdout, sys.stderr) if has_failed(stream)]
    for stream in failed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(failed)


def has_failed(stream: TextIO) -> bool:
    """Return whether a stream still holds text that cannot be written, or is a pipe whose reader is gone."""
    try:
        stream.flush()
        if not hasattr(select, "poll"):  # Windows
            return False
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors are reported even when nothing is asked for
    except ValueError:  # no file descriptor, as in a notebook
        return False
    except OSError:
        return True
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
