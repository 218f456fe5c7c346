"""The masks of a report: objects with their panels, with positions as CSS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quantsam.report import masks
from quantsam.report.before_after import twins
from quantsam.report.comparison import image_name
from quantsam.report.content import ModelResults
from quantsam.report.tasks import SIMULATED, Result
from quantsam.results.gallery import RANKS, GalleryEntry
from quantsam.results.object_names import ObjectNames

_LEAST_SHARE = 0.2  # share of the image's sides, for the close view of a small object


@dataclass(frozen=True, slots=True)
class ObjectView:
    """One object of the gallery, with positions as CSS.

    Attributes:
        picture: Name of the style that holds the image; empty if the image is missing.
        panels: Views of the object.
        ratio: Aspect ratio of a view.
        whole: Position of the image in a view of the whole image.
        close: Position of the image in a view of the object and its surroundings.
        box: Position of the box in the image; empty for clicks.
        click: Position of the click in the image; empty for a box.
        caption: Which object it is, and what it lost.
        key: Record and annotation, by which the page finds the object.
    """

    picture: str
    panels: tuple[masks.Panel, ...]
    ratio: str
    whole: str
    close: str
    box: str
    click: str
    caption: str
    key: str


@dataclass(frozen=True, slots=True)
class GroupView:
    """The worst, median or best objects."""

    rank: str
    objects: tuple[ObjectView, ...]


@dataclass(frozen=True, slots=True)
class GalleryView:
    """The objects of one result."""

    title: str
    groups: tuple[GroupView, ...]


class Pictures:
    """The images of all galleries, each kept once as a style that panels share.

    Attributes:
        styles: Data URI of each style, by name.
        missing: Number of entries without an image.
    """

    def __init__(self) -> None:
        self.styles: dict[str, str] = {}
        self.missing = 0

    def add(self, entry: GalleryEntry) -> str:
        """Return the name of the style with an entry's image; empty if it is missing or damaged."""
        name = f"picture-{entry.picture_digest[:16]}"
        if name not in self.styles:
            uri = masks.picture_uri(entry)
            if uri is None:
                self.missing += 1
                return ""
            self.styles[name] = uri
        return name


def galleries(model: ModelResults, pictures: Pictures) -> Iterator[GalleryView]:
    """Yield the gallery of each result: repaired plans first, then the smallest encoders. Images go to `pictures`."""
    results = {r.record.id: r for task in model.tasks for r in task.results}
    pictured = [r.record for r in results.values() if r.record.id in model.galleries]
    pairs = twins(sorted(pictured, key=lambda record: record.created_utc, reverse=True))
    repaired = {before.id: after.id for before, after in reversed(pairs)}  # the newest

    def order(key: str) -> tuple[bool, float, float]:
        return repaired.get(key) not in model.galleries, results[key].size_mib or 0.0, results[key].change or 0.0

    ordered = sorted(model.galleries, key=order)
    for record_id in ordered:
        result = results[record_id]
        by = "" if result.way == SIMULATED else f" on {result.way}"
        lost = "" if result.change is None else f" ({result.change:+.2f} points)"
        entries, names = model.galleries[record_id], model.tasks[0].names  # the task of these results
        after = {e.annotation_id: e for e in model.galleries.get(repaired.get(record_id, ""), ())}
        groups = [
            GroupView(
                rank,
                tuple(
                    _object(e, after.get(e.annotation_id), result, names, pictures) for e in entries if e.rank == rank
                ),
            )
            for rank in RANKS
        ]
        yield GalleryView(f"{result.label}{by}{lost}", tuple(group for group in groups if group.objects))


def _object(
    entry: GalleryEntry, repaired: GalleryEntry | None, result: Result, names: ObjectNames, pictures: Pictures
) -> ObjectView:
    height, width = entry.image_hw
    left, top, right, bottom = entry.box_xyxy
    box = _style(left=left / width, top=top / height, width=(right - left) / width, height=(bottom - top) / height)
    click = "" if entry.click_xy is None else _style(left=entry.click_xy[0] / width, top=entry.click_xy[1] / height)
    told = f"{_change(entry):+d} points of IoU"
    told += "" if repaired is None else f", {_change(repaired):+d} repaired"
    x, y, w, h = _around(entry)
    return ObjectView(
        picture=pictures.add(entry),
        panels=tuple(masks.panels(entry, result.label, repaired)),
        ratio=f"aspect-ratio: {width} / {height}; {'width' if width * 3 >= height * 4 else 'height'}: 100%",
        whole=_style(left=0, top=0, width=1, height=1),
        close=_style(left=-x / w, top=-y / h, width=width / w, height=height / h),
        box="" if click else box,
        click=click,
        caption=f"{_called(entry, names)}: {told}",
        key=f"{result.record.id}:{entry.annotation_id}",
    )


def _change(entry: GalleryEntry) -> int:
    """Return the change against FP32 in the rounded figures that are shown, so that they add up."""
    return round(100 * entry.iou) - round(100 * entry.fp32_iou)


def _called(entry: GalleryEntry, names: ObjectNames) -> str:
    category, file = names.category(entry.annotation_id), names.files.get(entry.image_id)
    named = f"object {entry.annotation_id}" if category is None else f"{category}, object {entry.annotation_id}"
    return f"{named} of {image_name(entry.image_id, file)}"


def _around(entry: GalleryEntry) -> tuple[float, float, float, float]:
    """Return left, top, width and height of the object with its surroundings, in the image's aspect ratio."""
    height, width = entry.image_hw
    left, top, right, bottom = entry.box_xyxy
    share = min(1.0, max(_LEAST_SHARE, 2 * max((right - left) / width, (bottom - top) / height)))
    w, h = share * width, share * height
    x = min(max((left + right - w) / 2, 0), width - w)
    y = min(max((top + bottom - h) / 2, 0), height - h)
    return x, y, w, h


def _style(**shares: float) -> str:
    return "; ".join(f"{name}: {100 * share:.2f}%" for name, share in shares.items())
