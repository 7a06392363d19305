"""Generators and discriminators. Nothing in here knows about optimizers or files."""

from .architectures import ARCHITECTURES, AnyGenerator, build
from .folding import fold_weight_scales
from .progressive import Discriminator, Generator
from .sampling import generate, to_one_hot

__all__ = [
    "ARCHITECTURES",
    "AnyGenerator",
    "Discriminator",
    "Generator",
    "build",
    "fold_weight_scales",
    "generate",
    "to_one_hot",
]
