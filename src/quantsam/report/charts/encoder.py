"""The encoder as a picture: a cell a layer, a row a stage, coloured by the format that the chosen scheme gives it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from quantsam.metrics.summary import CONFIDENCE_95
from quantsam.report.charts.chart import Chart, Row, finished
from quantsam.report.formats import EncoderLayers
from quantsam.report.theme import CLIPPED, FORMAT_COLOURS, INK, OTHER_FORMATS
from quantsam.results.sensitivity_record import RowScore

_GAP, _CELL = 0.7, 0.92  # between blocks, and of a cell, in cells
_TOP, _BOTTOM, _HIGHEST = 0.42, 0.8, 0.36  # of a row: a cell's edges, and the bar of the worst layer above it
_ROW = 58  # pixels
_LEAST_WIDTH = 24  # cells
_CHOSEN = "toNumber(chosen)"


def encoder_chart(name: str, layers: EncoderLayers) -> Chart:
    """Draw the layers from left to right and from top to bottom, as the forward pass goes."""
    rows, blocks, stages = _placed(layers.kinds)
    scores = layers.scores
    most = max((score.mask_loss or 0.0 for score in scores.values()), default=0.0)
    for row in rows:
        address = row["layer"]
        row["kind"] = layers.kinds[address]
        row["formats"] = [scheme.of(address) for scheme in layers.schemes]
        row["floats"] = [address in scheme.ran_in_float for scheme in layers.schemes]
        row |= _score_row(scores.get(address), row["row"], most)
    bars = sum(row["bar"] is not None for row in rows)
    width = max(_LEAST_WIDTH, *(row["right"] for row in rows))
    spec = finished(
        _drawn(rows, stages, width).add_params(alt.param(name="chosen", value="0")),
        {"rows": rows, "blocks": blocks},
        description=f"{len(rows)} layers in {len(stages)} stages, coloured by their format",
        height=_ROW * len(stages),
    )
    choices = {str(number): scheme.name for number, scheme in enumerate(layers.schemes)}
    return Chart(name, "The format of each layer", _reading(layers, bars > 0), spec, len(rows) + bars, choices)


def _placed(addresses: Iterable[str]) -> tuple[list[Row], list[Row], list[str]]:
    """Return layers and blocks with their places, and the stages."""
    rows: list[Row] = []
    blocks: list[Row] = []
    stages: list[str] = []
    for stage, layers in itertools.groupby(addresses, key=lambda address: address.partition(":")[0]):
        at = 0.0
        for block, members in itertools.groupby(layers, key=lambda address: address.rpartition(":")[0]):
            start = at
            for layer in members:
                rows.append({"layer": layer, "row": len(stages), "left": round(at, 2), "right": round(at + _CELL, 2)})
                at += 1
            blocks.append({"text": block.rpartition(":")[2], "x": (start + at - 1 + _CELL) / 2, "row": len(stages)})
            at += _GAP
        stages.append(stage)
    return rows, blocks, stages


def _score_row(score: RowScore | None, row: int, most: float) -> Row:
    loss = None if score is None else score.mask_loss
    error = None if score is None or score.mask_loss_se is None else CONFIDENCE_95 * score.mask_loss_se
    bar = None if loss is None or most <= 0 else round(row + _TOP - _HIGHEST * max(loss, 0.0) / most, 4)
    spread = "" if loss is None or error is None else f"{loss - error:.2f} to {loss + error:.2f}"
    return {"loss": loss, "spread": spread, "sqnr": None if score is None else score.sqnr_db, "bar": bar}


def _drawn(rows: Sequence[Row], stages: Sequence[str], width: float) -> Any:
    titles = alt.param(name="stages", value=list(stages))
    axis = alt.Axis(
        values=[number + 0.5 for number in range(len(stages))],
        labelExpr="stages[floor(datum.value)]",
        grid=False,
        ticks=False,
        domain=False,
    )
    down = alt.Scale(domain=[len(stages), 0], nice=False)
    x = alt.X("left:Q", axis=None, scale=alt.Scale(domain=[0, width], nice=False))
    base = alt.Chart(alt.NamedData("rows")).transform_calculate(
        format=f"datum.formats[{_CHOSEN}]",
        float=f"datum.floats[{_CHOSEN}] ? 'in float, though quantized' : ''",
        top=f"datum.row + {_TOP}",
        bottom=f"datum.row + {_BOTTOM}",
        middle="(datum.left + datum.right) / 2",
        centre=f"datum.row + {(_TOP + _BOTTOM) / 2}",
    )
    top = alt.Y("top:Q", title=None, axis=axis, scale=down)
    cells = base.mark_bar(stroke=INK, strokeWidth=0.5).encode(
        x=x, x2="right:Q", y=top, y2="bottom:Q", color=_colour(rows), tooltip=_tooltip()
    )
    bars = (
        base.transform_filter("isValid(datum.bar)")
        .mark_bar(color=CLIPPED)
        .encode(x=x, x2="right:Q", y=alt.Y("bar:Q", title=None, scale=down), y2="top:Q", tooltip=_tooltip())
    )
    marked = base.transform_filter("datum.float").mark_text(text="x", fontSize=14, fontWeight="bold")
    crosses = marked.encode(x=alt.X("middle:Q"), y=alt.Y("centre:Q", title=None))
    numbers = alt.Chart(alt.NamedData("blocks")).transform_calculate(y="datum.row + 0.92").mark_text(fontSize=9)
    numbered = numbers.encode(x="x:Q", y=alt.Y("y:Q", title=None), text="text:N")
    return alt.layer(cells, bars, crosses, numbered).add_params(titles)


def _colour(rows: Sequence[Row]) -> alt.Color:
    present = {name for row in rows for name in row["formats"]}
    others = sorted(present - FORMAT_COLOURS.keys())
    shown = [name for name in FORMAT_COLOURS if name in present] + others
    palette = FORMAT_COLOURS | dict(zip(others, itertools.cycle(OTHER_FORMATS), strict=False))
    scale = alt.Scale(domain=shown, range=[palette[name] for name in shown])
    legend = alt.Legend(title="bits of weights and activations", titleLimit=0, columns=4)
    return alt.Color("format:N", scale=scale, legend=legend)


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("layer:N"),
        alt.Tooltip("kind:N"),
        alt.Tooltip("format:N"),
        alt.Tooltip("float:N", title="the engine ran it"),
        alt.Tooltip("loss:Q", title="mask loss alone, points", format=".2f"),
        alt.Tooltip("spread:N", title="95 % interval"),
        alt.Tooltip("sqnr:Q", title="SQNR of the embedding, dB", format=".1f"),
    ]


def _reading(layers: EncoderLayers, has_bars: bool) -> str:
    text = "Each cell is a layer; the forward pass goes from left to right and from top to bottom. Numbers below are "
    text += "blocks. The colour is the format that the chosen scheme gives."
    if has_bars and layers.study is not None:
        text += f" Bars above: mask loss of the layer alone in {layers.study.label}, on {layers.study.dataset}; "
        text += "the scale is the same in all rows."
    if any(scheme.ran_in_float for scheme in layers.schemes):
        text += " x: the scheme quantizes the layer, and the engine ran it in float."
    return text
