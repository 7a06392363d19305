"""FID, IS, KID, SWD, MS-SSIM, precision and recall over batches of uint8 images.

Knows nothing of GANs: two sets of images in, numbers out. `python -m metrics REAL GENERATED` from the command line.

    suite = Suite(("fid", "swd"), device="cpu")
    real = suite.describe(real_batches)      # iterables of uint8 [N, C, H, W]
    fake = suite.describe(fake_batches)
    suite.compare(real, fake)                # {"fid": ..., "swd": ...}
"""

import signal
import sys

if sys.argv[:1] == ["-m"]:  # Ctrl-C while `python -m` imports what is below, which takes seconds: no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from .cache import default_folder
from .modes import ModeCoverage
from .preprocess import RESIZES
from .suite import METRICS, MetricError, Suite

__all__ = ["METRICS", "RESIZES", "MetricError", "ModeCoverage", "Suite", "default_folder"]
