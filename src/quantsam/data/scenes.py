"""Toy scenes as a dataset: made on demand from a seed, or saved as a COCO folder.

The objects are plane shapes with exact masks, so a small Segment Anything model can be trained and scored without a
download. The seed alone determines an image; see `make_scene`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from quantsam.data.coco_masks import encode_mask
from quantsam.data.dataset import Annotation, BoolMask, UInt8Image
from quantsam.data.scene_render import Scene, make_scene
from quantsam.data.scene_shapes import CATEGORY_NAMES
from quantsam.errors import InputError
from quantsam.files import atomic_folder

__all__ = ["CATEGORY_NAMES", "GENERATOR_VERSION", "Scene", "SceneDataset", "make_scene", "write_coco_folder"]

GENERATOR_VERSION = 1
"""Raised whenever the same seed gives another scene than before."""

SEEDS_PER_DATASET = 1_000_000
_ANNOTATIONS_PER_IMAGE = 100  # room for ids; a scene has at most 8


@functools.lru_cache(maxsize=8)
def _recent_scene(seed: int, size: int) -> Scene:
    return make_scene(seed, size)


class SceneDataset:
    """Toy scenes with ids 1 to `count`, made on demand.

    Datasets with different `seed` share no scene, so one seed can train and another can test.

    Args:
        count: Number of scenes, 1 to 1,000,000.
        seed: Number of the set of scenes, >= 0.
        size: Side of the square images in pixels, a multiple of 8, at least 32.

    Raises:
        InputError: An argument is outside its range.

    >>> dataset = SceneDataset(3, seed=7)
    >>> dataset.name, list(dataset.image_ids), dataset.image(1).shape
    ('scenes-3-seed7', [1, 2, 3], (256, 256, 3))
    """

    def __init__(self, count: int, seed: int = 0, size: int = 256) -> None:
        if not 1 <= count <= SEEDS_PER_DATASET:
            raise InputError(
                f"`count` of a scene dataset must be between 1 and {SEEDS_PER_DATASET:,}, got {count:,}: "
                "for more scenes use a second dataset with another seed"
            )
        if seed < 0:
            raise InputError(f"`seed` of a scene dataset must be >= 0, got {seed}: give 0, 1, 2, ...")
        if size < 32 or size % 8:
            nearest_size = max(32, round(size / 8) * 8)
            raise InputError(
                f"`size` of a scene dataset must be a multiple of 8 and at least 32, got {size}: "
                f"the nearest is {nearest_size}"
            )
        self._count, self._seed, self._size = count, seed, size

    @property
    def name(self) -> str:
        """A name such as `scenes-300-seed7`; includes the size if it is not 256."""
        name = f"scenes-{self._count}-seed{self._seed}"
        return name if self._size == 256 else f"{name}-{self._size}px"

    @property
    def digest(self) -> str:
        """Hex SHA-256 over the generator's version, count, seed and size."""
        key = f"quantsam scenes v{GENERATOR_VERSION} count={self._count} seed={self._seed} size={self._size}"
        return hashlib.sha256(key.encode()).hexdigest()

    @property
    def stamp(self) -> str:
        """The digest, because it alone determines the scenes."""
        return self.digest

    @property
    def image_ids(self) -> Sequence[int]:
        """1 to `count`."""
        return range(1, self._count + 1)

    @property
    def category_names(self) -> Mapping[int, str]:
        """Kinds of shape by category id."""
        return dict(enumerate(CATEGORY_NAMES, start=1))

    def file_name(self, image_id: int) -> str | None:
        """Return None: a scene is not a file."""
        return None

    def scene(self, image_id: int) -> Scene:
        """Return the whole scene of an image; other callers share it, so do not change it.

        Raises:
            InputError: There is no image with this id.
        """
        if not 1 <= image_id <= self._count:
            raise InputError(
                f"image id of {self.name} must be between 1 and {self._count}, got {image_id}: `image_ids` lists them"
            )
        return _recent_scene(self._seed * SEEDS_PER_DATASET + image_id - 1, self._size)

    def image(self, image_id: int) -> UInt8Image:
        """Return the image as RGB, uint8, (size, size, 3)."""
        return self.scene(image_id).image.copy()

    def annotations(self, image_id: int) -> Sequence[Annotation]:
        """Return the image's objects, back to front; boxes are tight around the visible pixels."""
        scene = self.scene(image_id)
        return [
            Annotation(
                id=image_id * _ANNOTATIONS_PER_IMAGE + index + 1,
                image_id=image_id,
                category_id=int(category_id),
                box_xyxy=_tight_box(mask),
                area=float(np.count_nonzero(mask)),
                is_crowd=False,
                segmentation=(image_id, index),
            )
            for index, (mask, category_id) in enumerate(zip(scene.masks, scene.category_ids, strict=True))
        ]

    def mask(self, annotation: Annotation) -> BoolMask:
        """Return the object's visible pixels, bool, (size, size)."""
        image_id, index = annotation.segmentation
        return np.array(self.scene(image_id).masks[index], dtype=np.bool_)


def _tight_box(mask: BoolMask) -> tuple[float, float, float, float]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _every(image_ids: Iterable[int]) -> Iterable[int]:
    return image_ids


def write_coco_folder(
    dataset: SceneDataset,
    folder: Path,
    split: str = "val2017",
    progress: Callable[[Iterable[int]], Iterable[int]] = _every,
) -> Path:
    """Write scenes in the layout of the official COCO download; all of them or nothing.

    Args:
        dataset: The scenes to write.
        folder: Target folder; must be missing or empty. It receives `{split}/000000000001.png`, ... and
            `annotations/instances_{split}.json` with compressed RLE segmentations.
        split: Name of the split: letters, digits, `_` and `-`.
        progress: Wraps the loop over image ids, to show progress.

    Returns:
        `folder`.

    Raises:
        InputError: `split` is not a plain name.
        OutputError: `folder` is not empty, or cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
        raise InputError(f"`split` must be letters, digits, '_' or '-', got {split!r}: for example 'val2017'")
    with atomic_folder(folder) as aside:
        _write_split(dataset, aside, split, progress)
    return folder


def _write_split(
    dataset: SceneDataset, root: Path, split: str, progress: Callable[[Iterable[int]], Iterable[int]]
) -> None:
    (root / split).mkdir()
    (root / "annotations").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in progress(dataset.image_ids):
        image = dataset.image(image_id)
        file_name = f"{image_id:012d}.png"
        Image.fromarray(image).save(root / split / file_name)
        height, width = image.shape[:2]
        images.append({"file_name": file_name, "height": height, "width": width, "id": image_id, "license": 1})
        annotations += [_coco_annotation(dataset, item) for item in dataset.annotations(image_id)]
    document = {
        "info": {"description": f"quantsam toy scenes: {dataset.name}", "version": str(GENERATOR_VERSION)},
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "shape"}
            for number, name in enumerate(CATEGORY_NAMES, start=1)
        ],
    }
    file = root / "annotations" / f"instances_{split}.json"
    file.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


def _coco_annotation(dataset: SceneDataset, item: Annotation) -> dict[str, Any]:
    left, top, right, bottom = item.box_xyxy
    return {
        "id": item.id,
        "image_id": item.image_id,
        "category_id": item.category_id,
        "bbox": [left, top, right - left, bottom - top],
        "area": item.area,
        "iscrowd": 0,
        "segmentation": encode_mask(dataset.mask(item)),
    }
