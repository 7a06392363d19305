"""Train a progressive GAN on a folder of images.

    python train.py photos                         the paper's schedule, up to the images' own resolution
    python train.py photos --resolution 64 --preset paper-v1
    python train.py synthetic --preset demo        the embedded set, minutes on a CPU
    python train.py photos --dry-run               print the plan, with estimated memory and time

The same command run again goes on where the run was left.
"""

import argparse
import signal

if __name__ == "__main__":  # Ctrl-C during the imports below, which take seconds, ends without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from checkpoints import CheckpointError
from console import command
from datasets import DataError
from metrics import MetricError
from pggan.config import ConfigError, add_options, resolve
from pggan.training import TrainingStopped, print_plan, train
from pggan.training.ranks import ends_at_once, first_speaks, joined
from pggan.use.report import write_final_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--config", metavar="FILE", help="JSON file of options, such as a run's config.json")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and end")
    with (
        command("train.py", ConfigError, DataError, CheckpointError, MetricError, stops=TrainingStopped),
        first_speaks(),
    ):
        options = vars(parser.parse_args())
        config_file, dry_run = options.pop("config"), options.pop("dry_run")
        with joined() as ranks:
            config = ranks.from_first(resolve(options, config_file) if ranks.first else None)
            if not dry_run:
                train(config, ranks)
            if ranks.first:
                print_plan(config) if dry_run else write_final_report(config.out)


if __name__ == "__main__":
    with ends_at_once():
        main()
