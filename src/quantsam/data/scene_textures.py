"""Colours and textures of the toy scenes: photo-like noise, stripes, checks, gradients.

Only additions, multiplications and Pillow's integer resampling make a texture, so that a seed gives
the same bytes on every machine. Noise is cut from a bank drawn once at first use.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

FloatPlane = NDArray[np.float32]
"""float32, (height, width)."""

Planes = NDArray[np.float32]
"""float32, (3, height, width); red, green, blue, 0 to 255."""

Colour = NDArray[np.float32]
"""float32, (3,); red, green, blue, 0 to 255."""

_BANK_SEED = 20_230_405
_BANK_SIZE = 512


def random_colour(rng: np.random.Generator) -> Colour:
    """Return a colour of any lightness, rarely with high saturation."""
    lightness = 25.0 + 205.0 * rng.random()
    saturation = 12.0 + 78.0 * rng.random() ** 2
    return _clipped(lightness + saturation * (2.0 * rng.random(3) - 1.0))


def shifted_colour(rng: np.random.Generator, colour: Colour, distance: float) -> Colour:
    """Return a colour whose largest channel difference from `colour` is `distance`, inside 0..255."""
    direction = 2.0 * rng.random(3) - 1.0
    if rng.random() < 0.6:  # mostly lighter or darker, as in a photograph
        direction = 0.3 * direction + (1.0 if rng.random() < 0.5 else -1.0)
    step = direction * (distance / max(float(np.abs(direction).max()), 1e-3))
    moved = colour + step
    if moved.min() < 0.0 or moved.max() > 255.0:
        moved = colour - step
    return _clipped(moved)


def _clipped(colour: NDArray[np.floating]) -> Colour:
    return np.asarray(np.rint(np.clip(colour, 4.0, 251.0)), dtype=np.float32)


def _resized(plane: NDArray[np.uint8], width: int, height: int, method: Image.Resampling) -> Image.Image:
    return Image.fromarray(plane).resize((width, height), method)


def _octaves(rng: np.random.Generator, first: int, falloff: float, stretch: int = 1) -> NDArray[np.uint8]:
    """Sum random grids of doubling resolution, each with `falloff` times the weight of the previous one."""
    total = np.zeros((_BANK_SIZE, _BANK_SIZE))
    cells, weight = first, 1.0
    while cells <= _BANK_SIZE:
        grid = rng.integers(0, 256, (cells, max(2, cells // stretch)), dtype=np.uint8)
        layer = _resized(grid, _BANK_SIZE, _BANK_SIZE, Image.Resampling.BICUBIC)
        total += weight * (np.asarray(layer, dtype=np.float64) - 127.5)
        cells, weight = cells * 2, weight * falloff
    gain = round(58.0 / float(total.std()), 6)
    return np.clip(127.5 + gain * (total - round(float(total.mean()), 3)), 0, 255).astype(np.uint8)


def _pebbles(rng: np.random.Generator, smallest_px: float, largest_px: float) -> NDArray[np.uint8]:
    """Dead leaves: discs of every size over one another, many small ones, few large ones."""
    image = Image.new("L", (_BANK_SIZE, _BANK_SIZE), 128)
    pen = ImageDraw.Draw(image)
    for _ in range(5000):
        radius = smallest_px / (1.0 - (1.0 - smallest_px / largest_px) * float(rng.random()))
        x, y = (float(v) for v in rng.random(2) * _BANK_SIZE)
        box = [round(x - radius), round(y - radius), round(x + radius), round(y + radius)]
        pen.ellipse(box, fill=int(rng.integers(0, 256)))
    half = image.resize((_BANK_SIZE // 2, _BANK_SIZE // 2), Image.Resampling.BOX)
    return np.asarray(half.resize((_BANK_SIZE, _BANK_SIZE), Image.Resampling.BICUBIC))


@functools.cache
def _bank() -> tuple[NDArray[np.uint8], ...]:
    rng = np.random.default_rng(_BANK_SEED)
    pink = _octaves(rng, 2, 0.95)
    blotches = np.clip((_octaves(rng, 8, 0.7).astype(np.int16) - 128) * 4 + 128, 0, 255).astype(np.uint8)
    return (
        pink,
        _octaves(rng, 4, 0.6),  # clouds
        _octaves(rng, 16, 0.85),  # plaster
        _octaves(rng, 64, 0.9),  # sand
        _octaves(rng, 16, 0.8, stretch=12),  # wood, brushed metal
        blotches,
        _pebbles(rng, 2.0, 9.0),
        _pebbles(rng, 4.0, 16.0),
    )


def noise(rng: np.random.Generator, height: int, width: int) -> FloatPlane:
    """Cut a piece of the noise bank at a random place, zoom and rotation; values in 0..1."""
    plane = _bank()[int(rng.integers(len(_bank())))]
    zoom = 1.0 if rng.random() < 0.5 else 0.6 + 1.4 * float(rng.random())
    rows = min(_BANK_SIZE, max(2, int(height / zoom)))
    columns = min(_BANK_SIZE, max(2, int(width / zoom)))
    turn = int(rng.integers(8))
    plane = plane.T if turn & 1 else plane
    plane = plane[:: -1 if turn & 2 else 1, :: -1 if turn & 4 else 1]
    top = int(rng.integers(_BANK_SIZE - rows + 1))
    left = int(rng.integers(_BANK_SIZE - columns + 1))
    piece = np.ascontiguousarray(plane[top : top + rows, left : left + columns])
    if piece.shape != (height, width):
        piece = np.asarray(_resized(piece, width, height, Image.Resampling.BILINEAR))
    return piece.astype(np.float32) * np.float32(1.0 / 255.0)


def ramp(rng: np.random.Generator, height: int, width: int) -> FloatPlane:
    """Return a linear gradient in a random direction, 0 at one end and 1 at the other."""
    along_x, along_y = _direction(rng)
    x = np.linspace(-1.0, 1.0, width, dtype=np.float32) * np.float32(along_x)
    y = np.linspace(-1.0, 1.0, height, dtype=np.float32) * np.float32(along_y)
    return (y[:, None] + x[None, :]) * np.float32(0.5 / (abs(along_x) + abs(along_y))) + np.float32(0.5)


def _direction(rng: np.random.Generator) -> tuple[float, float]:
    angle = 2.0 * math.pi * float(rng.random())
    return round(math.cos(angle), 4), round(math.sin(angle), 4)


def _wave(phase: FloatPlane, sharpness: float) -> FloatPlane:
    """A triangle wave of period 1, steepened towards a square one; values in 0..1."""
    phase = np.abs(phase - np.floor(phase) - np.float32(0.5))
    steep = (phase - np.float32(0.25)) * np.float32(sharpness) + np.float32(0.5)
    return np.asarray(np.clip(steep, 0.0, 1.0), dtype=np.float32)


def _phase(height: int, width: int, direction: tuple[float, float], period_px: float) -> FloatPlane:
    x = np.arange(width, dtype=np.float32) * np.float32(direction[0] / period_px)
    y = np.arange(height, dtype=np.float32) * np.float32(direction[1] / period_px)
    return y[:, None] + x[None, :]


def _period(rng: np.random.Generator, height: int, width: int) -> float:
    longest = max(6.0, min(40.0, max(height, width) * 0.5))
    return round(4.0 + (longest - 4.0) * float(rng.random()) ** 2, 3)


def stripes(rng: np.random.Generator, height: int, width: int) -> FloatPlane:
    """Return stripes of random period, direction and softness, half of them wavy; values in 0..1."""
    phase = _phase(height, width, _direction(rng), _period(rng, height, width))
    phase += np.float32(rng.random())
    if rng.random() < 0.5:
        phase += noise(rng, height, width) * np.float32(0.2 + 1.2 * rng.random())
    return _wave(phase, 2.0 + 10.0 * float(rng.random()) ** 2)


def checks(rng: np.random.Generator, height: int, width: int) -> FloatPlane:
    """Return a check or weave pattern of random periods and direction; values in 0..1."""
    along = _direction(rng)
    sharpness = 3.0 + 9.0 * rng.random()
    first = _wave(_phase(height, width, along, _period(rng, height, width)), sharpness)
    second = _wave(_phase(height, width, (-along[1], along[0]), _period(rng, height, width)), sharpness)
    if rng.random() < 0.3:  # tartan rather than chessboard
        return (first + second) * np.float32(0.5)
    return first + second - np.float32(2.0) * first * second


def _flat(rng: np.random.Generator, height: int, width: int) -> FloatPlane:
    return np.zeros((height, width), dtype=np.float32)


TEXTURES: dict[str, Callable[[np.random.Generator, int, int], FloatPlane]] = {
    "flat": _flat,
    "gradient": ramp,
    "noise": noise,
    "stripes": stripes,
    "checks": checks,
}
"""How a texture is named; each gives 0..1, float32, (height, width)."""


def blend(field: FloatPlane, low: Colour, high: Colour) -> Planes:
    """Turn a texture into colours: `low` where it is 0, `high` where it is 1; (3, height, width)."""
    return low[:, None, None] + field[None] * (high - low)[:, None, None]


def fill(rng: np.random.Generator, kind: str, colour: Colour, height: int, width: int, contrast: float) -> Planes:
    """Fill a rectangle with a texture around a colour.

    Args:
        rng: Source of every random choice.
        kind: One of `TEXTURES`.
        colour: The mean colour, roughly.
        height: Rows.
        width: Columns.
        contrast: Largest channel difference between the texture's two colours.

    Returns:
        Colours, (3, height, width), not clipped.
    """
    low = colour if kind == "flat" else shifted_colour(rng, colour, contrast * 0.5)
    high = np.float32(2.0) * colour - low
    planes = blend(TEXTURES[kind](rng, height, width), low, high)
    if rng.random() < 0.5:
        grain = noise(rng, height, width) - np.float32(0.5)
        planes += (grain * np.float32(6.0 + 26.0 * rng.random() ** 2))[None]
    return planes
