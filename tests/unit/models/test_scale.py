"""Channels scaled by powers of two: the same function to the last bit."""

import pytest
import torch

from quantsam.errors import PlanError
from quantsam.models.fold import fold_norms
from quantsam.models.graph import state_digest
from quantsam.models.scale import scale_inputs, scale_links, scale_outputs
from quantsam.models.structure import structure_of
from quantsam.models.variants import VARIANTS

LINKS, INPUTS, OUTPUTS = scale_links, scale_inputs, scale_outputs

COUNT = 5 + 3 * VARIANTS["nano"].depths[-1]
"""Links of nano: the streams of four stages and of the neck, and three in each attention."""


@pytest.fixture(params=["plain", "folded"])
def encoder(tiny, request):
    return tiny.float_encoder.eval() if request.param == "plain" else fold_norms(tiny.float_encoder)


@pytest.fixture
def image():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def exponents_for(encoder, scale):
    """Exponents from -5 to 7 for all links, or for all convolutions' inputs or outputs."""
    generator = torch.Generator().manual_seed(1)
    structure = structure_of(encoder)

    def some(count):
        return torch.randint(-5, 8, (count,), generator=generator, dtype=torch.int32)

    def conv(path):
        return encoder.get_submodule(path)

    def width_of(port):
        return len(port.channels) if port.channels else conv(port.convolution.conv).in_channels

    if scale is scale_links:
        return {link.name: some(width_of(link.readers[0])) for link in structure.links(encoder)}
    paths = [c.conv for c in structure.convolutions]
    if scale is scale_inputs:
        return {path: some(conv(path).in_channels) for path in paths}
    return {path: some(conv(path).out_channels) for path in paths}


@pytest.mark.parametrize("scale", [LINKS, INPUTS, OUTPUTS])
def test_the_same_to_the_last_bit(encoder, image, scale):
    before = state_digest(encoder)
    given = exponents_for(encoder, scale)
    scaled = scale(encoder, given)
    with torch.inference_mode():
        assert torch.equal(scaled(image), encoder(image))
    assert state_digest(encoder) == before
    changed = [n for n, p in scaled.named_parameters() if not torch.equal(p, encoder.get_parameter(n))]
    assert len(changed) >= len(given)


def test_all_three_one_after_the_other(encoder, image):
    scaled = encoder
    for scale in (scale_links, scale_inputs, scale_outputs):
        scaled = scale(scaled, exponents_for(encoder, scale))
    with torch.inference_mode():
        assert torch.equal(scaled(image), encoder(image))


def test_links_within_attention_are_scaled_where_they_are_written(encoder, image):
    links = [link for link in structure_of(encoder).links(encoder) if "/" in link.name]
    assert {link.name.partition("/")[2] for link in links} == {"values", "branch0", "branch0-values"}
    for link in links:
        for ports, width in ((link.writers, "out_channels"), (link.readers, "in_channels")):
            for port in ports:
                count = getattr(encoder.get_submodule(port.convolution.conv), width)
                assert port.channels is None or 0 <= min(port.channels) <= max(port.channels) < count
        (writer,) = link.writers
        path = writer.convolution.conv
        count = len(writer.channels or range(encoder.get_submodule(path).out_channels))
        given = {link.name: torch.full((count,), 3, dtype=torch.int32)}
        before, after = (e.get_submodule(path).weight for e in (encoder, scale_links(encoder, given)))
        assert int((before != after).flatten(1).any(1).sum()) == count


def test_a_site_sees_the_scaled_tensor(encoder, image):
    path = structure_of(encoder).stages[1][0].parts[0].convolutions[1].conv
    count = encoder.get_submodule(path).in_channels
    exponents = torch.arange(count, dtype=torch.int32) % 4 - 1
    seen = {}
    for name, one in (("before", encoder), ("scaled", scale_inputs(encoder, {path: exponents}))):
        site = one.get_submodule(f"{path}.input_site")
        hook = site.register_forward_hook(lambda module, given, out, name=name: seen.update({name: out.clone()}))
        with torch.inference_mode():
            one(image)
        hook.remove()
    assert torch.equal(seen["scaled"], seen["before"] * torch.exp2(-exponents.float()).reshape(-1, 1, 1))


@pytest.mark.parametrize(
    ("scale", "given", "message"),
    [
        (scale_links, {"stage9": 4}, f"a scaled stream must be one of the encoder's {COUNT}, got 'stage9'"),
        (
            scale_inputs,
            {"neck.nowhere": 4},
            "a repaired convolution must be one of .*, got 'neck.nowhere'",
        ),
        (scale_links, {"stage1": 3}, "has .* channels, got .3,. exponents: repair the plan again"),
    ],
)
def test_what_does_not_fit_is_refused(tiny, scale, given, message):
    with pytest.raises(PlanError, match=message):
        scale(tiny.float_encoder, {name: torch.zeros(count, dtype=torch.int32) for name, count in given.items()})
