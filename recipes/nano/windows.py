"""From a picture to a window of it: scaled, cropped, flipped, coloured, perhaps with objects of others pasted in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from photographs import Picture, Pool, UInt8, tight_box
from PIL import Image, ImageFilter

FRAME = 320  # px: pictures are seen with this longer side when the model is used
MOST_MASKS = 16
SMALLEST = 12  # px of area
GREY = (124, 116, 104)  # what the predictor's zeros are before normalization
SIZES = (8.0, 16.0, 32.0, 64.0, 128.0)  # px of side; bounds of the classes that are drawn equally often


@dataclass(frozen=True, eq=False)
class Window:
    """A square part of the frame, seen at the frame's resolution.

    Attributes:
        image: (S, S, 3) uint8.
        masks: (K, S, S) bool, K from 1 to 16.
        boxes: (K, 4) float32 px of the window.
        complete: Whether every object is among the masks.
        hw: Rows and columns of the picture; what is to the right and below is padding.
    """

    image: UInt8
    masks: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    complete: bool
    hw: tuple[int, int]


@dataclass(frozen=True)
class _Crop:
    """Which part of a picture becomes a window's top-left `size`: `box` in px of the picture."""

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    flip: bool

    def resize(self, array: UInt8) -> UInt8:
        resized: UInt8 = np.asarray(Image.fromarray(array).resize(self.size, Image.Resampling.BILINEAR, self.box))
        return np.ascontiguousarray(resized[:, ::-1]) if self.flip else resized

    def move(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring (K, 4) boxes from the picture to the window."""
        left, top, right, bottom = self.box
        scale = np.array([self.size[0] / (right - left), self.size[1] / (bottom - top)] * 2)
        moved = (boxes - np.array([left, top] * 2)) * scale
        if self.flip:
            moved = np.stack([self.size[0] - moved[:, 2], moved[:, 1], self.size[0] - moved[:, 0], moved[:, 3]], 1)
        result: NDArray[np.float32] = moved.astype(np.float32)
        return result


def _draw_crop(picture: Picture, side: int, rng: np.random.Generator) -> _Crop:
    """Draw scale, stretch and place; a random object's centre is inside."""
    height, width = picture.image.shape[:2]
    longest = max(height, width)
    if side == FRAME and rng.random() < 0.5:  # as the model is used
        scale, stretch = side / longest, 1.0
    else:
        largest = min(2.5 * side, 1.6 * longest)
        scale = math.exp(rng.uniform(math.log(0.6 * side), math.log(largest))) / longest
        stretch = math.exp(rng.uniform(-0.15, 0.15)) if rng.random() < 0.5 else 1.0
    scales = (scale * stretch, scale / stretch)
    x0, y0, x1, y1 = picture.boxes[rng.integers(len(picture.boxes))]
    edges: list[tuple[float, float, int]] = []
    for full, part, centre in ((width, scales[0], (x0 + x1) / 2), (height, scales[1], (y0 + y1) / 2)):
        extent = min(float(full), side / part)
        low = max(0.0, min(float(centre), full) - 0.9 * extent)
        high = max(low, min(full - extent, float(centre) - 0.1 * extent))
        start = min(rng.uniform(low, high), full - extent)
        edges.append((start, start + extent, max(1, min(side, round(extent * part)))))
    (left, right, columns), (top, bottom, rows) = edges
    return _Crop((left, top, right, bottom), (columns, rows), bool(rng.random() < 0.5))


def balanced(areas: NDArray[np.float64], count: int, rng: np.random.Generator) -> list[int]:
    """Return up to `count` indices in random order, sizes in turn: of each class about as many as of the others."""
    classes = np.searchsorted(SIZES, np.sqrt(areas))
    shuffled = rng.permutation(len(areas))
    seen: dict[int, int] = {}
    keys = []
    for index in shuffled:
        rank = seen.get(int(classes[index]), 0)
        seen[int(classes[index])] = rank + 1
        keys.append((rank, rng.random(), int(index)))
    return [index for _, _, index in sorted(keys)[:count]]


def _window(picture: Picture, side: int, most: int, rng: np.random.Generator) -> Window | None:
    crop = _draw_crop(picture, side, rng)
    columns, rows = crop.size
    boxes = crop.move(picture.boxes)
    low = np.maximum(boxes[:, :2], 0)
    high = np.minimum(boxes[:, 2:], crop.size)
    extent = np.prod(np.maximum(high - low, 0), axis=1).astype(np.float64)
    whole = np.maximum(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), 1e-6)
    seen = np.flatnonzero((extent >= SMALLEST) & (extent > 0.15 * whole))
    masks, kept = [], []
    for index in balanced(extent[seen], 2 * most, rng):
        k = int(seen[index])
        mask = np.zeros((side, side), bool)
        mask[:rows, :columns] = crop.resize(picture.mask(k).astype(np.uint8) * 255) > 127
        if mask.sum() >= SMALLEST:
            masks.append(mask)
            kept.append(k)
        if len(masks) == most:
            break
    if not masks:
        return None
    image = np.empty((side, side, 3), np.uint8)
    image[:] = GREY
    image[:rows, :columns] = crop.resize(picture.image)
    complete = picture.complete and len(picture.boxes) <= most
    return Window(image, np.stack(masks), boxes[kept], complete, (rows, columns))


def _paste(base: Window, other: Window, count: int, rng: np.random.Generator) -> Window:
    """Paste objects of another window into this one, with soft edges; what they hide is taken from the masks."""
    image, masks, boxes = base.image.astype(np.float32), list(base.masks), list(base.boxes)
    inside = np.zeros(base.masks.shape[1:], bool)
    inside[: base.hw[0], : base.hw[1]] = True
    for k in rng.permutation(len(other.masks))[:count]:
        mask = other.masks[k] & inside
        if mask.mean() > 0.3 or mask.sum() < SMALLEST:
            continue
        soft = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8)))
        alpha = (np.asarray(soft, np.float32) / 255 * inside)[:, :, None]
        image = image + alpha * (other.image - image)
        left = [m & ~mask for m in masks]
        enough = [m.sum() >= max(SMALLEST, 0.4 * full.sum()) for m, full in zip(left, masks, strict=True)]
        masks = [*(m for m, keep in zip(left, enough, strict=True) if keep), mask]
        boxes = [*(b for b, keep in zip(boxes, enough, strict=True) if keep), other.boxes[k]]
    masks, boxes = masks[-MOST_MASKS:], boxes[-MOST_MASKS:]
    return Window(image.round().astype(np.uint8), np.stack(masks), np.stack(boxes), False, base.hw)


def _exact_boxes(masks: NDArray[np.bool_], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return boxes of masks: a side as annotated, not rounded to pixels, unless the object was cut there."""
    tight = np.array([tight_box(mask) for mask in masks], np.float32)
    return np.where(np.abs(boxes - tight) < 1.0, boxes, tight)


def colour_jitter(image: UInt8, rng: np.random.Generator) -> UInt8:
    """Return the image with random gain, offset and saturation, sometimes grey, sometimes soft."""
    if rng.random() < 0.1:
        blur = ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0))
        image = np.asarray(Image.fromarray(image).filter(blur))
    gains = rng.uniform(0.7, 1.3, 3) ** 0.5 * rng.uniform(0.75, 1.25)
    x = image * gains.astype(np.float32) + np.float32(rng.uniform(-20, 20))
    grey = x.mean(-1, keepdims=True)
    saturation = 0.0 if rng.random() < 0.05 else rng.uniform(0.5, 1.4)
    jittered: UInt8 = np.clip(grey + (x - grey) * np.float32(saturation), 0, 255).astype(np.uint8)
    return jittered


def draw_window(pool: Pool, side: int, pasting: float, rng: np.random.Generator) -> Window:
    """Draw a window of `side` px with at least one object.

    Args:
        pool: Pictures.
        side: In px.
        pasting: Share of windows into which objects of a photograph are pasted.
        rng: Draws.
    """
    window = None
    while window is None:  # a picture's smallest objects may vanish at a small scale
        window = _window(pool.draw(rng), side, MOST_MASKS, rng)
    if rng.random() < pasting:
        other = _window(pool.draw_photograph(rng), side, 3, rng)
        if other is not None:
            window = _paste(window, other, 2, rng)
    image, (rows, columns) = window.image.copy(), window.hw
    if rng.random() < 0.6:
        image[:rows, :columns] = colour_jitter(image[:rows, :columns], rng)
    return Window(image, window.masks, _exact_boxes(window.masks, window.boxes), window.complete, window.hw)
