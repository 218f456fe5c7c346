import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from quantsam.data.coco_masks import decode_mask
from quantsam.data.open import open_dataset, open_images
from quantsam.evaluation.evaluator import evaluate
from quantsam.evaluation.experiment import score_plans
from quantsam.evaluation.gallery import keep_gallery, make_gallery
from quantsam.evaluation.quantized import quantized_model
from quantsam.metrics.iou import mask_iou
from quantsam.repair.calibrated import calibrated_plans
from quantsam.results.kept import find_unrepaired
from quantsam.results.record import new_id
from quantsam.results.store import ResultStore
from quantsam.schemes.line import uniform_scheme
from quantsam.schemes.load import load_scheme


@pytest.fixture(scope="module")
def dataset():
    return open_dataset("scenes:5:3")


@pytest.fixture(scope="module")
def plans(tiny):
    return calibrated_plans(tiny, [load_scheme("fp32"), uniform_scheme("int4")], open_images("scenes:2:1"))


@pytest.fixture(scope="module")
def quantized(tiny, plans):
    return quantized_model(tiny, plans[1])


@pytest.fixture(scope="module")
def records(tiny, quantized, dataset):
    return evaluate(tiny, dataset), evaluate(quantized, dataset)


def decoded(rle, entry):
    return decode_mask(dict(rle), entry.image_hw, "a mask")


def test_objects_are_ranked_by_what_is_lost_against_fp32(quantized, records, dataset):
    whole, record = records
    before = {s.annotation_id: s.iou for s in whole.scores}
    lost = sorted(record.scores, key=lambda s: (s.iou - before[s.annotation_id], s.annotation_id))
    entries = make_gallery(quantized, record, dataset, whole.scores, each=2)
    by_rank = {rank: [e.annotation_id for e in entries if e.rank == rank] for rank in ("worst", "median", "best")}
    assert by_rank["worst"] == [s.annotation_id for s in lost[:2]]
    assert by_rank["best"] == [s.annotation_id for s in lost[-2:]]
    assert len(by_rank["median"]) == 2
    middle = [s.annotation_id for s in lost].index(by_rank["median"][0])
    assert abs(middle - len(lost) / 2) <= 2


def test_masks_and_ious_are_those_of_the_records(quantized, records, dataset):
    whole, record = records
    scores = [{s.annotation_id: s.iou for s in r.scores} for r in (whole, record)]
    for entry in make_gallery(quantized, record, dataset, whole.scores, each=3):
        assert entry.fp32_iou == pytest.approx(scores[0][entry.annotation_id], abs=0.02)
        assert entry.iou == pytest.approx(scores[1][entry.annotation_id], abs=0.02)
        truth = decoded(entry.truth, entry)
        assert mask_iou(decoded(entry.quantized, entry), truth) == entry.iou
        assert mask_iou(decoded(entry.fp32, entry), truth) == entry.fp32_iou
        annotation = next(a for a in dataset.annotations(entry.image_id) if a.id == entry.annotation_id)
        assert (truth == dataset.mask(annotation)).all()


def test_the_picture_is_the_datasets(quantized, records, dataset):
    entry = make_gallery(quantized, records[1], dataset, each=1)[0]
    picture = np.asarray(Image.open(io.BytesIO(entry.picture)).convert("RGB"), int)
    whole = dataset.image(entry.image_id).astype(int)
    assert picture.shape == whole.shape
    assert np.abs(picture - whole).mean() < 12


def test_few_objects_are_shown_once_each(quantized, records, dataset):
    entries = make_gallery(quantized, records[1], dataset, each=1000)
    assert sorted(e.annotation_id for e in entries) == sorted(s.annotation_id for s in records[1].scores)


def test_without_fp32_scores_the_iou_itself_ranks(quantized, records, dataset):
    worst = min(records[1].scores, key=lambda s: (s.iou, s.annotation_id))
    assert make_gallery(quantized, records[1], dataset, each=1)[0].annotation_id == worst.annotation_id


def test_clicks_are_shown_where_they_are(quantized, dataset):
    record = evaluate(quantized, dataset, prompts="click")
    for entry in make_gallery(quantized, record, dataset, each=2):
        x, y = entry.click_xy
        assert decoded(entry.truth, entry)[y, x]


def test_scoring_schemes_keeps_their_galleries(tiny, plans, dataset, tmp_path):
    store = ResultStore(tmp_path / "r.sqlite")
    whole, record = score_plans(tiny, plans, dataset, store=store, gallery=2)
    before = {s.annotation_id: s.iou for s in whole.scores}
    worst = min(record.scores, key=lambda s: (s.iou - before[s.annotation_id], s.annotation_id))
    assert store.gallery(record.id)[0].annotation_id == worst.annotation_id  # against FP32's scores, found in the store
    assert len(store.gallery(record.id)) == 6
    assert store.gallery(whole.id) == []  # there is nothing to compare FP32 with


def test_fp32_of_other_weights_is_not_compared_with(quantized, records, dataset, tmp_path, make_tiny):
    store = ResultStore(tmp_path / "r.sqlite")
    store.append(evaluate(make_tiny(5), dataset))
    store.append(records[1])
    keep_gallery(store, quantized, records[1], dataset, each=1)
    assert store.gallery(records[1].id) == make_gallery(quantized, records[1], dataset, each=1)


def test_no_gallery_unless_asked_for(tiny, plans, dataset, tmp_path):
    store = ResultStore(tmp_path / "r.sqlite")
    (record,) = score_plans(tiny, plans[1:], dataset, store=store)
    assert store.gallery(record.id) == []


def test_a_repaired_plan_is_shown_by_the_objects_of_the_unrepaired_one(tiny, quantized, records, dataset, tmp_path):
    store = ResultStore(tmp_path / "results.sqlite")
    whole, before = records
    after = dataclasses.replace(before, id=new_id(), settings={**before.settings, "repairs": ["streams"]})
    turned = [dataclasses.replace(s, iou=1 - s.iou) for s in before.scores]  # its own worst objects are others
    after = dataclasses.replace(after, scores=tuple(turned))
    for record in (whole, before, after):
        store.append(record)
    for record in (before, after):
        keep_gallery(store, quantized, record, dataset, each=1)
    shown = [{e.annotation_id: e.rank for e in store.gallery(record.id)} for record in (before, after)]
    assert shown[0].keys() <= shown[1].keys()
    assert set(shown[1].values()) == {"worst", "median", "best", "compared"}
    assert list(find_unrepaired(store, before)) == []
