"""Train a progressive GAN on a folder of images.

  python train.py photos --budget 8h                          a run planned to take 8 hours on this machine
  python train.py photos                                      the paper's schedule, up to the images' own resolution
  python train.py photos --dry-run                            print the plan with estimated memory and time, then exit
  python train.py photos --resolution 64 --batch-size 4:64,32:32,64:16 --fade-kimg 100 --stabilize-kimg 100
  python train.py synthetic --budget 10m                      the embedded dataset, ten minutes
  python train.py photos --out runs/b --resume runs/a/checkpoints/latest.pt    start a new run from a checkpoint

Run the same command again to resume a run.
"""

import argparse
import signal
import sys
import time
from functools import cache

if __name__ == "__main__":  # Ctrl-C during the imports below, which take seconds, ends without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pggan.checkpoints import CheckpointError
from pggan.config import ConfigError, add_options
from pggan.console import command
from pggan.datasets import DataError, open_source
from pggan.metrics import MetricError
from pggan.training import TrainingStopped, print_plan, train
from pggan.training.budget import resolve_budget
from pggan.training.ranks import connect_ranks, exit_without_teardown, silence_other_ranks
from pggan.use.report import write_final_report


def main() -> None:
    started = time.perf_counter()  # planning, too, takes time of --budget
    parser = argparse.ArgumentParser(
        usage="python train.py DATA [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--help-all", action="help", help="show every option and exit")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and exit")
    parser.add_argument("--config", metavar="FILE", help="JSON file of options, such as a run's config.json")
    add_options(parser, common_only="--help-all" not in sys.argv)
    with (
        command("train.py", ConfigError, DataError, CheckpointError, MetricError, stops=TrainingStopped),
        silence_other_ranks(),
    ):
        options = vars(parser.parse_args())
        config_file, dry_run = options.pop("config"), options.pop("dry_run")
        open_images = cache(open_source)  # once: a million files take seconds to list
        with connect_ranks() as ranks:
            config = ranks.broadcast(
                resolve_budget(options, config_file, open_images, ranks.world_size, builds_cache=not dry_run)
                if ranks.is_first
                else None
            )
            if not dry_run:
                train(config, ranks, open_images, started)
            if ranks.is_first:
                print_plan(config, open_images, ranks.world_size) if dry_run else write_final_report(config.out)


if __name__ == "__main__":
    with exit_without_teardown():
        main()
