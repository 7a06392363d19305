"""FID, IS, KID, MIND, CMMD, SWD, MS-SSIM, precision and recall of batches of uint8 images.

The package compares two collections of images and does not depend on the GANs in this project. On the command line:
`python -m metrics REAL GENERATED`.

    suite = Suite(("fid", "swd"), device="cpu")
    real = suite.compute_statistics(real_batches)  # iterables of uint8 [N, C, H, W]
    fake = suite.compute_statistics(fake_batches)
    suite.compare(real, fake)                      # {"fid": ..., "swd_16": ..., "swd": ...}
"""

from pggan.clone import prefer_other_package
from pggan.metrics.cache import default_folder
from pggan.metrics.errors import is_out_of_memory
from pggan.metrics.footprint import estimate_metric_memory
from pggan.metrics.inception import without_tf32
from pggan.metrics.modes import ModeCoverage
from pggan.metrics.networks import add_network_options
from pggan.metrics.provenance import PROVENANCE_LABELS, Provenance
from pggan.metrics.suite import METRICS, MetricError, Suite

__all__ = [
    "METRICS",
    "PROVENANCE_LABELS",
    "MetricError",
    "ModeCoverage",
    "Provenance",
    "Suite",
    "add_network_options",
    "default_folder",
    "estimate_metric_memory",
    "is_out_of_memory",
    "without_tf32",
]

prefer_other_package(__name__, __file__)  # where `import metrics` means another project's
