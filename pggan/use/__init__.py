"""What is done with a trained generator."""

from .trained import Trained, load

__all__ = ["Trained", "load"]
