import pytest
import torch

from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan


@pytest.fixture(scope="session")
def images():
    return [torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


@pytest.fixture(scope="session")
def placed(tiny, images):
    """Returns a calibrated plan for a scheme and a placement."""
    made = {}

    def make(scheme, placement):
        if (scheme, placement) not in made:
            made[scheme, placement] = calibrate(tiny, make_plan(tiny, scheme, placement), images)
        return made[scheme, placement]

    return make
