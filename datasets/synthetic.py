"""The embedded synthetic dataset: shape x color x background, drawn by code at any resolution."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image

from .base import Header, Source
from .images import to_pillow

SHAPES = ("disc", "triangle", "cross", "ring")
COLORS = {"red": (220, 50, 47), "green": (70, 190, 70), "blue": (50, 90, 220), "yellow": (235, 200, 40)}
BACKGROUNDS = {"dark": 24, "light": 236}
MODES = tuple(product(SHAPES, COLORS, BACKGROUNDS))
MIN_CLASSIFIED_SIDE = 8  # pixels per side; at 4x4 the shapes cannot be told apart


class SyntheticShapes(Source):
    """Anti-aliased shapes in 32 modes, with continuous position, size and rotation; a function of (seed, index).

    Image i has mode i % 32. Colors and backgrounds vary slightly around their mode's.

    Args:
        count: number of images. seed: selects them. labeled: use the shape as the class.
    """

    name = "synthetic"

    def __init__(self, count: int = 10_000, seed: int = 0, labeled: bool = False):
        self.count, self.seed, self.others = count, seed, []
        self.classes = list(SHAPES) if labeled else []
        self.labels = np.array([i % len(MODES) // 8 for i in range(count)], dtype=np.int64) if labeled else None

    def __len__(self) -> int:
        return self.count

    def describe(self, index: int) -> str:
        return f"synthetic image {index}"

    def stamp(self) -> str:
        return f"synthetic-{self.count}-{self.seed}"

    content_digest = stamp

    def header(self, index: int) -> Header:
        return Header(32, 32, "RGB")

    def read_image(
        self, index: int, resolution: int = 32, channels: int = 3, digest: hashlib.blake2b | None = None
    ) -> Image.Image:
        return to_pillow(self.image(index, resolution or 32, channels or 3).transpose(1, 2, 0))

    def image(self, index: int, resolution: int, channels: int = 3) -> np.ndarray:
        """Return image `index` as uint8 [channels, resolution, resolution].

        1 channel is luma (ITU-R BT.601); 2 and 4 channels add the shape's coverage as alpha.
        """
        rng = np.random.default_rng((self.seed, index))
        shape, color, background = MODES[index % len(MODES)]
        radius = rng.uniform(0.22, 0.38)
        center = rng.uniform(radius, 1 - radius, 2)
        angle = rng.uniform(0, 2 * np.pi)
        paint = np.array(COLORS[color]) + rng.uniform(-16, 16, 3)
        ground = BACKGROUNDS[background] + rng.uniform(-16, 16, 3)
        coverage = render_coverage(shape, resolution, center, radius, angle)
        rgb = ground[:, None, None] + (paint - ground)[:, None, None] * coverage
        if channels in (1, 2):
            rgb = np.tensordot([0.299, 0.587, 0.114], rgb, 1)[None]
        if channels in (2, 4):
            rgb = np.concatenate([rgb, 255 * coverage[None]])
        return np.rint(rgb).clip(0, 255).astype(np.uint8)


def render_coverage(shape: str, resolution: int, center: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Return how much of each pixel the shape covers, [resolution, resolution] in [0, 1], from 4x4 or more samples."""
    samples = resolution * max(4, 64 // resolution)
    axis = (np.arange(samples) + 0.5) / samples
    x, y = (axis[None, :] - center[0]) / radius, (axis[:, None] - center[1]) / radius
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance = np.hypot(u, v)
    if shape == "disc":
        inside = distance < 0.9
    elif shape == "ring":
        inside = (distance < 1) & (distance > 0.55)
    elif shape == "triangle":
        inside = (v > -0.5) & (np.abs(u) * np.sqrt(3) + v < 1)
    else:
        inside = (np.minimum(np.abs(u), np.abs(v)) < 0.26) & (np.maximum(np.abs(u), np.abs(v)) < 0.95)
    block = samples // resolution
    return inside.reshape(resolution, block, resolution, block).mean(axis=(1, 3))


def classify(images: np.ndarray) -> np.ndarray:
    """Return the nearest mode of each image as indices into MODES [N], for uint8 RGB images [N, 3, r, r].

    Background and color are measured directly. The shape is the one whose second, third and fourth moments, which do
    not depend on position, size and rotation, are closest to those of reference images.
    """
    background, color, coverage = segment(images)
    moments = compute_moments(coverage)
    centers, spread = compute_references(images.shape[-1])
    shape = (((moments[:, None] - centers) / spread) ** 2).sum(axis=2).argmin(axis=1)
    return (shape * len(COLORS) + color) * len(BACKGROUNDS) + background


def segment(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return background index [N], color index [N] and the shape's coverage [N, r, r] in [0, 1]."""
    x = images.astype(np.float64)
    border = np.concatenate([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], axis=2)
    ground = np.median(border, axis=2)
    background = (ground.mean(axis=1) > sum(BACKGROUNDS.values()) / 2).astype(int)
    paints = np.array(list(COLORS.values()), float)
    difference = x - ground[:, :, None, None]
    strength = np.square(difference).sum(axis=1)
    strong = strength >= 0.6 * strength.max(axis=(1, 2), keepdims=True)
    mean = (x * strong[:, None]).sum(axis=(2, 3)) / strong.sum(axis=(1, 2))[:, None]
    color = np.square(mean[:, None] - paints).sum(axis=2).argmin(axis=1)
    direction = mean - ground
    size = np.square(direction).sum(axis=1)[:, None, None] + 1e-6
    coverage = (difference * direction[:, :, None, None]).sum(axis=1) / size
    return background, color, np.where(coverage > 0.15, coverage, 0).clip(0, 1)


def compute_moments(coverage: np.ndarray) -> np.ndarray:
    """Return the second, three-fold and four-fold moments [N, 3] about the center, invariant to size and rotation."""
    r = coverage.shape[-1]
    grid = np.arange(r) + 0.5
    mass = coverage.sum(axis=(1, 2)) + 1e-6
    x = grid[None, None, :] - ((coverage * grid[None, None, :]).sum(axis=(1, 2)) / mass)[:, None, None]
    y = grid[None, :, None] - ((coverage * grid[None, :, None]).sum(axis=(1, 2)) / mass)[:, None, None]
    z = x + 1j * y
    second = (coverage * (x**2 + y**2)).sum(axis=(1, 2)) / mass**2
    third = np.abs((coverage * z**3).sum(axis=(1, 2))) / mass**2.5
    fourth = np.abs((coverage * z**4).sum(axis=(1, 2))) / mass**3
    return np.stack([second, third, fourth], axis=1)


@lru_cache
def compute_references(resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard deviations [4, 3] of each shape's moments at a resolution, from reference images."""
    drawn = SyntheticShapes(seed=1)
    images = np.stack([drawn.image(i, resolution) for i in range(len(MODES) * 16)])
    moments = compute_moments(segment(images)[2])
    shape = np.arange(len(images)) % len(MODES) // (len(COLORS) * len(BACKGROUNDS))
    groups = [moments[shape == s] for s in range(len(SHAPES))]
    return np.stack([g.mean(axis=0) for g in groups]), np.stack([g.std(axis=0) + 1e-6 for g in groups])
