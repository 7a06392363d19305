"""Progressive Growing of GANs (Karras, Aila, Laine, Lehtinen, ICLR 2018, arXiv 1710.10196).

G = pggan.load("runs/faces-128")
images = G.sample(16, seed=0)     # uint8 [16, 3, 128, 128]
"""

import signal
import sys

if sys.argv[:1] == ["-m"]:  # Ctrl-C while `python -m` imports what is below, which takes seconds: no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from .networks import Discriminator, Generator
from .use import load

__all__ = ["Discriminator", "Generator", "load"]
