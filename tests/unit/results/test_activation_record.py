"""The record of an image's activations: maps in 8 bits, and what is refused."""

import base64
import copy
import io
import math

import numpy as np
import pytest
from PIL import Image

from quantsam.errors import StoreError
from quantsam.results.activation_record import (
    ActivationRecord,
    CodedMap,
    ComparedSite,
    DrawnChannel,
    PairedBins,
    sqnr_text,
)
from quantsam.results.kinds import read_record
from quantsam.results.store import ResultStore

FP32 = np.linspace(-1.0, 3.0, 12).reshape(3, 4)
CHANGE = np.where(FP32 > 1, -0.25, 0.5)
CHANGE[0, 0] = 0.0


def png(array):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def channel(**changes):
    maps = {"fp32": CodedMap.of(FP32, -1.0, 3.0), "difference": CodedMap.of(CHANGE, -0.5 * 128 / 127, 0.5)}
    values = {"index": 7, "sqnr_db": 9.5, "bins": PairedBins(-1.0, 2.0, (6, 6), (5, 7)), **maps}
    return DrawnChannel(**{**values, **changes})


def site(name="stage3:1:2/input", sqnr_db=12.5, **changes):
    values = {"site": name, "kind": "mbc_project", "format": "int8", "shape": (64, 3, 4), "largest": 3.0}
    values |= {"largest_difference": 0.5, "sqnr_db": sqnr_db, "worst_channels": (7, 2), "worst_sqnr_db": (9.5, None)}
    return ComparedSite(**{**values, **changes})


def make(*sites):
    results = {"sites": [one.to_json_dict() for one in sites]}
    common = {"model": "nano", "weights_digest": "ab", "figures": {"sites": len(sites)}, "environment": {}}
    return ActivationRecord(**common, scheme="int8", dataset="dog.jpg", prompt=None, results=results)


def test_a_map_holds_values_to_within_half_a_code():
    coded = CodedMap.of(FP32, -1.0, 3.0)
    assert coded.codes.dtype == np.uint8
    assert np.abs(coded.values - FP32).max() <= 4 / 255 / 2
    assert (coded.codes.min(), coded.codes.max()) == (0, 255)
    assert np.abs(CodedMap.of(FP32, 0.0, 1.0).values - FP32.clip(0, 1)).max() <= 1 / 255 / 2
    assert (CodedMap.of(np.full((2, 2), 5.0), 5.0, 5.0).values == 5.0).all()


def test_the_quantized_map_is_what_the_other_two_add_up_to():
    drawn = channel()
    assert drawn.difference.codes[0, 0] == 128
    assert drawn.difference.values[0, 0] == pytest.approx(0.0, abs=1e-12)
    wanted = (FP32 + CHANGE).clip(-1, 3)
    assert np.abs(drawn.quantized.values - wanted).max() <= 4 / 255 + 1 / 254
    assert (drawn.quantized.low, drawn.quantized.high) == (-1.0, 3.0)


def test_a_store_gives_the_sites_back(tmp_path):
    store = ResultStore(tmp_path / "r.sqlite")
    kept = make(site("a:0:0/input", 30.0), site(channels=(channel(),)))
    store.append(kept)
    (found,) = store.records(kind="activations")
    assert (type(found), found) == (ActivationRecord, kept)
    assert found.sites == [site("a:0:0/input", 30.0), site(channels=(channel(),))]
    assert [one.site for one in found.worst_first] == ["stage3:1:2/input", "a:0:0/input"]


def test_sites_that_differ_most_come_first():
    nothing, noise = site("n:0:0/input", None, largest_difference=0.0), site("z:0:0/input", None)
    assert (nothing.rank, noise.rank, site().rank) == (math.inf, -math.inf, 12.5)
    names = [one.site for one in make(nothing, site(), noise).worst_first]
    assert names == ["z:0:0/input", "stage3:1:2/input", "n:0:0/input"]
    assert sqnr_text(-0.01, 1.0) == "0.0 dB"


def test_a_table_has_a_row_a_site_and_no_figures():
    rows = make(site("a:0:0/input"), site(channels=(channel(),))).table()
    assert [row["site"] for row in rows] == ["a:0:0/input", "stage3:1:2/input"]
    assert rows[1] == {
        **{"site": "stage3:1:2/input", "kind": "mbc_project", "format": "int8", "shape": [64, 3, 4]},
        **{"largest": 3.0, "largest_difference": 0.5, "sqnr_db": 12.5},
        **{"worst_channels": [7, 2], "worst_sqnr_db": [9.5, None]},
    }


DAMAGE = {
    "no sites": lambda data: data["results"].pop("sites"),
    "a site is no object": lambda data: data["results"]["sites"].append(3),
    "a field is missing": lambda data: data["results"]["sites"][0].pop("largest"),
    "a field is unknown": lambda data: data["results"]["sites"][0].update(larger=1),
    "a shape is no list": lambda data: data["results"]["sites"][0].update(shape=5),
    "a channel without its SQNR": lambda data: data["results"]["sites"][0].update(worst_sqnr_db=[1.0]),
    "no channels": lambda data: data["results"]["sites"][0].update(channels=None),
    "a map without its range": lambda data: data["results"]["sites"][0]["channels"][0]["fp32"].pop("low"),
    "a map that is no text": lambda data: data["results"]["sites"][0]["channels"][0]["fp32"].update(png=5),
    "bins of unlike numbers": lambda data: data["results"]["sites"][0]["channels"][0]["bins"].update(fp32=[1]),
    "no bins": lambda data: data["results"]["sites"][0]["channels"][0]["bins"].update(fp32=[], quantized=[]),
    "a count below zero": lambda data: data["results"]["sites"][0]["channels"][0]["bins"].update(fp32=[1, -2]),
    "bins of no width": lambda data: data["results"]["sites"][0]["channels"][0]["bins"].update(width=0.0),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_record_is_refused(kind):
    record = make(site(channels=(channel(),)))
    data = copy.deepcopy(record.to_json_dict())
    assert len(read_record(data).sites) == 1
    DAMAGE[kind](data)
    with pytest.raises(StoreError, match=record.id):
        _ = read_record(data).sites


@pytest.mark.parametrize(
    "text",
    [
        "",
        "%",
        base64.b64encode(b"no picture").decode(),
        png(np.zeros((65, 2), np.uint8)),
        png(np.zeros((2, 2, 3), np.uint8)),
        png(np.zeros((40, 40), np.uint8))[:60],
    ],
)
def test_a_damaged_map_is_refused(text):
    with pytest.raises(StoreError, match="must be a grey PNG of at most 64 pixels a side"):
        _ = CodedMap(0.0, 1.0, text).codes


def test_maps_of_unlike_shapes_are_refused():
    with pytest.raises(StoreError, match="maps of channel 7 must be of one shape"):
        _ = channel(difference=CodedMap.of(CHANGE[:2], -1.0, 1.0)).quantized
