"""Score nano under the schemes of the thesis: on held-out scenes, and on COCO photographs where there are any.

python benchmarks/accuracy.py [--scenes 1000] [--coco COCO_FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import save

import quantsam as qs
from quantsam.cli.evaluation_table import report
from quantsam.data.dataset import Dataset
from quantsam.evaluation.experiment import score_plans
from quantsam.models.sam import EfficientViTSam
from quantsam.repair.calibrated import calibrated_plans
from quantsam.results.record import Record

SCHEMES = ("fp32", "int8", "mix-dwsc", "mix-mbc-neck")
CALIBRATION = "scenes:32:1"
HELD_OUT_SEED = 3


def score(model: EfficientViTSam, dataset: Dataset, prompts: str, schemes: tuple[str, ...]) -> list[Record]:
    """Return a record a scheme, and print the table."""
    loaded = [qs.load_scheme(scheme) for scheme in schemes]
    plans = calibrated_plans(model, loaded, qs.open_images(CALIBRATION))
    records = list(score_plans(model, plans, dataset, prompts=prompts))
    report(records, as_json=False)
    return records


def main() -> None:
    """Score everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--coco", type=Path, help="a COCO folder with val2017/ and annotations/")
    args = parser.parse_args()
    model = qs.load_model("nano")
    sets: dict[str, Dataset] = {"scenes": qs.SceneDataset(args.scenes, seed=HELD_OUT_SEED)}
    if args.coco and args.coco.is_dir():
        sets["photographs"] = qs.CocoDataset(args.coco)
    elif args.coco:
        print(f"no photographs: {args.coco} is not there; their part of the results is left as it was")
    for name, dataset in sets.items():
        for prompts, schemes in (("box", SCHEMES), ("click", ("fp32", "int8"))):
            records = score(model, dataset, prompts, schemes)
            rows = []
            for record in records:
                difference = qs.compare(records[0], record)
                paired = {"vs_fp32": difference.mean_difference, "vs_fp32_se": difference.standard_error}
                rows.append(record.to_json_dict() | paired)
            save(f"accuracy_{name}_{prompts}", {"records": rows})


if __name__ == "__main__":
    main()
