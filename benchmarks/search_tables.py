"""Tables of searches, studies and sweeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from common import load, machine, markdown

DATA = ("scenes", "photographs")


def dominating(entries: list[dict[str, Any]], hand: str, data: Sequence[str]) -> str | None:
    """Return the smallest found scheme that is smaller than a hand-made one and loses no more on all data."""
    mine = next(e for e in entries if e["name"] == hand)
    smaller = [e for e in entries if e["origin"] == "found" and e["cost"] < mine["cost"]]
    found = _smallest_as_good(smaller, mine, data)
    return None if found is None else str(found["name"])


def _smallest_as_good(
    entries: Sequence[dict[str, Any]], than: dict[str, Any], data: Sequence[str]
) -> dict[str, Any] | None:
    better = [e for e in entries if all(e[k]["drop"] <= than[k]["drop"] for k in data)]
    return min(better, key=lambda e: float(e["cost"]), default=None)


def front_repaired() -> str:
    """Return the schemes of nano-hard as it is, each beside the smallest repaired one that is as good."""
    plain, repaired = load("search_nano-hard"), load("search_nano-hard-repaired")
    data = [kind for kind in DATA if kind in plain["entries"][0]]
    rows = []
    for entry in plain["entries"]:
        found = _smallest_as_good(repaired["entries"], entry, data)
        cells = ["", "", *("" for _ in DATA)] if found is None else [_titled(found), *_cells(found, repaired)]
        rows.append([_titled(entry), *_cells(entry, plain), *cells])
    lost = [f"mIoU lost, {kind}" for kind in DATA]
    header = ["as it is", "encoder MB", "of FP32", *lost, "repaired", "encoder MB", "of FP32", *lost]
    caption = (
        f"nano-hard; repaired: {', '.join(repaired['repairs'])}. Beside each scheme stands the smallest repaired one "
        "that loses no more on all of this data. Points of mIoU against FP32, paired, ± standard error. Simulated with "
        f"OpenVINO's placement; searched on {plain['searched']}; calibrating and searching took "
        f"{plain['searching_s']:.0f} s, with repairs {repaired['searching_s']:.0f} s. {machine(repaired)}."
    )
    return f"{markdown(header, rows)}\n\n{caption}"


def _titled(entry: dict[str, Any]) -> str:
    name = str(entry["name"]).removeprefix("nano-hard-")
    return name if entry["origin"] == "found" else f"*{name}*"


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
    what = f"L0, int8, {d['images']} images"
    rows.append([f"{what}: by hand", f"{d['by_hand_s']:.0f}", "1.0", "", ""])
    rows.append([f"{what}: exact", f"{d['calibrating_s'] + d['exact_s']:.0f}", f"{d['faster']:.1f}", "", ""])
    d = load("sensitivity_l0")
    rows.append([f"L0, int8, {d['images']} photographs: exact", f"{d['calibrating_s'] + d['exact_s']:.0f}", "", "", ""])
    a, b = document["nano-outlier"], document["nano"]
    caption = (
        f"nano-outlier: {a['rows']} layers on {a['images']} scenes, nano: {b['rows']} on {b['images']}; by hand: "
        f"calibration on 32 scenes and evaluation for every row, measured on {a['by_hand_rows']} of them; its drops "
        f"and the exact study's differ by {max(a['largest_difference'], b['largest_difference']):.1g} at most. Rank "
        "correlation (Spearman) with the exact study's drop over layers that lose more than 0.1 mIoU; how many of its "
        f"five worst are among the estimate's. {machine(document)}."
    )
    held, before = document["l0"]["peak_mib"], document["l0"]["peak_before_mib"]
    caption += f" The study of L0 held {held:.0f} MiB at its peak; calibrating it had taken {before:.0f}."
    header = ["", "seconds", "times faster", "rank correlation", "worst found"]
    return f"{markdown(header, rows)}\n\n{caption}"


def growth() -> str:
    """Return the seconds of exact studies as images and rows grow."""
    document = load("sensitivity")
    rows = [[f"{g['by']}: {g['rows']} rows", str(g["images"]), f"{g['seconds']:.1f}"] for g in document["growth"]]
    return f"{markdown(['nano, int8, by', 'images', 'seconds'], rows)}\n\n{machine(document)}."


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
    "front-nano": lambda: front_full("nano"),
    "front-nano-outlier": lambda: front_full("nano-outlier"),
    "front-repaired": front_repaired,
    "front-nano-hard-repaired": lambda: front_full("nano-hard-repaired"),
    "latency-check": latency_check,
    "sensitivity": sensitivity,
    "sensitivity-growth": growth,
    "sweep": sweep,
}
