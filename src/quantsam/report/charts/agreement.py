"""Simulation against engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from quantsam.report.charts.chart import Chart, Row, by_way, finished
from quantsam.report.published import thesis_points
from quantsam.report.theme import ENGINE_COLOURS, ENGINE_SHAPES, INK
from quantsam.results.record import Record

_LEAST_REACH = 0.3


def agreement_chart(name: str, records: Sequence[Record]) -> Chart | None:
    """How far each engine is from its simulation, and of an official model how far the thesis' was; None for none."""
    compared = [record for record in records if record.figures.get("gap") is not None]
    if not compared:
        return None
    several = len({record.dataset for record in compared}) > 1
    rows = [_row(record, several) for record in compared]
    published = _published(compared[0].model)
    spec = finished(
        _layers([*rows, *published]),
        {"rows": [*rows, *published], "zero": [{"zero": 0}]},
        description=f"Gap between engine and simulation of {len(rows)} results",
        height=max(90, 34 * len({row["row"] for row in [*rows, *published]})),
    )
    reading = "On the dashed line an engine gives what its simulation promised. Bars: 95 % interval, same objects."
    if published:
        reading += " Crosses: as the thesis published them, TensorRT against its own simulation on COCO val2017."
    return Chart(name, "Engine less simulation, points of mIoU", reading, spec, len(rows) + len(published))


def _row(record: Record, several: bool) -> Row:
    figures = record.figures
    return {
        "row": f"{record.label}\n{record.engine}, {record.prompt}{f', {record.dataset}' if several else ''}",
        "way": record.engine,
        "gap": figures["gap"],
        "low": figures.get("gap_low"),
        "high": figures.get("gap_high"),
        "simulated": figures.get("miou_simulated"),
        "engine": figures.get("miou"),
        "mask_iou": figures.get("mask_iou"),
        "dataset": record.dataset,
    }


def _published(model: str) -> list[Row]:
    return [
        {
            "row": f"{point.scheme}\nTensorRT, box, thesis",
            "way": "published",
            "gap": point.tensorrt_miou - point.miou,
            "simulated": point.miou,
            "engine": point.tensorrt_miou,
            "dataset": "COCO val2017",
        }
        for point in thesis_points(model)
        if point.tensorrt_miou is not None
    ]


def _layers(rows: Sequence[Row]) -> Any:
    reach = 1.1 * max(_LEAST_REACH, *(abs(row.get(key) or 0.0) for row in rows for key in ("gap", "low", "high")))
    x = alt.X("gap:Q", title="points of mIoU", scale=alt.Scale(domain=[-reach, reach], nice=True))
    y = alt.Y("row:N", title=None, sort=None, axis=alt.Axis(labelExpr="split(datum.label, '\\n')", labelLimit=190))
    tooltip = [
        alt.Tooltip("row:N", title="scheme, engine, prompt"),
        alt.Tooltip("dataset:N"),
        alt.Tooltip("simulated:Q", title="simulated mIoU", format=".2f"),
        alt.Tooltip("engine:Q", title="engine mIoU", format=".2f"),
        alt.Tooltip("gap:Q", format="+.3f"),
        alt.Tooltip("mask_iou:Q", title="IoU of the masks, %", format=".2f"),
    ]
    base = alt.Chart(alt.NamedData("rows"))
    zero = alt.Chart(alt.NamedData("zero")).mark_rule(color=INK, strokeDash=[4, 3]).encode(x="zero:Q")
    errors = base.mark_rule(color=INK).encode(x=alt.X("low:Q"), x2="high:Q", y=y)
    ways = by_way(ENGINE_COLOURS, ENGINE_SHAPES, {row["way"] for row in rows}, "engine")
    points = base.mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, tooltip=tooltip, **ways)
    return zero + errors + points
