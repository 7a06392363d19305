"""Start the project's commands as processes forked from one that has imported them: importing torch takes seconds."""

import atexit
import multiprocessing
import os
import runpy
import sys
import threading
from pathlib import Path
from unittest.mock import patch

MODULES = ("train", "pggan.__main__", "pggan.datasets.__main__", "pggan.metrics.__main__", "pggan.checkpoints.__main__")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*MODULES, "torch._dynamo"])  # torch's optimizers import it on first use


def run_command(arguments, folder, environment, out, err):
    """Run `python ARGUMENTS`: a file or `-m MODULE`, followed by its own arguments."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, pipe in enumerate((out, err), 1):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    is_module = arguments[0] == "-m"
    sys.argv = arguments[is_module:]
    sys.path[0] = folder if is_module else str(Path(arguments[0]).parent)
    try:
        if is_module:
            sys.modules.pop(f"{arguments[1]}.__main__", None)  # runpy warns of it
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing skips these


class Forked:
    """A running command, with the attributes and methods of subprocess.Popen that the tests use.

    Args:
        environment: the command's; libraries that read variables when they are imported have read the first command's.
    """

    def __init__(self, arguments, folder, environment):
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(2)]
        arguments = (list(arguments), str(folder), environment, *(writer for _, writer in pipes))
        self.process = CONTEXT.Process(target=run_command, args=arguments)
        with patch.dict(os.environ, environment):  # the first command also starts the process to fork from
            self.process.start()
        self.pid = self.process.pid
        self.stdout, self.stderr = (os.fdopen(os.dup(reader.fileno()), encoding="utf-8") for reader, _ in pipes)
        for reader, writer in pipes:
            reader.close()
            writer.close()

    @property
    def returncode(self):
        return self.process.exitcode

    poll = returncode.fget

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.process.kill()

    def communicate(self, timeout=None):
        """Wait until the command ends; return its stdout and stderr."""
        texts = {}
        threads = [
            threading.Thread(target=lambda file=file: texts.update({file: file.read()}), daemon=True)
            for file in (self.stdout, self.stderr)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout)
        self.process.join(timeout)
        if self.poll() is None or len(texts) < 2:
            self.kill()
            raise TimeoutError(f"no end after {timeout} s: {texts}")
        return texts[self.stdout], texts[self.stderr]
