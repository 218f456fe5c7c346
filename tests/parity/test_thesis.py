"""The `thesis` placement against the thesis' own simulation code."""

import dataclasses
import json

import pytest
import torch

from quantsam.plans.calibration import calibrate
from quantsam.plans.layers import discover_layers
from quantsam.plans.make import make_plan, resolve_sites
from quantsam.plans.sizes import account
from quantsam.schemes.load import load_scheme
from quantsam.simulation.simulator import simulate

LAYERS = {"l0": 65, "l1": 91, "l2": 121, "xl0": 73, "xl1": 131}
SCHEMES = ("int8", "mix-dwsc", "mix-mbc-neck", "mix-dwsc-neck")
HANDFUL = ("stage0:0:0", "stage3:2:1", "stage4:1:0", "stage4:2:1", "neck:7:0")


@pytest.fixture(scope="module")
def layers_l0(shared_reference):
    reference = json.loads((shared_reference / "thesis" / "layers_l0.json").read_text())
    return {key.removeprefix("L0:"): value for key, value in reference.items()}


@pytest.fixture(scope="module")
def schemes(shared_reference):
    return json.loads((shared_reference / "thesis" / "schemes.json").read_text())


@pytest.fixture(scope="module")
def plan(filled_l0, deterministic):
    """`int8` on L0; each site is measured in float, so a subset of it is the plan of another scheme."""
    return calibrate(
        filled_l0, make_plan(filled_l0, "int8"), (deterministic.normalised(512, seed=s) for s in (1, 2, 3))
    )


@pytest.fixture(scope="module")
def sqnr_db(filled_l0, deterministic, plan):
    """Maps a condition on sites to the SQNR of the encoder's output with only those quantized."""
    x = deterministic.normalised(512)
    with torch.inference_mode():
        exact = filled_l0.image_encoder(x).double()

    def measure(chosen):
        part = dataclasses.replace(plan, sites=tuple(site for site in plan.sites if chosen(site)))
        with torch.inference_mode():
            noise = simulate(filled_l0, part)(x).double() - exact
        return float(10 * torch.log10(exact.square().sum() / noise.square().sum()))

    return measure


@pytest.mark.parametrize("name", LAYERS)
def test_number_of_layers(blank_encoders, name):
    assert len(discover_layers(blank_encoders[name])) == LAYERS[name]


def test_addresses_and_parameters_of_l0(blank_encoders, layers_l0):
    layers = discover_layers(blank_encoders["l0"])
    assert {str(layer.address): layer.parameters for layer in layers} == {
        address: value["quantized_weights"] for address, value in layers_l0.items()
    }


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantized_parameters_and_saved_size_of_every_model(blank_encoders, schemes, scheme):
    assert set(schemes) == set(SCHEMES)
    for name, expected in schemes[scheme].items():
        size = account(blank_encoders[name], resolve_sites(blank_encoders[name], load_scheme(scheme), "thesis"))
        assert size.quantized_parameters == expected["quantized_parameters"], name
        assert round(size.saved_mib, 4) == expected["saved_mib"], name


@pytest.mark.parametrize("address", HANDFUL)
def test_one_layer_loses_what_it_lost_in_the_thesis(sqnr_db, layers_l0, address):
    assert sqnr_db(lambda site: site.layer == address) == pytest.approx(layers_l0[address]["sqnr_db"], abs=0.1)


@pytest.mark.slow
def test_every_layer_loses_what_it_lost_in_the_thesis(sqnr_db, layers_l0):
    found = {address: sqnr_db(lambda site, at=address: site.layer == at) for address in layers_l0}
    expected = {address: value["sqnr_db"] for address, value in layers_l0.items()}
    assert len(found) == 65
    assert found == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_whole_schemes_lose_about_what_they_lost_in_the_thesis(filled_l0, sqnr_db, schemes, scheme):
    kept = {site.key for site in make_plan(filled_l0, scheme).sites}
    found = sqnr_db(lambda site: site.key in kept)
    assert found == pytest.approx(
        schemes[scheme]["l0"]["sqnr_db"], abs=0.6
    )  # rounding flips: see the reference's README
