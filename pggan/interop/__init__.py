"""Weights in from other codebases, weights out to other formats."""

from .official import from_official

__all__ = ["from_official"]
