"""What the layers that hurt most lose before and after a repair: two points a layer, joined."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from quantsam.report.charts.chart import Chart, finished
from quantsam.report.theme import CLIPPED, INK
from quantsam.results.sensitivity_record import RowScore

_MOST = 20
_BLUE = "#0072b2"
_ORDER = ("unrepaired", "repaired")


def repaired_layers_chart(name: str, pairs: Sequence[tuple[RowScore, RowScore]]) -> Chart | None:
    """Draw the mask loss of each layer alone, unrepaired and repaired; None where no layer was measured twice.

    Args:
        name: Of the chart.
        pairs: The rows of the same layers, those that hurt most first.
    """
    measured = [(a, b) for a, b in pairs if a.mask_loss is not None and b.mask_loss is not None][:_MOST]
    if not measured:
        return None
    lines = [{"layer": a.name, "before": a.mask_loss, "after": b.mask_loss} for a, b in measured]
    points = [
        {"layer": row.name, "kind": row.kind, "loss": row.mask_loss, "se": row.mask_loss_se, "which": which}
        for pair in measured
        for which, row in zip(_ORDER, pair, strict=True)
    ]
    y = alt.Y("layer:N", title=None, sort=None)
    joined = alt.Chart(alt.NamedData("lines")).mark_rule(color=INK, opacity=0.5)
    marks = alt.Chart(alt.NamedData("points")).mark_point(filled=True, size=70, opacity=1)
    chart = joined.encode(x=alt.X("before:Q"), x2="after:Q", y=y) + marks.encode(
        x=alt.X("loss:Q", title="mask loss, points"),
        y=y,
        color=alt.Color("which:N", title=None, scale=alt.Scale(domain=_ORDER, range=[CLIPPED, _BLUE])),
        shape=alt.Shape("which:N", title=None, scale=alt.Scale(domain=_ORDER, range=["diamond", "circle"])),
        tooltip=[
            alt.Tooltip("layer:N"),
            alt.Tooltip("kind:N"),
            alt.Tooltip("which:N", title="plan"),
            alt.Tooltip("loss:Q", title="mask loss", format=".2f"),
            alt.Tooltip("se:Q", title="± one SE", format=".2f"),
        ],
    )
    spec = finished(
        chart,
        {"lines": lines, "points": points},
        description=f"Mask loss of {len(measured)} layers, unrepaired and repaired",
        height=max(90, 20 * len(measured)),
    )
    reading = "Each quantized alone; the further left the repaired one, the more its repair gave."
    return Chart(name, "What hurts most, before and after repair", reading, spec, len(points))
