"""What is trained: the progressive generator and discriminator. Knows no optimizer and no file."""

from .progressive import Discriminator, Generator

__all__ = ["Discriminator", "Generator"]
