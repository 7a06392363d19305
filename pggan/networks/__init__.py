"""What is trained: the progressive generator and discriminator. Knows no optimizer and no file."""

from .folding import folded
from .progressive import Discriminator, Generator
from .sampling import generate, one_hot

__all__ = ["Discriminator", "Generator", "folded", "generate", "one_hot"]
