"""Tables of what repairs give and cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import load, machine, markdown

_MODELS = ("nano-hard", "nano-outlier", "nano")
_BEFORE_AND_AFTER = ("none", "reflect,streams,migrate,ranges")


def _points(row: dict[str, Any], name: str) -> str:
    """Return points of mIoU with half of their 95 % interval; empty if they were not measured."""
    return f"{row[name]:.2f} ± {1.96 * row[f'{name}_se']:.2f}" if row.get(name) is not None else ""


def _measured() -> dict[str, Any]:
    """Return the result of repair.py, its rows by model and scheme, in whatever order they were measured."""
    document = load("repair")
    document["rows"].sort(key=lambda r: (_MODELS.index(r["model"]), r["scheme"]))
    return document


def repairs() -> str:
    """Return what repairs give and cost on both engines."""
    document = _measured()
    plain = {(r["model"], r["scheme"], r["engine"]): r["ms"] for r in document["rows"] if r["repairs"] == "none"}
    rows = []
    for r in document["rows"]:
        seconds = "" if r["seconds"] is None else f"{r['seconds']:.1f}"
        times = f"{r['ms'] / plain[r['model'], r['scheme'], r['engine']]:.2f}"
        rows.append(
            [r["model"], r["scheme"], r["engine"], r["repairs"], _points(r, "drop"), seconds, f"{r['ms']:.1f}", times]
        )
    header = ["model", "scheme", "engine", "repairs", "mIoU lost", "s to make", "encoder ms", "times unrepaired"]
    first = document["rows"][0]
    whole = {r["model"]: r["fp32"] for r in document["rows"]}
    fp32 = ", ".join(f"{value:.2f} ({name})" for name, value in whole.items())
    caption = (
        f"Everything quantized, deployed; {first['count']:,} objects of {document['scenes']} held-out scenes, box "
        f"prompts, FP32 {fp32}; lost: points against FP32, paired, ± half of the 95 % interval; to make: "
        f"repairs and calibration on 32 scenes; time: median of 40 rounds in turn. {machine(document)}."
    )
    return f"{markdown(header, rows)}\n\n{caption}"


def repairs_in_short() -> str:
    """Return what INT8 loses before and after repairs, deployed, with the sizes and times of the files."""
    document = _measured()
    found = {(r["model"], r["engine"], r["repairs"]): r for r in document["rows"] if r["scheme"] == "int8"}
    rows, count = [], 0
    for model in dict.fromkeys(key[0] for key in found):
        scores = {
            (r["engine"], r["repairs"]): r
            for r in load(f"repair_scores/{model}")["rows"]
            if (r["images"], r["prompts"]) == ("scenes", "box")
        }
        for engine in ("onnxruntime", "openvino"):
            before, after = (found[model, engine, repairs] for repairs in _BEFORE_AND_AFTER)
            lost = [_points(scores[engine, repairs], "deployed") for repairs in _BEFORE_AND_AFTER]
            mib = [f"{r['bytes'] / 2**20:.2f}" for r in (before, after)]
            times, seconds = f"{after['ms'] / before['ms']:.2f}", f"{after['seconds']:.0f}"
            score = scores[engine, "none"]
            count = score["count"]
            rows.append([model, engine, f"{score['fp32']:.2f}", *lost, *mib, times, seconds])
    header = ["model", "engine", "FP32", "int8 loses", "repaired loses", "int8 MiB", "repaired MiB"]
    header += ["encoder time / int8's", "s to repair"]
    caption = (
        f"Points of mIoU by boxes, paired, ± half of the 95 % interval, deployed; {count:,} objects of held-out "
        f"scenes; sizes and times: repair.py; {_BEFORE_AND_AFTER[1]}. {machine(document)}."
    )
    return f"{markdown(header, rows)}\n\n{caption}"


def repair_scores() -> str:
    """Return what INT8 loses before and after repairs on all images and prompts, and the gaps of the engines."""
    names = ("nano-hard", "nano-hard-photographs", *_MODELS[1:])
    documents = [load(f"repair_scores/{name}") for name in names]
    rows: list[list[str]] = []
    counts: dict[str, None] = {}
    for document in documents:
        for r in sorted(document["rows"], key=lambda r: (r["images"] != "scenes", r["prompts"], r["engine"])):
            counts[f"{r['count']:,} objects of {r['images']}"] = None
            what = [r[key] for key in ("images", "prompts", "engine", "repairs")]
            points = [_points(r, name) for name in ("simulated", "deployed", "gap")]
            rows.append([document["model"], document["calibration"], *what, f"{r['fp32']:.2f}", *points])
    header = ["model", "calibrated on", "images", "prompts", "engine", "repairs", "FP32"]
    header += ["simulated loses", "deployed loses", "gap"]
    caption = (
        f"Everything quantized, calibrated on 32 images; mIoU lost against FP32, and gap: deployed less simulated, "
        f"points, paired, ± half of the 95 % interval; {', '.join(counts)}. {machine(documents[-1])}."
    )
    return f"{markdown(header, rows)}\n\n{caption}"


def repairs_large() -> str:
    """Return how long repairs of full-size models take, and their memory."""
    documents = [load(f"repair_{name}") for name in ("l0", "xl1")]
    rows = [
        [
            d["model"].upper(),
            r["repairs"],
            *map(str, (d["images"], d["threads"])),
            f"{r['seconds']:.0f}",
            f"{r['peak_mib'] / 1024:.1f}",
        ]
        for d in documents
        for r in d["rows"]
    ]
    machines = "; ".join(f"{d['model'].upper()}: {machine(d)}" for d in documents)
    caption = f"int8, placed as {documents[0]['engine']} does, fixed random weights, calibration included. {machines}."
    return f"{markdown(['model', 'repairs', 'images', 'threads', 's', 'peak GiB'], rows)}\n\n{caption}"


def peers() -> str:
    """Return INT8 by other tools beside ours."""
    document = load("peers")
    rows = []
    for r in document["rows"]:
        if r["by"] == "fp32":
            numbers = [f"{r['miou']:.2f}", "", ""]
        else:
            numbers = [f"{r['miou']:.2f}", f"{r['drop']:.2f} ± {1.96 * r['drop_se']:.2f}", f"{r['seconds']:.0f}"]
        ms = "" if r["ms"] is None else f"{r['ms']:.1f}"
        size = "" if r["bytes"] is None else f"{r['bytes'] / 2**20:.2f}"
        rows.append([r["model"], r["engine"], r["by"], *numbers, ms, size, r.get("note", "")])
    header = ["model", "engine", "by", "mIoU", "lost", "s", "ms", "file, MiB", "note"]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    tools = ("onnxruntime", "openvino", "nncf", "aimet-onnx", "torchao")
    versions = ", ".join(f"{n} {document['engines'][n]}" for n in tools if n in document["engines"])
    caption = (
        f"INT8, deployed on the engine; {document['rows'][0]['count']:,} objects of {document['scenes']} held-out "
        f"scenes, box prompts; lost: points against FP32 on that engine, paired, ± half of the 95 % interval; s: to "
        f"quantize, on the same 32 scenes; ms: the encoder, median of {document['rounds']} rounds in turn, "
        f"{document['threads']} threads; {versions}. {machine(document)}."
    )
    return f"{markdown(header, rows)}\n\n{caption}"


REPAIR_TABLES: dict[str, Callable[[], str]] = {
    "repairs": repairs,
    "repair-scores": repair_scores,
    "repairs-in-short": repairs_in_short,
    "repairs-large": repairs_large,
    "peers": peers,
}
