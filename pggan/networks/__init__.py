"""Generators and discriminators. Nothing in here knows about optimizers or files."""

from .architectures import ARCHITECTURES, AnyGenerator, build
from .folding import folded
from .progressive import Discriminator, Generator
from .sampling import generate, one_hot

__all__ = ["ARCHITECTURES", "AnyGenerator", "Discriminator", "Generator", "build", "folded", "generate", "one_hot"]
