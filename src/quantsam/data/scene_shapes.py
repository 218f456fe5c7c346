"""Outlines of toy-scene objects, and their exact rasters.

Every outline is a closed polygon in its own unit frame, with a second polygon for a hole if the kind has one. Vertices
are rounded to a quarter pixel before they are drawn, so the last bits of a machine's sine never reach a mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Points = NDArray[np.float64]
UInt8Plane = NDArray[np.uint8]

SUPERSAMPLE = 4
"""Each pixel's coverage is counted on this many times as many rows and columns."""

HALF_COVERED = 128
"""A pixel belongs to a shape when its coverage (0 to 255) is at least this."""

_CURVE_POINTS = 72
_MIN_THICKNESS_PX = 3.0
_TEMPLATES: tuple[tuple[tuple[float, float], ...], ...] = (
    ((-1, -1), (-0.3, -1), (-0.3, 0.4), (1, 0.4), (1, 1), (-1, 1)),  # an L
    ((-1, -1), (-0.4, -1), (-0.4, 0.4), (0.4, 0.4), (0.4, -1), (1, -1), (1, 1), (-1, 1)),  # a U
    ((-1, -1), (1, -1), (1, -0.4), (0.3, -0.4), (0.3, 1), (-0.3, 1), (-0.3, -0.4), (-1, -0.4)),  # a T
    ((-1, -0.3), (0.1, -0.3), (0.1, -0.9), (1, 0), (0.1, 0.9), (0.1, 0.3), (-1, 0.3)),  # an arrow
    ((-1, -1), (0, -0.35), (1, -1), (0.5, 0), (1, 1), (0, 0.35), (-1, 1), (-0.5, 0)),  # a bow
)


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A shape in its own frame: `outer` and, for rings, `hole`; each (n, 2), x right, y down."""

    outer: Points
    hole: Points | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Raster:
    """A shape drawn in its own bounding box, which may reach beyond the image.

    Attributes:
        category_id: 1-based position of its kind in `CATEGORY_NAMES`.
        coverage: uint8, (height, width); 255 is a pixel wholly covered.
        left: Column of the image at which `coverage` starts; may be negative.
        top: Row of the image at which `coverage` starts; may be negative.
    """

    category_id: int
    coverage: UInt8Plane
    left: int
    top: int

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The pixels that belong to the shape, bool, the shape of `coverage`."""
        return self.coverage >= HALF_COVERED


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def _turn(count: int = _CURVE_POINTS) -> Points:
    return np.arange(count, dtype=np.float64) * (2.0 * math.pi / count)


def _polar(radius: Points | float, angle: Points) -> Points:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _ellipse(rng: np.random.Generator, extent_px: float) -> Outline:
    return Outline(_polar(1.0, _turn()) * [1.0, _between(rng, 0.35, 1.0)])


def _convex_polygon(rng: np.random.Generator, extent_px: float) -> Outline:
    corners = int(rng.integers(3, 9))
    angle = (np.arange(corners) + 0.7 * rng.random(corners)) * (2.0 * math.pi / corners)
    return Outline(_polar(1.0, angle) * [1.0, _between(rng, 0.45, 1.0)])


def _concave_polygon(rng: np.random.Generator, extent_px: float) -> Outline:
    if rng.random() < 0.4:
        template = np.array(_TEMPLATES[int(rng.integers(len(_TEMPLATES)))])
        jitter = (rng.random(template.shape) - 0.5) * 0.2
        return Outline((template + jitter) * [1.0, _between(rng, 0.6, 1.0)])
    corners = int(rng.integers(6, 13))
    angle = (np.arange(corners) + 0.6 * rng.random(corners)) * (2.0 * math.pi / corners)
    radius = 0.4 + 0.6 * rng.random(corners)
    radius[int(rng.integers(corners))] = 0.35
    return Outline(_polar(radius, angle))


def _star(rng: np.random.Generator, extent_px: float) -> Outline:
    tips = int(rng.integers(4, 10))
    radius = np.where(np.arange(2 * tips) % 2 == 0, 1.0, _between(rng, 0.35, 0.65))
    radius = radius * (1.0 - 0.15 * rng.random(2 * tips))
    return Outline(_polar(radius, _turn(2 * tips)) * [1.0, _between(rng, 0.7, 1.0)])


def _blob(rng: np.random.Generator, extent_px: float) -> Outline:
    angle = _turn()
    radius = np.ones_like(angle)
    for harmonic in range(2, 8):
        amplitude = _between(rng, 0.0, 0.55) / harmonic
        radius += amplitude * np.cos(harmonic * angle + _between(rng, 0.0, 2.0 * math.pi))
    return Outline(_polar(np.maximum(radius, 0.3), angle) * [1.0, _between(rng, 0.55, 1.0)])


def _ring(rng: np.random.Generator, extent_px: float) -> Outline:
    outer = _polar(1.0, _turn()) * [1.0, _between(rng, 0.6, 1.0)]
    thickest = 1.0 - 2.0 * _MIN_THICKNESS_PX / extent_px  # the largest hole that leaves a band
    ratio = min(_between(rng, 0.4, 0.78), thickest)
    shift = (rng.random(2) - 0.5) * 0.4 * (1.0 - ratio)
    return Outline(outer, outer * ratio + shift)


def _arc(rng: np.random.Generator, extent_px: float) -> Outline:
    angle = np.linspace(0.0, _between(rng, 0.4, 1.7) * math.pi, _CURVE_POINTS // 2)
    radius = 1.0 + _between(rng, -0.4, 0.4) * np.linspace(0.0, 1.0, angle.size)  # a bit of a spiral
    half = 0.5 * max(2.0 * _MIN_THICKNESS_PX / extent_px, _between(rng, 0.08, 0.24))
    return Outline(np.concatenate([_polar(radius + half, angle), _polar(radius - half, angle)[::-1]]))


def _bar(rng: np.random.Generator, extent_px: float) -> Outline:
    along = np.linspace(-1.0, 1.0, 12)
    bend = _between(rng, -0.2, 0.2) if rng.random() < 0.4 else 0.0
    middle = bend * along**2
    half = max(_MIN_THICKNESS_PX / extent_px, _between(rng, 0.03, 0.12)) * np.ones_like(along)
    half *= 1.0 - _between(rng, 0.0, 0.3) * (along + 1.0) * 0.5  # tapers a little
    lower, upper = np.stack([along, middle + half], axis=1), np.stack([along, middle - half], axis=1)
    return Outline(np.concatenate([lower, upper[::-1]]))


_MAKERS: dict[str, Callable[[np.random.Generator, float], Outline]] = {
    "ellipse": _ellipse,
    "convex polygon": _convex_polygon,
    "concave polygon": _concave_polygon,
    "star": _star,
    "blob": _blob,
    "ring": _ring,
    "arc": _arc,
    "bar": _bar,
}

CATEGORY_NAMES: tuple[str, ...] = tuple(_MAKERS)
"""Kinds of shape; the category id of a kind is its position here plus one."""

THIN_KINDS = frozenset({"ring", "arc", "bar"})
"""Kinds that need a longer extent than the others to be more than a dot."""


def make_raster(rng: np.random.Generator, kind: str, extent_px: float, centre_xy: tuple[float, float]) -> Raster:
    """Draw a random shape of a kind, rotated at random.

    Args:
        rng: Source of every random choice.
        kind: One of `CATEGORY_NAMES`.
        extent_px: The longer side of its bounding box, in pixels.
        centre_xy: Centre of its bounding box in the image's pixels.

    Returns:
        The shape's coverage in its own bounding box.
    """
    outline = _MAKERS[kind](rng, extent_px)
    theta = _between(rng, 0.0, 2.0 * math.pi)
    outer = _rotated(outline.outer, theta)
    low, high = outer.min(axis=0), outer.max(axis=0)
    scale = extent_px / float((high - low).max())
    origin = np.array(centre_xy) - 0.5 * (low + high) * scale
    hole = None if outline.hole is None else _rotated(outline.hole, theta) * scale + origin
    return _draw(1 + CATEGORY_NAMES.index(kind), outer * scale + origin, hole)


def _rotated(points: Points, theta: float) -> Points:
    """Turn points; written out because a matrix product's last bits differ between BLAS libraries."""
    cos, sin = math.cos(theta), math.sin(theta)
    x, y = points[:, 0], points[:, 1]
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=1)


def _draw(category_id: int, outer: Points, hole: Points | None) -> Raster:
    left, top = (math.floor(v) - 1 for v in outer.min(axis=0).round(3))
    right, bottom = (math.ceil(v) + 1 for v in outer.max(axis=0).round(3))
    width, height = right - left, bottom - top
    fine = Image.new("L", (width * SUPERSAMPLE, height * SUPERSAMPLE), 0)
    pen = ImageDraw.Draw(fine)
    for points, value in ((outer, 255), (hole, 0)):
        if points is not None:
            vertices = np.floor((points - [left, top]) * SUPERSAMPLE + 0.5).astype(np.int64)
            pen.polygon(vertices.ravel().tolist(), fill=value)
    return Raster(category_id, np.asarray(fine.reduce(SUPERSAMPLE), dtype=np.uint8), left, top)
