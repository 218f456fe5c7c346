from pathlib import Path

import numpy as np
import pytest
import torch

import quantsam as qs
from quantsam.data.scenes import SceneDataset
from quantsam.data.subset import without_crowds
from quantsam.errors import DatasetError, InputError
from quantsam.evaluation.evaluator import Evaluation, evaluate, scored_annotations
from quantsam.evaluation.journal import journal_path
from quantsam.metrics.iou import box_mask, mask_iou
from quantsam.plans.calibration import calibrate
from quantsam.plans.layers import discover_layers
from quantsam.plans.make import make_plan
from quantsam.prediction.predictor import Predictor
from quantsam.results.compare import compare
from quantsam.results.layer_formats import layer_formats
from quantsam.results.store import ResultStore
from quantsam.simulation.simulator import simulate

SCENES = SceneDataset(2, size=64)


@pytest.fixture(scope="module")
def record(tiny):
    return evaluate(tiny, SCENES)


@pytest.mark.parametrize("prompts", ["box", "click"])
def test_the_same_call_gives_the_same_figures_and_scores(tiny, prompts):
    one, two = (evaluate(tiny, SCENES, prompts=prompts) for _ in range(2))
    assert one.prompt == prompts
    assert one.figures == two.figures
    assert one.scores == two.scores
    assert one.id != two.id


@pytest.mark.parametrize("prompts", ["box", "click"])
def test_areas_below_one_are_left_out_and_crowds_only_on_request(tiny, hand_made, make_square, prompts):
    mask = make_square(8, 8, 24, 24)
    objects = [(mask, {}), (mask, {"is_crowd": True}), (mask, {"area": 0.99}), (mask, {"area": 1.0})]
    dataset = hand_made(objects, [(mask, {"is_crowd": True})])
    assert [a.id for a in scored_annotations(dataset, 1)] == [1, 2, 4]
    found = evaluate(tiny, dataset, prompts=prompts)
    assert [(s.image_id, s.annotation_id) for s in found.scores] == [(1, 1), (1, 2), (1, 4), (2, 5)]
    assert (found.figures["count"], found.dataset, found.settings["crowds"]) == (4, "hand-made", True)
    less = evaluate(tiny, without_crowds(dataset), prompts=prompts)
    assert [s.annotation_id for s in less.scores] == [1, 4]
    assert (less.figures["count"], less.dataset, less.settings["crowds"]) == (2, "hand-made without crowds", False)
    assert less.dataset_digest != found.dataset_digest
    with pytest.raises(InputError, match="must be of the same data"):
        compare(found, less)


def test_a_run_with_crowds_is_not_taken_up_by_one_without(tiny, hand_made, make_square):
    mask = make_square(8, 8, 24, 24)
    dataset = hand_made([(mask, {}), (mask, {"is_crowd": True})])
    subjects = [Evaluation(tiny, part).depends_on for part in (dataset, without_crowds(dataset))]
    assert journal_path(Path(), subjects[0]) != journal_path(Path(), subjects[1])


def test_a_dataset_without_crowds_is_itself_without_them():
    assert without_crowds(SCENES) is SCENES


def test_nothing_to_score_is_one_clear_line(tiny, hand_made, make_square):
    dataset = hand_made([(make_square(8, 8, 24, 24), {"area": 0.5})], [])
    with pytest.raises(DatasetError, match="hand-made must have an object to score, got none"):
        evaluate(tiny, dataset)
    crowds = without_crowds(hand_made([(make_square(8, 8, 24, 24), {"is_crowd": True})], []))
    with pytest.raises(DatasetError, match="hand-made without crowds must have an object to score, got none"):
        evaluate(tiny, crowds)


def test_sizes_are_those_annotated(tiny, hand_made, make_square):
    mask = make_square(8, 8, 24, 24)
    areas = [1023.0, 1024.0, 9216.0, 9217.0]
    figures = evaluate(tiny, hand_made([(mask, {"area": area}) for area in areas])).figures
    assert [figures[f"count{size}"] for size in ("", "_small", "_medium", "_large")] == [4, 1, 2, 1]
    assert figures["standard_error_small"] is None
    none = evaluate(tiny, hand_made([(mask, {})])).figures
    assert (none["miou_large"], none["count_large"], none["box_fill_miou_large"]) == (None, 0, None)


def test_the_baseline_is_the_filled_box(tiny, hand_made, make_square):
    mask = make_square(8, 8, 24, 16)  # the upper half of the box
    boxes = [(mask, {}), (mask, {"box_xyxy": (8.0, 8.0, 24.0, 16.0)}), (mask, {"box_xyxy": (40.0, 8.0, 48.0, 16.0)})]
    assert evaluate(tiny, hand_made(boxes)).figures["box_fill_miou"] == pytest.approx(100 * (0.5 + 1 + 0) / 3)


def test_the_mask_of_highest_predicted_iou_is_scored(tiny, record):
    predictor = Predictor(tiny)
    scores = {score.annotation_id: score for score in record.scores}
    for image_id in SCENES.image_ids:
        predictor.set_image(SCENES.image(image_id))
        for annotation in SCENES.annotations(image_id):
            found = predictor.predict(box=annotation.box_xyxy)
            best = int(found.predicted_iou.argmax())
            score = scores.pop(annotation.id)
            assert score.iou == pytest.approx(mask_iou(found.masks[best], SCENES.mask(annotation)), abs=0.01)
            assert score.predicted_iou == pytest.approx(float(found.predicted_iou[best]), abs=1e-5)
            assert score.area == annotation.area
    assert scores == {}


def test_the_figures_are_the_means_of_the_scores(record):
    assert record.figures["miou"] == pytest.approx(100 * np.mean([score.iou for score in record.scores]))
    filled = [
        mask_iou(box_mask(a.box_xyxy, (64, 64)), SCENES.mask(a))
        for i in SCENES.image_ids
        for a in SCENES.annotations(i)
    ]
    assert record.figures["box_fill_miou"] == pytest.approx(100 * np.mean(filled))


def test_more_objects_than_a_batch_are_each_scored_once(tiny, hand_made, make_square):
    objects = [(make_square(i, 8, i + 20, 24), {"box_xyxy": (i, 8.0, i + 20.0, 24.0)}) for i in range(37)]
    together = evaluate(tiny, hand_made(objects))
    assert [score.annotation_id for score in together.scores] == list(range(1, 38))
    last = evaluate(tiny, hand_made(objects[36:])).scores[0]
    assert together.scores[36].iou == pytest.approx(last.iou, abs=0.01)


@pytest.mark.parametrize("prompts", ["box", "click"])
def test_objects_without_pixels_score_zero(tiny, hand_made, prompts):
    empty = np.zeros((48, 64), bool)
    objects = [(empty, {"area": 5.0}), (empty, {"area": 5.0, "box_xyxy": (9.0, 9.0, 9.0, 9.0)})]
    found = evaluate(tiny, hand_made(objects), prompts=prompts)
    assert [score.iou for score in found.scores] == [0.0, 0.0]


def test_an_unknown_kind_of_prompt_is_refused_before_any_work(tiny):
    with pytest.raises(InputError, match="did you mean 'click'"):
        evaluate(tiny, None, prompts="clock")


def test_progress_sees_every_image(tiny):
    seen = []

    def progress(items, total):
        for item in items:
            seen.append((item[0], total))
            yield item

    evaluate(tiny, SCENES, progress=progress)
    assert seen == [(1, 2), (2, 2)]


def test_reading_a_picture_is_not_counted_as_encoding(tiny, hand_made, make_square, monkeypatch):
    dataset = hand_made([(make_square(8, 8, 24, 24), {})])
    slow = []
    monkeypatch.setattr("quantsam.evaluation.runner.time.perf_counter", lambda: float(len(slow)))
    read = dataset.image
    dataset.image = lambda image_id: (slow.extend([0] * 1000), read(image_id))[1]  # 1000 s pass
    times = evaluate(tiny, dataset).times
    assert times["encoder_ms_median"] == 0
    assert times["wall_s"] == 1000


def test_a_finished_evaluation_is_found_only_where_its_record_says_all_of_what_computed(tiny, tmp_path):
    store, dataset = ResultStore(tmp_path / "s.sqlite"), qs.open_dataset("scenes:1:3")
    first = qs.evaluate(tiny, dataset, store=store)
    assert qs.evaluate(tiny, dataset, store=store).id == first.id
    assert qs.evaluate(tiny, dataset, store=store, again=True).id != first.id

    class Noisy:
        def __init__(self, amplitude):
            self.amplitude = amplitude

        def __call__(self, image):
            return tiny.float_encoder(image) + self.amplitude * torch.ones(1)

    quiet, loud = (qs.evaluate(tiny.with_encoder(Noisy(a)), dataset, store=store) for a in (0.0, 9.0))
    assert quiet.id != loud.id
    plan = qs.calibrate(tiny, qs.make_plan(tiny, "int8", "onnxruntime+vnni"), qs.open_images("scenes:1:9"))
    simulations = [qs.simulate(tiny, plan, **how) for how in ({}, {"exact": True}, {"saturate": True})]
    records = [qs.evaluate(tiny.with_encoder(s), dataset, store=store) for s in simulations]
    assert len({record.id for record in records}) == 3
    assert [record.settings.get("integers") for record in records] == [None, "exact", "saturating"]
    assert store.names(dataset.digest).category(dataset.annotations(1)[0].id) is not None


def test_the_record_of_the_float_model(tiny, record):
    assert (record.model, record.scheme, record.prompt) == ("nano", "fp32", "box")
    assert record.weights_digest == tiny.weights_digest()
    assert (record.dataset, record.dataset_digest) == (SCENES.name, SCENES.digest)
    assert record.plan_digest is record.placement is record.calibration is record.scheme_digest is None
    assert record.figures["saved_mib"] == record.figures["quantized_parameters"] == 0
    assert record.settings == {"threads": torch.get_num_threads(), "device": "cpu", "crowds": True}
    assert set(record.times) == {"encoder_ms_median", "prompt_ms_median", "wall_s"}
    assert all(time > 0 for time in record.times.values())


@pytest.mark.parametrize(("weights", "activations"), [(True, True), (True, False), (False, True)])
def test_the_record_of_a_plan_names_all_that_it_depends_on(tiny, weights, activations):
    images = SceneDataset(1, seed=1, size=64)
    plan = make_plan(tiny, "int8", weights=weights, activations=activations)
    plan = calibrate(tiny, plan, [images.image(1)])
    found = evaluate(tiny.with_encoder(simulate(tiny, plan)), SCENES, settings={"seed": 4})
    assert (found.scheme, found.scheme_digest) == ("int8", plan.scheme_digest)
    assert (found.plan_digest, found.placement) == (plan.digest, "thesis")
    assert found.calibration == ("images" if activations else None)
    assert found.weights_digest == tiny.weights_digest()
    assert (found.settings["weights"], found.settings["activations"]) == (weights, activations)
    assert found.settings["seed"] == 4
    assert (found.figures["saved_mib"] > 0) is weights
    layers = layer_formats(found)
    assert [(f.address, f.kind) for f in layers] == [
        (str(x.address), x.kind) for x in discover_layers(tiny.image_encoder)
    ]
    convolutions = {f.short for f in layers if f.kind != "attention"}
    assert convolutions == {" ".join([*(["W8"] if weights else []), *(["A8"] if activations else [])])}
    assert {f.short for f in layers if f.kind == "attention"} == {"A8" if activations else "float"}
