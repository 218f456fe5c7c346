import pytest
import torch

from quantsam.data.scenes import SceneDataset
from quantsam.errors import CalibrationError
from quantsam.evaluation.evaluator import evaluate
from quantsam.evaluation.experiment import Switches, calibrated_plans, score_plans
from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan
from quantsam.results.compare import compare
from quantsam.schemes.load import load_scheme, parse_scheme
from quantsam.simulation.simulator import simulate

EVALUATED = SceneDataset(2, size=64)


class Images:
    """Two pictures that count how often they are iterated over."""

    name, digest = "two", "aa"

    def __init__(self):
        self.passes = 0

    def __len__(self):
        return 2

    def __iter__(self):
        self.passes += 1
        scenes = SceneDataset(2, seed=1, size=64)
        return iter([scenes.image(1), scenes.image(2)])


PERCENTILE = """
name = "percentile"
[[rules]]
weight = "int8"
activation = { format = "int8", observer = "percentile" }
"""


def assert_same(one, other):
    assert [site.key for site in one.sites] == [site.key for site in other.sites]
    for a, b in zip(one.sites, other.sites, strict=True):
        assert a.spec == b.spec
        assert torch.equal(a.params.scale, b.params.scale), a.key
        assert torch.equal(a.params.zero_point, b.params.zero_point), a.key
        assert a.params.axis == b.params.axis
    assert one.calibration == other.calibration
    assert one.digest == other.digest


@pytest.mark.parametrize(
    "switches", [Switches(), Switches(weights=False), Switches(activations=False)], ids=["both", "A", "W"]
)
def test_together_gives_what_each_alone_gives(tiny, switches):
    names = ("int8", "mix-dwsc", "w4a8", "w8a16", "fp32", "int8@stage3:1:2")
    schemes = [*map(load_scheme, names), parse_scheme(PERCENTILE, "percentile")]
    images = Images()
    together = calibrated_plans(tiny, schemes, images, switches)
    for scheme, plan in zip(schemes, together, strict=True):
        alone = make_plan(tiny, scheme, weights=switches.weights, activations=switches.activations)
        assert plan.scheme == scheme.name
        assert_same(plan, calibrate(tiny, alone, Images()))
    # int8, int16 and percentile quantize one site in three ways: three passes, not six
    assert images.passes == (3 if switches.activations else 0)


def test_schemes_that_agree_share_one_pass(tiny):
    images = Images()
    one, two = calibrated_plans(tiny, [load_scheme("int8"), load_scheme("mix-mbc-neck")], images, Switches())
    assert images.passes == 1
    assert len(two.sites) < len(one.sites)
    assert one.calibration.count == 2


def test_no_schemes_and_the_float_scheme_need_no_images(tiny):
    assert calibrated_plans(tiny, [], (), Switches()) == []
    (plan,) = calibrated_plans(tiny, [load_scheme("fp32")], (), Switches())
    assert (plan.scheme, plan.sites, plan.calibration) == ("fp32", (), None)


def test_weights_alone_need_no_images(tiny):
    (plan,) = calibrated_plans(tiny, [load_scheme("int8")], (), Switches(activations=False))
    assert plan.calibration is None
    assert {site.role for site in plan.sites} == {"weight"}


def test_no_images_are_refused(tiny):
    with pytest.raises(CalibrationError, match="at least one image"):
        calibrated_plans(tiny, [load_scheme("int8")], (), Switches())


def test_scoring_gives_a_record_a_plan_in_order(tiny):
    plans = calibrated_plans(tiny, [load_scheme("fp32"), load_scheme("int8")], Images(), Switches())
    labels = []

    def progress(label):
        labels.append(label)
        return lambda items, total: items

    fp32, int8 = score_plans(tiny, plans, EVALUATED, settings={"seed": 1}, progress=progress)
    assert labels == [fp32.scheme, int8.scheme] == ["fp32", "int8"]
    assert fp32.scores == evaluate(tiny, EVALUATED).scores
    assert int8.scores == evaluate(tiny.with_encoder(simulate(tiny, plans[1])), EVALUATED).scores
    assert fp32.scores != int8.scores
    assert (int8.calibration, int8.calibration_digest) == ("two", "aa")
    assert int8.settings["seed"] == 1
    difference = compare(fp32, int8)
    assert difference.mean_difference == pytest.approx(int8.figures["miou"] - fp32.figures["miou"])


def test_scoring_is_lazy_so_that_results_are_kept_one_by_one(tiny):
    plans = calibrated_plans(tiny, [load_scheme("fp32")] * 2, (), Switches())
    done = []
    scored = iter(score_plans(tiny, plans, EVALUATED, progress=lambda label: done.append(label) or (lambda i, n: i)))
    assert done == []
    next(scored)
    assert done == ["fp32"]
