"""Which layers hurt: a bar a layer in the order of the forward pass, coloured by the layer's kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import altair as alt

from quantsam.metrics.summary import CONFIDENCE_95
from quantsam.report.charts.chart import Chart, Row, finished
from quantsam.report.published import thesis_drops
from quantsam.report.theme import INK, KIND_COLOURS
from quantsam.results.record import Record
from quantsam.results.sensitivity_record import RowScore, SensitivityRecord

_HEIGHT, _LOW = 300, 220


@dataclass(frozen=True, slots=True)
class _Measure:
    """What a study measures of each row.

    Attributes:
        suffix: Of the chart's name.
        title: Of the axis.
        number: How its values are written.
        reach: What the axis spans at least, so that noise does not look like an effect.
        reading: How to read it.
        of: Value and standard error of a row.
    """

    suffix: str
    title: str
    number: str
    reach: float
    reading: str
    of: Callable[[RowScore], tuple[float | None, float | None]]


_DROP = _Measure("", "points of mIoU lost", ".2f", 0.5, "Lines: 95 % interval.", lambda s: (s.drop, s.drop_se))
_MASKS = _Measure(
    "-masks",
    "mask loss, points",
    ".2f",
    0.5,
    "Mask loss: 100 less the mean IoU of the masks with FP32's own, less noisy than mIoU. Lines: 95 % interval.",
    lambda s: (s.mask_loss, s.mask_loss_se),
)
_SQNR = _Measure(
    "-sqnr",
    "SQNR of the embedding, dB",
    ".1f",
    10.0,
    "The lowest bars hurt most; 6 dB are one bit.",
    lambda s: (s.sqnr_db, None),
)
_TOLD = {"drop": _DROP, "mask_loss": _MASKS, "sqnr": _SQNR}
_HANDLING = "Drag to move along, Ctrl and wheel or pinch to zoom; click a kind to single it out."


def sensitivity_charts(name: str, record: SensitivityRecord) -> tuple[Chart, ...]:
    """Draw a study, a chart a measure, rows in the order of the forward pass.

    Of an official model quantized layer by layer to int8, the thesis' figures stand beside the mIoU lost.
    """
    scores = record.rows
    measures = [m for m in (_DROP, _MASKS) if all(m.of(score)[0] is not None for score in scores)]
    if any(score.sqnr_db is not None for score in scores):
        measures.append(_SQNR)
    return tuple(_chart(name, record, scores, measure) for measure in measures)


def _chart(name: str, record: SensitivityRecord, scores: Sequence[RowScore], measure: _Measure) -> Chart:
    published = thesis_drops(record.model) if _is_the_thesis_study(record) and measure is _DROP else {}
    rows = [_row(index, score, measure, published) for index, score in enumerate(scores)]
    overlaid = sum(row["published"] is not None for row in rows)
    by = record.settings.get("by", "layer")
    spec = finished(
        _layers(rows, measure, bool(overlaid)),
        {"rows": rows},
        description=f"{measure.title} by {by}, {len(rows)} rows of {record.model}",
        height=_HEIGHT if measure is _DROP else _LOW,
    )
    alone = record.settings.get("mode", "in") == "in"
    reading = f"Each bar: {record.label} with this {by} {'alone' if alone else 'left in float, all others'}. "
    reading += f"{measure.reading} {_HANDLING}"
    if overlaid:
        reading += " Strokes: the thesis' own study of the official weights, on COCO."
    rows_are = f"one {by} at a time" if alone else f"all but one {by} at a time"
    title = f"{measure.title[0].upper()}{measure.title[1:]}: {record.label}, {rows_are}, on {record.dataset}"
    marks = sum(row["value"] is not None for row in rows) + overlaid
    return Chart(f"{name}{measure.suffix}", title, reading, spec, marks)


def _row(index: int, score: RowScore, measure: _Measure, published: dict[str, float]) -> Row:
    value, error = measure.of(score)
    half = None if value is None or error is None else CONFIDENCE_95 * error
    return {
        "index": index,
        "left": index - 0.4,
        "right": index + 0.4,
        "unit": score.name,
        "kind": score.kind,
        "value": value,
        "spread": "" if half is None else f"{value - half:.2f} to {value + half:.2f}",  # type: ignore[operator]
        "low": None if half is None else value - half,  # type: ignore[operator]
        "high": None if half is None else value + half,  # type: ignore[operator]
        "drop": score.drop,
        "mask_loss": score.mask_loss,
        "sqnr": score.sqnr_db,
        "images": score.images,
        "published": published.get(score.unit) if score.part == "both" else None,
    }


def _layers(rows: Sequence[Row], measure: _Measure, overlaid: bool) -> Any:
    names = alt.param(name="names", value=[row["unit"] for row in rows])
    zoom = alt.selection_interval(name="zoom", bind="scales", encodings=["x"], zoom="wheel![event.ctrlKey]")
    picked = alt.selection_point(name="kinds", fields=["kind"], bind="legend")
    base = alt.Chart(alt.NamedData("rows"))
    bars = base.mark_bar(clip=True).encode(
        x=_by_number(len(rows)),
        x2="right:Q",
        y=alt.Y("value:Q", title=measure.title, scale=_scale(rows, measure.reach)),
        y2=alt.datum(0),
        color=_by_kind({row["kind"] for row in rows}),
        opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.15)),
        tooltip=_tooltip(),
    )
    errors = base.mark_rule(color=INK, clip=True).encode(x="index:Q", y="low:Q", y2="high:Q")
    layers: list[alt.Chart] = [bars.add_params(zoom, picked), errors]
    if overlaid:
        strokes = base.transform_filter("isValid(datum.published)").mark_bar(color=INK, height=2, clip=True)
        tip = [alt.Tooltip("unit:N", title="layer"), alt.Tooltip("published:Q", title="thesis", format=".2f")]
        layers.append(strokes.encode(x="left:Q", x2="right:Q", y="published:Q", tooltip=tip))
    return alt.layer(*layers).add_params(names)


def _by_number(count: int) -> alt.X:
    """Place rows by their number, which can be zoomed, and name them from the parameter `names`."""
    names = "names[datum.value]"
    axis = alt.Axis(labelExpr=names, labelAngle=-90, labelFontSize=9, labelOverlap=True, tickCount=count, grid=False)
    return alt.X("left:Q", title=None, axis=axis, scale=alt.Scale(domain=[-0.6, count - 0.4], nice=False))


def _by_kind(present: Set[str]) -> alt.Color:
    shown = [kind for kind in KIND_COLOURS if kind in present] + sorted(present - KIND_COLOURS.keys())
    scale = alt.Scale(domain=shown, range=[KIND_COLOURS.get(kind, "#767676") for kind in shown])
    return alt.Color("kind:N", scale=scale, legend=alt.Legend(title="kind of layer", columns=3, symbolType="square"))


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("unit:N", title="layer"),
        alt.Tooltip("kind:N"),
        *(alt.Tooltip(f"{key}:Q", title=m.title, format=m.number) for key, m in _TOLD.items()),
        alt.Tooltip("spread:N", title="95 % interval"),
        alt.Tooltip("images:Q", title="images"),
    ]


def _scale(rows: Sequence[Row], reach: float) -> alt.Scale:
    ends = [row[key] for row in rows for key in ("value", "low", "high", "published") if row[key] is not None]
    return alt.Scale(domain=[min([0.0, *ends]), max([reach, *ends])], nice=True)


def _is_the_thesis_study(record: Record) -> bool:
    settings = record.settings
    return record.label == "int8" and settings.get("by") == "layer" and settings.get("mode") == "in"
