"""Fixtures for comparisons with references."""

import importlib.util

import pytest
import torch

from quantsam.models.encoder import ImageEncoder
from quantsam.models.sam import EfficientViTSam
from quantsam.models.variants import VARIANTS


@pytest.fixture(scope="session")
def deterministic(shared_reference):
    """The reference's module that fills models and draws images."""
    spec = importlib.util.spec_from_file_location("deterministic", shared_reference / "deterministic.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def filled_l0(deterministic):
    """L0 with the reference's weights. Not to be changed."""
    model = deterministic.fill(EfficientViTSam(VARIANTS["l0"]))
    return model.requires_grad_(False)


def _blank(name):
    """Return an encoder without memory for its weights."""
    with torch.device("meta"):
        return ImageEncoder(VARIANTS[name])


@pytest.fixture(scope="session")
def blank_encoders():
    """The five official encoders on `meta`."""
    return {name: _blank(name) for name in ("l0", "l1", "l2", "xl0", "xl1")}
