"""The script of docs/clusters.md, with stand-ins for SLURM's commands and for torchrun."""

import os
import signal
import subprocess
import sys

from conftest import ROOT, TINY
from test_many_processes import train_some

STAND_INS = {
    "srun": 'exec "$@"',
    "torchrun": f'while [ "$1" != train.py ]; do shift; done; shift; exec {sys.executable} {ROOT}/train.py "$@"',
    "scontrol": 'case $1 in show) echo node1; echo node2;; *) echo "$@" >> requeued;; esac',
}


def start(commands, *arguments):
    """The script as a job would run it."""
    places = commands.folder / "bin"
    places.mkdir(exist_ok=True)
    for name, line in STAND_INS.items():
        (places / name).write_text(f"#!/bin/sh\n{line}\n")
        (places / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "node[1-2]"}
    return subprocess.Popen(
        ["bash", ROOT / "docs" / "slurm.sh", *arguments],
        cwd=commands.folder,
        text=True,
        stderr=subprocess.PIPE,
        env=commands.environment | job | {"PATH": f"{places}{os.pathsep}{os.environ['PATH']}"},
    )


def test_a_job_that_slurm_ends_saves_and_is_queued_again_and_goes_on(commands):
    options = [*TINY, "--resolution", "8", "--fade-kimg", "0", "--metrics", "none", "--out", "run"]
    job = start(commands, *options)
    train_some(job, commands.folder / "run", lines=1)
    job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=300)[1]
    assert "SIGTERM: saved run/checkpoints/latest.pt; run the same command again to resume" in said
    assert (commands.folder / "requeued").read_text() == "requeue 7\n"
    job = start(commands, *options)
    said = job.communicate(timeout=300)[1]
    assert job.returncode == 0 and "resuming run at" in said, said
    assert (commands.folder / "requeued").read_text() == "requeue 7\n"
