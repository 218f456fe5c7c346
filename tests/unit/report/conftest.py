"""A store with a bit of everything, made by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from quantsam.data.coco_masks import encode_mask
from quantsam.metrics.summary import ObjectScore
from quantsam.results.activation_record import CodedMap, ComparedSite, DrawnChannel, PairedBins
from quantsam.results.distribution_record import Bins, OutlierChannel, SiteDistribution
from quantsam.results.gallery import GalleryEntry
from quantsam.results.kinds import RECORD_TYPES
from quantsam.results.record import Record
from quantsam.results.repair_record import RepairStep
from quantsam.results.search_record import SearchEntry
from quantsam.results.sensitivity_record import RowScore
from quantsam.results.store import ResultStore

MIB = 2**20


def make_record(scheme="int8", miou=70.0, size_mib=10.0, **changes):
    values = {"model": "nano", "weights_digest": "ab" * 8, "dataset": "toy", "dataset_digest": "cd"}
    values["figures"] = {"miou": miou, "count": 4, "size_bytes": round(size_mib * MIB), "fp32_bytes": 40 * MIB}
    values |= {"environment": {"cpu": "Some CPU", "cpu_count": "2", "torch": "2.4"}, "scheme": scheme}
    values |= changes
    return RECORD_TYPES.get(str(values.get("kind")), Record)(**values)


def make_scores(ious):
    return [ObjectScore(1, number, 50.0, iou, None) for number, iou in enumerate(ious)]


def jpeg(size=(8, 6)):
    data = io.BytesIO()
    Image.new("RGB", size, (90, 120, 30)).save(data, "JPEG")
    return data.getvalue()


def make_entry(**changes):
    truth = np.zeros((6, 8), bool)
    truth[1:4, 2:6] = True
    answer = np.roll(truth, 1, axis=1)
    values = {"rank": "worst", "image_id": 5, "annotation_id": 17, "image_hw": (6, 8)}
    values |= {"box_xyxy": (2.0, 1.0, 6.0, 4.0), "click_xy": None, "truth": encode_mask(truth)}
    values |= {"fp32": encode_mask(truth), "quantized": encode_mask(answer), "fp32_iou": 1.0, "iou": 0.6}
    return GalleryEntry(**{**values, "picture": jpeg(), **changes})


def make_row(unit, kind, drop, **changes):
    values = {"unit": unit, "kind": kind, "part": "both", "layers": (unit,), "drop": drop}
    values |= {"drop_se": None if drop is None else 0.1, "mask_loss": 2.0, "mask_loss_se": 0.2, "sqnr_db": 20.0}
    return RowScore(**{**values, "images": 3, "objects": 9, **changes})


def make_study(rows, **changes):
    settings = {"by": "layer", "mode": "in", "method": "exact"}
    settings |= changes.pop("settings", {})
    results = {"rows": [row.to_json_dict() for row in rows]}
    return make_record(kind="sensitivity", settings=settings, results=results, figures={"images": 3}, **changes)


def make_search(**changes):
    def entry(name, origin, cost, drop, held_out):
        found = SearchEntry(name, origin, True, ("int8",), cost, int(cost), drop, 0.1, 1.0, 0.1, held_out, 0.2)
        return dict(found.to_json_dict())

    entries = [
        entry("a", "found", 1e6, 2.0, 2.5),
        entry("b", "found", 3e6, 0.5, 0.4),
        entry("int8", "uniform", 2e6, 9.0, 8.0),
    ]
    values = {"settings": {"unit": "bytes", "cost": "size"}, "results": {"entries": entries}}
    return make_record(**{"scheme": None, "kind": "search", "figures": {}, **values, **changes})


def make_repair(*kept, **changes):
    """A search for repairs that tried `streams` and `bias`, and kept some."""
    losses = {"none": 40.0, "streams": 2.5, "bias": 2.6}
    steps = []
    for number, (name, loss) in enumerate(losses.items()):
        gain = (40 - loss, 0.4) if number else (None, None)
        is_kept = name in ("none", *kept)
        steps.append(RepairStep(name, kept if number else (), is_kept, loss, 0.3, *gain, 2**20, 8.0 + number, 1.5))
    values = {"results": {"steps": [step.to_json_dict() for step in steps], "scheme": ""}}
    return make_record(**{"kind": "repair", "placement": "openvino", "figures": {}, **values, **changes})


def make_agreement(gap=0.05, engine="openvino", **changes):
    figures = {"miou_simulated": 70.0, "miou": 70.0 + gap, "gap": gap, "gap_low": gap - 0.04, "gap_high": gap + 0.04}
    figures |= {
        "count": 500,
        "gap_standard_error": 0.02,
        "mask_iou": 99.5,
        "rounding_mask_iou": 99.4,
        "convolutions_quantized": 45,
        "convolutions_integer": 45,
    }
    results = {"silently_float": [], "between": []}
    return make_record(kind="agree", engine=engine, figures=figures, results=results, **changes)


def make_site(site="stage1:0:0/input", ratio=9.0, **changes):
    values = {"site": site, "kind": "mbc_depthwise", "role": "activation", "format": "int8"}
    values |= {"per_channel": False, "values": 30, "low": -1.0, "high": 2.5, "grid_low": -2.0, "grid_high": 2.0}
    values |= {"clipped": 0.1, "sqnr_db": 30.0, "outlier_ratio": ratio, "bins": Bins(-1.0, 0.5, (5, 0, 10, 4, 6, 2, 3))}
    values |= {"channel_lows": (-1.0, -0.5, 0.0), "channel_highs": (2.5, 0.1, 0.2)}
    values["outliers"] = (OutlierChannel(0, ratio, 0.2, Bins(0.0, 1.0, (3,))),)
    return SiteDistribution(**{**values, **changes})


def make_distributions(sites, **changes):
    results = {"sites": [site.to_json_dict() for site in sites]}
    return make_record(kind="distributions", prompt=None, results=results, figures={"sites": len(sites)}, **changes)


def make_channel(index=7, **changes):
    """A channel of two values in float, 0 and 4, which quantization brings to 0 and 3."""
    maps = {"fp32": CodedMap.of(np.array([[0.0, 4.0]]), 0.0, 4.0)}
    maps["difference"] = CodedMap.of(np.array([[0.0, -1.0]]), -128 / 127, 1.0)
    values = {"index": index, "sqnr_db": 12.04, "bins": PairedBins(0.0, 1.0, (1, 0, 0, 1), (1, 0, 0, 1)), **maps}
    return DrawnChannel(**{**values, **changes})


def make_compared(site="stage1:0:0/input", sqnr_db=12.04, **changes):
    values = {"site": site, "kind": "mbc_depthwise", "format": "int8", "shape": (8, 1, 2), "largest": 4.0}
    values |= {"largest_difference": 1.0, "sqnr_db": sqnr_db, "worst_channels": (7, 2), "worst_sqnr_db": (12.04, None)}
    return ComparedSite(**{**values, **changes})


def make_activations(sites, **changes):
    results = {"sites": [site.to_json_dict() for site in sites]}
    values = {"kind": "activations", "placement": "thesis", "dataset": "dog.jpg", "prompt": None}
    return make_record(**{**values, "results": results, "figures": {"sites": len(sites)}, **changes})


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "results.sqlite")


@pytest.fixture
def fill():
    """Put a record of each kind into a store."""

    def put(store):
        records = {
            "fp32": make_record("fp32", 80.0, 40.0),
            "int8": make_record("int8", 70.0, 10.0),
            "mix": make_record("mix-dwsc", 79.0, 20.0),
            "engine fp32": make_record("fp32", 80.0, 40.0, engine="openvino", times={"encoder_ms_median": 8.0}),
            "engine": make_record("int8", 70.5, 10.0, engine="openvino", times={"encoder_ms_median": 4.0}),
            "study": make_study([make_row("stage1:0:0", "conv", 0.0), make_row("stage1:0:1", "mbc_depthwise", 6.0)]),
            "search": make_search(),
            "repair": make_repair("streams"),
            "agree": make_agreement(),
            "distributions": make_distributions([make_site(), make_site("stage1:0:1/weight", 2.0, role="weight")]),
            "activations": make_activations(
                [make_compared("a:0:0/input", 30.0), make_compared(channels=(make_channel(),))]
            ),
        }
        ious = {"fp32": [0.8, 0.9, 0.7, 0.8], "int8": [0.1, 0.9, 0.9, 0.9], "mix": [0.8, 0.9, 0.7, 0.76]}
        for name, record in records.items():
            store.append(record, make_scores(ious.get(name, [])))
        store.keep_gallery(records["int8"].id, [make_entry(), make_entry(rank="best", annotation_id=18)])
        return records

    return put
