"""Tables and the figure of searches, studies and sweeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from common import RESULTS, load, machine, markdown

MODELS = ("nano", "nano-outlier")
DATA = ("scenes", "photographs")
HAND_MADE = ("int8", "mix-dwsc", "mix-mbc-neck")
COLOURS = {"found": "#4c78a8", "hand-made": "#e45756", "uniform": "#999999"}


def front() -> str:
    """Return the found schemes that dominate the hand-made ones, beside these."""
    rows = []
    for name in MODELS:
        document = load(f"search_{name}")
        entries = {entry["name"]: entry for entry in document["entries"]}
        for hand in HAND_MADE:
            rows.append([name, hand, *_cells(entries[hand], document)])
            found = dominating(document["entries"], hand, DATA)
            if found is not None:
                rows.append(["", f"→ {found.removeprefix(f'{name}-')}", *_cells(entries[found], document)])
    header = ["model", "scheme", "encoder MB", "of FP32", *(f"mIoU lost, {kind}" for kind in DATA)]
    documents = [load(f"search_{name}") for name in MODELS]
    seconds = " and ".join(f"{d['searching_s']:.0f} s" for d in documents)
    caption = (
        "→: the smallest found scheme that is smaller and loses no more, on scenes and on photographs. Points of mIoU "
        "lost against FP32, paired, ± standard error; neither the scenes nor the photographs were seen by the search. "
        "Simulated with the thesis' placement; calibrating and searching took "
        f"{seconds}. {machine(documents[0])}."
    )
    return f"{markdown(header, rows)}\n\n{caption}"


def dominating(entries: list[dict[str, Any]], hand: str, data: Sequence[str]) -> str | None:
    """Return the smallest found scheme that is smaller than a hand-made one and loses no more on all data."""
    mine = next(e for e in entries if e["name"] == hand)
    better = [
        e
        for e in entries
        if e["origin"] == "found" and e["cost"] < mine["cost"] and all(e[k]["drop"] <= mine[k]["drop"] for k in data)
    ]
    return min(better, key=lambda e: float(e["cost"]))["name"] if better else None


def front_full(name: str) -> str:
    """Return all kept schemes of one model."""
    document = load(f"search_{name}")
    rows = [
        [f"*{e['name']}*" if e["origin"] != "found" else e["name"], *_cells(e, document)] for e in document["entries"]
    ]
    return markdown(["scheme", "encoder MB", "of FP32", *(f"mIoU lost, {kind}" for kind in DATA)], rows)


def _cells(entry: dict[str, Any], document: dict[str, Any]) -> list[str]:
    sizes = [f"{entry['cost'] / 1e6:.2f}", f"{entry['cost'] / document['fp32_bytes']:.0%}"]
    lost = [f"{entry[k]['drop']:.2f} ± {entry[k]['drop_se'] or 0:.2f}" if k in entry else "" for k in DATA]
    return [*sizes, *lost]


def latency_check() -> str:
    """Return what the cost tables of latency say, and what was measured."""
    document = load("search_latency")
    rows = [
        [f"{engine}, {scheme}", f"{c['predicted_ms']:.2f}", f"{c['measured_ms']:.2f}", f"{_off(c):+.1%}"]
        for engine in ("onnxruntime", "openvino")
        for scheme, c in document[engine].items()
    ]
    return f"{markdown(['nano', 'table, ms', 'measured, ms', 'off by'], rows)}\n\n{machine(document)}."


def _off(check: dict[str, float]) -> float:
    return check["predicted_ms"] / check["measured_ms"] - 1


def sensitivity() -> str:
    """Return times and ranks of studies."""
    document = load("sensitivity")
    rows = []
    for name in ("nano-outlier", "nano"):
        d = document[name]
        what = f"{name}, {d['scheme']}"
        rows.append([f"{what}: by hand", f"{d['by_hand_s']:.0f}", "1.0", "", ""])
        rows.append([f"{what}: exact", f"{d['calibrating_s'] + d['exact_s']:.0f}", f"{d['faster']:.1f}", "", ""])
        for label, e in d["estimates"].items():
            rank = "-" if e["spearman"] is None else f"{e['spearman']:.3f} ({e['rows_that_matter']} rows)"
            seconds = d["calibrating_s"] + e["seconds"]
            rows.append([f"{what}: {label}", f"{seconds:.0f}", f"{e['faster']:.0f}", rank, f"{e['worst_found']} of 5"])
    d = document["l0"]
    what = f"L0, int8, {d['images']} pictures"
    rows.append([f"{what}: by hand", f"{d['by_hand_s']:.0f}", "1.0", "", ""])
    rows.append([f"{what}: exact", f"{d['calibrating_s'] + d['exact_s']:.0f}", f"{d['faster']:.1f}", "", ""])
    a, b = document["nano-outlier"], document["nano"]
    caption = (
        f"nano-outlier: {a['rows']} layers on {a['images']} scenes, nano: {b['rows']} on {b['images']}; by hand: "
        f"calibration on 32 scenes and evaluation for every row, measured on {a['by_hand_rows']} of them; its drops "
        f"and the exact study's differ by {max(a['largest_difference'], b['largest_difference']):.1g} at most. Rank "
        "correlation (Spearman) with the exact study's drop over layers that lose more than 0.1 mIoU; how many of its "
        f"five worst are among the estimate's. {machine(document)}."
    )
    held, before = d["peak_mib"], d["peak_before_mib"]
    caption += f" The study of L0 held {held:.0f} MiB at its peak; calibrating it had taken {before:.0f}."
    header = ["", "seconds", "times faster", "rank correlation", "worst found"]
    return f"{markdown(header, rows)}\n\n{caption}"


def growth() -> str:
    """Return the seconds of exact studies as pictures and rows grow."""
    document = load("sensitivity")
    rows = [[f"{g['by']}: {g['rows']} rows", str(g["images"]), f"{g['seconds']:.1f}"] for g in document["growth"]]
    return f"{markdown(['nano, int8, by', 'pictures', 'seconds'], rows)}\n\n{machine(document)}."


def sweep() -> str:
    """Return how a sweep scales."""
    document = load("sweep")
    rows = [
        [runner, *(f"{times[n]:.1f}" for n in ("1", "2")), f"{times['1'] / times['2']:.2f}"]
        for runner, times in document["seconds"].items()
    ]
    caption = f"{document['points']} points of nano on {document['pictures']} scenes. {machine(document)}."
    return f"{markdown(['runner', '1 worker, s', '2 workers, s', 'times'], rows)}\n\n{caption}"


SEARCH_TABLES: dict[str, Callable[[], str]] = {
    "front": front,
    "front-nano": lambda: front_full("nano"),
    "front-nano-outlier": lambda: front_full("nano-outlier"),
    "latency-check": latency_check,
    "sensitivity": sensitivity,
    "sensitivity-growth": growth,
    "sweep": sweep,
}

_WIDTH, _HEIGHT, _LEFT, _TOP, _PANEL = 900, 380, 60, 60, 390
_LOSSES = (0.1, 0.3, 1, 3, 10, 30, 60)


def draw_front(path: Path) -> None:
    """Draw size against the loss of masks on held-out scenes, a panel a model."""
    if not all((RESULTS / f"search_{name}.json").exists() for name in MODELS):
        return
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for number, (origin, colour) in enumerate(COLOURS.items()):
        parts.append(f'<circle cx="{_LEFT + 130 * number}" cy="20" r="5" fill="{colour}"/>')
        label = {"found": "found", "hand-made": "made by hand", "uniform": "one format"}[origin]
        parts.append(_text(_LEFT + 10 + 130 * number, 24, label))
    for number, name in enumerate(MODELS):
        parts += _panel(load(f"search_{name}"), name, _LEFT + number * (_PANEL + 40))
    path.write_text("\n".join([*parts, "</svg>\n"]))
    print(f"drew {path.name}")


def _panel(document: dict[str, Any], name: str, left: float) -> list[str]:
    width, height = _PANEL - 20, _HEIGHT - _TOP - 60
    largest = document["fp32_bytes"]

    def place(size: float, loss: float) -> tuple[float, float]:
        low, high = math.log(_LOSSES[0]), math.log(_LOSSES[-1])
        share = (math.log(max(loss, _LOSSES[0])) - low) / (high - low)
        return left + width * size / largest, _TOP + height * (1 - min(share, 1))

    parts = [
        _text(left, _TOP - 12, f"{name}: encoder in MB, and 100 less the masks' IoU with FP32's, in percent", size=11)
    ]
    for loss in _LOSSES:
        y = place(0, loss)[1]
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts.append(_text(left - 6, y + 4, f"{loss:g}", anchor="end", size=10))
    for megabytes in range(int(largest / 1e6) + 1):
        x = place(megabytes * 1e6, 1)[0]
        parts.append(_text(x, _TOP + height + 16, str(megabytes), anchor="middle", size=10))
    shown = [e for e in document["entries"] if e["scenes"]["mask_loss"] > 0]
    line = sorted((e for e in shown if e["on_front"]), key=lambda e: e["cost"])
    points = " ".join("{:.1f},{:.1f}".format(*place(e["cost"], e["scenes"]["mask_loss"])) for e in line)
    parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS["found"]}" stroke-opacity="0.4"/>')
    for entry in shown:
        x, y = place(entry["cost"], entry["scenes"]["mask_loss"])
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{COLOURS[entry["origin"]]}"/>')
        if entry["origin"] != "found":
            parts.append(_text(x + 8, y + (4 if entry["name"] != "w8a16" else 14), entry["name"], size=10))
    return parts


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
