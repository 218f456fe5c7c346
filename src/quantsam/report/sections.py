"""What a page shows of each model, in order: findings, comparisons, masks, layers, engines, distributions."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quantsam.report import masks
from quantsam.report.charts.agreement import agreement_chart
from quantsam.report.charts.chart import Chart
from quantsam.report.charts.distributions import channels_chart, histogram_chart
from quantsam.report.charts.front import front_chart
from quantsam.report.charts.sensitivity import sensitivity_chart
from quantsam.report.charts.trade_off import latency_chart, size_chart
from quantsam.report.content import Content, Subject, Task
from quantsam.report.findings import Finding, findings
from quantsam.report.tables import (
    Table,
    agreement_table,
    distribution_table,
    provenance_table,
    results_table,
    search_table,
    study_table,
)
from quantsam.results.distributions import SiteDistribution, distributions_of
from quantsam.results.gallery import RANKS, GalleryEntry

_SITES_LISTED = 12
_LEAST_SHARE = 0.2  # of the picture's sides, for the closer view of a small object
_NANO = (
    "A small model that comes along with quantsam, trained for two hours on generated scenes: "
    "it shows how things work, and says nothing of the official models."
)
_ABOUT = {
    "nano": _NANO,
    "nano-outlier": f"nano with outlier channels: the same function in FP32, much harder to quantize. {_NANO}",
}


@dataclass(frozen=True, slots=True)
class TaskView:
    """A comparison of schemes."""

    table: Table
    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class ObjectView:
    """One object of the gallery, places as CSS.

    Attributes:
        picture: Names the style that holds its picture; empty if it is missing.
        panels: Its views.
        ratio: Sides of a view.
        whole: Where the picture lies in a view of all of it.
        close: Where it lies in a view of the object and what is around it.
        box: Where the box is in the picture; empty for clicks.
        click: Where the click is; empty for a box.
        caption: Which object, and what it lost.
    """

    picture: str
    panels: tuple[masks.Panel, ...]
    ratio: str
    whole: str
    close: str
    box: str
    click: str
    caption: str


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


@dataclass(frozen=True, slots=True)
class Block:
    """Charts with their table; `closed`, if not empty, is what to click to see them."""

    charts: tuple[Chart, ...]
    table: Table | None
    closed: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a model's section."""

    title: str
    anchor: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """All about one model."""

    title: str
    anchor: str
    about: str
    findings: tuple[Finding, ...]
    tasks: tuple[TaskView, ...]
    galleries: tuple[GalleryView, ...]
    parts: tuple[Part, ...]
    provenance: Table

    @property
    def charts(self) -> Iterator[Chart]:
        """Every chart, in order."""
        for task in self.tasks:
            yield from task.charts
        for part in self.parts:
            for block in part.blocks:
                yield from block.charts


class Pictures:
    """The pictures of all galleries, each kept once, as styles that panels share.

    Attributes:
        styles: Data URI by name of the style.
        missing: How many entries have no picture.
    """

    def __init__(self) -> None:
        self.styles: dict[str, str] = {}
        self.missing = 0

    def add(self, entry: GalleryEntry) -> str:
        """Return the name of the style with an entry's picture; empty if it is missing or damaged."""
        name = f"picture-{entry.picture_digest[:16]}"
        if name not in self.styles:
            uri = masks.picture_uri(entry)
            if uri is None:
                self.missing += 1
                return ""
            self.styles[name] = uri
        return name


def make_sections(content: Content, pictures: Pictures) -> list[Section]:
    """Return the sections of a report; the pictures of their galleries go to `pictures`.

    Raises:
        StoreError: What a record or a gallery holds is damaged.
    """
    models = Counter(subject.model for subject in content.subjects)
    return [_section(s, models[s.model] > 1, pictures) for s in content.subjects]


def _section(subject: Subject, ambiguous: bool, pictures: Pictures) -> Section:
    title = f"{subject.model}, weights {subject.weights_digest[:8]}" if ambiguous else subject.model
    anchor = f"{slug(subject.model)}-{hashlib.sha256(subject.weights_digest.encode()).hexdigest()[:6]}"
    parts = [
        Part("Which layers hurt", f"{anchor}-layers", tuple(_studies(subject, anchor))),
        Part("Found by search", f"{anchor}-search", tuple(_searches(subject, anchor))),
        Part("Simulation against engine", f"{anchor}-engines", tuple(_agreements(subject, anchor))),
        Part("How values are distributed", f"{anchor}-values", tuple(_distributions(subject, anchor))),
    ]
    return Section(
        title=title,
        anchor=anchor,
        about=_ABOUT.get(subject.model, ""),
        findings=tuple(findings(subject)),
        tasks=tuple(_task(subject, task, f"{anchor}-{n}") for n, task in enumerate(subject.tasks, start=1)),
        galleries=tuple(_galleries(subject, pictures)),
        parts=tuple(part for part in parts if part.blocks),
        provenance=provenance_table(subject),
    )


def slug(text: str) -> str:
    """Return a text as part of a name of files and places: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-") or "model"


def _task(subject: Subject, task: Task, name: str) -> TaskView:
    charts = (size_chart(f"{name}-size", subject.model, task), latency_chart(f"{name}-latency", task))
    return TaskView(results_table(task), tuple(chart for chart in charts if chart is not None))


def _studies(subject: Subject, anchor: str) -> Iterator[Block]:
    for number, record in enumerate(subject.studies, start=1):
        chart = sensitivity_chart(f"{anchor}-layers-{number}", record)
        s = record.settings
        closed = f"{record.scheme} on {record.dataset}, by {s.get('by')}, {s.get('mode')}, {s.get('method')}"
        yield Block((chart,), study_table(record), "" if number == 1 else closed)


def _searches(subject: Subject, anchor: str) -> Iterator[Block]:
    for number, record in enumerate(subject.searches, start=1):
        closed = "" if number == 1 else f"{record.settings.get('cost')} on {record.dataset}, {record.created_utc[:10]}"
        yield Block((front_chart(f"{anchor}-search-{number}", record),), search_table(record), closed)


def _agreements(subject: Subject, anchor: str) -> Iterator[Block]:
    chart = agreement_chart(f"{anchor}-agreement", subject.agreements)
    if chart is not None:
        yield Block((chart,), agreement_table(subject.agreements))


def _distributions(subject: Subject, anchor: str) -> Iterator[Block]:
    for number, record in enumerate(subject.distributions, start=1):
        sites = sorted(distributions_of(record), key=_standing_out)
        if sites:
            name = f"{anchor}-values-{number}"
            charts = (histogram_chart(f"{name}-histogram", sites), channels_chart(f"{name}-channels", sites))
            closed = "" if number == 1 else f"{record.scheme}, {record.placement}, on {record.dataset}"
            yield Block(charts, distribution_table(sites[:_SITES_LISTED]), closed)


def _standing_out(site: SiteDistribution) -> tuple[bool, float]:
    """Activations before weights, and those of the widest outliers first."""
    return site.role != "activation", -(site.outlier_ratio or 0.0)


def _galleries(subject: Subject, pictures: Pictures) -> Iterator[GalleryView]:
    results = {r.record.id: r for task in subject.tasks for r in task.results}
    ordered = sorted(subject.galleries, key=lambda key: results[key].change or 0.0)
    for record_id in ordered:
        result = results[record_id]
        by = "" if result.way == "simulated" else f" on {result.way}"
        lost = "" if result.change is None else f" ({result.change:+.2f} points)"
        entries = subject.galleries[record_id]
        groups = [
            GroupView(rank, tuple(_object(e, result.label, pictures) for e in entries if e.rank == rank))
            for rank in RANKS
        ]
        yield GalleryView(f"{result.label}{by}{lost}", tuple(group for group in groups if group.objects))


def _object(entry: GalleryEntry, label: str, pictures: Pictures) -> ObjectView:
    height, width = entry.image_hw
    left, top, right, bottom = entry.box_xyxy
    box = _style(left=left / width, top=top / height, width=(right - left) / width, height=(bottom - top) / height)
    click = "" if entry.click_xy is None else _style(left=entry.click_xy[0] / width, top=entry.click_xy[1] / height)
    change = "" if entry.fp32_iou is None else f": {_whole(100 * (entry.iou - entry.fp32_iou))} points of IoU"
    x, y, w, h = _around(entry)
    return ObjectView(
        picture=pictures.add(entry),
        panels=tuple(masks.panels(entry, label)),
        ratio=f"aspect-ratio: {width} / {height}",
        whole=_style(left=0, top=0, width=1, height=1),
        close=_style(left=-x / w, top=-y / h, width=width / w, height=height / h),
        box="" if click else box,
        click=click,
        caption=f"object {entry.annotation_id} of picture {entry.image_id}{change}",
    )


def _around(entry: GalleryEntry) -> tuple[float, float, float, float]:
    """Return left, top, width and height of the object with its surroundings, of the picture's own shape."""
    height, width = entry.image_hw
    left, top, right, bottom = entry.box_xyxy
    share = min(1.0, max(_LEAST_SHARE, 2 * max((right - left) / width, (bottom - top) / height)))
    w, h = share * width, share * height
    x = min(max((left + right - w) / 2, 0), width - w)
    y = min(max((top + bottom - h) / 2, 0), height - h)
    return x, y, w, h


def _whole(value: float) -> str:
    return f"{value:+.0f}" if round(value) else "±0"


def _style(**shares: float) -> str:
    return "; ".join(f"{name}: {100 * share:.2f}%" for name, share in shares.items())


def all_charts(sections: Sequence[Section]) -> list[Chart]:
    """Return every chart of a report."""
    return [chart for section in sections for chart in section.charts]
