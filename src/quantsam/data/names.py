"""Names of categories and files, for datasets that have them."""

from __future__ import annotations

from collections.abc import Mapping

from quantsam.data.dataset import Dataset, NamedDataset


def category_names(dataset: Dataset) -> Mapping[int, str]:
    """Return names by category id; empty if the dataset has none."""
    return dataset.category_names if isinstance(dataset, NamedDataset) else {}


def file_name(dataset: Dataset, image_id: int) -> str | None:
    """Return an image's path relative to the dataset's image folder; None if the dataset does not say."""
    return dataset.file_name(image_id) if isinstance(dataset, NamedDataset) else None
