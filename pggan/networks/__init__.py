"""What is trained: generators and discriminators. Knows no optimizer and no file."""

from .architectures import ARCHITECTURES, AnyGenerator, build
from .folding import folded
from .progressive import Discriminator, Generator
from .sampling import generate, one_hot

__all__ = ["ARCHITECTURES", "AnyGenerator", "Discriminator", "Generator", "build", "folded", "generate", "one_hot"]
