# NOTE TO THE HELPER WRITING SCENES (from the lead, 12:59): your files were overtaken by this version, which is final and in use by
# the running training: do NOT change it. What is left for you: write_coco_folder in scene_export.py and tests/unit/data/test_scenes.py
# for this version. scene_render.py was removed on purpose. Then report.
"""Textures of the procedural scenes: what fills objects and backgrounds."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rng = np.random.Generator
Field = NDArray[np.float32]

_BANK_SIDE = 640


@functools.cache
def _noise_bank() -> tuple[Field, ...]:
    """Noise fields from smooth to rough: sums of random grids, each up-sampled and weighted by its period."""
    rng = np.random.default_rng(20_240_601)
    fields = []
    for roughness in (0.25, 0.5, 0.75, 1.0):
        total = np.zeros((_BANK_SIDE, _BANK_SIDE), np.float32)
        for cells in (5, 10, 20, 40, 80, 160, 320, 640):
            grid = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
            layer = np.asarray(grid.resize((_BANK_SIDE, _BANK_SIDE), Image.Resampling.BICUBIC), np.float32)
            total += (layer - 127.5) * np.float32((5 / cells) ** (1.2 - roughness))
        fields.append(total / np.float32(np.abs(total).max()))
    white = rng.standard_normal((_BANK_SIDE, _BANK_SIDE)).astype(np.float32)
    return (*fields, white)


def _window(field: Field, height: int, width: int, rng: Rng) -> Field:
    top = int(rng.integers(_BANK_SIDE - height + 1))
    left = int(rng.integers(_BANK_SIDE - width + 1))
    view = field[top : top + height, left : left + width]
    return view[:: int(rng.choice((-1, 1))), :: int(rng.choice((-1, 1)))]


def white_noise(height: int, width: int, rng: Rng) -> Field:
    """Return (height, width) float32 of standard normal noise, cut from a fixed field."""
    return _window(_noise_bank()[-1], height, width, rng)


def _ramp(height: int, width: int, rng: Rng) -> Field:
    """Return the distance along a random direction in pixels."""
    angle = rng.uniform(0, 2 * np.pi)
    y = np.arange(height, dtype=np.float32) * np.float32(np.sin(angle))
    x = np.arange(width, dtype=np.float32) * np.float32(np.cos(angle))
    return y[:, None] + x[None, :]


def _flat(height: int, width: int, rng: Rng) -> Field:
    return np.zeros((height, width), np.float32)


def _gradient(height: int, width: int, rng: Rng) -> Field:
    ramp = _ramp(height, width, rng)
    low, high = float(ramp.min()), float(ramp.max())
    return (ramp - low) * np.float32(2 / max(high - low, 1e-3)) - np.float32(1)


def _noise(height: int, width: int, rng: Rng) -> Field:
    return _window(_noise_bank()[int(rng.integers(4))], height, width, rng) * np.float32(1.6)


def _square_wave(height: int, width: int, rng: Rng) -> Field:
    period = float(np.exp(rng.uniform(np.log(4), np.log(28))))
    phase = (_ramp(height, width, rng) + np.float32(1000 + rng.uniform(0, period))) % np.float32(period)
    return np.where(phase < np.float32(period / 2), np.float32(1), np.float32(-1))


def _checks(height: int, width: int, rng: Rng) -> Field:
    period = float(np.exp(rng.uniform(np.log(6), np.log(30))))
    angle = rng.uniform(0, np.pi / 2)
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    cos, sin = np.float32(np.cos(angle) / period), np.float32(np.sin(angle) / period)
    parity = np.floor(cos * x + sin * y) + np.floor(cos * y - sin * x)
    return (parity % 2) * np.float32(2) - np.float32(1)


PATTERNS: dict[str, Callable[[int, int, Rng], Field]] = {
    "flat": _flat,
    "gradient": _gradient,
    "noise": _noise,
    "stripes": _square_wave,
    "checks": _checks,
}
_KINDS = tuple(PATTERNS)
_OBJECT_SHARES = (0.2, 0.25, 0.3, 0.15, 0.1)
_GROUND_SHARES = (0.05, 0.25, 0.5, 0.12, 0.08)


def texture(height: int, width: int, colour: Field, ground: bool, rng: Rng) -> Field:
    """Return a texture around a colour.

    Args:
        height: Rows.
        width: Columns.
        colour: (3,) float32, RGB in 0..255.
        ground: Draw the kind as backgrounds do (mostly noise), not as objects do.
        rng: Decides kind, contrast, period, angle.

    Returns:
        (height, width, 3) float32, roughly 0..255, not clipped.
    """
    kind = _KINDS[int(rng.choice(len(_KINDS), p=_GROUND_SHARES if ground else _OBJECT_SHARES))]
    pattern = PATTERNS[kind](height, width, rng)
    swing = rng.uniform(8, 60) * rng.uniform(0.5, 1.0, 3)
    result = colour + pattern[..., None] * swing.astype(np.float32)
    if kind != "noise" and rng.random() < 0.5:
        result = result + (_noise(height, width, rng) * np.float32(rng.uniform(4, 22)))[..., None]
    return np.asarray(result, np.float32)
