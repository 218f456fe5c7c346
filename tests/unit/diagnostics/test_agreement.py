import pytest
import torch

import quantsam as qs
from quantsam.diagnostics.agreement import measure_agreement
from quantsam.errors import InputError, PlanError
from quantsam.evaluation.latency import measure_latency
from quantsam.notices import InexactWarning
from quantsam.repair.calibrated import calibrated_plans
from quantsam.results.store import ResultStore


@pytest.fixture(scope="module")
def images():
    return [torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(s)) for s in range(2)]


@pytest.fixture(scope="module")
def plans(tiny, images):
    return [calibrated_plans(tiny, [qs.load_scheme("int8")], images, e)[0] for e in ("onnxruntime", "openvino")]


@pytest.fixture(scope="module")
def records(tiny, plans):
    dataset = qs.SceneDataset(3, seed=4)
    return measure_agreement(tiny, plans, dataset, prompts=("box", "click"), exact=True, noise_images=2)


def test_a_record_for_each_plan_and_prompt(records, convolutions):
    assert [(r.engine, r.prompt) for r in records] == [
        (engine, prompt) for engine in ("onnxruntime", "openvino") for prompt in ("box", "click")
    ]
    for record in records:
        f = record.figures
        assert (record.kind, record.scheme, record.placement) == ("agree", "int8", record.engine)
        assert f["convolutions"] == f["convolutions_quantized"] == f["convolutions_integer"] == convolutions
        assert record.results["silently_float"] == []
        assert record.environment[record.engine][0].isdigit()
        assert f["gap_low"] <= f["gap"] <= f["gap_high"]
        assert f["gap"] == pytest.approx(f["miou"] - f["miou_simulated"])
        assert len(record.scores) == f["count"]


def test_the_figures_are_evaluates_own(tiny, plans, records):
    dataset = qs.SceneDataset(3, seed=4)
    engine = qs.evaluate(tiny.with_encoder(qs.make_engine_encoder(tiny, plans[0], "onnxruntime")), dataset)
    simulated = qs.evaluate(tiny.with_encoder(qs.simulate(tiny, plans[0])), dataset)
    assert (engine.engine, simulated.engine) == ("onnxruntime", "pytorch")
    figures = records[0].figures
    assert figures["miou"] == pytest.approx(engine.figures["miou"])
    assert figures["miou_simulated"] == pytest.approx(simulated.figures["miou"])
    assert figures["miou_fp32"] == pytest.approx(qs.evaluate(tiny, dataset).figures["miou"])


def test_engines_are_compared_both_ways(records):
    there, back = records[0].figures, records[2].figures
    assert there["between_openvino_gap"] == pytest.approx(-back["between_onnxruntime_gap"])
    assert there["between_openvino_mask_iou"] == pytest.approx(back["between_onnxruntime_mask_iou"])
    assert there["miou"] + there["between_openvino_gap"] == pytest.approx(back["miou"])


def test_exact_integers_are_compared_as_evaluate_scores_them(tiny, plans, records):
    dataset = qs.SceneDataset(3, seed=4)
    for plan, record in zip(plans, records[::2], strict=True):
        exact = qs.evaluate(tiny.with_encoder(qs.simulate(tiny, plan, exact=True)), dataset).figures["miou"]
        figures = record.figures
        assert figures["exact_gap"] == pytest.approx(figures["miou"] - exact)
        assert figures["rounding_gap"] == pytest.approx(exact - figures["miou_simulated"])
        assert figures["exact_identical"] <= figures["exact_mask_iou"] <= 100
        assert "rounding_objects" not in figures  # of all objects


def test_the_noise_floor(records):
    dataset = qs.SceneDataset(3, seed=4)
    first_two = sum(len(dataset.annotations(image_id)) for image_id in dataset.image_ids[:2])
    for record in records:
        for way in ("simulated", "engine"):
            figures = record.figures
            assert figures[f"threads_{way}_identical"] <= figures[f"threads_{way}_mask_iou"] <= 100
            assert figures[f"threads_{way}_objects"] == first_two < figures["count"]


def test_where_sums_saturate_their_simulation_is_compared_too(tiny, images, monkeypatch):
    monkeypatch.setattr("quantsam.engines.encoder.adds_in_32_bits", lambda engine: False)
    plan = calibrated_plans(tiny, [qs.load_scheme("int8")], images, "openvino+vnni")[0]
    dataset = qs.SceneDataset(1, seed=4)
    with pytest.warns(InexactWarning, match=r"plan int8/openvino\+vnni is exact only where"):
        (record,) = measure_agreement(tiny, [plan], dataset, exact=True)
    saturating = qs.evaluate(tiny.with_encoder(qs.simulate(tiny, plan, saturate=True)), dataset).figures["miou"]
    assert record.figures["saturating_gap"] == pytest.approx(record.figures["miou"] - saturating)
    assert record.settings["processors"] == "vnni"
    assert record.settings["exact"] is False


def test_records_are_kept(tiny, plans, tmp_path):
    store = ResultStore(tmp_path / "results.db")
    (record,) = measure_agreement(tiny, plans[1:], qs.SceneDataset(1, seed=4), store=store)
    (kept,) = store.records(kind="agree")
    assert kept.id == record.id
    assert "exact_gap" not in record.figures
    assert not any(key.startswith(("threads", "between")) for key in record.figures)


def test_what_is_refused(tiny, plans, images):
    dataset = qs.SceneDataset(1, seed=4)
    with pytest.raises(InputError, match="plans must differ in scheme or engine, got int8/openvino twice"):
        measure_agreement(tiny, [plans[1], plans[1]], dataset)
    with pytest.raises(InputError, match="got 'boks'"):
        measure_agreement(tiny, plans, dataset, prompts=("boks",))
    thesis = qs.calibrate(tiny, qs.make_plan(tiny, "int8@neck", "thesis"), images)
    with pytest.raises((InputError, PlanError), match="got 'thesis'"):
        measure_agreement(tiny, [thesis], dataset)


def test_latencies(tiny, plans):
    whole = qs.make_plan(tiny, "fp32", "openvino")
    wanted = [("pytorch", whole), ("openvino", whole), ("openvino", plans[1])]
    found = measure_latency(tiny, wanted, rounds=2, warm_up=0, threads=1, batch=2)
    assert [(e.what, e.engine, e.scheme) for e in found] == [
        ("encoder", "pytorch", "fp32"),
        ("encoder", "openvino", "fp32"),
        ("encoder", "openvino", "int8"),
        ("decoder, 1 box", "pytorch", "fp32"),
        ("decoder, 16 boxes", "pytorch", "fp32"),
    ]
    assert all(0 < e.median_ms <= e.p95_ms for e in found)
    assert found[1].versus_fp32 == 1
    assert found[2].versus_fp32 == pytest.approx(found[1].median_ms / found[2].median_ms)
    assert found[2].size_bytes < 0.5 * found[1].size_bytes
    with pytest.raises(InputError, match="rounds, threads and batch must be at least 1"):
        measure_latency(tiny, wanted, rounds=0)
