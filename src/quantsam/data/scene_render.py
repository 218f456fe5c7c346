"""Place the objects of a toy scene and paint them: occlusion, shadows, light, blur, sensor noise."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from quantsam.data.dataset import BoolMask, UInt8Image
from quantsam.data.scene_shapes import CATEGORY_NAMES, THIN_KINDS, Raster, make_raster
from quantsam.data.scene_textures import (
    Colour,
    FloatPlane,
    Planes,
    blend,
    fill,
    noise,
    ramp,
    random_colour,
    shifted_colour,
)

MIN_OBJECTS = 2
MAX_OBJECTS = 8
MIN_VISIBLE_PX = 30
"""An object of which fewer pixels stay visible is left out of the scene."""

MIN_VISIBLE_SHARE = 0.4
"""An object of which a smaller share of its own area stays visible is left out of the scene."""

_REFERENCE_SIZE = 256
_SHORTEST_PX, _LONGEST_PX = 12.0, 150.0  # longest extent at the reference size
_PLACEMENT_TRIES = 1000

Window = tuple[slice, slice]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """An image with the exact masks of its objects.

    Attributes:
        image: RGB, uint8, (size, size, 3).
        masks: Visible pixels of each object, bool, (n, size, size), back to front; no two overlap.
        category_ids: int64, (n,); 1-based positions in `CATEGORY_NAMES`.
        seed: The seed the scene was made from.
    """

    image: UInt8Image
    masks: BoolMask
    category_ids: NDArray[np.int64]
    seed: int


@dataclass(frozen=True, slots=True)
class _Light:
    """The light that one scene's objects share: shadow offset (pixels), softness and darkness."""

    shadow_xy: tuple[int, int]
    softness_px: float
    darkness: float


def make_scene(seed: int, size: int = 256) -> Scene:
    """Make the toy scene of a seed.

    The hard-edged masks say which object is on top at each pixel; the image's own edges are smooth over about one
    pixel. Only `seed` and `size` decide the bytes.

    Args:
        seed: Any non-negative integer.
        size: Side of the square image, in pixels, at least 32; object sizes scale with it.

    Returns:
        The scene, with 2 to 8 objects.
    """
    rng = np.random.default_rng(seed)
    rasters, labels = _place_until_enough(rng, size)
    background = _background(rng, size)
    light = _light(rng, size)
    canvas = background.copy()
    for raster in rasters:
        if light is not None:
            _cast_shadow(canvas, raster, light)
        _paint(rng, canvas, background, raster)
    return Scene(
        image=_develop(rng, canvas),
        masks=labels[None] == np.arange(1, len(rasters) + 1, dtype=np.uint8)[:, None, None],
        category_ids=np.array([raster.category_id for raster in rasters], dtype=np.int64),
        seed=seed,
    )


def _place_until_enough(rng: np.random.Generator, size: int) -> tuple[list[Raster], NDArray[np.uint8]]:
    for _ in range(_PLACEMENT_TRIES):
        rasters = _place(rng, size)
        labels = _label(rasters, size)
        visible = np.bincount(labels.ravel(), minlength=len(rasters) + 1)[1:]
        kept = [
            raster
            for raster, count in zip(rasters, visible.tolist(), strict=True)
            if count >= max(MIN_VISIBLE_PX, MIN_VISIBLE_SHARE * int(np.count_nonzero(raster.mask)))
        ]
        if len(kept) >= MIN_OBJECTS:
            return kept, labels if len(kept) == len(rasters) else _label(kept, size)
    raise AssertionError(f"no room for {MIN_OBJECTS} objects in {size} pixels")


def _place(rng: np.random.Generator, size: int) -> list[Raster]:
    """Draw 2 to 8 shapes from back to front, about half of them close to an earlier one."""
    rasters: list[Raster] = []
    centres: list[tuple[float, float, float]] = []
    for _ in range(int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))):
        kind = CATEGORY_NAMES[int(rng.integers(len(CATEGORY_NAMES)))]
        extent = _extent(rng, kind, size)
        x, y = (float(v) for v in (0.04 + 0.92 * rng.random(2)) * size)
        if centres and rng.random() < 0.45:
            near_x, near_y, near_extent = centres[int(rng.integers(len(centres)))]
            reach = 0.45 * (near_extent + extent)
            x = min(max(near_x + reach * (2.0 * float(rng.random()) - 1.0), 0.0), float(size))
            y = min(max(near_y + reach * (2.0 * float(rng.random()) - 1.0), 0.0), float(size))
        centres.append((x, y, extent))
        rasters.append(make_raster(rng, kind, extent, (x, y)))
    return rasters


def _extent(rng: np.random.Generator, kind: str, size: int) -> float:
    scale = size / _REFERENCE_SIZE
    shortest, longest = max(8.0, _SHORTEST_PX * scale), max(24.0, _LONGEST_PX * scale)
    if kind in THIN_KINDS:
        shortest = min(2.0 * shortest, longest)
    # Log-uniform, with a bias to large sizes: a thin or half-hidden shape has little area anyway.
    position = math.pow(float(rng.random()), 0.6)
    return round(shortest * math.pow(longest / shortest, position), 3)


def _windows(raster: Raster, size: int, shift_xy: tuple[int, int] = (0, 0)) -> tuple[Window, Window]:
    """Return the window of the image that the raster covers, and the matching window of the raster."""
    height, width = raster.coverage.shape
    left, top = raster.left + shift_xy[0], raster.top + shift_xy[1]
    rows = slice(min(max(top, 0), size), min(max(top + height, 0), size))
    columns = slice(min(max(left, 0), size), min(max(left + width, 0), size))
    inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    return (rows, columns), inner


def _label(rasters: Sequence[Raster], size: int) -> NDArray[np.uint8]:
    """Return a label per pixel: 0 for the background, else 1 plus the position of the topmost shape."""
    labels = np.zeros((size, size), dtype=np.uint8)
    for position, raster in enumerate(rasters):
        outer, inner = _windows(raster, size)
        labels[outer][raster.mask[inner]] = position + 1
    return labels


def _background(rng: np.random.Generator, size: int) -> Planes:
    planes = _surface(rng, size)
    if rng.random() < 0.3:  # like a table against a wall or a field against the sky: a border that is not an object
        field = ramp(rng, size, size) + np.float32(0.25 * rng.random()) * noise(rng, size, size)
        edge = np.clip((field - np.float32(0.35 + 0.4 * rng.random())) * np.float32(size * 0.7), 0.0, 1.0)
        planes += (_surface(rng, size) - planes) * edge[None]
    return planes


def _surface(rng: np.random.Generator, size: int) -> Planes:
    kind = ("noise", "noise", "noise", "gradient", "stripes", "checks", "flat")[int(rng.integers(7))]
    contrast = 12.0 + 100.0 * float(rng.random()) ** 1.5
    planes = fill(rng, kind, random_colour(rng), size, size, contrast)
    if rng.random() < 0.5:  # a slow change of colour over the whole background
        low = np.zeros(3, dtype=np.float32)
        planes += blend(ramp(rng, size, size), low, (40.0 * (rng.random(3) - 0.5)).astype(np.float32))
    return planes


def _light(rng: np.random.Generator, size: int) -> _Light | None:
    if rng.random() < 0.4:
        return None
    scale = size / _REFERENCE_SIZE
    angle = 2.0 * math.pi * float(rng.random())
    reach = (1.0 + 7.0 * float(rng.random())) * scale
    shadow_xy = (round(reach * math.cos(angle)), round(reach * math.sin(angle)))
    softness_px = round((1.0 + 5.0 * float(rng.random())) * scale, 3)
    return _Light(shadow_xy, softness_px, 0.15 + 0.4 * float(rng.random()))


def _cast_shadow(canvas: Planes, raster: Raster, light: _Light) -> None:
    margin = math.ceil(2.0 * light.softness_px)
    spread = Image.fromarray(np.pad(raster.coverage, margin)).filter(ImageFilter.BoxBlur(light.softness_px))
    shadow = Raster(raster.category_id, np.asarray(spread), raster.left - margin, raster.top - margin)
    outer, inner = _windows(shadow, canvas.shape[1], light.shadow_xy)
    dimming = shadow.coverage[inner].astype(np.float32) * np.float32(-light.darkness / 255.0)
    canvas[:, *outer] *= dimming[None] + np.float32(1.0)


def _paint(rng: np.random.Generator, canvas: Planes, background: Planes, raster: Raster) -> None:
    outer, inner = _windows(raster, canvas.shape[1])
    under = canvas[:, *outer]
    coverage = raster.coverage[inner]
    mean = np.rint(under[:, coverage > 0].mean(axis=1, dtype=np.float64)).astype(np.float32)
    planes = _surface_of_object(rng, background, mean, under.shape[1:])
    planes *= _shading(rng, coverage)[None]
    alpha = coverage.astype(np.float32) * np.float32(1.0 / 255.0)
    under += (planes - under) * alpha[None]


def _surface_of_object(
    rng: np.random.Generator, background: Planes, under: Colour, image_hw: tuple[int, ...]
) -> Planes:
    height, width = image_hw
    choice = rng.random()
    if choice < 0.12:  # camouflage: another piece of the background, a little lighter, darker or tinted
        top = int(rng.integers(background.shape[1] - height + 1))
        left = int(rng.integers(background.shape[2] - width + 1))
        piece = background[:, top : top + height, left : left + width]
        tint = shifted_colour(rng, under, 20.0 + 25.0 * float(rng.random())) - under
        return np.asarray(piece + tint[:, None, None], dtype=np.float32)
    kind = ("flat", "gradient", "noise", "noise", "stripes", "checks")[int(rng.integers(6))]
    if choice < 0.36:  # low contrast
        colour = shifted_colour(rng, under, 14.0 + 18.0 * float(rng.random()))
        return fill(rng, kind, colour, height, width, 4.0 + 24.0 * float(rng.random()))
    colour = random_colour(rng)
    for _ in range(8):
        if np.abs(colour - under).max() >= 35.0:
            break
        colour = random_colour(rng)
    return fill(rng, kind, colour, height, width, 15.0 + 110.0 * float(rng.random()))


def _shading(rng: np.random.Generator, coverage: NDArray[np.uint8]) -> FloatPlane:
    """Return a factor per pixel: light from one side, and for some shapes darker edges."""
    height, width = coverage.shape
    shade = np.ones((height, width), dtype=np.float32)
    if rng.random() < 0.5:
        strength = np.float32(0.1 + 0.35 * rng.random())
        shade += (ramp(rng, height, width) - np.float32(0.5)) * strength
    if rng.random() < 0.25:
        radius = max(1.0, round(0.12 * min(height, width), 2))
        rounded = np.asarray(Image.fromarray(coverage).filter(ImageFilter.BoxBlur(radius)), dtype=np.float32)
        shade *= rounded * np.float32(0.4 / 255.0) + np.float32(0.65)
    return shade


def _develop(rng: np.random.Generator, canvas: Planes) -> UInt8Image:
    """Light the whole scene unevenly, blur some, add the sensor's noise; (size, size, 3) uint8."""
    size = canvas.shape[1]
    light = ramp(rng, size, size) * np.float32(0.5 * rng.random()) + np.float32(0.7 + 0.2 * rng.random())
    canvas *= light[None]
    np.clip(canvas, 0.0, 255.0, out=canvas)
    image = np.ascontiguousarray(np.rint(canvas).astype(np.uint8).transpose(1, 2, 0))
    if rng.random() < 0.3:
        radius = round(0.3 + 0.5 * float(rng.random()), 3)
        image = np.array(Image.fromarray(image).filter(ImageFilter.BoxBlur(radius)))
    sigma = 0.5 + 5.5 * float(rng.random()) ** 2
    table = np.rint(_normal_quantiles() * sigma).astype(np.int16)
    grain = table[rng.integers(0, 256, image.shape, dtype=np.uint8)]
    return np.asarray(np.clip(grain + image, 0, 255), dtype=np.uint8)


@functools.cache
def _normal_quantiles() -> NDArray[np.float64]:
    """Standard normal values of 256 equally likely bins."""
    normal = NormalDist()
    return np.array([round(normal.inv_cdf((bin_ + 0.5) / 256.0), 4) for bin_ in range(256)])
