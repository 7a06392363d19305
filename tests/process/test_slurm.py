"""The SLURM script of docs/clusters.md, run with stand-ins for SLURM's commands and torchrun."""

import os
import signal
import subprocess
import sys

from conftest import ROOT, TINY
from test_many_processes import wait_for_log_lines

STAND_INS = {
    "srun": 'exec "$@"',
    "torchrun": f'while [ "$1" != train.py ]; do shift; done; shift; exec {sys.executable} {ROOT}/train.py "$@"',
    "scontrol": 'case $1 in show) echo node1; echo node2;; *) echo "$@" >> requeued;; esac',
}


def start_job(commands, *arguments):
    """Start the script as a SLURM job would run it."""
    benter_folder = commands.folder / "bin"
    benter_folder.mkdir(exist_ok=True)
    for name, line in STAND_INS.items():
        (benter_folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (benter_folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "node[1-2]"}
    return subprocess.Popen(
        ["bash", ROOT / "docs" / "slurm.sh", *arguments],
        cwd=commands.folder,
        text=True,
        stderr=subprocess.PIPE,
        env=commands.environment | job | {"PATH": f"{benter_folder}{os.pathsep}{os.environ['PATH']}"},
    )


def test_job_terminated_by_slurm_saves_requeues_and_resumes(commands):
    options = [*TINY, "--resolution", "8", "--fade-kimg", "0", "--metrics", "none", "--out", "run"]
    job = start_job(commands, *options)
    wait_for_log_lines(job, commands.folder / "run", lines=1)
    job.send_signal(signal.SIGTERM)
    errors = job.communicate(timeout=300)[1]
    assert "SIGTERM: saved run/checkpoints/latest.pt; run the same command again to resume" in errors
    assert (commands.folder / "requeued").read_text() == "requeue 7\n"
    job = start_job(commands, *options)
    errors = job.communicate(timeout=300)[1]
    assert job.returncode == 0 and "resuming run at" in errors, errors
    assert (commands.folder / "requeued").read_text() == "requeue 7\n"
