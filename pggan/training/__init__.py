"""Training: the growth schedule, losses, steps, the loop, evaluation, logging and processes."""

from .loop import train
from .plan import print_plan
from .signals import TrainingStopped

__all__ = ["TrainingStopped", "print_plan", "train"]
