"""How the networks are trained and judged."""

from .loop import TrainingStopped, train
from .plan import print_plan

__all__ = ["TrainingStopped", "print_plan", "train"]
