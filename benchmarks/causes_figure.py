"""Draw the walk from the thesis' placement to the engine's as an SVG: how far each step's simulation is off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from common import RESULTS

WIDTH, ROW, LEFT, TOP, BAR = 900, 34, 400, 60, 12
COLOURS = {"nano": "#4c78a8", "nano-outlier": "#e45756"}


def draw_causes(path: Path) -> None:
    """Write the figure, if the walk was measured."""
    result = RESULTS / "causes_scenes.json"
    if not result.exists():
        return
    document: dict[str, Any] = json.loads(result.read_text())
    titles = [step["step"] for step in document["nano"]["steps"]]
    limit = max(abs(step["off"]) for name in COLOURS for step in document[name]["steps"])
    height = TOP + ROW * len(titles) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="13"><rect width="100%" height="100%" fill="white"/>',
        _text(16, 24, "Simulated mIoU less deployed mIoU (OpenVINO INT8), one change at a time", size=15),
    ]
    for number, (name, colour) in enumerate(COLOURS.items()):
        x: float = LEFT + 150 * number
        parts.append(f'<rect x="{x}" y="36" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(x + 18, 47, name))
    zero = LEFT + (WIDTH - LEFT - 90) / 2
    scale = (WIDTH - LEFT - 90) / 2 / limit
    parts.append(f'<line x1="{zero}" y1="{TOP}" x2="{zero}" y2="{TOP + ROW * len(titles)}" stroke="#888"/>')
    for row, title in enumerate(titles):
        y = TOP + ROW * row + 4
        parts.append(_text(LEFT - 12, y + 17, title if row == 0 else f"+ {title}", anchor="end"))
        for number, (name, colour) in enumerate(COLOURS.items()):
            off = document[name]["steps"][row]["off"]
            x, width = (zero, off * scale) if off >= 0 else (zero + off * scale, -off * scale)
            top = y + number * (BAR + 1)
            parts.append(f'<rect x="{x:.1f}" y="{top}" width="{max(width, 1):.1f}" height="{BAR}" fill="{colour}"/>')
            end, anchor = (x + width + 4, "start") if off >= 0 else (x - 4, "end")
            parts.append(_text(end, top + 10, f"{off:+.2f}", size=10, anchor=anchor))
    count = document["nano"]["count"]
    parts.append(
        _text(16, height - 14, f"{count:,} objects of generated scenes, box prompts, int8; 0: as deployed", size=11)
    )
    path.write_text("\n".join([*parts, "</svg>\n"]))
    print(f"drew {path.name}")


def _text(x: float, y: float, text: str, *, size: int = 13, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
