"""Sensitivity studies against evaluations one by one."""

import pytest
import torch

import quantsam as qs
from quantsam.errors import InputError
from quantsam.results.sensitivity_record import RowScore, compare_ranks
from quantsam.results.store import ResultStore
from quantsam.schemes.line import uniform_scheme
from quantsam.sensitivity.gradient import gradient_noise
from quantsam.sensitivity.racing import undecided
from quantsam.sensitivity.rows import make_rows
from quantsam.sensitivity.study import StudySettings, check_settings, measure_sensitivity


@pytest.fixture(scope="module")
def model(tiny):
    """Its weights do not matter here: rows are compared with evaluations, one by one."""
    return tiny


@pytest.fixture(scope="module")
def plan(model):
    return qs.calibrate(model, qs.make_plan(model, uniform_scheme("int4")), qs.open_images("scenes:2:1"))


@pytest.fixture(scope="module")
def scenes():
    return qs.open_dataset("scenes:3:9")


@pytest.fixture(autouse=True, scope="module")  # before the plan: scales depend on the threads, in the last bit
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("mode", ["in", "out"])
def test_exact_is_what_evaluating_row_by_row_gives(model, plan, scenes, mode):
    record = measure_sensitivity(model, plan, scenes, StudySettings(by="stage", mode=mode, method="exact"))
    whole = qs.evaluate(model, scenes)
    for found, row in zip(record.rows, make_rows(plan, by="stage", mode=mode), strict=True):
        alone = qs.evaluate(model.with_encoder(qs.simulate(model, row.plan)), scenes)
        difference = qs.compare(alone, whole)
        assert found.unit == row.unit
        assert found.drop == pytest.approx(difference.mean_difference, abs=1e-12)
        assert found.drop_se == pytest.approx(difference.standard_error, abs=1e-12)
        assert found.objects == alone.figures["count"]
    assert record.figures["miou_fp32"] == pytest.approx(whole.figures["miou"], abs=1e-12)


def test_a_row_is_a_scheme_of_its_own(model, plan, scenes):
    rows = measure_sensitivity(model, plan, scenes, StudySettings(by="kind", method="exact")).rows
    row = max(rows, key=lambda r: r.damage)
    own = qs.calibrate(model, qs.make_plan(model, f"int4@{row.unit}"), qs.open_images("scenes:2:1"))
    alone = qs.evaluate(model.with_encoder(qs.simulate(model, own)), scenes)
    assert row.drop == pytest.approx(qs.compare(alone, qs.evaluate(model, scenes)).mean_difference, abs=1e-12)
    assert row.mask_loss > 1


def test_a_stopped_study_goes_on_to_the_same_rows(model, plan, scenes, tmp_path):
    settings = StudySettings(by="stage", method="exact")

    def stop_after_two(items, total):
        for number, item in enumerate(items):
            if number == 2:
                raise KeyboardInterrupt
            yield item

    store = ResultStore(tmp_path / "r.sqlite")
    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(model, plan, scenes, settings, store=store, progress=lambda label: stop_after_two)
    seen = []
    again = measure_sensitivity(
        model, plan, scenes, settings, store=store, progress=lambda label: lambda items, n: seen.append(n) or items
    )
    assert seen == [1]
    assert again.results["rows"] == measure_sensitivity(model, plan, scenes, settings).results["rows"]
    assert [r.id for r in store.records(kind="sensitivity")] == [again.id]
    assert not (tmp_path / "r.sqlite-unfinished").exists()


def test_an_engine_computes_the_rows(model, scenes):
    pytest.importorskip("onnxruntime")
    plan = qs.calibrate(model, qs.make_plan(model, "int8", "onnxruntime"), qs.open_images("scenes:2:1"))
    rows = measure_sensitivity(
        model, plan, scenes, StudySettings(by="stage", method="exact", engine="onnxruntime")
    ).rows
    simulated = measure_sensitivity(model, plan, scenes, StudySettings(by="stage", method="exact")).rows
    for a, b in zip(rows, simulated, strict=True):
        assert a.sqnr_db == pytest.approx(b.sqnr_db, abs=1.5)
        assert a.drop == pytest.approx(b.drop, abs=1)


def test_the_gradient_predicts_the_noise_of_single_sites(model):
    plan = qs.calibrate(model, qs.make_plan(model, "int8"), qs.open_images("scenes:2:1"))
    pictures = qs.open_dataset("scenes:3:9")
    noise = gradient_noise(model, plan, (pictures.image(i) for i in pictures.image_ids), probes=8)
    exact = measure_sensitivity(model, plan, pictures, StudySettings(method="exact")).rows
    guessed = measure_sensitivity(model, plan, pictures, StudySettings(method="gradient", first=3)).rows
    assert noise.keys() == {site.key for site in plan.sites}
    from scipy.stats import spearmanr

    assert spearmanr([r.sqnr_db for r in exact], [r.sqnr_db for r in guessed]).statistic > 0.8
    assert all(r.drop is None and r.objects == 0 for r in guessed)


def test_a_race_measures_the_undecided_longer(model, plan, scenes):
    many = qs.open_dataset("scenes:12:9")
    rows = measure_sensitivity(model, plan, many, StudySettings(by="stage", first=2, step=2)).rows
    assert min(r.images for r in rows) >= 2
    assert measure_sensitivity(model, plan, many, StudySettings(by="stage", first=2, step=2)).rows == rows


def test_who_is_undecided():
    clear = {"a": {1: 9.0, 2: 9.5, 3: 9.2}, "b": {1: 4.0, 2: 4.1, 3: 4.3}, "c": {1: 4.1, 2: 4.0, 3: 4.2}}
    assert undecided(clear, 0.5) == {"b", "c"}
    assert undecided(clear, 5.0) == set()
    assert undecided({"a": {1: 2.0}, "b": {1: 1.0}}, 0.5) == {"a", "b"}


def _row(unit, drop, loss):
    return RowScore(unit, "conv", "both", (unit,), drop, 0.1, loss, 0.1, 20.0, 1, 1)


def test_ranks_are_compared_where_it_matters():
    exact = [_row("a", 5, 0), _row("b", 3, 0), _row("c", 1, 0), _row("d", 0.05, 0)]
    estimate = [_row("d", None, 9), _row("a", None, 3), _row("b", None, 2), _row("c", None, 1)]
    found = compare_ranks(exact, estimate, worst=2)
    assert (found.spearman, found.rows, found.worst_found, found.worst) == (pytest.approx(1), 3, 1, 2)
    with pytest.raises(InputError, match="same rows"):
        compare_ranks(exact, estimate[1:])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (StudySettings(by="layr"), "did you mean 'layer'"),
        (StudySettings(mode="inn"), "did you mean 'in'"),
        (StudySettings(part="all"), "part must be one of"),
        (StudySettings(method="guess"), "method must be one of"),
        (StudySettings(first=1), "first must be at least 2"),
        (StudySettings(method="gradient", mode="out"), "take method race"),
        (StudySettings(prompts="boxes"), "prompts must be"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(InputError, match=words):
        check_settings(settings)
