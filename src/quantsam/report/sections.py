"""The sections of a page, one per model: findings, comparisons, masks, layers, engines, values, activations."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from quantsam.models.variants import VARIANTS
from quantsam.report.activations import ActivationsView, activation_views
from quantsam.report.before_after import layer_pairs, repaired_layers_table, repaired_sites_table, twins
from quantsam.report.charts.agreement import agreement_chart
from quantsam.report.charts.calibration import calibration_chart
from quantsam.report.charts.chart import Chart
from quantsam.report.charts.encoder import encoder_chart
from quantsam.report.charts.front import front_chart
from quantsam.report.charts.histograms import channels_chart, histogram_chart
from quantsam.report.charts.repaired import repaired_layers_chart
from quantsam.report.charts.sensitivity import sensitivity_charts
from quantsam.report.charts.trade_off import latency_chart, size_chart
from quantsam.report.comparison import Comparison
from quantsam.report.comparison_view import ComparisonView, comparison_view
from quantsam.report.content import Content, ModelResults
from quantsam.report.findings import Finding, findings
from quantsam.report.formats import encoder_layers
from quantsam.report.galleries import GalleryView, Pictures, galleries
from quantsam.report.layer_tables import distribution_table, encoder_table, repair_table, search_table, study_table
from quantsam.report.tables import Table, agreement_table, provenance_table, results_table
from quantsam.report.tasks import Task
from quantsam.results.distribution_record import SiteDistribution
from quantsam.results.record import Record

_SITES_LISTED = 12


@dataclass(frozen=True, slots=True)
class TaskView:
    """A comparison of schemes."""

    table: Table
    charts: tuple[Chart, ...]
    comparison: ComparisonView | None


@dataclass(frozen=True, slots=True)
class Block:
    """Charts with their table.

    Attributes:
        charts: The charts.
        table: The table.
        closed: Text to click to see them; empty if they are always visible.
        chooser: What the reader chooses, if the charts have choices.
        stacked: Charts stand one above the other, so that what they share is aligned.
        group: Text to click to see this block and its neighbours of the same group.
    """

    charts: tuple[Chart, ...]
    table: Table
    closed: str = ""
    chooser: str = ""
    stacked: bool = False
    group: str = ""

    @property
    def choices(self) -> Mapping[str, str]:
        """Choices of the reader for all charts at once: label by value."""
        return self.charts[0].choices if self.charts else {}


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
    activations: tuple[ActivationsView, ...]
    provenance: Table

    @property
    def places(self) -> dict[str, str]:
        """The parts of the section: title by anchor."""
        first = {f"{self.anchor}--schemes": "Schemes compared"} if self.tasks else {}
        masks = {f"{self.anchor}--masks": "Masks, before and after"} if self.galleries else {}
        pictures = {f"{self.anchor}--activations": "Activations of an image"} if self.activations else {}
        return first | masks | {part.anchor: part.title for part in self.parts} | pictures

    @property
    def charts(self) -> Iterator[Chart]:
        """Every chart, in order."""
        for task in self.tasks:
            yield from task.charts
        for part in self.parts:
            for block in part.blocks:
                yield from block.charts


def make_sections(content: Content, pictures: Pictures) -> list[Section]:
    """Return the sections of a report; the images of their galleries go to `pictures`.

    Raises:
        StoreError: A record or a gallery is damaged.
    """
    names = Counter(model.model for model in content.models)
    anchors: list[str] = []
    sections = []
    for model in content.models:
        title = f"{model.model}, weights {model.weights_digest[:8]}" if names[model.model] > 1 else model.model
        wanted = slug(model.model)
        free = (f"{wanted}-{number}" for number in itertools.count(2))
        anchors.append(wanted if wanted not in anchors else next(anchor for anchor in free if anchor not in anchors))
        sections.append(_section(model, title, anchors[-1], pictures))
    return sections


def _section(model: ModelResults, title: str, anchor: str, pictures: Pictures) -> Section:
    parts = [
        Part("Which layers hurt", f"{anchor}--layers", tuple(_studies(model, anchor))),
        Part("The encoder, layer by layer", f"{anchor}--encoder", tuple(_encoder(model, anchor))),
        Part("Before and after repair", f"{anchor}--repairs", tuple(_repairs(model, anchor))),
        Part("Found by search", f"{anchor}--search", tuple(_searches(model, anchor))),
        Part("Simulation against engine", f"{anchor}--engines", tuple(_agreements(model, anchor))),
        Part("How values are distributed", f"{anchor}--values", tuple(_distributions(model, anchor))),
    ]
    compared = itertools.zip_longest(model.tasks, model.comparisons)
    return Section(
        title=title,
        anchor=anchor,
        about=VARIANTS[model.model].about if model.model in VARIANTS else "",
        findings=tuple(findings(model)),
        tasks=tuple(_task(model, *both, f"{anchor}--{n}") for n, both in enumerate(compared, start=1)),
        galleries=tuple(galleries(model, pictures)),
        parts=tuple(part for part in parts if part.blocks),
        activations=tuple(activation_views(model)),
        provenance=provenance_table(model),
    )


def slug(text: str) -> str:
    """Return a text as part of a file name or an anchor: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-") or "model"


def _task(model: ModelResults, task: Task, comparison: Comparison | None, name: str) -> TaskView:
    charts = (
        size_chart(f"{name}-size", model.model, task),
        latency_chart(f"{name}-latency", task),
        calibration_chart(f"{name}-calibration", task),
    )
    shown = None if comparison is None else comparison_view(f"{name}-objects", comparison)
    return TaskView(results_table(task), tuple(chart for chart in charts if chart is not None), shown)


def _studies(model: ModelResults, anchor: str) -> Iterator[Block]:
    """Yield the studies that a user asked for, then those of searches behind one line."""
    count = len(model.search_studies)
    group = f"{count} {'study' if count == 1 else 'studies'} that a search measured for its own use"
    for number, record in enumerate((*model.studies, *model.search_studies), start=1):
        charts = sensitivity_charts(f"{anchor}--layers-{number}", record)
        s = record.settings
        closed = f"{record.label} on {record.dataset}, by {s.get('by')}, {s.get('mode')}, {s.get('method')}"
        own = number <= len(model.studies)
        closed = "" if number in (1, len(model.studies) + 1) else closed
        yield Block(charts, study_table(record), closed, stacked=True, group="" if own else group)


def _encoder(model: ModelResults, anchor: str) -> Iterator[Block]:
    layers = encoder_layers(model)
    if layers is not None:
        chart = encoder_chart(f"{anchor}--encoder-layers", layers)
        yield Block((chart,), encoder_table(layers), chooser="Scheme")


def _repairs(model: ModelResults, anchor: str) -> Iterator[Block]:
    """Yield the gain of each repair, then what all repairs changed in layers and values."""
    for number, record in enumerate(model.repairs, start=1):
        closed = "" if number == 1 else f"{record.label}, {record.placement}, {record.created_utc[:10]}"
        yield Block((), repair_table(record), closed)
    for number, studies in enumerate(twins([s for s in model.studies if s.settings.get("mode") == "in"]), start=1):
        chart = repaired_layers_chart(f"{anchor}--repaired-{number}", layer_pairs(*studies))
        yield Block(() if chart is None else (chart,), repaired_layers_table(*studies), _which(number, studies[1]))
    for number, distributions in enumerate(twins(model.distributions), start=1):
        yield Block((), repaired_sites_table(*distributions), _which(number, distributions[1]))


def _which(number: int, record: Record) -> str:
    """Return the text to click to see a block that is not the first of its kind."""
    return "" if number == 1 else f"{record.label}, {record.placement}, on {record.dataset}"


def _searches(model: ModelResults, anchor: str) -> Iterator[Block]:
    for number, record in enumerate(model.searches, start=1):
        closed = "" if number == 1 else f"{record.settings.get('cost')} on {record.dataset}, {record.created_utc[:10]}"
        yield Block((front_chart(f"{anchor}--search-{number}", record),), search_table(record), closed)


def _agreements(model: ModelResults, anchor: str) -> Iterator[Block]:
    chart = agreement_chart(f"{anchor}--agreement", model.agreements)
    if chart is not None:
        yield Block((chart,), agreement_table(model.agreements))


def _distributions(model: ModelResults, anchor: str) -> Iterator[Block]:
    for number, record in enumerate(model.distributions, start=1):
        sites = sorted(record.sites, key=_standing_out)
        if sites:
            name = f"{anchor}--values-{number}"
            charts = (histogram_chart(f"{name}-histogram", sites), channels_chart(f"{name}-channels", sites))
            closed = "" if number == 1 else f"{record.label}, {record.placement}, on {record.dataset}"
            chooser = "Site, those with the widest outlier channels first"
            yield Block(charts, distribution_table(sites, _SITES_LISTED), closed, chooser)


def _standing_out(site: SiteDistribution) -> tuple[bool, float]:
    """Sort activations before weights, and the widest outliers first."""
    return site.role != "activation", -(site.outlier_ratio or 0.0)


def all_charts(sections: Sequence[Section]) -> list[Chart]:
    """Return every chart of a report."""
    return [chart for section in sections for chart in section.charts]
