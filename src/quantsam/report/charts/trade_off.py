"""Accuracy against what it costs: bytes, and milliseconds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import altair as alt

from quantsam.metrics.summary import CONFIDENCE_95
from quantsam.report.charts.chart import Chart, Row, Rows, by_way, finished
from quantsam.report.findings import points
from quantsam.report.published import is_official, thesis_points
from quantsam.report.tasks import PYTORCH, Result, Task
from quantsam.report.theme import ENGINE_COLOURS, ENGINE_SHAPES, INK
from quantsam.results.search_record import pareto

_LABELLED = 14  # more names than these would lie on top of one another
_PLOT = (400.0, 270.0)  # pixels that a plot has at least where two charts stand side by side
_LETTER = 6.3  # pixels
_BARS = "Bars: 95 % interval of the change against FP32. "
_LINE = "The line joins what nothing else beats in both. "
_LEAST_SPAN = 2.0  # points of mIoU; a smaller range would make noise look like an effect


def size_chart(name: str, model: str, task: Task) -> Chart | None:
    """Accuracy against the encoder's size: the Pareto front, FP32, and where FP16 would be; None without sizes."""
    whole = task.baseline  # of FP32 one is enough: all are of one size
    sized = [r for r in task.results if r.size_mib is not None and (not r.is_float or r is whole)]
    if not sized:
        return None
    rows = [_result_row(r, r.size_mib) for r in sized]
    fp32_bytes = next((r.record.figures["fp32_bytes"] for r in sized if r.record.figures.get("fp32_bytes")), None)
    half = None if fp32_bytes is None else fp32_bytes / 2**21
    published = [] if half is None or not _on_coco(model, task) else _published(model, half)
    reading = f"Left is smaller, up is better. {_BARS}{_LINE if len(_front(rows)) > 1 else ''}"
    if half is not None:
        reading += " Dashed: the size that FP16 would have."
    if published:
        reading += " Crosses: as the thesis published them, official weights on all of val2017, the rest in FP16."
    chart = _trade_off(task, [*rows, *published], "encoder, MiB", front=_front(rows), rule=half)
    title = f"{task.metric} against size"
    return Chart(name, title, reading, chart, len(rows) + len(published))


def latency_chart(name: str, task: Task) -> Chart | None:
    """Accuracy against the encoder's time on real engines and of FP32; None where no scheme ran on an engine."""
    timed = [r for r in task.results if r.encoder_ms is not None and (r.way != PYTORCH or r.is_float)]
    place = Counter(r.timed_on for r in timed if not r.is_float).most_common(1)
    if not place:
        return None
    timed = [r for r in timed if r.timed_on == place[0][0]]
    if any(r.is_float and r.way != PYTORCH for r in timed):  # else PyTorch's FP32 is the only one to compare with
        timed = [r for r in timed if r.way != PYTORCH]
    rows = [_result_row(r, r.encoder_ms) for r in timed]
    front = _front(rows)
    reading = (
        f"Left is faster, up is better. {_BARS}{_LINE if len(front) > 1 else ''} Median of one image, {place[0][0]}."
    )
    chart = _trade_off(task, rows, "encoder, ms an image", front=front, rule=None)
    return Chart(name, f"{task.metric} against latency", reading, chart, len(rows))


def _trade_off(task: Task, rows: Rows, title: str, *, front: Rows, rule: float | None) -> dict[str, Any]:
    scores = [row["score"] for row in rows]
    padding = max(0.08 * (max(scores) - min(scores)), (_LEAST_SPAN - max(scores) + min(scores)) / 2, 0.1)
    domain = [min(scores) - padding, max(scores) + padding]
    x = alt.X("x:Q", title=title, scale=alt.Scale(zero=True, nice=True))
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    y = alt.Y("score:Q", title=f"{task.metric}, %", scale=scale)
    tooltip = [
        alt.Tooltip("scheme:N"),
        alt.Tooltip("way:N", title="computed by"),
        alt.Tooltip("score:Q", title=task.metric, format=".2f"),
        alt.Tooltip("change:N", title="against FP32, ± SE"),
        alt.Tooltip("x:Q", title=title, format=".2f"),
    ]
    base = alt.Chart(alt.NamedData("rows"))
    engines = by_way(ENGINE_COLOURS, ENGINE_SHAPES, {row["way"] for row in rows}, "computed by")
    errors = base.mark_rule(color=INK, clip=True).encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q")
    points = base.mark_point(filled=True, size=80, opacity=0.9).encode(x=x, y=y, tooltip=tooltip, **engines)
    joined = alt.Chart(alt.NamedData("front")).mark_line(color="#767676", strokeWidth=1.2).encode(x=x, y=y)
    layers = [joined, errors, points]
    if len(rows) <= _LABELLED:
        _name(rows, (domain[0], domain[1]), rule or 0.0)
        begin = {"align": "left", "dx": 8}, {"align": "right", "dx": -8}
        for side in begin:
            of_side = base.transform_filter(f"datum.align == '{side['align']}'")
            text = of_side.mark_text(dy=alt.ExprRef("datum.dy"), fontSize=11, **side)  # type: ignore[arg-type]
            layers.append(text.encode(x=x, y=y, text="name:N"))
    data = {"rows": rows, "front": front}
    fill = next((r.record.figures.get("box_fill_miou") for r in task.results), None)
    if fill is not None and task.prompt == "box" and domain[0] < fill < domain[1]:
        data["fill"] = [{"score": fill, "text": "the box itself, filled"}]
        filled = alt.Chart(alt.NamedData("fill"))
        layers.append(filled.mark_rule(color="#767676", strokeDash=[2, 2]).encode(y=y))
        layers.append(filled.mark_text(align="left", dy=-5, fontSize=10).encode(x=alt.value(4), y=y, text="text:N"))
    if rule is not None:
        data["half"] = [{"x": rule, "name": "FP16"}]
        half = alt.Chart(alt.NamedData("half"))
        layers.append(half.mark_rule(color="#767676", strokeDash=[4, 3]).encode(x=x))
        top = alt.value(10)
        layers.append(half.mark_text(align="left", dx=4, fontSize=10).encode(x=x, y=top, text="name:N"))
    named = ", ".join(str(row["scheme"])[:40] for row in rows[:6])
    description = f"{task.metric} of {len(rows)} results on {task.name} against {title}: {named}"
    return finished(alt.layer(*layers), data, description=description)


def _name(rows: Rows, domain: tuple[float, float], reach: float) -> None:
    """Give each point its scheme's name where there is room: above it or below, away from the chart's nearer edge.

    Names that would lie on others, or are written near by already, are left to the tooltip.
    """
    most = max(reach, *(row["x"] for row in rows)) or 1.0
    taken: list[tuple[float, float, float, float]] = []
    points = [
        (row["x"] / most * _PLOT[0], (domain[1] - row["score"]) / (domain[1] - domain[0]) * _PLOT[1]) for row in rows
    ]
    placed: list[tuple[str, float, float]] = []
    for row, (x, y) in zip(rows, points, strict=True):
        name = str(row["scheme"])
        width = _LETTER * len(name)
        is_left = x + 8 + width <= _PLOT[0]  # of its text: it begins at the point
        row.update(name="", align="left" if is_left else "right", dy=-7)
        if any(name == other and abs(x - left) < 40 and abs(y - top) < 30 for other, left, top in placed):
            continue
        start = x + 8 if is_left else x - 8 - width
        for dy in (-7, 13, -20, 26):
            box = (start, y + dy - 11, start + width, y + dy + 3)
            on_a_point = any(box[0] < px < box[2] and box[1] < py < box[3] for px, py in points)
            if (
                start >= 0
                and box[1] >= -11
                and box[3] <= _PLOT[1]
                and not on_a_point
                and not any(
                    box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
                    for other in taken
                )
            ):
                row.update(name=name, dy=dy)
                taken.append(box)
                placed.append((name, x, y))
                break


def _result_row(result: Result, x: float | None) -> Row:
    error = result.change_se
    return {
        "scheme": result.label,
        "way": result.way,
        "x": x,
        "score": round(result.score, 4),
        "change": "" if result.change is None else points(result.change, error),
        "low": None if error is None else result.score - CONFIDENCE_95 * error,
        "high": None if error is None else result.score + CONFIDENCE_95 * error,
    }


def _front(rows: Rows) -> list[Row]:
    best = pareto([(row["x"], -row["score"]) for row in rows])
    return [{"x": rows[i]["x"], "score": rows[i]["score"]} for i in best]


def _published(model: str, fp16_mib: float) -> list[Row]:
    return [
        {"scheme": p.scheme, "way": "published", "x": fp16_mib - p.saved_mib, "score": p.miou, "change": ""}
        for p in thesis_points(model)
    ]


def _on_coco(model: str, task: Task) -> bool:
    """Whether the thesis' figures are of the same model, data and prompts."""
    return is_official(model) and task.prompt == "box" and task.dataset.lower().startswith("coco")
