"""FID, Inception Score and sliced Wasserstein distance over batches of uint8 images.

Knows nothing of GANs: two sets of images in, numbers out.

    suite = Suite(("fid", "swd"), device="cpu")
    real = suite.describe(real_batches)      # iterables of uint8 [N, C, H, W]
    fake = suite.describe(fake_batches)
    suite.compare(real, fake)                # {"fid": ..., "swd": ...}
"""

from .suite import METRICS, MetricError, Suite

__all__ = ["METRICS", "MetricError", "Suite"]
