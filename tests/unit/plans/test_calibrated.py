import pytest
import torch

from quantsam.data.scenes import SceneDataset
from quantsam.errors import CalibrationError
from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan
from quantsam.repair.calibrated import calibrated_plans
from quantsam.schemes.load import load_scheme, parse_scheme


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


@pytest.mark.parametrize("roles", [{}, {"weights": False}, {"activations": False}], ids=["both", "A", "W"])
def test_together_gives_what_each_alone_gives(tiny, roles):
    names = ("int8", "mix-dwsc", "w4a8", "w8a16", "fp32", "int8@stage3:1:2")
    schemes = [*map(load_scheme, names), parse_scheme(PERCENTILE, "percentile")]
    images = Images()
    together = calibrated_plans(tiny, schemes, images, **roles)
    for scheme, plan in zip(schemes, together, strict=True):
        alone = make_plan(tiny, scheme, **roles)
        assert plan.scheme == scheme.name
        assert_same(plan, calibrate(tiny, alone, Images()))
    # int8, int16 and percentile quantize one site in three ways: three passes, not six
    assert images.passes == (3 if roles.get("activations", True) else 0)


def test_schemes_that_agree_share_one_pass(tiny):
    images = Images()
    one, two = calibrated_plans(tiny, [load_scheme("int8"), load_scheme("mix-mbc-neck")], images)
    assert images.passes == 1
    assert len(two.sites) < len(one.sites)
    assert one.calibration.count == 2


def test_no_schemes_and_the_float_scheme_need_no_images(tiny):
    assert calibrated_plans(tiny, [], ()) == []
    (plan,) = calibrated_plans(tiny, [load_scheme("fp32")], ())
    assert (plan.scheme, plan.sites, plan.calibration) == ("fp32", (), None)


def test_weights_alone_need_no_images(tiny):
    (plan,) = calibrated_plans(tiny, [load_scheme("int8")], (), activations=False)
    assert plan.calibration is None
    assert {site.role for site in plan.sites} == {"weight"}


def test_no_images_are_refused(tiny):
    with pytest.raises(CalibrationError, match="at least one image"):
        calibrated_plans(tiny, [load_scheme("int8")], ())
