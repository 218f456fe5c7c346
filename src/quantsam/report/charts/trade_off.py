"""Accuracy against what it costs: bytes, and milliseconds."""

from __future__ import annotations

from typing import Any

import altair as alt

from quantsam.report.charts.chart import Chart, Row, Rows, by_way, finished
from quantsam.report.content import SIMULATED, Result, Task
from quantsam.report.published import is_official, thesis_points
from quantsam.report.theme import ENGINE_COLOURS, ENGINE_SHAPES
from quantsam.results.search import pareto

_LABELLED = 14  # more names than these would lie on top of one another
_NEAR = 0.05  # of the chart's width
_LEAST_SPAN = 2.0  # points of mIoU; a smaller range would make noise look like an effect


def size_chart(name: str, model: str, task: Task) -> Chart | None:
    """Accuracy against the encoder's size: the Pareto front, FP32, and where FP16 would be; None without sizes."""
    sized = [r for r in task.results if r.size_mib is not None]
    if not sized:
        return None
    rows = [_result_row(r, task, r.size_mib) for r in sized]
    whole = next((r.record.figures["fp32_bytes"] for r in sized if r.record.figures.get("fp32_bytes")), None)
    half = None if whole is None else whole / 2**21
    published = [] if half is None or not _on_coco(model, task) else _published(model, half)
    reading = "Left is smaller, up is better; the line joins what nothing else beats in both."
    if half is not None:
        reading += " Dashed: the size that FP16 would have."
    if published:
        reading += " Crosses: as the thesis published them for the official weights, the rest in FP16."
    chart = _trade_off(task, [*rows, *published], "encoder, MiB", front=_front(rows), rule=half)
    title = f"{task.metric} against size"
    return Chart(name, title, reading, chart, len(rows) + len(published))


def latency_chart(name: str, task: Task) -> Chart | None:
    """Accuracy against the encoder's time on real engines and of FP32; None where no scheme ran on an engine."""
    timed = [r for r in task.results if r.encoder_ms is not None]
    if all(r.is_float for r in timed):
        return None
    if any(r.is_float and r.way != SIMULATED for r in timed):  # else PyTorch's FP32 is the only yardstick
        timed = [r for r in timed if r.way != SIMULATED]
    rows = [_result_row(r, task, r.encoder_ms) for r in timed]
    cpu = timed[-1].record.environment.get("cpu", "")
    reading = f"Left is faster, up is better. Median of one picture on {cpu}; a simulation's time says nothing."
    chart = _trade_off(task, rows, "encoder, ms a picture", front=_front(rows), rule=None)
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
        alt.Tooltip("change:Q", title="against FP32", format="+.2f"),
        alt.Tooltip("error:Q", title="± SE", format=".2f"),
        alt.Tooltip("x:Q", title=title, format=".2f"),
    ]
    base = alt.Chart(alt.NamedData("rows"))
    engines = by_way(ENGINE_COLOURS, ENGINE_SHAPES, {row["way"] for row in rows}, "computed by")
    errors = base.mark_rule(color="#767676", clip=True).encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q")
    points = base.mark_point(filled=True, size=80, opacity=0.9).encode(x=x, y=y, tooltip=tooltip, **engines)
    joined = alt.Chart(alt.NamedData("front")).mark_line(color="#767676", strokeWidth=1.2).encode(x=x, y=y)
    layers = [joined, errors, points]
    if len(rows) <= _LABELLED:
        _name(rows, domain[1] - domain[0])
        layers.append(base.mark_text(align="left", dx=8, dy=-7, fontSize=11).encode(x=x, y=y, text="name:N"))
    data = {"rows": rows, "front": front}
    if rule is not None:
        data["half"] = [{"x": rule, "name": "FP16"}]
        half = alt.Chart(alt.NamedData("half"))
        layers.append(half.mark_rule(color="#767676", strokeDash=[4, 3]).encode(x=x))
        top = alt.value(10)
        layers.append(half.mark_text(align="left", dx=4, fontSize=10).encode(x=x, y=top, text="name:N"))
    named = ", ".join(str(row["scheme"])[:40] for row in rows[:6])
    description = f"{task.metric} of {len(rows)} results on {task.name} against {title}: {named}"
    return finished(alt.layer(*layers), data, description=description)


def _name(rows: Rows, height: float) -> None:
    """Give each point its scheme's name, but not twice in one place."""
    width = max(row["x"] for row in rows)
    for number, row in enumerate(rows):
        near = [
            other["scheme"] == row["scheme"]
            and abs(other["x"] - row["x"]) < _NEAR * width
            and abs(other["score"] - row["score"]) < 2 * _NEAR * height
            for other in rows[:number]
        ]
        row["name"] = "" if any(near) else row["scheme"]


def _result_row(result: Result, task: Task, x: float | None) -> Row:
    error = result.change_se
    return {
        "scheme": result.label,
        "way": result.way,
        "x": x,
        "score": round(result.score, 4),
        "change": result.change,
        "error": error,
        "low": None if error is None else result.score - 1.96 * error,
        "high": None if error is None else result.score + 1.96 * error,
    }


def _front(rows: Rows) -> list[Row]:
    best = pareto([(row["x"], -row["score"]) for row in rows])
    return [{"x": rows[i]["x"], "score": rows[i]["score"]} for i in best]


def _published(model: str, fp16_mib: float) -> list[Row]:
    return [
        {"scheme": p.scheme, "way": "published", "x": fp16_mib - p.saved_mib, "score": p.miou, "change": None}
        for p in thesis_points(model)
    ]


def _on_coco(model: str, task: Task) -> bool:
    """Whether the thesis' figures are of the same model, data and prompts."""
    return is_official(model) and task.prompt == "box" and task.dataset.lower().startswith("coco")
