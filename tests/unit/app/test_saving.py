"""The local page's server: files of masks to keep."""

import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantsam.app import pictures, server
from quantsam.app.catalogue import Catalogue
from quantsam.data.coco import CocoDataset
from quantsam.prediction.segmenter import ModelSegmenter
from quantsam.runtime.picture import PicturePrompts, segment_picture
from quantsam.schemes.load import load_scheme

from .conftest import JSON, go_away, png

BOXES = [[4, 4, 40, 40], [10, 10, 60, 44]]


def opened(answer):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def library_masks(model, pixels, boxes=BOXES):
    return segment_picture(ModelSegmenter(model), pixels, PicturePrompts(tuple(map(tuple, boxes))))


def test_a_mask_is_black_and_white_at_the_pictures_size(served, tiny, noise, monkeypatch):
    monkeypatch.setattr(pictures, "VIEW_SIDE", 16)
    token = served.upload(noise())
    expected = [found.mask for found in library_masks(tiny, noise())]
    for chosen in (0, 1):
        found = opened(served.save(token, scheme="fp32", kind="mask", boxes=BOXES, chosen=chosen))
        assert found.shape == (48, 64)
        assert found.dtype == np.uint8
        assert (found == 255 * expected[chosen]).all()
    together = opened(served.save(token, scheme="fp32", kind="mask", boxes=BOXES))
    assert (together == 255 * (expected[0] | expected[1])).all()


def test_a_cut_out_is_transparent_where_the_mask_is_not(served, tiny, noise):
    token = served.upload(noise())
    (mask,) = library_masks(tiny, noise(), BOXES[:1])
    found = opened(served.save(token, scheme="fp32", kind="cutout", chosen=0))
    left, top, right, bottom = mask.box_xyxy
    inside = mask.mask[top:bottom, left:right]
    assert found.shape == (bottom - top, right - left, 4)
    assert (found[..., 3] == 255 * inside).all()
    assert (found[inside, :3] == noise()[top:bottom, left:right][inside]).all()
    assert not found[~inside].any()  # nothing of the image beside the object is given away


def test_another_of_the_three_masks_is_saved_where_it_is_meant(served, noise):
    token = served.upload(noise())
    panel = served.ask(token, boxes=BOXES)[1]
    second = panel["masks"][1]
    for candidate in (second, *second["others"]):
        numbers = [panel["masks"][0]["number"], candidate["number"]]
        found = opened(served.save(token, kind="mask", boxes=BOXES, chosen=1, numbers=numbers))
        assert (found > 0).sum() == candidate["area"]
        document = served.save(token, kind="coco", boxes=BOXES, numbers=numbers).json()
        assert document["annotations"][1]["area"] == candidate["area"]
        assert document["annotations"][1]["score"] == candidate["predicted_iou"]


def stored(pixels, orientation):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_load_as_coco_and_lie_on_the_stored_pixels(served, noise, tmp_path, orientation):
    content = stored(noise(), orientation)
    token = served.client.post("/api/pictures", content=content).json()["picture"]
    boxes = [[4, 4, 40, 40], [10, 10, 44, 44]]
    panel = served.ask(token, boxes=boxes)[1]
    saved = served.save(token, kind="coco", boxes=boxes, file_name="my photo.png")
    assert saved.headers["content-type"] == "application/json"
    folder = Path(tmp_path)
    (folder / "my photo.png").write_bytes(content)
    (folder / "saved.json").write_bytes(saved.content)
    dataset = CocoDataset(folder, annotations=folder / "saved.json", image_root=folder, strict=True)
    dataset.check(strict=True)
    assert dataset.image_ids == (1,)
    assert (dataset.image(1) == noise()).all()
    assert dataset.category_names == {1: "object"}
    objects = dataset.annotations(1)
    scores = [entry["score"] for entry in saved.json()["annotations"]]
    assert scores == [mask["predicted_iou"] for mask in panel["masks"]]
    for number, annotation in enumerate(objects):
        mask = dataset.mask(annotation)
        upright = opened(served.save(token, kind="mask", boxes=boxes, chosen=number)) > 0
        assert (np.asarray(turned(mask, orientation)) == upright).all()
        assert annotation.area == mask.sum() == panel["masks"][number]["area"] > 0
        rows, columns = np.nonzero(mask)
        assert annotation.box_xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert not annotation.is_crowd


def turned(mask, orientation):
    """Return a mask upright, as Pillow does it."""
    methods = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    image = Image.fromarray(mask.astype(np.uint8))
    return image if orientation == 1 else image.transpose(Image.Transpose(methods[orientation]))


def test_everything_is_saved_at_the_pictures_size(served, noise, five_found, monkeypatch):
    monkeypatch.setattr(pictures, "VIEW_SIDE", 32)
    token = served.upload(noise())
    document = served.save(token, everything=True, kind="coco").json()
    assert [document["images"][0][key] for key in ("width", "height")] == [64, 48]
    assert [entry["bbox"] for entry in document["annotations"]] == [[16 * n, 0, 16, 32] for n in range(4)] + [
        [0, 0, 0, 0]  # the fifth lies beside the view
    ]
    assert [entry["score"] for entry in document["annotations"]] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    together = opened(served.save(token, everything=True, kind="mask"))
    assert (together == 255 * np.pad(np.ones((32, 64), bool), ((0, 16), (0, 0)))).all()


def test_an_empty_mask_is_annotated_but_not_cut_out(served, noise, five_found, monkeypatch):
    monkeypatch.setattr(pictures, "VIEW_SIDE", 32)
    answer = served.save(served.upload(noise()), everything=True, kind="cutout", chosen=4)
    assert answer.status_code == 422
    assert answer.json()["error"] == "the mask of int8 is empty: there is nothing to cut out"


def test_the_annotations_say_whose_masks_they_are(served, noise):
    document = served.save(served.upload(noise()), kind="coco").json()
    assert document["info"] == {"description": "quantsam app: int8 of tiny, simulated in PyTorch"}
    assert document["images"][0]["file_name"] == "picture"


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        ({}, 422, "kind must be a string"),
        ({"kind": "tiff"}, 400, "no kind 'tiff'"),
        ({"kind": "mask", "scheme": "int9"}, 400, "no scheme 'int9'"),
        ({"kind": "mask", "schemes": ["int8"]}, 422, "unknown key 'schemes'"),
        ({"kind": "mask", "chosen": -1}, 422, "number of an object"),
        ({"kind": "mask", "chosen": True}, 422, "number of an object"),
        ({"kind": "mask", "chosen": 1}, 422, "there are 1 objects, counted from 0, got 1"),
        ({"kind": "mask", "numbers": [3]}, 422, "masks 0 to 2, got 3"),
        ({"kind": "mask", "numbers": [0, 0]}, 422, "one number for each of 1 objects, got 2"),
        ({"kind": "mask", "numbers": ["0"]}, 422, "whole numbers"),
        ({"kind": "mask", "numbers": [0] * 65}, 422, "at most 64"),
        ({"kind": "coco", "everything": True, "numbers": [0]}, 422, "numbers are of prompts"),
        ({"kind": "coco", "file_name": "../up.png"}, 422, "without folders"),
        ({"kind": "coco", "file_name": ".."}, 422, "without folders"),
        ({"kind": "coco", "file_name": "a\0b"}, 422, "without folders"),
        ({"kind": "coco", "file_name": ""}, 422, "1 to 255"),
        ({"kind": "coco", "file_name": "a" * 256}, 422, "1 to 255"),
        ({"kind": "mask", "boxes": [[10, 0, 5, 9]]}, 422, "left < right"),
        ({"kind": "mask", "boxes": [], "points": []}, 422, "boxes or points"),
    ],
)
def test_what_cannot_be_saved_is_refused_in_one_line(served, noise, changes, status, word):
    answer = served.save(served.upload(noise()), **changes)
    assert answer.status_code == status
    assert word in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_saving_is_guarded_like_all_else(served, noise):
    token = served.upload(noise())
    body = {"picture": token, "model": "tiny", "engine": "pytorch", "scheme": "fp32", "kind": "mask", "boxes": BOXES}
    for headers, status in (({"origin": "http://evil.example"}, 403), ({"content-type": "text/plain"}, 415), ({}, 200)):
        answer = served.client.post("/api/save", content=json.dumps(body), headers=JSON | headers)
        assert answer.status_code == status
    assert served.save("unknown", kind="mask").status_code == 404
    assert served.client.post("/api/save", content=b" " * 70_000, headers=JSON).status_code == 413


def test_a_scheme_that_cannot_run_is_said(serve, catalogue, noise):
    pytest.importorskip("onnxruntime")
    chosen = {"fp8_e4m3@stage4": load_scheme("fp8_e4m3@stage4")}
    served = serve(Catalogue(catalogue.models, chosen, ("onnxruntime",), catalogue.calibration))
    answer = served.save(served.upload(noise()), engine="onnxruntime", scheme="fp8_e4m3@stage4", kind="mask")
    assert answer.status_code == 422
    assert "fp8_e4m3" in answer.json()["error"]


def test_a_defect_is_reported_without_its_traceback(served, noise, monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError("secret")

    token = served.upload(noise())
    monkeypatch.setattr(server, "saved_file", broken)
    answer = served.save(token, kind="mask")
    assert answer.status_code == 500
    assert "secret" not in answer.text + caplog.text


def test_too_many_at_once_are_busy(serve, noise, held):
    served = serve(saves=1)
    token = served.upload(noise())
    found = []
    with held(served.page):
        first = threading.Thread(target=lambda: found.append(served.save(token, kind="mask").status_code))
        first.start()
        while served.page._saves._free._value:
            pass
        assert served.save(token, kind="mask").status_code == 503
    first.join()
    assert found == [200]
    assert served.save(token, kind="mask").status_code == 200


def test_who_goes_away_is_not_saved_for(serve, noise, held, monkeypatch):
    served = serve(waiting=2)
    token = served.upload(noise())
    monkeypatch.setattr(server, "saved_file", None)
    with held(served.page):
        sent = [go_away(served, token, path="/api/save", scheme="int8", kind="mask")[0] for _ in range(5)]
        assert [message["status"] for message in sent] == [400] * 5  # nobody was told that the server is busy
    monkeypatch.undo()
    assert served.save(token, kind="mask").status_code == 200


def test_a_server_that_stops_says_so(served, noise, held):
    token = served.upload(noise())
    served.page.worker.stopping.set()
    answer = served.save(token, kind="mask")
    assert answer.status_code == 503
    assert answer.json() == {"error": "the server is stopping"}


def test_a_server_that_stops_says_so_to_who_still_waits(served, noise, held):
    token, found = served.upload(noise()), []
    with held(served.page):
        waiting = threading.Thread(target=lambda: found.append(served.save(token, kind="mask")))
        waiting.start()
        while not served.page.worker._thread._work_queue.qsize():
            pass
        served.page.worker._thread.shutdown(wait=False, cancel_futures=True)
        waiting.join()
    assert [answer.status_code for answer in found] == [503]
    assert found[0].json() == {"error": "the server is stopping"}


def test_the_picture_is_shown_at_its_own_size_too(served, noise, monkeypatch):
    monkeypatch.setattr(pictures, "VIEW_SIDE", 32)
    token = served.client.post("/api/pictures", content=png(noise())).json()["picture"]
    sizes = [
        Image.open(io.BytesIO(served.client.get(f"/api/pictures/{token}{end}").content)).size for end in ("", "/full")
    ]
    assert sizes == [(32, 24), (64, 48)]
    assert served.client.get("/api/pictures/unknown/full").status_code == 404
