"""Colours, shapes and fonts of all charts: safe for colour-blind readers, with 3:1 contrast or more in both modes."""

from __future__ import annotations

import itertools
from typing import Any

from quantsam.runtime.engines import ENGINES

KIND_COLOURS = {
    "conv": "#67727f",
    "resblock": "#87919f",
    "fmbc_3x3": "#0072b2",
    "fmbc_1x1": "#4a9bd1",
    "mbc_expand": "#009e73",
    "mbc_depthwise": "#d55e00",
    "mbc_project": "#c77f00",
    "qkv": "#9857b3",
    "attention": "#b87bd0",
    "attention_proj": "#7a5cc0",
    "neck_in": "#9a6532",
    "neck_out": "#b98a55",
    "mixed": "#767676",
}
"""Of each kind of layer: a hue for each family, apart in lightness within it."""

INK, GRID, CLIPPED = "#1f2328", "#d8dde3", "#d55e00"
"""Ink is a colour that nothing else has: the page's style sheet gives it another one in the dark."""

_ENGINE_LOOKS = (("#d55e00", "square"), ("#009e73", "triangle-up"), ("#8e4ea8", "diamond"), ("#56b4e9", "stroke"))
"""Colour and shape of engines, in the order of the registry; a fifth one begins anew."""

ENGINE_COLOURS = {
    "PyTorch": INK,
    "simulated": "#0072b2",
    **{name: colour for name, (colour, _) in zip(ENGINES, itertools.cycle(_ENGINE_LOOKS), strict=False)},
    "published": "#767676",
}
ENGINE_SHAPES = {
    "PyTorch": "circle",
    "simulated": "circle",
    **{name: shape for name, (_, shape) in zip(ENGINES, itertools.cycle(_ENGINE_LOOKS), strict=False)},
    "published": "cross",
}

ORIGIN_COLOURS = {"found": "#0072b2", "hand-made": "#d55e00", "uniform": "#767676"}
ORIGIN_SHAPES = {"found": "circle", "hand-made": "square", "uniform": "triangle-up"}

SERIES = ("#0072b2", "#d55e00", "#009e73", "#8e4ea8", "#c77f00", "#56b4e9")
"""Of schemes that a chart compares."""

FORMAT_COLOURS = {
    "float": "#c3c9d1",
    "W8 A8": "#0072b2",
    "A8": "#4a9bd1",
    "W8": "#8ec3e6",
    "W8 A16": "#009e73",
    "A16": "#5fc4a5",
    "W4 A8": "#d55e00",
    "W4 A16": "#c77f00",
    "W4": "#e8a76d",
    "W4 A4": "#8e4ea8",
    "A4": "#b98acb",
}
"""Of a layer's numbers: bits of weights and activations."""

OTHER_FORMATS = ("#7a5cc0", "#9a6532", "#b87bd0", "#67727f")
"""Of formats without a colour of their own, in turn."""

COMMON, MISSED, EXTRA = (86, 180, 233), (213, 94, 0), (240, 228, 66)
"""Pixels that a mask shares with the truth, misses of it, and has too much."""

FP32, QUANTIZED = (0, 114, 178), (213, 94, 0)
"""Values in float and quantized ones; where they differ, blue is below zero and red above."""

CONFIG: dict[str, Any] = {
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "gridColor": GRID,
        "domainColor": "#8a94a3",
        "tickColor": "#8a94a3",
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {"labelColor": INK, "titleColor": INK, "labelFontSize": 11, "titleFontSize": 12, "orient": "bottom"},
    "text": {"color": INK},
}
"""Vega-Lite's configuration. The page gives ink and grid other colours in the dark, by its style sheet."""
