"""Progressive Growing of GANs (Karras, Aila, Laine, Lehtinen, ICLR 2018, arXiv 1710.10196).

G = pggan.load("runs/faces-128")
images = G.sample(16, seed=0)     # uint8 [16, 3, 128, 128]
"""

import signal
import sys

# Importing torch takes seconds. Under `python -m`, let Ctrl-C during that time end the process without a traceback.
if sys.argv[:1] == ["-m"]:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from .networks import Discriminator, Generator
from .use import load

__all__ = ["Discriminator", "Generator", "load"]
