"""Which layers hurt: a bar a layer in the order of the forward pass, coloured by the layer's kind."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import altair as alt

from quantsam.report.charts.chart import Chart, Row, finished
from quantsam.report.published import thesis_drops
from quantsam.report.theme import INK, KIND_COLOURS
from quantsam.results.record import Record
from quantsam.results.sensitivity_record import RowScore, SensitivityRecord

_LEAST_REACH = 0.5
_DROP = ("points of mIoU lost", ".2f")
_MASKS = ("IoU lost against FP32's masks, points", ".2f")
_NOISE = ("noise of the embedding, dB (less SQNR)", ".1f")


def sensitivity_chart(name: str, record: SensitivityRecord) -> Chart:
    """Draw a study; of an official model quantized layer by layer to int8, the thesis' figures beside it."""
    scores = record.rows
    measure, number = _measure(scores)
    published = thesis_drops(record.model) if _is_the_thesis_study(record) and measure == _DROP[0] else {}
    rows = [_row(index, score, measure, published) for index, score in enumerate(scores)]
    overlaid = sum(row["published"] is not None for row in rows)
    spec = finished(
        _layers(rows, measure, number, bool(overlaid)),
        {"rows": rows},
        description=f"{measure} by {record.settings.get('by', 'layer')}, {len(rows)} rows of {record.model}",
    )
    alone = "alone" if record.settings.get("mode", "in") == "in" else "left in float, all others"
    reading = (
        f"Each bar: {record.label} with this {record.settings.get('by', 'layer')} {alone}. Lines: ± one SE. "
        "Drag to move along, Ctrl and wheel or pinch to zoom; click a kind to single it out."
    )
    if overlaid:
        reading += " Strokes: the thesis' own study of the official weights, on COCO."
    by = record.settings.get("by", "layer")
    rows_are = f"one {by} at a time" if alone == "alone" else f"all but one {by} at a time"
    title = f"{record.label}, {rows_are}, on {record.dataset}"
    return Chart(name, title, reading, spec, len(rows) + overlaid)


def _measure(scores: Sequence[RowScore]) -> tuple[str, str]:
    if all(score.drop is not None for score in scores):
        return _DROP
    return _MASKS if all(score.mask_loss is not None for score in scores) else _NOISE


def _row(index: int, score: RowScore, measure: str, published: dict[str, float]) -> Row:
    value, error = {
        _DROP[0]: (score.drop, score.drop_se),
        _MASKS[0]: (score.mask_loss, score.mask_loss_se),
        _NOISE[0]: (None if score.sqnr_db is None else -score.sqnr_db, None),
    }[measure]
    spread = value is not None and error is not None
    return {
        "index": index,
        "left": index - 0.4,
        "right": index + 0.4,
        "unit": score.name,
        "kind": score.kind,
        "value": value,
        "spread": "" if error is None else f"{error:.2f}",
        "low": value - error if spread else None,  # type: ignore[operator]
        "high": value + error if spread else None,  # type: ignore[operator]
        "mask_loss": score.mask_loss,
        "sqnr": score.sqnr_db,
        "images": score.images,
        "published": published.get(score.unit) if score.part == "both" else None,
    }


def _layers(rows: Sequence[Row], title: str, number: str, overlaid: bool) -> Any:
    names = alt.param(name="names", value=[row["unit"] for row in rows])
    zoom = alt.selection_interval(name="zoom", bind="scales", encodings=["x"], zoom="wheel![event.ctrlKey]")
    picked = alt.selection_point(name="kinds", fields=["kind"], bind="legend")
    base = alt.Chart(alt.NamedData("rows"))
    bars = base.mark_bar(clip=True).encode(
        x=_by_number(len(rows)),
        x2="right:Q",
        y=alt.Y("value:Q", title=title, scale=_scale(rows)),
        y2=alt.datum(0),
        color=_by_kind({row["kind"] for row in rows}),
        opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.15)),
        tooltip=_tooltip(title, number),
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


def _tooltip(title: str, number: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("unit:N", title="layer"),
        alt.Tooltip("kind:N"),
        alt.Tooltip("value:Q", title=title, format=number),
        alt.Tooltip("spread:N", title="± SE"),
        alt.Tooltip("mask_loss:Q", title="IoU lost against FP32's masks", format=".2f"),
        alt.Tooltip("sqnr:Q", title="SQNR of the embedding, dB", format=".1f"),
        alt.Tooltip("images:Q", title="pictures"),
    ]


def _scale(rows: Sequence[Row]) -> alt.Scale:
    """Return a scale of at least a point, so that noise does not look like an effect."""
    ends = [row[key] for row in rows for key in ("value", "low", "high", "published") if row[key] is not None]
    return alt.Scale(domain=[min([0.0, *ends]), max([_LEAST_REACH, *ends])], nice=True)


def _is_the_thesis_study(record: Record) -> bool:
    settings = record.settings
    return record.label == "int8" and settings.get("by") == "layer" and settings.get("mode") == "in"
