"""Fill the tables of README.md and docs/ from the raw results: what is stated is what was measured.

A table stands between `<!-- table NAME -->` and `<!-- end NAME -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from common import RESULTS, load, machine, markdown
from engine_tables import ENGINE_TABLES
from figures import draw_causes, draw_front
from repair_tables import REPAIR_TABLES
from search_tables import SEARCH_TABLES
from web_tables import WEB_TABLES

from quantsam.report.published import THESIS, thesis_point

ROOT = Path(__file__).parents[1]
PAGES = [
    page.relative_to(ROOT)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "recipes").rglob("*.md"))]
]


def accuracy(name: str) -> str:
    """Return the table of one accuracy result."""
    document = load(f"accuracy_{name}")
    records = document["records"]
    rows = []
    for record in records:
        f = record["figures"]
        paired = "" if record["scheme"] == "fp32" else f"{record['vs_fp32']:+.2f} ± {record['vs_fp32_se']:.2f}"
        rows.append(
            [
                record["scheme"],
                f"{f['miou']:.1f}",
                *(f"{f[f'miou_{size}']:.1f}" for size in ("small", "medium", "large")),
                paired,
                f"{f['saved_mib']:.2f}",
                f"{f['size_bytes'] / 2**20:.2f}",
            ]
        )
    f = records[0]["figures"]
    sizes = [f"{f[f'box_fill_miou_{s}']:.1f}" for s in ("small", "medium", "large")]
    rows.append(["*filled box*", f"{f['box_fill_miou']:.1f}", *sizes, "", "", ""])
    header = ["scheme", "mIoU", "small", "medium", "large", "against FP32", "saved MiB", "encoder MiB"]
    counts = ", ".join(f"{f[f'count_{s}']} {s}" for s in ("small", "medium", "large"))
    what = f"{f['count']} objects ({counts}), {records[0]['dataset']}, {records[0]['prompt']} prompts"
    return f"{markdown(header, rows)}\n\n{what}. {machine(document)}."


def overview() -> str:
    """Return nano's box mIoU on scenes and photographs in one table."""
    sets = {name: load(f"accuracy_{name}_box")["records"] for name in ("scenes", "photographs")}
    rows = []
    for index, record in enumerate(sets["scenes"]):
        cells = [record["scheme"]]
        for records in sets.values():
            r = records[index]
            cells.append(f"{r['figures']['miou']:.1f}")
            cells.append("" if r["scheme"] == "fp32" else f"{r['vs_fp32']:+.2f} ± {r['vs_fp32_se']:.2f}")
        rows.append([*cells, f"{record['figures']['saved_mib']:.2f}", f"{record['figures']['size_bytes'] / 2**20:.2f}"])
    fill = [f"{records[0]['figures']['box_fill_miou']:.1f}" for records in sets.values()]
    rows.append(["*filled box*", fill[0], "", fill[1], "", "", ""])
    header = ["nano", "scenes", "against FP32", "photographs", "against FP32", "saved MiB", "encoder MiB"]
    return markdown(header, rows)


def scores() -> str:
    """Return nano's scores by size, each beside the filled box's, as `recipes/nano/score.py --all --out` left them."""
    document = load("nano_scores")
    rows = []
    for score in document["scores"]:
        sizes = [score.get(size, ["", "", ""]) for size in ("all", "small", "medium", "large")]
        cells = [f"{own} ({fill})" if own != "" else "" for own, fill, _ in sizes]
        rows.append([score["dataset"], score["prompts"], *cells, str(score["all"][2])])
    header = ["held-out images", "prompts", "mIoU (filled box)", "small", "medium", "large", "objects"]
    caption = f"FP32, percent; in brackets what filling each object's box scores. {machine(document)}."
    return f"{markdown(header, rows)}\n\n{caption}"


def thesis() -> str:
    """Return the thesis' published table."""
    rows = []
    for scheme in THESIS["rows"]:
        points = [thesis_point(model, scheme) for model in THESIS["models"]]
        rows.append([scheme, *(f"{p.miou:.1f} ({p.saved_mib:g})" if p.saved_mib else f"{p.miou:.1f}" for p in points)])
    return markdown(["scheme", *THESIS["models"]], rows)


def speed() -> str:
    """Return the table of times."""
    document = load("speed_l0")
    times, ratios = document["times"], document["ratios_to_fp32"]
    names = {
        "fp32_encoder": "FP32 encoder",
        "calibrating": "calibrating all layers",
        "simulating": "simulating all layers",
        "simulating_unfused": "simulating, tables off",
    }
    rows = [[label, f"{times[f'{key}_ms']:.0f}", f"{ratios[key]:.2f}"] for key, label in names.items()]
    caption = (
        f"L0, 512 px, one image, int8, {document['threads']} threads, median of {document['rounds']} rounds in turn. "
        f"One box: {times['one_box_ms']:.0f} ms. Scenes: {document['scenes_per_s']:.0f} a second. {machine(document)}."
    )
    return f"{markdown(['', 'ms', 'times FP32'], rows)}\n\n{caption}"


def memory() -> str:
    """Return the table of peak memory."""
    document = load("memory_xl1")
    names = {
        "model": "the model alone",
        "fp32": "and an image in FP32",
        "calibrate": "calibrated on one image",
        "simulate": "and simulated",
    }
    rows = [[label, f"{document[f'{key}_peak_mib']:.0f}"] for key, label in names.items()]
    return f"{markdown(['XL1, 1024 px', 'peak MiB'], rows)}\n\n{machine(document)}."


def decoder() -> str:
    """Return the table of decoding times."""
    document = load("decoder")
    rows = [
        [
            f"{row['model']}, {row['boxes']} boxes",
            *(f"{row[f'{key}_ms_a_box']:.1f}" for key in ("official", "plain", "ours")),
            f"{row['ratio_to_official']:.1f}",
            f"{row['ratio_to_plain']:.1f}",
            f"{row['mean_iou']:.6f}",
        ]
        for row in document["rows"]
    ]
    header = ["ms a box", "official arithmetic", "plain", "ours", "official / ours", "plain / ours", "mean IoU"]
    caption = f"Boxes of one image of 640 x 480, {document['threads']} threads, {machine(document)}."
    return f"{markdown(header, rows)}\n\n{caption}"


def freed_memory() -> str:
    """Return the table of what keeping freed memory brings."""
    document = load("freed_memory")
    rows = [[name, f"{way['ms']:.0f}", f"{way['peak_mib']:.0f}"] for name, way in document["ways"].items()]
    caption = f"{document['model'].upper()}, FP32, medians of {document['processes']} processes each, in turn."
    return f"{markdown(['freed memory is', 'ms an image', 'peak MiB'], rows)}\n\n{caption} {machine(document)}."


def full_size() -> str:
    """Return the table of a full-size evaluation's memory."""
    names = [name for name in ("coco", "lvis") if (RESULTS / f"full_size_{name}.json").exists()]
    documents = {name: load(f"full_size_{name}") for name in names}
    rows = [
        [
            f"{name.upper()} val" + (f" / {run['parts']}" if run["parts"] > 1 else ""),
            f"{run['images']:,}",
            f"{run['objects']:,}",
            f"{run['peak_mib']:.0f}",
            f"{run['annotations_mib']:.0f}",
            f"{run['store_mib']:.1f}",
        ]
        for name, run in documents.items()
    ]
    header = ["as large as", "images", "objects", "peak MiB", "annotation file, MiB", "store, MiB"]
    document = documents["coco"]
    caption = f"{document['model']}, {document['prompts']} prompts, FP32. {machine(document)}."
    return f"{markdown(header, rows)}\n\n{caption}"


def evaluator() -> str:
    """Return the table of the average precision's cost."""
    document = load("evaluator")
    rows = [
        [name, f"{m['seconds']:.1f}", f"{m['peak_mib']:.0f}", f"{m['ap']:.6f}"]
        for name, m in document.items()
        if isinstance(m, dict) and "seconds" in m
    ]
    ours = document["ours"]
    caption = f"{ours['images']:,} images, {ours['results']:,} masks. {machine(document)}."
    return f"{markdown(['', 'seconds', 'peak MiB', 'AP'], rows)}\n\n{caption}"


def official() -> str:
    """Return the table of the official evaluations and their counterparts."""
    document = load("official")
    rows = []
    for row in document["rows"]:
        prompts, data = row["prompts"], row["data"]
        clicks = {"click": 1, "clicks:3": 3, "clicks:5": 5}.get(prompts)
        kind = {"box": "box", "detections": "box_from_detector --source_json_file F"}.get(
            prompts, f"point --num_click {clicks}"
        )
        ours = "--detections F" if prompts == "detections" else f"--prompts {prompts}"
        name = "ap" if prompts == "detections" else "miou"
        fp32, int8 = (record["figures"][name] for record in row["records"])
        cells = [f"`--dataset {data} --prompt_type {kind}`", f"`--data {data} {ours}`"]
        rows.append([*cells, "AP" if name == "ap" else "mIoU", f"{fp32:.1f}", f"{int8:.1f}"])
    header = ["official `eval_efficientvit_sam_model.py`", "`quantsam evaluate`", "figure", "nano FP32", "nano INT8"]
    counts = {row["data"]: row["records"][0]["figures"]["count"] for row in document["rows"] if row["prompts"] == "box"}
    caption = (
        f"The samples: {counts['coco']:,} objects of COCO val2017, {counts['lvis']:,} of LVIS v0.5 val; the detections "
        f"are the ground truth, jittered. Peak memory of the whole run {document['peak_mib']:.0f} MiB. "
        f"{machine(document)}."
    )
    return f"{markdown(header, rows)}\n\n{caption}"


def starting() -> str:
    """Return what commands that run no network take."""
    document = load("starting")
    rows = [
        [f"`{name}`", f"{row['seconds']:.2f}", f"{row['times_import_torch']:.2f}"]
        for name, row in document["commands"].items()
    ]
    caption = f"User and system time of a process, median of {document['rounds']} in turn. {machine(document)}."
    return f"{markdown(['', 'processor seconds', 'times `import torch`'], rows)}\n\n{caption}"


def report() -> str:
    """Return the table of reports of large stores."""
    document = load("report")
    rows = [
        [r["store"], f"{r['store_mb']:.1f}", f"{r['seconds']:.1f}", f"{r['page_mb']:.1f}", f"{r['peak_mib']:.0f}"]
        for r in document["rows"]
    ]
    header = ["store", "store, MB", "seconds", "page, MB", "peak MiB"]
    return f"{markdown(header, rows)}\n\n{machine(document)}."


def distributions() -> str:
    """Return the table of what measuring distributions costs."""
    rows = []
    for name in ("l0", "xl1"):
        if not (RESULTS / f"distributions_{name}.json").exists():
            continue
        d = load(f"distributions_{name}")
        times = [f"{d['times'][key]:.0f}" for key in ("encoder_ms", "calibrating_ms", "measuring_ms")]
        state = [f"{d['state_one_image_mib']:.0f}", f"{d['state_mib']:.0f} ({d['images']})"]
        rows.append([name.upper(), str(d["sites"]), f"{d['channels']:,}", *times, *state, f"{d['record_mb']:.1f}"])
    document = load("distributions_l0")
    header = ["", "sites", "channels", "encoder, ms", "calibrating, ms", "measuring, ms", "state of one image, MiB"]
    header += ["of several (how many), MiB", "record, MB"]
    caption = f"Random weights, one image, {document['threads']} threads, medians in turn. {machine(document)}."
    return f"{markdown(header, rows)}\n\n{caption}"


def installed_sizes() -> str:
    """Return the disk that the base package and each extra need."""
    document = load("installed_sizes")
    sizes = {"(none)": document["base"], **{f"`{name}`": size for name, size in document["added"].items()}}
    rows = [[name, f"{size / 2**20:,.0f}"] for name, size in sizes.items()]
    caption = f"Installed; an extra's size is what it adds to the base. {machine(document)}."
    return f"{markdown(['extra', 'MiB'], rows)}\n\n{caption}"


TABLES: dict[str, Callable[[], str]] = {
    "overview": overview,
    "nano-scores": scores,
    "thesis": thesis,
    "speed": speed,
    "memory": memory,
    "decoder": decoder,
    "freed-memory": freed_memory,
    "evaluator": evaluator,
    "full-size": full_size,
    "official": official,
    "report": report,
    "distributions": distributions,
    "starting": starting,
    "installed-sizes": installed_sizes,
    **ENGINE_TABLES,
    **REPAIR_TABLES,
    **SEARCH_TABLES,
    **WEB_TABLES,
    **{
        f"{name}-{prompt}": (lambda key: lambda: accuracy(key))(f"{name}_{prompt}")
        for name in ("scenes", "photographs")
        for prompt in ("box", "click")
    },
}


def filled(page: Path, text: str) -> str:
    """Return a page's text with its tables renewed; one whose result is missing or of an earlier version is left."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        try:
            table = TABLES[name]()
        except FileNotFoundError as error:
            print(f"{page}: table {name} is left as it was, {error.filename} is missing: run `make bench`")
            return match[0]
        except KeyError as error:
            print(f"{page}: table {name} is left as it was, its result lacks {error}: measure it again by `make bench`")
            return match[0]
        return f"<!-- table {name} -->\n{table}\n<!-- end {name} -->"

    return re.sub(r"<!-- table (\S+) -->\n.*?<!-- end \1 -->", fill, text, flags=re.DOTALL)


def main() -> None:
    """Fill every page."""
    for page in PAGES:
        path = ROOT / page
        text = path.read_text()
        renewed = filled(page, text)
        if renewed != text:
            path.write_text(renewed)
            print(f"filled {page}")
    draw_front(ROOT / "docs/front.svg")
    draw_causes(ROOT / "docs" / "causes.svg")


if __name__ == "__main__":
    main()
