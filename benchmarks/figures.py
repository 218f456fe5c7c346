"""The figures of the documentation, drawn from the raw results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from common import RESULTS, load

from quantsam.report.theme import CONFIG, ENGINE_COLOURS, INK, ORIGIN_COLOURS, ORIGIN_SHAPES

_MODELS = ("nano", "nano-outlier")
_FONT = "DejaVu Sans, Liberation Sans, Helvetica, Arial, sans-serif"
_ORIGINS = {"found": "found", "hand-made": "made by hand", "uniform": "one format"}
_STEPS = {"nano": ENGINE_COLOURS["simulated"], "nano-outlier": ENGINE_COLOURS["onnxruntime"]}


def draw_front(path: Path) -> None:
    """Draw size against the loss of masks on held-out scenes, a panel a model."""
    if all((RESULTS / f"search_{name}.json").exists() for name in _MODELS):
        _write(alt.hconcat(*(_front(name) for name in _MODELS)).resolve_scale(x="independent"), path)


def _front(name: str) -> Any:
    entries = [e for e in load(f"search_{name}")["entries"] if e["scenes"]["mask_loss"] > 0]
    rows = [
        {
            "x": entry["cost"] / 1e6,
            "loss": entry["scenes"]["mask_loss"],
            "origin": _ORIGINS[entry["origin"]],
            "on_front": entry["on_front"],
            "name": "" if entry["origin"] == "found" else entry["name"],
        }
        for entry in entries
    ]
    origins = list(_ORIGINS.values())
    colour = alt.Scale(domain=origins, range=[ORIGIN_COLOURS[origin] for origin in _ORIGINS])
    shape = alt.Scale(domain=origins, range=[ORIGIN_SHAPES[origin] for origin in _ORIGINS])
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X("x:Q", title="encoder, MB"),
        y=alt.Y("loss:Q", title="100 less the masks' IoU with FP32's, %", scale=alt.Scale(type="log")),
    )
    line = base.transform_filter("datum.on_front").mark_line(color=ORIGIN_COLOURS["found"], opacity=0.4)
    points = base.mark_point(filled=True, size=70, opacity=0.9).encode(
        color=alt.Color("origin:N", title=None, scale=colour), shape=alt.Shape("origin:N", title=None, scale=shape)
    )
    names = base.mark_text(align="left", dx=8, fontSize=10).encode(text="name:N")
    return (line + points + names).properties(width=360, height=260, title=name)


def draw_causes(path: Path) -> None:
    """Draw the walk from the thesis' placement to the engine's: how far each step's simulation is off."""
    if not (RESULTS / "causes_scenes.json").exists():
        return
    document = load("causes_scenes")
    steps = [step["step"] for step in document["nano"]["steps"]]
    titles = [title if number == 0 else f"+ {title}" for number, title in enumerate(steps)]
    rows = [
        {"step": title, "model": name, "off": step["off"], "label": f"{step['off']:+.2f}"}
        for name in _MODELS
        for title, step in zip(titles, document[name]["steps"], strict=True)
    ]
    reach = 1.25 * max(abs(row["off"]) for row in rows)
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        y=alt.Y("step:N", title=None, sort=titles, axis=alt.Axis(labelLimit=400)),
        yOffset=alt.YOffset("model:N", sort=list(_MODELS)),
        x=alt.X("off:Q", title="points of mIoU, simulated less deployed", scale=alt.Scale(domain=[-reach, reach])),
    )
    colours = alt.Scale(domain=list(_STEPS), range=list(_STEPS.values()))
    bars = base.mark_bar().encode(color=alt.Color("model:N", title=None, scale=colours))
    right = base.transform_filter("datum.off >= 0").mark_text(align="left", dx=4, fontSize=10).encode(text="label:N")
    left = base.transform_filter("datum.off < 0").mark_text(align="right", dx=-4, fontSize=10).encode(text="label:N")
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(color=INK).encode(x="zero:Q")
    title = alt.TitleParams(
        "Simulated mIoU less deployed mIoU (OpenVINO INT8), one change at a time",
        subtitle=f"{document['nano']['count']:,} objects of generated scenes, box prompts, int8; 0: as deployed",
        anchor="start",
    )
    _write((bars + right + left + zero).properties(width=420, height=alt.Step(15), title=title), path)


def _write(chart: Any, path: Path) -> None:
    spec = {**chart.to_dict(), "background": "white", "config": {**CONFIG, "font": _FONT}}
    path.write_text(vl_convert.vegalite_to_svg(spec) + "\n")
    print(f"drew {path.name}")
