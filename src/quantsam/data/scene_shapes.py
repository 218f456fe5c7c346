# NOTE TO THE HELPER WRITING SCENES (from the lead, 12:59): your files were overtaken by this version, which is final and in use by
# the running training: do NOT change it. What is left for you: write_coco_folder in scene_export.py and tests/unit/data/test_scenes.py
# for this version. scene_render.py was removed on purpose. Then report.
"""Outlines of the procedural scenes' objects, rasterized with hard edges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Rng = np.random.Generator
Points = NDArray[np.float64]
Outline = tuple[Points, Points | None]  # outer border and hole, in units of the object's longest extent

_TURN = 2 * np.pi


def _radial(radii: Points, rng: Rng) -> Points:
    """Return the closed curve with the given radii at even angles, squeezed and turned at random."""
    angles = np.arange(len(radii)) * (_TURN / len(radii))
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles) * rng.uniform(0.45, 1.0)], axis=1)
    return _turned(points, rng.uniform(0, _TURN))


def _turned(points: Points, angle: float) -> Points:
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _ellipse(rng: Rng) -> Outline:
    return _radial(np.ones(40), rng), None


def _polygon(rng: Rng) -> Outline:
    corners = int(rng.integers(3, 9))
    return _radial(rng.uniform(0.45, 1.0, corners), rng), None


def _star(rng: Rng) -> Outline:
    radii = np.ones(2 * int(rng.integers(4, 9)))
    radii[1::2] = rng.uniform(0.35, 0.6)
    return _radial(radii, rng), None


def _blob(rng: Rng) -> Outline:
    angles = np.arange(48) * (_TURN / 48)
    waves = sum(
        rng.uniform(0, 0.35 / order) * np.cos(order * angles + rng.uniform(0, _TURN)) for order in range(2, 7)
    )
    return _radial(1.0 + waves, rng), None


def _ring(rng: Rng) -> Outline:
    outer = _radial(np.ones(40), rng)
    return outer, outer * rng.uniform(0.45, 0.75)


def _arc(rng: Rng) -> Outline:
    angles = np.linspace(0, rng.uniform(1.8, 5.0), 28)
    half = rng.uniform(0.05, 0.14)
    rim = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _turned(np.concatenate([rim * (1 + half), rim[::-1] * (1 - half)]), rng.uniform(0, _TURN)), None


def _bar(rng: Rng) -> Outline:
    half = rng.uniform(0.04, 0.16)
    corners = np.array([[-1.0, -half], [1.0, -half], [1.0, half], [-1.0, half]])
    return _turned(corners, rng.uniform(0, _TURN)), None


OUTLINES: dict[str, Callable[[Rng], Outline]] = {
    "ellipse": _ellipse,
    "polygon": _polygon,
    "star": _star,
    "blob": _blob,
    "ring": _ring,
    "arc": _arc,
    "bar": _bar,
}
KINDS = tuple(OUTLINES)


def rasterize(kind: str, extent: float, rng: Rng) -> NDArray[np.bool_]:
    """Draw one shape.

    Args:
        kind: A key of `OUTLINES`.
        extent: Longest side of its bounding box in pixels; thin parts are at least 3 px wide.
        rng: Decides everything else about the shape.

    Returns:
        (h, w) bool, cropped to the shape's bounding box.
    """
    outer, hole = OUTLINES[kind](rng)
    low = outer.min(0)
    spread = float((outer.max(0) - low).max())
    scale = extent / spread
    pixels = (outer - low) * scale + 2
    width, height = (int(side) + 3 for side in pixels.max(0))
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    thin = kind in ("arc", "bar")
    draw.polygon([tuple(p) for p in pixels.tolist()], fill=255, outline=255, width=2 if thin else 1)
    if hole is not None:
        draw.polygon([tuple(p) for p in ((hole - low) * scale + 2).tolist()], fill=0)
    mask = np.asarray(canvas) > 0
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
