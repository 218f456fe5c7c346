"""Training samples of the nano recipe: scenes and, where there are any, photographs; both with prompts.

Everything is a function of (seed, step): a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset as TorchDataset

from quantsam.data.coco import CocoDataset
from quantsam.data.scenes import make_scene

SIZE = 256
TRAINING_SEEDS = 10_000_000_000  # far from every seed that a SceneDataset of the demo or the scores uses
UInt8 = NDArray[np.uint8]
Float = NDArray[np.float32]


@dataclass(frozen=True)
class Prompts:
    """Prompts of one image, all objects of one step alike in form.

    Attributes:
        masks: (K, 256, 256) bool, the objects asked for.
        boxes: (K, 4) float32 x0 y0 x1 y1 px, jittered.
        points: (K, N, 2) float32 x y px; the first lies inside its object.
        labels: (K, N) int64, 1 inside the object, 0 outside.
        instances: (256, 256) uint8, the number of the object at each pixel, 0 for none; None where not
            every object is known, as in photographs.
    """

    masks: NDArray[np.bool_]
    boxes: Float
    points: Float
    labels: NDArray[np.int64]
    instances: UInt8 | None


def jittered_box(mask: NDArray[np.bool_], rng: np.random.Generator) -> Float:
    """Return the mask's tight box with every side moved by up to 10 % of its length, at most 12 px."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1], np.float32)
    if rng.random() < 0.3:
        return box
    sides = np.tile(box[2:] - box[:2], 2)
    noise = np.clip(rng.normal(0, 0.05, 4), -0.1, 0.1) * sides
    return np.clip(box + np.clip(noise, -12, 12), 0, SIZE).astype(np.float32)


def clicks(
    mask: NDArray[np.bool_], box: Float, count: int, rng: np.random.Generator
) -> tuple[Float, NDArray[np.int64]]:
    """Return `count` clicks: the first inside, each other inside or in the box's surroundings."""
    inside = np.argwhere(mask)
    margin = 0.3 * (box[2:] - box[:2]) + 4
    low = np.maximum(box[:2] - margin, 0).astype(int)
    high = np.minimum(box[2:] + margin, SIZE).astype(int)
    outside = np.argwhere(~mask[low[1] : high[1], low[0] : high[0]]) + low[::-1]
    points, labels = [], []
    for index in range(count):
        positive = index == 0 or len(outside) == 0 or rng.random() < 0.5
        pool = inside if positive else outside
        if index == 0 and rng.random() < 0.7:  # people and evaluators click near the middle of things
            tries = pool[rng.integers(len(pool), size=12)]
            pool = tries[[np.argmax([_clearance(mask, y, x) for y, x in tries])]]
        y, x = pool[rng.integers(len(pool))]
        points.append((x + rng.random(), y + rng.random()) if not positive else (x + 0.5, y + 0.5))
        labels.append(int(positive))
    return np.array(points, np.float32), np.array(labels, np.int64)


def _clearance(mask: NDArray[np.bool_], y: int, x: int) -> int:
    """Half side of the largest square around a pixel, out of a few sizes, that lies inside the mask."""
    best = 0
    for radius in (1, 2, 4, 7, 11, 16, 24):
        window = mask[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        if not window.all():
            break
        best = radius
    return best


def prompts_of(masks: NDArray[np.bool_], objects: int, count: int, complete: bool, rng: np.random.Generator) -> Prompts:
    """Draw `objects` objects (with repetition where there are fewer) and prompts for them."""
    order = rng.permutation(len(masks))
    picked = np.resize(order, objects)
    chosen = masks[picked]
    boxes = np.stack([jittered_box(mask, rng) for mask in chosen])
    drawn = [clicks(mask, box, count, rng) for mask, box in zip(chosen, boxes, strict=True)]
    instances = np.zeros((SIZE, SIZE), np.uint8)
    for number, mask in enumerate(masks, start=1):
        instances[mask] = number
    points, labels = np.stack([p for p, _ in drawn]), np.stack([n for _, n in drawn])
    return Prompts(chosen, boxes, points, labels, instances if complete else None)


class Photographs:
    """COCO photographs with at least one object of 200 px or more after a random crop."""

    def __init__(self, folder: Path) -> None:
        self._data = CocoDataset(folder, split="train2017")
        self._ids = [i for i in self._data.image_ids if any(not a.is_crowd for a in self._data.annotations(i))]

    def sample(self, rng: np.random.Generator) -> tuple[UInt8, NDArray[np.bool_]] | None:
        """Return a random 256x256 crop and its objects' masks; None where no object survived."""
        image_id = self._ids[rng.integers(len(self._ids))]
        image = self._data.image(image_id)
        height, width = image.shape[:2]
        side = int(min(height, width) * np.exp(rng.uniform(np.log(0.4), np.log(1.0))))
        side = max(side, min(height, width, 128))
        if rng.random() < 0.4:  # the whole picture, padded as the predictor pads it
            side = max(height, width)
        top = int(rng.integers(max(1, height - side + 1)))
        left = int(rng.integers(max(1, width - side + 1)))
        flip = rng.random() < 0.5
        pixels = _crop(image[top : top + side, left : left + side], side, flip, Image.Resampling.BILINEAR)
        masks = []
        for annotation in self._data.annotations(image_id):
            if annotation.is_crowd or annotation.area < 1:
                continue
            mask = self._data.mask(annotation)[top : top + side, left : left + side]
            resized = _crop(mask.astype(np.uint8) * 255, side, flip, Image.Resampling.BILINEAR) > 127
            if resized.sum() >= 60:
                masks.append(resized)
        return (pixels, np.stack(masks)) if masks else None


def _crop(array: UInt8, side: int, flip: bool, resample: Image.Resampling) -> UInt8:
    scale = SIZE / side
    size = (max(1, round(array.shape[1] * scale)), max(1, round(array.shape[0] * scale)))
    resized = np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize(size, resample))
    padded = np.zeros((SIZE, SIZE, *array.shape[2:]), np.uint8)
    if padded.ndim == 3:
        padded[:] = (124, 116, 104)  # what the predictor's zeros are before normalization
    padded[: resized.shape[0], : resized.shape[1]] = resized[:SIZE, :SIZE]
    if flip and resized.shape[1] >= SIZE:
        padded = padded[:, ::-1]
    return np.ascontiguousarray(padded)


def colour_jitter(image: UInt8, rng: np.random.Generator) -> UInt8:
    """Return the image with random gain, offset and saturation."""
    gains = rng.uniform(0.7, 1.3, 3) ** 0.5 * rng.uniform(0.75, 1.25)
    x = image * gains + rng.uniform(-20, 20)
    grey = x.mean(-1, keepdims=True)
    jittered: UInt8 = np.clip(grey + (x - grey) * rng.uniform(0.5, 1.4), 0, 255).astype(np.uint8)
    return jittered


class StepDataset(TorchDataset[tuple[UInt8, Prompts]]):
    """Item `i` is one image with its prompts; images of one step share the number of clicks."""

    def __init__(self, seed: int, batch: int, objects: int, photographs: Path | None, share: float) -> None:
        self.seed, self.batch, self.objects, self.share = seed, batch, objects, share
        self._photographs = Photographs(photographs) if photographs else None

    def clicks_of(self, step: int) -> int:
        """Return how many clicks each prompt of a step has: one in half of the steps, else two to six."""
        rng = np.random.default_rng((self.seed, 1, step))
        return 1 if rng.random() < 0.6 else int(rng.integers(2, 7))

    def __getitem__(self, index: int) -> tuple[UInt8, Prompts]:
        """Return image `index`: (256, 256, 3) uint8 and its prompts."""
        rng = np.random.default_rng((self.seed, 2, index))
        found = None
        if self._photographs is not None and rng.random() < self.share:
            found = self._photographs.sample(rng)
        complete = found is None
        if found is None:
            scene = make_scene(TRAINING_SEEDS + self.seed * 1_000_000_000 + index, SIZE)
            found = (scene.image, scene.masks)
        image, masks = found
        prompts = prompts_of(masks, self.objects, self.clicks_of(index // self.batch), complete, rng)
        return (colour_jitter(image, rng) if rng.random() < 0.5 else image), prompts
