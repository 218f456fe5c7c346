"""Accuracy against how many images a scheme was calibrated on."""

from __future__ import annotations

import statistics

import altair as alt

from quantsam.report.charts.chart import Chart, Row, finished
from quantsam.report.tasks import Result, Task
from quantsam.report.theme import INK, SERIES


def calibration_chart(name: str, task: Task) -> Chart | None:
    """Every calibration as a point, the mean of each number of images on a line; None for fewer than two numbers."""
    groups: dict[str, dict[int, list[Result]]] = {}
    for result in task.results:
        count = result.record.settings.get("calibration_images")
        if isinstance(count, int) and not result.is_float:
            images = str(result.record.calibration).partition("[")[0]
            title = f"{result.record.label}, {result.way}, {result.record.placement}, {images}"
            groups.setdefault(title, {}).setdefault(count, []).append(result)
    groups = {title: by_count for title, by_count in groups.items() if len(by_count) > 1}
    if not groups:
        return None
    groups = _shortened(groups)
    rows: list[Row] = []
    means: list[Row] = []
    for title, by_count in groups.items():
        for count, results in sorted(by_count.items()):
            scores = [result.score for result in results]
            rows += [{"scheme": title, "images": count, "score": round(score, 4)} for score in scores]
            spread = {"low": min(scores), "high": max(scores)}
            means.append({"scheme": title, "images": count, "score": statistics.fmean(scores), **spread})
    data = {"rows": rows, "means": means}
    x = alt.X("images:Q", title="calibration images", scale=alt.Scale(type="log", base=2), axis=alt.Axis(format="d"))
    y = alt.Y("score:Q", title=f"{task.metric}, %", scale=alt.Scale(zero=False, padding=12))
    colour = alt.Color("scheme:N", title="scheme", scale=alt.Scale(range=list(SERIES)))
    tooltip = [
        alt.Tooltip("scheme:N"),
        alt.Tooltip("images:Q", title="calibration images"),
        alt.Tooltip("score:Q", title=task.metric, format=".2f"),
    ]
    each, mean = alt.Chart(alt.NamedData("rows")), alt.Chart(alt.NamedData("means"))
    layers = [
        mean.mark_area(opacity=0.15).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour),
        mean.mark_line().encode(x=x, y=y, color=colour),
        each.mark_point(filled=True, size=50).encode(x=x, y=y, color=colour, tooltip=tooltip),
    ]
    whole = task.baseline
    if whole is not None:
        data["fp32"] = [{"score": whole.score, "text": "FP32"}]
        fp32 = alt.Chart(alt.NamedData("fp32"))
        layers.append(fp32.mark_rule(color=INK, strokeDash=[4, 3]).encode(y=y))
        layers.append(fp32.mark_text(align="left", dy=-5, fontSize=10).encode(x=alt.value(4), y=y, text="text:N"))
    reading = "Points: one calibration each, on other images. Line: their mean. Band: from the worst to the best."
    description = f"{task.metric} on {task.name} against the number of calibration images: {', '.join(groups)}"
    title = f"{task.metric} against calibration images"
    return Chart(name, title, reading, finished(alt.layer(*layers), data, description=description), len(rows))


def _shortened(groups: dict[str, dict[int, list[Result]]]) -> dict[str, dict[int, list[Result]]]:
    """Leave out of the titles what all of them end in."""
    parts = [title.split(", ") for title in groups]
    while len(parts[0]) > 1 and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    return {", ".join(part): group for part, group in zip(parts, groups.values(), strict=True)}
