import pytest

from quantsam.data.open import open_images
from quantsam.data.scenes import SceneDataset
from quantsam.evaluation.evaluator import evaluate
from quantsam.evaluation.experiment import score_plans
from quantsam.repair.calibrated import calibrated_plans
from quantsam.results.compare import compare
from quantsam.simulation.simulator import simulate

EVALUATED = SceneDataset(2, size=64)


def test_scoring_gives_a_record_a_plan_in_order(tiny):
    plans = calibrated_plans(tiny, ("fp32", "int8"), open_images("scenes:2:1"))
    labels = []

    def progress(label):
        labels.append(label)
        return lambda items, total: items

    fp32, int8 = score_plans(tiny, plans, EVALUATED, settings={"seed": 1}, progress=progress)
    assert labels == [fp32.scheme, int8.scheme] == ["fp32", "int8"]
    assert fp32.scores == evaluate(tiny, EVALUATED).scores
    assert int8.scores == evaluate(tiny.with_encoder(simulate(tiny, plans[1])), EVALUATED).scores
    assert fp32.scores != int8.scores
    assert int8.calibration == open_images("scenes:2:1").name
    assert int8.settings["seed"] == 1
    difference = compare(fp32, int8)
    assert difference.mean_difference == pytest.approx(int8.figures["miou"] - fp32.figures["miou"])


def test_scoring_is_lazy_so_that_results_are_kept_one_by_one(tiny):
    plans = calibrated_plans(tiny, ["fp32"] * 2, ())
    done = []
    scored = iter(score_plans(tiny, plans, EVALUATED, progress=lambda label: done.append(label) or (lambda i, n: i)))
    assert done == []
    next(scored)
    assert done == ["fp32"]
