"""What a search found."""

from __future__ import annotations

import altair as alt

from quantsam.metrics.summary import CONFIDENCE_95
from quantsam.report.charts.chart import Chart, Row, by_way, finished
from quantsam.report.theme import INK, ORIGIN_COLOURS, ORIGIN_SHAPES
from quantsam.results.search_record import FOUND, SearchEntry, SearchRecord, pareto


def front_chart(name: str, record: SearchRecord) -> Chart:
    """What a search found beside the hand-made schemes: points of mIoU lost against the cost."""
    entries = record.entries
    unit, divisor = {"bytes": ("MiB", 2**20), "ms": ("ms", 1.0)}.get(str(record.settings.get("unit")), ("G", 1e9))
    rows: list[Row] = [
        {"scheme": e.name, "way": e.origin, "x": e.cost / divisor, "score": _lost(e), **_interval(e)} for e in entries
    ]
    best = [entries[i] for i in pareto([(e.cost, _lost(e)) for e in entries]) if entries[i].origin == FOUND]
    line = [{"x": e.cost / divisor, "score": _lost(e)} for e in best]
    x = alt.X("x:Q", title=f"{record.settings.get('cost', 'cost')}, {unit}", scale=alt.Scale(zero=False))
    y = alt.Y("score:Q", title="points of mIoU lost", scale=alt.Scale(zero=False, padding=12))
    tooltip = [
        alt.Tooltip("scheme:N"),
        alt.Tooltip("way:N", title="origin"),
        alt.Tooltip("x:Q", title=unit, format=".3f"),
        alt.Tooltip("score:Q", title="lost", format=".2f"),
        alt.Tooltip("spread:N", title="95 % interval"),
    ]
    points = (
        alt.Chart(alt.NamedData("rows"))
        .mark_point(filled=True, size=70, opacity=0.9)
        .encode(x=x, y=y, tooltip=tooltip, **by_way(ORIGIN_COLOURS, ORIGIN_SHAPES, {r["way"] for r in rows}, "scheme"))
    )
    errors = alt.Chart(alt.NamedData("rows")).mark_rule(color=INK).encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
    joined = alt.Chart(alt.NamedData("front")).mark_line(color="#0072b2", strokeWidth=1.5).encode(x=x, y=y)
    spec = finished(
        joined + errors + points,
        {"rows": rows, "front": line},
        description=f"Loss against cost of {len(rows)} schemes of {record.model}",
    )
    reading = "Left is cheaper, down is better; the line joins the search's best. Bars: 95 % interval."
    if all(e.held_out_drop is not None for e in entries):
        reading += " On images that the search did not see."
    return Chart(name, "Loss against cost", reading, spec, len(rows))


def _lost(entry: SearchEntry) -> float:
    return entry.drop if entry.held_out_drop is None else entry.held_out_drop


def _interval(entry: SearchEntry) -> Row:
    error = entry.drop_se if entry.held_out_drop is None else entry.held_out_drop_se
    if error is None:
        return {"low": None, "high": None, "spread": ""}
    low, high = (_lost(entry) + side * CONFIDENCE_95 * error for side in (-1, 1))
    return {"low": low, "high": high, "spread": f"{low:.2f} to {high:.2f}"}
