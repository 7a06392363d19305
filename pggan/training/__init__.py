"""How the networks are trained and judged."""

from .loop import train
from .plan import print_plan
from .signals import TrainingStopped

__all__ = ["TrainingStopped", "print_plan", "train"]
