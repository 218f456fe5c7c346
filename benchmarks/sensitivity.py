"""Layer by layer, against repeating calibration and evaluation for every row, as one would by hand.

    python benchmarks/sensitivity.py [--images 200] [--repeated 6] [--l0-images 1]
    python benchmarks/sensitivity.py --coco FOLDER [--photographs 50]    (L0's exact study of photographs alone)

nano-outlier in int4, where layers differ; the exact study is the truth that estimates are compared with. L0 has fixed
weights that mean nothing, and shows what a study costs.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from common import save

import quantsam as qs
from quantsam.results.sensitivity_record import RowScore, compare_ranks
from quantsam.schemes.line import uniform_scheme
from quantsam.sensitivity.rows import Row, make_rows
from quantsam.sensitivity.study import StudySettings, measure_sensitivity

CALIBRATION = "scenes:32:1"
T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Return a result and the seconds that it took."""
    started = time.perf_counter()
    return call(), time.perf_counter() - started


def peak_mib() -> float:
    """Return the most memory that this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def by_hand(model: Any, row: Row, scheme: str, dataset: Any, reference: qs.Record) -> float:
    """Calibrate and evaluate a scheme of one layer, and return the drop."""
    plan = qs.calibrate(model, qs.make_plan(model, f"{scheme}@{row.unit}"), qs.open_images(CALIBRATION))
    record = qs.evaluate(model.with_encoder(qs.simulate(model, plan)), dataset)
    return qs.compare(record, reference).mean_difference


def exact_and_estimates(name: str, scheme: str, images: int, repeated: int) -> dict[str, Any]:
    """Return times, and how well estimates rank."""
    model, dataset = qs.load_model(name), qs.open_dataset(f"scenes:{images}:5")
    plan, calibrating_s = timed(
        lambda: qs.calibrate(model, qs.make_plan(model, uniform_scheme(scheme)), qs.open_images(CALIBRATION))
    )
    rows = make_rows(plan)
    exact, exact_s = timed(lambda: measure_sensitivity(model, plan, dataset, StudySettings(method="exact")).rows)
    reference = qs.evaluate(model, dataset)
    chosen = [rows[i * len(rows) // repeated] for i in range(repeated)]
    spent, off = 0.0, 0.0
    for row in chosen:
        drop, seconds = timed(lambda row=row: by_hand(model, row, scheme, dataset, reference))  # type: ignore[misc]
        spent += seconds
        off = max(off, abs(drop - (next(r.drop for r in exact if r.unit == row.unit) or 0.0)))
    whole_s = spent / repeated * len(rows)
    print(f"{name} {scheme}, {images} images, {len(rows)} rows: exact {exact_s:.0f} s, by hand {whole_s:.0f} s "
          f"({whole_s / (exact_s + calibrating_s):.1f} times), off by {off:.2g}", flush=True)  # fmt: skip
    found: dict[str, Any] = {}
    for label, settings in ESTIMATES.items():
        estimate, seconds = timed(lambda s=settings: measure_sensitivity(model, plan, dataset, s).rows)  # type: ignore[misc]
        found[label] = _rated(exact, estimate, seconds, whole_s / (seconds + calibrating_s))
        print(f"{name} {label}: {found[label]}", flush=True)
    return {
        "model": name,
        "scheme": scheme,
        "images": images,
        "rows": len(rows),
        "calibrating_s": calibrating_s,
        "exact_s": exact_s,
        "by_hand_s": whole_s,
        "by_hand_rows": repeated,
        "faster": whole_s / (exact_s + calibrating_s),
        "largest_difference": off,
        "estimates": found,
    }


ESTIMATES = {
    "race": StudySettings(method="race"),
    "race, 24 images at most": StudySettings(method="race", first=4, most=24),
    "6 images": StudySettings(method="race", first=6, most=6),
    "gradient, 8 images": StudySettings(method="gradient", first=8),
}


def _rated(exact: list[RowScore], estimate: list[RowScore], seconds: float, faster: float) -> dict[str, Any]:
    ranks = compare_ranks(exact, estimate)
    return {
        "seconds": seconds,
        "faster": faster,
        "spearman": ranks.spearman,
        "rows_that_matter": ranks.rows,
        "worst_found": ranks.worst_found,
        "mean_images": sum(row.images for row in estimate) / len(estimate),
    }


def growth(name: str, scheme: str) -> list[dict[str, Any]]:
    """Return the seconds of an exact study as images and rows grow."""
    model = qs.load_model(name)
    plan = qs.calibrate(model, qs.make_plan(model, uniform_scheme(scheme)), qs.open_images("scenes:4:1"))
    found = []
    for by in ("stage", "block", "layer"):
        for images in (10, 20, 40):
            dataset = qs.open_dataset(f"scenes:{images}:5")
            settings = StudySettings(by=by, method="exact")
            record, seconds = timed(lambda s=settings, d=dataset: measure_sensitivity(model, plan, d, s))  # type: ignore[misc]
            found.append({"by": by, "rows": record.figures["rows"], "images": images, "seconds": seconds})
            print(f"by {by}: {found[-1]}", flush=True)
    return found


def full_size(images: int) -> dict[str, Any]:
    """Return what a study of L0 costs, against its layers one by one; the weights are fixed and mean nothing."""
    torch.manual_seed(0)
    model = qs.create_model("l0")
    dataset = qs.open_dataset(f"scenes:{images}:5")
    plan, calibrating_s = timed(lambda: qs.calibrate(model, qs.make_plan(model, "int8"), qs.open_images("scenes:2:1")))
    before = peak_mib()
    record, exact_s = timed(lambda: measure_sensitivity(model, plan, dataset, StudySettings(method="exact")))
    after = peak_mib()
    rows = int(record.figures["rows"] or 0)
    row = make_rows(plan)[rows // 2]
    reference = qs.evaluate(model, dataset)

    def once() -> None:
        alone = qs.calibrate(model, qs.make_plan(model, f"int8@{row.unit}"), qs.open_images("scenes:2:1"))
        qs.compare(qs.evaluate(model.with_encoder(qs.simulate(model, alone)), dataset), reference)

    _, one_s = timed(once)
    gradient, gradient_s = timed(
        lambda: measure_sensitivity(model, plan, dataset, StudySettings(method="gradient", first=2))
    )
    print(
        f"l0: exact {exact_s:.0f} s for {rows} rows, one by hand {one_s:.1f} s, gradient {gradient_s:.0f} s", flush=True
    )
    return {
        "rows": rows,
        "images": images,
        "calibrating_s": calibrating_s,
        "exact_s": exact_s,
        "peak_mib": after,
        "peak_before_mib": before,
        "by_hand_s": one_s * rows,
        "faster": one_s * rows / (exact_s + calibrating_s),
        "gradient_s": gradient_s,
        "gradient_images": gradient.figures["images"],
    }


def photographs(folder: Path, images: int) -> dict[str, Any]:
    """Return what an exact study of all layers of L0 costs on photographs, boxes; the weights are fixed."""
    torch.manual_seed(0)
    model, dataset = qs.create_model("l0"), qs.open_dataset(folder, limit=images)
    plan, calibrating_s = timed(lambda: qs.calibrate(model, qs.make_plan(model, "int8"), qs.open_images("scenes:2:1")))
    record, exact_s = timed(lambda: measure_sensitivity(model, plan, dataset, StudySettings(method="exact")))
    found = {"rows": record.figures["rows"], "images": images, "objects": record.figures["count"]}
    print(f"l0 on {images} photographs: {exact_s / 60:.1f} min", flush=True)
    return {**found, "calibrating_s": calibrating_s, "exact_s": exact_s, "peak_mib": peak_mib()}


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeated", type=int, default=6, help="rows measured by hand; the rest are counted alike")
    parser.add_argument("--l0-images", type=int, default=2)
    parser.add_argument("--coco", type=Path, help="a COCO folder: study L0 on photographs of it, and nothing else")
    parser.add_argument("--photographs", type=int, default=50)
    args = parser.parse_args()
    qs.keep_freed_memory()
    if args.coco:
        save("sensitivity_l0", photographs(args.coco, args.photographs))
        return
    outlier = exact_and_estimates("nano-outlier", "int4", args.images, args.repeated)
    plain = exact_and_estimates("nano", "int8", args.images // 4, args.repeated)
    result = {"nano-outlier": outlier, "nano": plain, "growth": growth("nano", "int8")}
    save("sensitivity", {**result, "l0": full_size(args.l0_images)})


if __name__ == "__main__":
    main()
