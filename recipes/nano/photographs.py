"""The pictures that the recipe trains on, with the masks of their objects, all in memory.

Photographs come from a COCO folder and from a folder of photographs by source; scenes are made on demand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantsam.data.coco import CocoDataset
from quantsam.data.dataset import Annotation
from quantsam.data.scenes import make_scene
from quantsam.errors import DatasetError

UInt8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]
HELD_OUT_FILE = Path(__file__).with_name("held_out.json")
TRAINING_SEEDS = 10_000_000_000  # far from every seed that a SceneDataset of the demo or the scores uses
SCENE_SIZE = 256
LONGEST = 640  # px; larger photographs are kept at this size

# How often each source is drawn, out of all photographs: by how much it looks like what people segment, and by how
# many pictures it has. Only sources whose licence lets weights be shipped are here.
SHARES = {"coco": 0.34, "animals": 0.24, "ccp": 0.17, "facade": 0.11, "food": 0.10, "mushrooms": 0.04}


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture and its objects.

    Attributes:
        image: (H, W, 3) uint8.
        boxes: (K, 4) float32, x0 y0 x1 y1 px of each object, not rounded.
        mask: Gives the (H, W) mask of object k.
        complete: Whether every object of the picture is among them.
    """

    image: UInt8
    boxes: NDArray[np.float32]
    mask: Callable[[int], Mask]
    complete: bool = False


@dataclass(frozen=True)
class _Stored:
    """A photograph in memory: its pixels, maybe reduced, and where its masks come from."""

    image: UInt8
    annotations: tuple[Annotation, ...]
    data: CocoDataset

    def picture(self) -> Picture:
        height, width = self.image.shape[:2]
        stored = self.data.image_hw[self.annotations[0].image_id]
        scale = np.array([width / stored[1], height / stored[0]] * 2, np.float32)
        boxes = np.array([a.box_xyxy for a in self.annotations], np.float32) * scale

        def mask(k: int) -> Mask:
            full = self.data.mask(self.annotations[k])
            return full if full.shape == (height, width) else _reduced(full, (width, height))

        return Picture(self.image, boxes, mask)


def _reduced(mask: Mask, size: tuple[int, int]) -> Mask:
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR)) > 127


def held_out(names: Sequence[str]) -> list[str]:
    """Return a tenth of a source's file names, decided by the names alone."""
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return sorted(order[: round(len(order) / 10)])


def source_of(file_name: str) -> str:
    """Return the source of a photograph, `animals` of `animals-0012.jpg`."""
    return file_name.rpartition("-")[0]


def open_photographs(folder: Path) -> CocoDataset:
    """Open a folder of photographs by source: `images/` and `annotations.json` in COCO's form.

    Raises:
        DatasetError: The folder has no annotations, or they are not of its pictures.
    """
    file = folder / "annotations.json"
    if not file.is_file():
        raise DatasetError(f"photographs must have annotations, got no {file}: name the folder that holds this file")
    data = CocoDataset(folder, annotations=file, image_root=folder / "images")
    for image_id in data.image_ids:
        for annotation in data.annotations(image_id):
            rle = annotation.segmentation
            height_width = list(data.image_hw[image_id])
            if isinstance(rle, dict) and rle["size"] != height_width:
                raise DatasetError(
                    f"masks must fit their picture, got annotation {annotation.id} of {file} with a mask of "
                    f"{rle['size']} (height, width) for a picture of {height_width}: mend or remove it"
                )
    return data


def file_names(data: CocoDataset) -> dict[int, str]:
    """Return the pictures' file names by id."""
    document = json.loads(data.annotation_file.read_bytes())  # it was read, and checked, before
    return {image["id"]: image["file_name"] for image in document["images"]}


class Pool:
    """Draws pictures: the source first, then the picture, so that no source dominates."""

    def __init__(self, coco: Path | None, photographs: Path | None, scenes: float, seed: int) -> None:
        """Read all photographs into memory.

        Args:
            coco: A COCO folder with train2017/, or None.
            photographs: A folder of photographs by source, or None.
            scenes: Share of scenes; without any photographs all are.
            seed: Decides the scenes.

        Raises:
            DatasetError: A folder is not what it should be.
        """
        self._sources: dict[str, list[_Stored]] = {}
        self._seed, self._scenes = seed, scenes
        if coco is not None:
            data = CocoDataset(coco, split="train2017")
            self._sources["coco"] = _load(data, data.image_ids)
        if photographs is not None:
            data = open_photographs(photographs)
            out = set(json.loads(HELD_OUT_FILE.read_text()))
            names = file_names(data)
            for source in SHARES:
                ids = [i for i in data.image_ids if source_of(names[i]) == source and names[i] not in out]
                if ids:
                    self._sources[source] = _load(data, ids)
        self._names = list(self._sources)
        shares = np.array([SHARES[name] for name in self._names])
        self._shares = shares / shares.sum() if len(shares) else shares

    @property
    def counts(self) -> dict[str, int]:
        """How many pictures each source has."""
        return {name: len(pictures) for name, pictures in self._sources.items()}

    def draw(self, rng: np.random.Generator) -> Picture:
        """Return a scene or a photograph."""
        if not self._names or rng.random() < self._scenes:
            return self._scene(rng)
        return self.draw_photograph(rng)

    def draw_photograph(self, rng: np.random.Generator) -> Picture:
        """Return a photograph; a scene where there are none."""
        if not self._names:
            return self._scene(rng)
        pictures = self._sources[self._names[rng.choice(len(self._names), p=self._shares)]]
        return pictures[rng.integers(len(pictures))].picture()

    def _scene(self, rng: np.random.Generator) -> Picture:
        number = int(rng.integers(1_000_000_000))
        scene = make_scene(TRAINING_SEEDS + self._seed * 1_000_000_000 + number, SCENE_SIZE)
        boxes = np.array([tight_box(mask) for mask in scene.masks], np.float32)
        return Picture(scene.image, boxes, lambda k: np.asarray(scene.masks[k], np.bool_), complete=True)


def tight_box(mask: Mask) -> tuple[float, float, float, float]:
    """Return x0 y0 x1 y1 around a mask that is not empty."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)


def _load(data: CocoDataset, ids: Sequence[int]) -> list[_Stored]:
    stored = []
    for image_id in ids:
        annotations = tuple(a for a in data.annotations(image_id) if not a.is_crowd and a.area >= 1)
        if annotations:
            stored.append(_Stored(_small(data.image(image_id)), annotations, data))
    return stored


def _small(image: UInt8) -> UInt8:
    height, width = image.shape[:2]
    scale = LONGEST / max(height, width)
    if scale >= 1:
        return image
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
