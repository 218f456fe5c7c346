import dataclasses

import pytest

from quantsam.errors import StoreError
from quantsam.results.layer_formats import LayerFormat, layer_formats, uniform_format
from quantsam.results.record import Record


def record(layers):
    results = {} if layers is None else {"layers": layers}
    return Record(model="nano", weights_digest="ab", scheme="int8", figures={}, results=results)


@pytest.mark.parametrize(("weights", "activations", "short"), [
    ("int8", "uint8", "W8 A8"),
    ("int4", "int16", "W4 A16"),
    ("int8", None, "W8"),
    (None, "uint8", "A8"),
    (None, None, "float"),
    ("fp8_e4m3", "fp8_e4m3", "Wfp8_e4m3 Afp8_e4m3"),
    ("int4/int8", "int8/uint8", "W4/8 A8"),
])  # fmt: skip
def test_short_names_give_the_bits(weights, activations, short):
    assert LayerFormat("stage0:0:0", "conv", weights, activations).short == short


@pytest.mark.parametrize(("kind", "name", "expected"), [
    ("conv", "int8", ("int8", "int8")),
    ("conv", "w8a16", ("int8", "int16")),
    ("conv", "float", (None, None)),
    ("attention", "w4a8", (None, "int8")),
])  # fmt: skip
def test_formats_as_a_search_names_them(kind, name, expected):
    found = uniform_format("stage0:0:0", kind, name)
    assert (found.weights, found.activations) == expected


def test_a_record_gives_back_what_it_keeps():
    layers = [LayerFormat("stage0:0:0", "conv", "int8", "uint8"), LayerFormat("neck:0:0", "neck_in", None, None)]
    assert layer_formats(record([layer.to_json() for layer in layers])) == layers
    assert layer_formats(record(None)) == []


@pytest.mark.parametrize("damage", [[["stage0:0:0"]], [["stage0:0:0", "conv", 8, None]], "int8"])
def test_damaged_layers_are_store_errors(damage):
    with pytest.raises(StoreError, match="damaged"):
        layer_formats(dataclasses.replace(record(None), results={"layers": damage}))
