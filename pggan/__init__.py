"""Progressive Growing of GANs (Karras, Aila, Laine, Lehtinen, ICLR 2018, arXiv 1710.10196)."""

from .networks import Discriminator, Generator

__all__ = ["Discriminator", "Generator"]
