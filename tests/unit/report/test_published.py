import json

import pytest
import torch

from quantsam.models.encoder import ImageEncoder
from quantsam.models.variants import VARIANTS
from quantsam.plans.layers import discover_layers
from quantsam.report.published import THESIS, is_official, thesis_drops, thesis_points


def test_the_official_models_are_the_thesis_models():
    assert {name.lower() for name in THESIS["models"]} == {name for name in VARIANTS if not name.startswith("nano")}
    assert is_official("XL0")
    assert not is_official("nano")


def test_points_and_drops_of_a_model():
    points = {p.scheme: p for p in thesis_points("L0")}
    assert (points["int8"].miou, points["int8"].tensorrt_miou, points["int8"].saved_mib) == (38.6, 38.6, 29.28)
    assert points["mix-dwsc"].tensorrt_miou is None
    assert thesis_drops("L0")["stage3:4:2"] == pytest.approx(78.4 - 56.8721)
    assert thesis_points("nano") == []
    assert thesis_drops("nano") == {}


def test_the_layers_of_l0_have_the_models_own_addresses():
    with torch.device("meta"):
        layers = discover_layers(ImageEncoder(VARIANTS["l0"]))
    assert set(thesis_drops("l0")) == {str(layer.address) for layer in layers}


def test_figures_are_those_of_the_reference(shared_reference):
    reference = json.loads((shared_reference / "thesis" / "published.json").read_text())
    for index, model in enumerate(reference["order"]):
        for point in thesis_points(model)[1:]:
            assert point.miou == pytest.approx(reference[point.scheme]["simulated_miou"][index], abs=0.06)
            assert point.saved_mib == reference[point.scheme]["saved_mib"][index]
