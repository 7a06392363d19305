"""Tools for trained generators: sampling, videos, evaluation, latent search, reports, import and export."""

from .trained import Trained, load

__all__ = ["Trained", "load"]
