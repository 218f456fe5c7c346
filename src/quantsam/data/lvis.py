"""LVIS's object annotations as a dataset: over 1,200 categories on COCO's photographs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from quantsam.data.annotation_file import read_document
from quantsam.data.coco_file import CocoImage, parse_images
from quantsam.data.folders import list_folder
from quantsam.data.indexed import IndexedDataset, existing_folder
from quantsam.data.layouts import names_in
from quantsam.data.lvis_file import IMAGE_FOLDERS, image_path, parse_category_ids, parse_frequencies
from quantsam.errors import DatasetError, nearest

_SPLIT = re.compile(r"lvis_v(?:1|0\.5)_(.+)(?<!_cat_info)\.json")  # cat_info files list only categories


class LvisDataset(IndexedDataset):
    """The images and objects of one LVIS v1 or v0.5 annotation file.

    The official files are in `FOLDER/annotations/`, for example `lvis_v1_val.json`. The images are COCO's. One file may
    name images in both `val2017/` and `train2017/` (LVIS v1 val does), so give the folder that holds both. No
    annotation is a crowd.

    Attributes:
        folder: The dataset's folder.
        image_folder: The folder that holds `val2017/` and `train2017/`.
        annotation_file: The annotation file.
        category_names: Names by category id.
        category_frequency: By category id: `r` (rare), `c` (common) or `f` (frequent).
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        split: str = "val",
        annotations: Path | None = None,
        image_root: Path | None = None,
        limit: int | None = None,
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        """Parse the annotations and make sure that the images are there.

        Args:
            folder: The dataset's folder.
            split: Name of the split, `val` or `train`; ignored if `annotations` is given.
            annotations: The annotation file; by default `FOLDER/annotations/lvis_v1_SPLIT.json`, or
                `lvis_v0.5_SPLIT.json` if that does not exist.
            image_root: The folder that holds `val2017/` and `train2017/`, for example a COCO folder; by default
                `FOLDER`.
            limit: Number of images to evaluate; `None` takes all.
            seed: Decides which images `limit` takes; see `stable_subset`.
            strict: Refuse entries that are never scored or look wrong, instead of giving a notice.

        Raises:
            DatasetError: A file or folder is missing, or the annotation file violates its format.
            InputError: `limit` is below 1 or above the number of images.
        """
        folder = existing_folder(folder, "LVIS")
        annotation_file = annotations or _find_file(folder, split)
        image_folder = image_root or folder
        document = read_document(annotation_file, "LVIS")
        folder_name = folder.resolve().name
        super().__init__(
            name=f"{folder_name}:{annotation_file.stem.removeprefix(f'{folder_name}_')}",
            folder=folder,
            image_folders=[image_folder],
            annotation_file=annotation_file,
            document=document,
            images=_placed(parse_images(document, annotation_file, image_path), image_folder),
            limit=limit,
            seed=seed,
            strict=strict,
        )
        self.category_frequency = parse_frequencies(document, annotation_file)
        self._negative, self._not_exhaustive = (
            parse_category_ids(document, annotation_file, key, self.category_names, self.image_ids)
            for key in ("neg_category_ids", "not_exhaustive_category_ids")
        )
        self._check_categories()
        self._check_files(
            "LVIS uses COCO's photographs, so name with --image-root the folder that holds COCO's val2017/ and "
            "train2017/, or complete the download"
        )

    def negative_category_ids(self, image_id: int) -> tuple[int, ...]:
        """Return the categories that annotators looked for in an image and did not find.

        Args:
            image_id: One of `image_ids`.

        Raises:
            InputError: The id is not one of `image_ids`.
        """
        return self._negative[self._described(image_id).id]

    def not_exhaustive_category_ids(self, image_id: int) -> tuple[int, ...]:
        """Return the categories whose objects in an image are not all annotated.

        Args:
            image_id: One of `image_ids`.

        Raises:
            InputError: The id is not one of `image_ids`.
        """
        return self._not_exhaustive[self._described(image_id).id]

    def _digested(self, image_id: int) -> list[Any]:
        return [*super()._digested(image_id), self._negative[image_id], self._not_exhaustive[image_id]]

    def _check_categories(self) -> None:
        for objects in self._annotations.values():
            for annotation in objects:
                if annotation.category_id not in self.category_names:
                    raise DatasetError(
                        f"{self.annotation_file}: annotation {annotation.id} of image {annotation.image_id} is of "
                        f"category {annotation.category_id}, which is none of the file's "
                        f"{len(self.category_names)}: correct it, or download the file again"
                    )


def _find_file(folder: Path, split: str) -> Path:
    """Return the newest annotation file of a split."""
    for version in ("v1", "v0.5"):
        path = folder / "annotations" / f"lvis_{version}_{split}.json"
        if path.is_file():
            return path
    matches = (_SPLIT.fullmatch(entry.name) for entry in list_folder(folder / "annotations"))
    known = {match[1] for match in matches if match}
    hint = nearest(split, known) if known else "the folder has none, download it from lvisdataset.org"
    raise DatasetError(
        f"the LVIS folder {folder} has no split {split!r}, looked for annotations/lvis_v1_{split}.json and "
        f"lvis_v0.5_{split}.json: give another split, or a file with --annotations; {hint}"
    )


def _placed(images: dict[int, CocoImage], root: Path) -> dict[int, CocoImage]:
    """Return the images; if the file gives no folder for an image, use the first folder that holds it."""
    if all("/" in image.file_name for image in images.values()):
        return images
    there = names_in(root, set(IMAGE_FOLDERS))
    placed = {}
    for image_id, image in images.items():
        places = [name for name in (f"{folder}/{image.file_name}" for folder in IMAGE_FOLDERS) if name in there]
        placed[image_id] = dataclasses.replace(image, file_name=places[0]) if places else image
    return placed
