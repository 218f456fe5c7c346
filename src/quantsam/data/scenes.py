# NOTE TO THE HELPER WRITING SCENES (from the lead, 12:59): your files were overtaken by this version, which is final and in use by
# the running training: do NOT change it. What is left for you: write_coco_folder in scene_export.py and tests/unit/data/test_scenes.py
# for this version. scene_render.py was removed on purpose. Then report.
"""Procedural scenes: textured backgrounds, overlapping objects, exact instance masks.

They stand in for photographs wherever none may be shipped: the demo, the tests, and the training of
the nano variant. A scene is a function of its seed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from quantsam.data.dataset import Annotation, BoolMask, UInt8Image
from quantsam.data.scene_shapes import KINDS, rasterize
from quantsam.data.scene_textures import texture, white_noise
from quantsam.errors import InputError

GENERATOR_VERSION = 1
SEED_STRIDE = 1_000_000
MIN_VISIBLE_PX = 30
MIN_VISIBLE_SHARE = 0.4
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture and what is in it.

    Attributes:
        seed: What it was made from.
        image: (size, size, 3) uint8 RGB.
        masks: (n, size, size) bool, the visible part of each object; disjoint, n >= 2.
        category_ids: (n,) int64, 1 + the object's place in `scene_shapes.KINDS`.
    """

    seed: int
    image: UInt8Image
    masks: BoolMask
    category_ids: NDArray[np.int64]


def make_scene(seed: int, size: int = 256) -> Scene:
    """Make the scene of a seed.

    Args:
        seed: Any integer >= 0.
        size: Side in pixels; objects scale with it (longest extent 12 to 150 px at 256).

    Returns:
        The same scene, byte for byte, at every call.
    """
    for attempt in range(100):
        scene = _attempt(np.random.default_rng((seed, attempt)), seed, size)
        if len(scene.masks) >= 2:
            return scene
    raise AssertionError(f"no scene for seed {seed}")  # chance below 1e-100


def _attempt(rng: Rng, seed: int, size: int) -> Scene:
    canvas = texture(size, size, _colour(rng), True, rng)
    owner = np.zeros((size, size), np.uint8)  # 0 is the background, then the objects from below to the top
    count = int(rng.integers(2, 9))
    extents = 12 * (150 / 12) ** (rng.random(count) ** 0.85) * size / 256
    if rng.random() < 0.75:  # mostly small things lie on large ones
        extents = np.sort(extents)[::-1]
    areas = np.zeros(count + 1, np.int64)
    kinds = np.zeros(count + 1, np.int64)
    for index, extent in enumerate(extents, start=1):
        kind = int(rng.integers(len(KINDS)))
        shape = rasterize(KINDS[kind], float(extent), rng)
        kinds[index], areas[index] = kind, shape.sum()
        _place(canvas, owner, shape, index, rng)
    image = _photographed(canvas, rng)
    visible = np.bincount(owner.ravel(), minlength=count + 1)
    enough = np.maximum(MIN_VISIBLE_PX * (size / 256) ** 2, MIN_VISIBLE_SHARE * areas)
    kept = np.flatnonzero(visible[1:] >= enough[1:]) + 1
    return Scene(seed, image, owner == kept[:, None, None], kinds[kept] + 1)


def _colour(rng: Rng) -> NDArray[np.float32]:
    grey, hue = rng.uniform(25, 230), rng.uniform(-55, 55, 3)
    return np.clip(grey + hue, 5, 250).astype(np.float32)


def _place(
    canvas: NDArray[np.float32], owner: NDArray[np.uint8], shape: NDArray[np.bool_], index: int, rng: Rng
) -> None:
    """Paint one object over what is there, with its shadow."""
    size = len(owner)
    height, width = shape.shape
    top = int(rng.integers(-height // 6, size - height + height // 6 + 1))
    left = int(rng.integers(-width // 6, size - width + width // 6 + 1))
    if rng.random() < 0.4:
        _shadow(canvas, shape, top, left, rng)
    rows, columns = slice(max(top, 0), min(top + height, size)), slice(max(left, 0), min(left + width, size))
    shape = shape[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    beneath = canvas[rows, columns]
    if rng.random() < 0.2:  # low contrast: nearly the colour of what it lies on
        offset = rng.choice((-1, 1)) * rng.uniform(10, 26) * rng.uniform(0.4, 1.0, 3)
        colour = (beneath.mean((0, 1)) + offset).astype(np.float32)
    else:
        colour = _colour(rng)
    fill = texture(*shape.shape, colour, rng.random() < 0.15, rng)
    np.copyto(beneath, fill, where=shape[..., None])
    owner[rows, columns][shape] = index


def _shadow(canvas: NDArray[np.float32], shape: NDArray[np.bool_], top: int, left: int, rng: Rng) -> None:
    size, blur = len(canvas), int(rng.integers(2, 7))
    dy, dx = (int(v) for v in rng.integers(-6, 7, 2))
    soft = Image.fromarray(np.pad(shape.astype(np.uint8) * 255, 2 * blur)).filter(ImageFilter.BoxBlur(blur))
    shade = np.asarray(soft, np.float32) * np.float32(rng.uniform(0.25, 0.65) / 255)
    top, left = top + dy - 2 * blur, left + dx - 2 * blur
    rows = slice(max(top, 0), min(top + shade.shape[0], size))
    columns = slice(max(left, 0), min(left + shade.shape[1], size))
    if rows.start < rows.stop and columns.start < columns.stop:
        part = shade[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        canvas[rows, columns] *= (1 - part)[..., None]


def _photographed(canvas: NDArray[np.float32], rng: Rng) -> UInt8Image:
    """Light the canvas unevenly, blur it a little, add sensor noise, round to bytes."""
    size = len(canvas)
    slope = rng.uniform(-0.25, 0.25, 2)
    steps = np.linspace(-1, 1, size)
    canvas *= (1 + slope[0] * steps[:, None] + slope[1] * steps[None, :]).astype(np.float32)[..., None]
    if rng.random() < 0.8:
        canvas += (white_noise(size, size, rng) * np.float32(rng.uniform(1, 7)))[..., None]
    image = np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)
    if rng.random() < 0.5:
        image = np.asarray(Image.fromarray(image).filter(ImageFilter.BoxBlur(float(rng.uniform(0.3, 0.8)))))
    return np.ascontiguousarray(image)


class SceneDataset:
    """Scenes as a dataset with boxes and masks; different seeds share no scene."""

    def __init__(self, count: int, seed: int = 0, size: int = 256) -> None:
        """Describe the dataset; scenes are made when asked for.

        Args:
            count: Number of scenes, 1 to 1,000,000; their ids are 1 ... count.
            seed: Which scenes, 0 or more.
            size: Side in pixels, a multiple of 8, at least 32.

        Raises:
            InputError: A value is outside its range.
        """
        if not 1 <= count <= SEED_STRIDE:
            raise InputError(f"number of scenes must be 1 to {SEED_STRIDE:,}, got {count}: choose e.g. scenes:300")
        if seed < 0:
            raise InputError(f"seed of the scenes must be >= 0, got {seed}: choose e.g. scenes:300:7")
        if size < 32 or size % 8:
            raise InputError(f"size of the scenes must be a multiple of 8 and >= 32, got {size}: choose e.g. 256")
        self.count, self.seed, self.size = count, seed, size

    @property
    def name(self) -> str:
        """`scenes:COUNT:SEED`, as the command line takes it."""
        return f"scenes:{self.count}:{self.seed}"

    @property
    def digest(self) -> str:
        """Hex digest of the generator's version and everything that decides the scenes."""
        text = f"{GENERATOR_VERSION}:{self.count}:{self.seed}:{self.size}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def image_ids(self) -> Sequence[int]:
        """1 ... count."""
        return range(1, self.count + 1)

    def scene(self, image_id: int) -> Scene:
        """Return a scene by its image id."""
        if image_id not in self.image_ids:
            raise InputError(f"image id of {self.name} must be 1 to {self.count}, got {image_id}")
        return _cached_scene(self.seed * SEED_STRIDE + image_id - 1, self.size)

    def image(self, image_id: int) -> UInt8Image:
        """Return the picture, (size, size, 3) uint8 RGB."""
        return self.scene(image_id).image

    def annotations(self, image_id: int) -> Sequence[Annotation]:
        """Return the scene's objects; boxes are tight around the visible part."""
        scene = self.scene(image_id)
        found = []
        for index, mask in enumerate(scene.masks):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            found.append(
                Annotation(
                    id=image_id * 100 + index,
                    image_id=image_id,
                    category_id=int(scene.category_ids[index]),
                    box_xyxy=(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)),
                    area=float(mask.sum()),
                    is_crowd=False,
                    segmentation=index,
                )
            )
        return found

    def mask(self, annotation: Annotation) -> BoolMask:
        """Return the visible part of an object, (size, size) bool."""
        return self.scene(annotation.image_id).masks[annotation.segmentation]


@functools.lru_cache(maxsize=16)
def _cached_scene(seed: int, size: int) -> Scene:
    scene = make_scene(seed, size)
    for array in (scene.image, scene.masks, scene.category_ids):
        array.flags.writeable = False
    return scene
