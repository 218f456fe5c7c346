"""Names of a dataset's objects and images, kept once per dataset beside the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from quantsam.errors import StoreError


@dataclass(frozen=True, slots=True)
class ObjectNames:
    """Names of one dataset's objects and images, if it has any.

    Attributes:
        categories: Names by category id.
        objects: Category ids by annotation id.
        files: Paths relative to the dataset's image folder, by image id.
    """

    categories: Mapping[int, str] = field(default_factory=dict)
    objects: Mapping[int, int] = field(default_factory=dict)
    files: Mapping[int, str] = field(default_factory=dict)

    def category(self, annotation_id: int) -> str | None:
        """Return the name of an object's category, or else its id; None if neither is known."""
        category_id = self.objects.get(annotation_id)
        return None if category_id is None else self.categories.get(category_id, str(category_id))

    def to_json(self) -> str:
        """Return a text for `parse_names` to read."""
        parts = (self.categories, self.objects, self.files)
        return json.dumps([list(part.items()) for part in parts], separators=(",", ":"))


def parse_names(body: str) -> ObjectNames:
    """Read what `to_json` returned.

    Raises:
        StoreError: The text is damaged.
    """
    try:
        categories, objects, files = ({int(key): value for key, value in part} for part in json.loads(body))
        if not all(isinstance(value, str) for part in (categories, files) for value in part.values()):
            raise TypeError("a name is no text")
        return ObjectNames(categories, {key: int(value) for key, value in objects.items()}, files)
    except (TypeError, ValueError) as error:
        raise StoreError(f"names of a dataset are damaged: {error}") from error
