"""What a chart is, and what all of them share."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from quantsam.report.theme import CONFIG

Row = dict[str, Any]
Rows = Sequence[Row]
_WIDTH, _HEIGHT = 640, 300


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        name: Names its file and its place on the page: lower-case letters, digits and hyphens.
        title: What it shows.
        reading: How to read it, a sentence or two.
        spec: The Vega-Lite specification, width 640 pixels; whoever draws may set another width.
        marks: How many marks stand for data.
        choices: For a chart of one item out of several: what may be chosen, label by value of the parameter `chosen`.
    """

    name: str
    title: str
    reading: str
    spec: Mapping[str, Any]
    marks: int
    choices: Mapping[str, str] = dataclasses.field(default_factory=dict)


def finished(chart: Any, rows: Mapping[str, Rows], *, description: str, height: int = _HEIGHT) -> dict[str, Any]:
    """Return the specification of a chart with its data; a chart takes its rows by `alt.NamedData`.

    Data join last: Altair checks a specification value by value, and there may be thousands of them.
    """
    spec: dict[str, Any] = chart.properties(width=_WIDTH, height=height, description=description).to_dict()
    spec["config"] = CONFIG
    spec["datasets"] = {name: [dict(row) for row in values] for name, values in rows.items()}
    return spec


def by_way(
    colours: Mapping[str, str], shapes: Mapping[str, str], present: Collection[str], title: str
) -> dict[str, alt.Color | alt.Shape]:
    """Return colour and shape of what computed; an engine of another name is grey and round."""
    ways = [way for way in colours if way in present] + sorted(set(present) - colours.keys())
    palette = [colours.get(way, "#767676") for way in ways]
    forms = [shapes.get(way, "circle") for way in ways]
    return {
        "color": alt.Color("way:N", title=title, scale=alt.Scale(domain=ways, range=palette)),
        "shape": alt.Shape("way:N", title=title, scale=alt.Scale(domain=ways, range=forms)),
    }
