"""Simulation against engine."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from quantsam.report.charts.chart import Chart, Row, by_way, finished
from quantsam.report.theme import ENGINE_COLOURS, ENGINE_SHAPES, INK
from quantsam.results.record import Record


def agreement_chart(name: str, records: Sequence[Record]) -> Chart | None:
    """How far each engine is from its simulation; None if no record says."""
    rows: list[Row] = [
        {
            "row": f"{r.label}, {r.engine}, {r.prompt}",
            "way": r.engine,
            "gap": r.figures["gap"],
            "low": r.figures.get("gap_low"),
            "high": r.figures.get("gap_high"),
            "simulated": r.figures.get("miou_simulated"),
            "engine": r.figures.get("miou"),
            "mask_iou": r.figures.get("mask_iou"),
            "dataset": r.dataset,
        }
        for r in records
        if r.figures.get("gap") is not None
    ]
    if not rows:
        return None
    reach = max(0.5, *(abs(row[key] or 0.0) for row in rows for key in ("gap", "low", "high")))
    x = alt.X(
        "gap:Q",
        title="points of mIoU",
        scale=alt.Scale(domain=[-1.1 * reach, 1.1 * reach], nice=False),
    )
    y = alt.Y("row:N", title=None, sort=None, axis=alt.Axis(labelLimit=260))
    data = alt.NamedData("rows")
    tooltip = [
        alt.Tooltip("row:N", title="scheme, engine, prompt"),
        alt.Tooltip("dataset:N"),
        alt.Tooltip("simulated:Q", title="simulated mIoU", format=".2f"),
        alt.Tooltip("engine:Q", title="engine mIoU", format=".2f"),
        alt.Tooltip("gap:Q", format="+.3f"),
        alt.Tooltip("mask_iou:Q", title="IoU of the masks, %", format=".2f"),
    ]
    base = alt.Chart(data)
    zero = alt.Chart(alt.NamedData("zero")).mark_rule(color=INK, strokeDash=[4, 3]).encode(x="zero:Q")
    errors = base.mark_rule(color="#767676").encode(x=alt.X("low:Q"), x2="high:Q", y=y)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=x, y=y, tooltip=tooltip, **by_way(ENGINE_COLOURS, ENGINE_SHAPES, {r["way"] for r in rows}, "engine")
    )
    spec = finished(
        zero + errors + points,
        {"rows": rows, "zero": [{"zero": 0}]},
        description=f"Gap between engine and simulation of {len(rows)} schemes",
        height=max(90, 26 * len({row["row"] for row in rows})),
    )
    reading = (
        "On the dashed line an engine gives what the simulation promised. Grey: 95 % interval, over the same objects."
    )
    return Chart(name, "Engine less simulation, points of mIoU", reading, spec, len(rows))
