"""COCO's object annotations as a dataset."""

from __future__ import annotations

from pathlib import Path

from quantsam.data.annotation_file import read_document
from quantsam.data.coco_file import parse_images
from quantsam.data.indexed import IndexedDataset, existing_folder
from quantsam.data.layouts import coco_file, image_folders


class CocoDataset(IndexedDataset):
    """The images and objects of one split of COCO, or of another dataset in its format.

    The official layout is `FOLDER/val2017/*.jpg` with `FOLDER/annotations/instances_val2017.json`.

    Attributes:
        folder: The dataset's folder.
        image_folder: The folder of the split's images.
        annotation_file: The split's annotation file.
        category_names: Names by category id; empty where the file has none.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        split: str = "val2017",
        annotations: Path | None = None,
        image_root: Path | None = None,
        limit: int | None = None,
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        """Parse the annotations and make sure that the images are there.

        Args:
            folder: The dataset's folder.
            split: Name of the split.
            annotations: The annotation file; by default `FOLDER/annotations/instances_SPLIT.json`, compressed or not.
            image_root: The folder of the images; by default `FOLDER/SPLIT`, or where annotation tools put them.
            limit: Number of images to evaluate; `None` takes all.
            seed: Decides which images `limit` takes; see `stable_subset`.
            strict: Refuse entries that are never scored or look wrong, instead of giving a notice.

        Raises:
            DatasetError: A file or folder is missing, or the annotation file violates its format.
            InputError: `limit` is below 1 or above the number of images.
        """
        folder = existing_folder(folder, "COCO")
        annotation_file = annotations or coco_file(folder, split)
        document = read_document(annotation_file, "COCO")
        super().__init__(
            name=f"{folder.resolve().name}:{split}",
            folder=folder,
            image_folders=[image_root]
            if image_root
            else image_folders(folder, annotation_file, split) or [folder / split],
            annotation_file=annotation_file,
            document=document,
            images=parse_images(document, annotation_file),
            limit=limit,
            seed=seed,
            strict=strict,
        )
        self._check_files(
            "complete the download, name the folder of the images with --image-root, or give an annotation file that "
            "lists only the images you have"
        )
