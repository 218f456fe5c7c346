"""Compare simulation and engines on nano and nano-outlier: held-out scenes, and COCO photographs where there are any.

    python benchmarks/agreement.py [--scenes 1000] [--coco COCO_FOLDER] [--models nano nano-outlier] [--schemes ...]

Each scheme of a model and dataset is kept as soon as it is done, so a run that was stopped can be given the rest.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common import RESULTS, save

import quantsam as qs
from quantsam.data.dataset import Dataset
from quantsam.diagnostics.agreement import measure_agreement
from quantsam.repair.calibrated import calibrated_plans

ENGINES = ("onnxruntime", "openvino")
SCHEMES = ("int8", "mix-dwsc", "mix-mbc-neck")
CALIBRATION = "scenes:32:1"
HELD_OUT_SEED = 3
NOISE_IMAGES = 50


def main() -> None:
    """Compare everything that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--coco", type=Path, help="a COCO folder with val2017/ and annotations/")
    parser.add_argument("--models", nargs="+", default=["nano", "nano-outlier"])
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES))
    parser.add_argument("--exact", nargs="*", default=["int8"], help="schemes to simulate in exact integers too")
    parser.add_argument("--missing", action="store_true", help="only what has no result yet")
    args = parser.parse_args()
    qs.keep_freed_memory()
    sets: dict[str, Dataset] = {"scenes": qs.SceneDataset(args.scenes, seed=HELD_OUT_SEED)} if args.scenes else {}
    if args.coco:
        sets["photographs"] = qs.CocoDataset(args.coco)
    for scheme in args.schemes:
        for name in args.models:
            model = qs.load_model(name)
            plans = [
                calibrated_plans(model, [qs.load_scheme(scheme)], qs.open_images(CALIBRATION), engine)[0]
                for engine in ENGINES
            ]
            for kind, dataset in sets.items():
                if args.missing and (RESULTS / "agreement" / f"{name}_{scheme}_{kind}.json").exists():
                    continue
                started = time.perf_counter()
                records = measure_agreement(
                    model,
                    plans,
                    dataset,
                    prompts=("box", "click"),
                    exact=scheme in args.exact,
                    noise_images=NOISE_IMAGES,
                )
                save(
                    f"agreement/{name}_{scheme}_{kind}",
                    {"seconds": time.perf_counter() - started, "records": [r.to_json_dict() for r in records]},
                )
                for r in records:
                    gap, low, high = (r.figures[key] for key in ("gap", "gap_low", "gap_high"))
                    print(f"{name} {scheme} {kind} {r.engine} {r.prompt}: gap {gap:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
