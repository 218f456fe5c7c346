"""Tables of what engines gave."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from common import RESULTS, load, machine, markdown

from quantsam.results.agreement_record import AgreementRecord
from quantsam.results.kinds import read_record


def agreements() -> list[dict[str, Any]]:
    """Return all records of agreement, with the kind of data, in the order of the tables."""
    order = {name: i for i, name in enumerate(("int8", "mix-dwsc", "mix-mbc-neck", "w8a16"))}
    found = [
        record
        | {"data": path.stem.rsplit("_", 1)[-1], "created": document["created_utc"], "env": document["environment"]}
        for path in sorted((RESULTS / "agreement").glob("*.json"))
        for document in [json.loads(path.read_text())]
        for record in document["records"]
    ]
    if not found:
        raise FileNotFoundError(2, "no results", str(RESULTS / "agreement"))
    return sorted(
        found, key=lambda r: (r["model"], r["data"] != "scenes", r["prompt"], order.get(r["scheme"], 9), r["engine"])
    )


def gap(figures: dict[str, Any], prefix: str = "") -> str:
    """Return a gap with half of its 95 % interval."""
    value, low = figures[f"{prefix}gap"], figures[f"{prefix}gap_low"]
    return f"{value:+.3f} ± {value - low:.3f}"


def _verdict(values: dict[str, Any]) -> str:
    """Return what a record of agreement, as JSON, says of its engine."""
    record = read_record(values)
    assert isinstance(record, AgreementRecord)
    return record.verdict.answer


def agreement_caption() -> str:
    """Return what all tables of agreement have in common."""
    records = agreements()
    counts = {r["data"]: r["figures"]["count"] for r in records}
    env = records[0]["env"]
    engines = {r["engine"]: r["environment"][r["engine"]] for r in records}
    versions = ", ".join(f"{name} {version}" for name, version in sorted(engines.items()))
    data = ", ".join(f"{count:,} objects of {name}" for name, count in counts.items())
    return (
        "gap: engine less simulation in points of mIoU, paired, ± half of the 95 % interval; exact gap: the simulation "
        "in exact integers; mask IoU: of the engine's masks with the simulation's, beside that between the engines. "
        f"{data}. {env['cpu']}, {env['cpu_count']} cores; torch {env['torch']}, {versions}; "
        f"{records[0]['created'][:10]}."
    )


def agreement_full() -> str:
    """Return every record of agreement."""
    rows = []
    for r in agreements():
        f = r["figures"]
        floor = [
            gap(f, f"threads_{way}_").split(" ")[0] for way in ("simulated", "engine") if f"threads_{way}_gap" in f
        ]
        between = next(v for k, v in f.items() if k.startswith("between_") and k.endswith("mask_iou"))
        rows.append(
            [
                f"{r['model']}, {r['data']}, {r['prompt']}",
                r["scheme"],
                r["engine"],
                *(f"{f[name]:.2f}" for name in ("miou_fp32", "miou_simulated", "miou")),
                gap(f),
                gap(f, "exact_") if "exact_gap" in f else "",
                f"{f['mask_iou']:.2f}",
                f"{between:.2f}",
                " / ".join(floor),
                f"{f['convolutions_integer']} of {f['convolutions_quantized']}",
            ]
        )
    header = ["model, data, prompt", "scheme", "engine", "FP32", "simulated", "engine", "gap", "exact gap", "mask IoU"]
    header += ["between engines", "floor", "in integers"]
    caption = "floor: simulation and engine each against itself on one thread (the first 50 images)."
    return f"{markdown(header, rows)}\n\n{agreement_caption()} {caption}"


def without_vnni() -> str:
    """Return agreement on a processor without VNNI, of plans for any processor and for VNNI alone."""
    document = load("processors")
    rows = []
    for r in document["records"]:
        f = r["figures"]
        made_for = "VNNI alone" if r["placement"].endswith("+vnni") else "any processor"
        cells = [f"{f[name]:.2f}" for name in ("miou_fp32", "miou_simulated", "miou")]
        saturating = gap(f, "saturating_") if "saturating_gap" in f else ""
        said = _verdict(r)
        cells += [gap(f), gap(f, "exact_"), saturating, f"{f['mask_iou']:.2f}", said]
        rows.append([r["model"], r["scheme"], r["engine"], made_for, *cells])
    header = ["model", "scheme", "engine", "weights for", "FP32", "simulated", "engine", "gap"]
    header += ["gap to exact integers", "gap, saturation simulated", "mask IoU", "verdict"]
    count = document["records"][0]["figures"]["count"]
    emulated = "As on Intel's Haswell (AVX2, no VNNI): ONNX Runtime in QEMU, OpenVINO with its kernels limited to AVX2."
    where = emulated if document.get("emulated", True) else "On this processor, which has no VNNI."
    caption = (
        f"{where} {count:,} objects of {document['scenes']} scenes, box prompts. Gap: engine less simulation, "
        "points of mIoU, with half of its 95 % interval; to exact integers, and saturation simulated: the same "
        "against the simulation in integers, and against one whose sums saturate. "
        f"{machine(document)}."
    )
    return f"{markdown(header, rows)}\n\n{caption}"


def saturation() -> str:
    """Return what saturation-free weights cost."""
    document = load("saturation")
    rows = []
    for name, f in document["models"].items():
        noise = f["noise_db"]
        more = (f"{noise[key] - noise['full']:+.1f}" for key in ("safe", "7 bits"))
        rows.append([name, f"{f['grown']:,} of {f['channels']:,}", f"{f['mean_growth']:.2f}", *more])
    header = ["model", "channels whose scale grows", "times, mean", "noise, dB", "7 bits, dB"]
    caption = (
        "Weights of all convolutions but depthwise ones; noise: of rounding them, against the full 8 bits, mean over "
        f"channels. L0 has random weights, the worst case. {machine(document)}."
    )
    return f"{markdown(header, rows)}\n\n{caption}"


def processors_l0() -> str:
    """Return what weights for any processor cost and bring at L0's size."""
    document = load("processors_l0")
    here, avx2, snr = document["here"]["median_ms"], document["avx2"]["median_ms"], document["snr_db"]
    rows = []
    for name, value in here.items():
        placement, option = name.partition(",")[::2]
        made_for = "VNNI alone" if placement.endswith("+vnni") else "any processor"
        base = here[f"{placement.removesuffix('+vnni')}+vnni"]
        elsewhere = f"{avx2[name]:.0f}" if name in avx2 else ""
        decibels = "equal" if snr[name] >= 200 else f"{snr[name]:.1f}"
        made_for += f",{option}" if option else ""
        engine = placement.removesuffix("+vnni")
        rows.append([engine, made_for, f"{value:.0f}", f"{value / base:.2f}", elsewhere, decibels])
    header = ["engine", "weights for", "ms, VNNI", "times VNNI's weights", "ms, AVX2", "Haswell against exact, dB"]
    caption = (
        f"L0's encoder, INT8, 512 px, one image, {document['threads']} threads, fixed random weights, median of "
        f"{document['rounds']} rounds in turn. AVX2: OpenVINO's kernels limited to it. Haswell in QEMU: "
        f"signal-to-noise ratio of the embedding against exact integers. {machine(document)}."
    )
    return f"{markdown(header, rows)}\n\n{caption}"


def engines() -> str:
    """Return the table of times on engines."""
    document = load("engines_l0")
    times, sizes = document["median_ms"], document["size_bytes"]
    rows = []
    for name, value in times.items():
        base = times[f"{name.split()[0]} fp32"]
        size = f"{sizes[name] / 2**20:.1f}" if name in sizes else ""
        rows.append([name, f"{value:.0f}", f"{base / value:.2f}", size])
    versions = ", ".join(
        f"{n} {document['engines'][n]}" for n in ("onnxruntime", "openvino", "nncf") if n in document["engines"]
    )
    caption = (
        f"L0's encoder, 512 px, one image, {document['threads']} threads, fixed random weights, median of "
        f"{document['rounds']} rounds in turn; {versions}; instructions: {', '.join(document['isa'])}. "
        f"{machine(document)}."
    )
    return f"{markdown(['', 'ms', 'times its FP32', 'file, MiB'], rows)}\n\n{caption}"


def operators() -> str:
    """Return where ONNX Runtime's time goes, operator by operator."""
    document = load("operators_l0")
    graphs = document["graphs"]
    present = {kind for found in graphs.values() for kind in found}
    kinds = sorted(present, key=lambda k: -max(found.get(k, {"ms": 0})["ms"] for found in graphs.values()))
    rows = [["*all*", *(f"{sum(e['ms'] for e in found.values()):.0f}" for found in graphs.values())]]
    for kind in kinds:
        cells = [
            f"{found[kind]['ms']:.1f} ({found[kind]['nodes']})" if kind in found else "" for found in graphs.values()
        ]
        rows.append([kind, *cells])
    caption = (
        f"L0's encoder, one thread, milliseconds (nodes), median of {document['rounds']} rounds in turn, ONNX "
        f"Runtime's own profile; fixed random weights; onnxruntime {document['engines']['onnxruntime']}. "
        f"{machine(document)}."
    )
    return f"{markdown(['operator', *graphs], rows)}\n\n{caption}"


def causes(kind: str) -> str:
    """Return the walk from the thesis' placement to the engine's."""
    document = load(f"causes_{kind}")
    models = ("nano", "nano-outlier")
    rows = [["*FP32*", *(cell for m in models for cell in (f"{document[m]['fp32']:.2f}", ""))]]
    for steps in zip(*(document[m]["steps"] for m in models), strict=True):
        cells = [
            c for s in steps for c in (f"{s['miou']:.2f}", f"{s['off']:+.2f} ± {1.96 * s['off_standard_error']:.2f}")
        ]
        rows.append([f"{'' if s_first(steps) else 'and '}{steps[0]['step']}", *cells])
    rows.append(["*OpenVINO, deployed*", *(cell for m in models for cell in (f"{document[m]['engine']:.2f}", ""))])
    elsewhere = [document[m]["without_vnni"] for m in models]
    cells = [
        c for e in elsewhere for c in (f"{e['miou']:.2f}", f"{e['off']:+.2f} ± {1.96 * e['off_standard_error']:.2f}")
    ]
    rows.append(["*weights for VNNI, deployed on AVX2*", *cells])
    header = ["simulation", "nano", "off by", "nano-outlier", "off by"]
    caption = f"{document['nano']['count']:,} objects of {kind}, int8, box prompts. {machine(document)}."
    return f"{markdown(header, rows)}\n\n{caption}"


def s_first(steps: tuple[dict[str, Any], ...]) -> bool:
    """Whether this is the walk's first step."""
    return bool(steps[0]["placement"] == "thesis")


def evaluation() -> str:
    """Return how fast an evaluation is, with encoder and decoder one by one and overlapped."""
    document = load("evaluation")
    rows = []
    for name in document["rounds"][0]:
        best = min((spent[name] for spent in document["rounds"]), key=lambda spent: float(spent["wall_s"]))
        rates = [f"{document[what] / best['wall_s']:.2f}" for what in ("images", "boxes")]
        rows.append([name, *rates, f"{best['cores_busy']:.2f}"])
    caption = (
        f"L0 in int8, {document['images']} photographs with {document['boxes']} boxes, {document['threads']} threads; "
        f"the quicker of {len(document['rounds'])} rounds in turn. {machine(document)}."
    )
    return f"{markdown(['', 'images/s', 'boxes/s', 'cores busy'], rows)}\n\n{caption}"


def decoder_weights() -> str:
    """Return what stored weights of the decoder cost."""
    document = load("decoder_weights")
    whole = document["f32"]
    rows = []
    for stored in ("f32", "f16", "int8"):
        d = document[stored]
        lost = "" if stored == "f32" else f"{-d['difference']:.2f} ± {1.96 * d['standard_error']:.2f}"
        size = f"{d['decoder_bytes'] / 2**20:.2f}"
        rows.append([stored, f"{d['miou']:.2f}", lost, size, f"{d['box_ms'] / whole['box_ms']:.2f}"])
    caption = (
        f"Bundles of nano, encoder in int8, on {document['engine']}; {document['objects']} boxes of "
        f"{document['scenes']} scenes; lost: points, paired, ± half of the 95 % interval; one thread, in turn. "
        f"{machine(document)}."
    )
    header = ["decoder's weights", "mIoU", "lost", "decoder MiB", "time of a box / f32's"]
    return f"{markdown(header, rows)}\n\n{caption}"


ENGINE_TABLES: dict[str, Callable[[], str]] = {
    "agreement-full": agreement_full,
    "without-vnni": without_vnni,
    "saturation": saturation,
    "processors-l0": processors_l0,
    "engines": engines,
    "operators": operators,
    "decoder-weights": decoder_weights,
    "evaluation": evaluation,
    "causes-scenes": lambda: causes("scenes"),
    "causes-photographs": lambda: causes("photographs"),
}
