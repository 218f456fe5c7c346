"""Size accounting, checked by hand."""

import pytest
import torch

from quantsam.models.encoder import ImageEncoder
from quantsam.models.variants import VARIANTS
from quantsam.plans.layers import discover_layers
from quantsam.plans.make import resolve_sites
from quantsam.plans.sizes import account
from quantsam.schemes.load import load_scheme, parse_scheme

MIB = 2**20


@pytest.fixture(scope="module")
def encoder():
    with torch.device("meta"):
        return ImageEncoder(VARIANTS["nano"])


def size(encoder, scheme, **toggles):
    return account(encoder, resolve_sites(encoder, scheme, "thesis", **toggles))


def test_float_is_four_bytes_an_entry(encoder):
    result = size(encoder, load_scheme("fp32"))
    entries = sum(p.numel() for p in encoder.parameters())
    entries += sum(b.numel() for n, b in encoder.named_buffers() if "running" in n)
    assert result.fp32_bytes == result.size_bytes == 4 * entries
    assert (result.quantized_parameters, result.saved_mib) == (0, 0)


@pytest.mark.parametrize(("scheme", "bits"), [("int8", 8), ("w4a8", 4), ("w8a16", 8)])
def test_whole_schemes(encoder, scheme, bits):
    convs = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    parameters = sum(p.numel() for conv in convs for p in conv.parameters())
    weights, channels = sum(conv.weight.numel() for conv in convs), sum(conv.out_channels for conv in convs)
    result = size(encoder, load_scheme(scheme))
    assert result.quantized_parameters == parameters == sum(layer.parameters for layer in discover_layers(encoder))
    assert result.saved_mib == parameters * (16 - bits) / 8 / MIB
    assert result.size_bytes == result.fp32_bytes - 4 * weights + weights * bits // 8 + 4 * channels


@pytest.mark.parametrize(
    ("weight", "expected_bits"),
    [
        ('"int8"', 432 * 8 + 16 * 32),  # the stem: 16 x 3 x 3 x 3, one scale a channel
        ('{ format = "int8", per_channel = false }', 432 * 8 + 32),
        ('"uint8"', 432 * 8 + 16 * (32 + 8)),  # affine: a zero point a channel
        ('"int3"', 432 * 3 + 16 * 32),
        ('{ format = "fp8_e4m3", per_channel = false }', 432 * 8 + 32),
    ],
)
def test_one_layer_by_hand(encoder, weight, expected_bits):
    scheme = parse_scheme(f'[[rules]]\nselect = {{ kind = "conv", stage = "stage0" }}\nweight = {weight}', "stem")
    result = size(encoder, scheme)
    assert result.quantized_parameters == 432
    assert result.size_bytes == result.fp32_bytes - 432 * 4 + -(-expected_bits // 8)


def test_a_bias_counts_as_saved_but_is_stored_in_float(encoder):
    result = size(encoder, load_scheme("int8@stage3:0:0"))  # expands 64 channels, with bias
    wide = 64 * (4 * 4)  # a block that halves the resolution expands four times as much as the others of its stage
    assert result.quantized_parameters == 64 * wide + wide
    assert result.size_bytes == result.fp32_bytes - 3 * 64 * wide + 4 * wide


def test_activations_take_no_room(encoder):
    result = size(encoder, load_scheme("int8"), weights=False)
    assert result.size_bytes == result.fp32_bytes
    assert result.quantized_parameters == 0
