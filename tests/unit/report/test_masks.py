import base64
import io

import numpy as np
import pytest
from PIL import Image

from quantsam.data.coco_masks import encode_mask
from quantsam.errors import StoreError
from quantsam.report import masks
from quantsam.report.theme import COMMON, EXTRA, MISSED

from .conftest import make_entry


def pixels(uri):
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


def test_each_pixel_says_whether_it_is_right_missed_or_too_much():
    truth, answer = np.zeros((6, 8), bool), np.zeros((6, 8), bool)
    truth[1:4, 2:6], answer[1:4, 3:8] = True, True
    entry = make_entry(truth=encode_mask(truth), quantized=encode_mask(answer))
    *_, quantized = masks.panels(entry, "int8")
    shown = pixels(quantized.overlay)
    for region, colour in ((truth & answer, COMMON), (truth & ~answer, MISSED), (answer & ~truth, EXTRA)):
        assert (shown[region][:, :3] == colour).all()
    assert (shown[..., 3] > 0).tolist() == (truth | answer).tolist()
    assert "3 pixels missed, 6 too many" in quantized.alt


def test_panels_show_what_there_is():
    assert [p.title for p in masks.panels(make_entry(), "int8")] == [
        "image and prompt",
        "ground truth",
        "FP32",
        "int8",
    ]
    assert [p.iou for p in masks.panels(make_entry(), "int8")] == [None, None, 1.0, 0.6]


def test_masks_larger_than_shown_are_made_smaller():
    mask = np.zeros((600, 1200), bool)
    mask[:, :600] = True
    entry = make_entry(
        image_hw=(600, 1200), truth=encode_mask(mask), fp32=encode_mask(mask), quantized=encode_mask(mask)
    )
    assert pixels(masks.panels(entry, "int8")[1].overlay).shape[:2] == (256, 512)


@pytest.mark.parametrize("picture", [None, b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_picture_that_is_missing_or_damaged_is_none(picture):
    assert masks.picture_uri(make_entry(picture=picture)) is None


def test_a_picture_is_passed_on_as_it_is():
    entry = make_entry()
    assert base64.b64decode(masks.picture_uri(entry).partition(",")[2]) == entry.picture


@pytest.mark.parametrize("changes", [
    {"image_hw": (7, 8)},
    {"image_hw": (10**6, 10**6)},
    {"quantized": {"size": [6, 8], "counts": "\x00"}},
    {"truth": {}},
])  # fmt: skip
def test_damaged_masks_are_store_errors(changes):
    with pytest.raises(StoreError, match=r"17.*evaluate again"):
        masks.panels(make_entry(**changes), "int8")
