"""The search for repairs: what it keeps, what it saves, when it stops, and that it goes on where it was stopped."""

import dataclasses

import pytest

import quantsam as qs
from quantsam.data.dataset import Dataset
from quantsam.data.open import DatasetImages, ImageSource, SomeImages
from quantsam.errors import CalibrationError, InputError
from quantsam.metrics.iou import mask_iou
from quantsam.models.outliers import with_outlier_channels
from quantsam.plans.make import make_plan
from quantsam.repair.calibrated import calibrated_plans, repairs_of
from quantsam.results.kinds import read_record
from quantsam.results.store import ResultStore
from quantsam.schemes.load import load_scheme, parse_scheme
from quantsam.schemes.write import scheme_to_toml
from quantsam.search import repairs as searching
from quantsam.search.own_masks import MOST_MASKS, OwnMasks
from quantsam.search.repair_settings import RepairSettings
from quantsam.search.repair_trials import RepairTrials, Tried
from quantsam.search.repairs import find_repairs
from quantsam.sensitivity.measure import RowMeter

INT8 = load_scheme("int8")
FEW = RepairSettings(repairs=("streams", "shift"))


FALLING = """
[[rules]]
select = { stage = ["stage0", "stage1"] }
weight = "int8"
activation = "int8"
[[rules]]
select = { stage = "stage1", block = 0, layer = 0 }
weight = "int2"
activation = "int2"
"""
"""One layer alone does the harm."""


@pytest.fixture(scope="module")
def outlier(tiny):
    return with_outlier_channels(tiny, factor=64)


@pytest.fixture(scope="module")
def images():
    return qs.open_images("scenes:8:1")


@pytest.fixture(scope="module")
def found(outlier, images):
    return find_repairs(outlier, INT8, images, FEW, placement="openvino")


def test_what_helps_is_kept_and_the_plan_is_the_one_that_was_measured(outlier, images, found):
    steps = found.record.steps
    assert [(step.name, step.kept) for step in steps[:2]] == [("none", True), ("streams", True)]
    assert steps[0].mask_loss > 20
    assert steps[1].gain > steps[0].mask_loss - 10
    assert steps[1].gain == pytest.approx(steps[0].mask_loss - steps[1].mask_loss)
    assert found.plan.repairs[0] == "streams"
    assert found.record.plan_digest == found.plan.digest
    assert found.record.last_kept.mask_loss == found.record.figures["mask_loss"] < 10
    assert found.record.figures["mask_loss_unrepaired"] == steps[0].mask_loss
    calibration = SomeImages(images, [0, 1, 2, 4, 5, 6], "")
    (again,) = calibrated_plans(outlier, [found.scheme], calibration, "openvino")
    assert again.digest == found.plan.digest


def test_massive_positions_are_found_and_what_undoes_them_is_tried_together(images):
    model = qs.load_model("nano-hard")
    settings = dataclasses.replace(FEW, repairs=("reflect", "streams", "migrate"))
    found = find_repairs(model, INT8, images, settings, placement="openvino").record
    assert [(step.name, step.kept) for step in found.steps] == [
        ("none", True),
        ("reflect, streams", True),
        ("migrate", True),
    ]
    assert found.steps[0].mask_loss > 20
    assert found.steps[-1].mask_loss < 0.3 * found.steps[0].mask_loss


@pytest.mark.parametrize(
    ("needed", "kept"),
    [
        ({"shift", "ranges"}, ["none", "reflect, streams, shift, ranges, bias"]),  # without what costs time
        ({"streams", "migrate"}, ["none", "reflect, streams, shift, ranges, bias, migrate"]),
        ({"ranges"}, ["none", "ranges"]),
        ({"rounding"}, ["none"]),  # which has nothing to do here: nothing helps
    ],
)
def test_repairs_that_help_only_together_are_found(tiny, images, monkeypatch, needed, kept):
    plan = make_plan(tiny, INT8, "openvino")

    def scored(self, name, scheme):
        loss = 1.0 if needed <= set(scheme.repairs) else 50.0
        losses = {i: loss + 0.01 * i for i in self._ids}
        return Tried(name, scheme, plan, losses, loss, 0.01, 0.0)

    monkeypatch.setattr(RepairTrials, "_try", scored)
    steps = find_repairs(tiny, INT8, images, RepairSettings(), placement="openvino").record.steps
    assert [step.name for step in steps if step.kept] == kept


@pytest.mark.parametrize(("scheme", "tried"), [("int8", ["none"]), ("w4a8", ["none", "rounding"])])
def test_codes_are_chosen_only_where_weights_have_less_than_eight_bits(tiny, images, scheme, tried):
    settings = dataclasses.replace(FEW, repairs=("rounding",))
    found = find_repairs(tiny, load_scheme(scheme), images, settings, placement="openvino").record
    assert [step.name for step in found.steps] == tried


def test_the_scheme_is_read_as_it_is_written(found):
    read = parse_scheme(scheme_to_toml(found.scheme), "other")
    assert read == found.scheme
    assert read.digest != INT8.digest
    assert dataclasses.replace(read, repairs=()).digest == INT8.digest


def test_the_record_is_read_as_it_is_written(found):
    assert read_record(found.record.to_json_dict()).steps == found.record.steps
    assert found.record.table()[1]["repairs"] == ("streams",)


@pytest.mark.parametrize("given", [{"goal": 99.0}, {"minutes": 0.0}])
def test_a_goal_and_a_time_end_it(outlier, images, given):
    record = find_repairs(outlier, INT8, images, dataclasses.replace(FEW, **given), placement="openvino").record
    assert [step.name for step in record.steps] == ["none"]
    assert record.settings["repairs"] == []


def test_layers_that_hurt_fall_back(tiny, images):
    scheme, settings = parse_scheme(FALLING, "own"), RepairSettings(repairs=("shift",), fall_back=2)
    found = find_repairs(tiny, scheme, images, settings)
    fallen = [step for step in found.record.steps if step.name.startswith("float: ")]
    assert 1 <= len(fallen) <= 2
    assert (fallen[0].name, fallen[0].kept) == ("float: stage1:0:0", True)
    assert fallen[0].size_bytes > found.record.steps[0].size_bytes
    kept = found.record.last_kept.name.removeprefix("float: ").split(", ")
    before = {site.layer for site in qs.make_plan(tiny, scheme).sites}
    assert {site.layer for site in found.plan.sites} == before - set(kept)
    assert found.scheme.name == f"{scheme.name} but {len(kept)} float"


def test_an_interrupted_search_goes_on_and_a_finished_one_is_kept(outlier, images, found, tmp_path, monkeypatch):
    store = ResultStore(tmp_path / "store.sqlite")
    calls = []
    measure = RowMeter.measure

    def counted(self, dataset, image_id, picture, wanted):
        calls.append(image_id)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(self, dataset, image_id, picture, wanted)

    monkeypatch.setattr(RowMeter, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        find_repairs(outlier, INT8, images, FEW, placement="openvino", store=store)
    assert not store.records()
    second = find_repairs(outlier, INT8, images, FEW, placement="openvino", store=store)
    assert len(calls) == 1 + 2 * len(found.record.steps)  # two held-out images a step; one was asked for twice
    assert [dataclasses.replace(step, seconds=0) for step in second.record.steps] == [
        dataclasses.replace(step, seconds=0) for step in found.record.steps
    ]
    monkeypatch.setattr(searching, "RepairTrials", lambda *a: pytest.fail("it was done before"))
    third = find_repairs(outlier, INT8, images, FEW, placement="openvino", store=store)
    assert third.record == second.record
    assert third.plan.digest == second.plan.digest


def test_what_cannot_be_searched(outlier, images):
    with pytest.raises(CalibrationError, match=r"needs at least 8 images, one in 4 of which is held out, got 4: give"):
        find_repairs(outlier, INT8, qs.open_images("scenes:4:1"), FEW)
    with pytest.raises(InputError, match=r"needs quantized activations, got scheme 'fp32': take int8"):
        find_repairs(outlier, load_scheme("fp32"), images, FEW)
    for given, message in (
        ({"repairs": ()}, "repairs to try must be some of reflect"),
        ({"repairs": ("stream",)}, "a repair must be one of .*, got 'stream': did you mean 'streams'"),
        ({"goal": -1.0}, "goal must be a number from 0 on, got -1.0"),
        ({"minutes": float("nan")}, "minutes must be a number from 0 on, got nan"),
        ({"fall_back_to": "w8a61"}, "fall_back_to must be one of float, w8a16, got 'w8a61': did you mean 'w8a16'"),
        ({"fall_back": -1}, "fall_back must be at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            find_repairs(outlier, INT8, images, dataclasses.replace(FEW, **given))


def test_a_model_that_finds_nothing_is_told_of(images, monkeypatch):
    monkeypatch.setattr("quantsam.search.own_masks.segment_everything", lambda *given: [])
    with pytest.raises(CalibrationError, match="must find masks on at least 2 held-out images, got 0 of 2 of"):
        find_repairs(qs.load_model("nano"), INT8, images, FEW)


def test_own_masks_are_a_dataset(images):
    model = qs.load_model("nano")
    own = OwnMasks(model, images)
    assert isinstance(own, Dataset)
    assert isinstance(SomeImages(images, [0], "one"), ImageSource)
    objects = own.annotations(0)
    assert 1 <= len(objects) <= MOST_MASKS
    assert own.annotations(0) is objects
    for one in objects:
        mask = own.mask(one)
        x0, y0, x1, y1 = map(int, one.box_xyxy)
        assert mask[y0:y1, x0:x1].sum() == mask.sum() == one.area
    masks = [own.mask(one) for one in objects]
    assert all(mask_iou(a, b) < 0.95 for i, a in enumerate(masks) for b in masks[:i])
    assert own.digest != OwnMasks(qs.load_model("nano-outlier"), images).digest
    assert own.digest != OwnMasks(model, SomeImages(images, [0], "one")).digest


def test_part_of_a_source():
    whole = qs.open_images("scenes:4:1")
    part = SomeImages(whole, [3, 1], "two")
    assert part.name == f"{whole.name}, two"
    assert [image.tobytes() for image in part] == [whole[3].tobytes(), whole[1].tobytes()]
    assert len(part) == 2
    assert part.stamp != SomeImages(whole, [1, 3], "two").stamp
    assert SomeImages(_Stampless(whole), [0], "one").stamp is None


class _Stampless(DatasetImages):
    stamp = None

    def __init__(self, images):
        self._dataset = images._dataset


def test_schemes_say_what_is_repaired(tiny):
    images = qs.open_images("scenes:2:1")
    repaired = parse_scheme('[[rules]]\nweight = "int8"\nactivation = "int8"\n[repair]\napply = ["streams"]', "own")
    plain, own, asked = (
        calibrated_plans(tiny, [scheme], images, "openvino", repairs=repairs)[0]
        for scheme, repairs in ((INT8, None), (repaired, None), (INT8, ["streams"]))
    )
    assert own.digest == asked.digest != plain.digest
    both = calibrated_plans(tiny, [INT8, repaired, INT8], images, "openvino")
    assert [plan.digest for plan in both] == [plain.digest, own.digest, plain.digest]
    (none,) = calibrated_plans(tiny, [repaired], images, "openvino", repairs=())
    assert none.digest == plain.digest
    assert repairs_of(repaired, None, activations=False) == ()
    weights = parse_scheme("[[rules]]\nweight = 'int4'", "weights")
    assert repairs_of(weights, ["streams"]) == ()  # as of fp32: nothing there can be repaired
