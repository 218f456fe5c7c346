"""Residual streams without their means: the same function but for the last digits."""

import pytest
import torch

from quantsam.errors import PlanError
from quantsam.models.fold import fold_norms
from quantsam.models.graph import state_digest
from quantsam.models.scale import scale_inputs, scale_outputs
from quantsam.models.shift import shift_streams, shiftable_streams
from quantsam.models.structure import structure_of


@pytest.fixture(params=["plain", "folded"])
def encoder(tiny, request):
    return tiny.float_encoder.eval() if request.param == "plain" else fold_norms(tiny.float_encoder)


@pytest.fixture
def image():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def shifts_for(encoder):
    generator = torch.Generator().manual_seed(1)
    widths = {s.name: encoder.get_submodule(s.readers[0].conv).in_channels for s in shiftable_streams(encoder)}
    return {name: 3 * torch.randn(width, generator=generator) for name, width in widths.items()}


def stream_seen_by(encoder, reader, image):
    seen = []
    site = encoder.get_submodule(reader.input_site)
    hook = site.register_forward_hook(lambda module, given, out: seen.append(out.clone()))
    with torch.inference_mode():
        encoder(image)
    hook.remove()
    return seen[0]


def test_streams_that_a_border_of_zeros_does_not_enter(encoder):
    assert [stream.name for stream in shiftable_streams(encoder)] == ["stage3", "stage4"]


def test_the_same_function_and_the_streams_shifted(encoder, image):
    before, shifts = state_digest(encoder), shifts_for(encoder)
    shifted = shift_streams(encoder, shifts)
    with torch.inference_mode():
        torch.testing.assert_close(shifted(image), encoder(image), rtol=1e-4, atol=1e-4)
    assert state_digest(encoder) == before
    for stream in shiftable_streams(encoder):
        for reader in stream.readers:
            was, is_now = (stream_seen_by(e, reader, image) for e in (encoder, shifted))
            expected = was - shifts[stream.name].reshape(-1, 1, 1)
            torch.testing.assert_close(is_now, expected, rtol=1e-4, atol=1e-4)


def test_readers_that_scale_their_input(encoder, image):
    generator = torch.Generator().manual_seed(2)
    paths = [c.conv for c in structure_of(encoder).convolutions]
    widths = {path: encoder.get_submodule(path).in_channels for path in paths}
    scaled = scale_inputs(
        encoder, {p: torch.randint(-3, 4, (w,), generator=generator, dtype=torch.int32) for p, w in widths.items()}
    )
    with torch.inference_mode():
        found = shift_streams(scaled, shifts_for(encoder))(image)
        torch.testing.assert_close(found, encoder(image), rtol=1e-4, atol=1e-4)


def test_a_writer_whose_output_is_scaled(tiny, image):
    encoder = fold_norms(tiny.float_encoder)
    writers = [stream.writers[0].conv for stream in shiftable_streams(encoder)]
    widths = {path: encoder.get_submodule(path).out_channels for path in writers}
    scaled = scale_outputs(encoder, {path: torch.full((w,), -3, dtype=torch.int32) for path, w in widths.items()})
    with torch.inference_mode():
        found = shift_streams(scaled, shifts_for(encoder))(image)
        torch.testing.assert_close(found, encoder(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("stage1", 4, "a shifted stream must be one of stage3, stage4, got 'stage1': repair again"),
        ("stage3", 3, r"stage3 has \d+ channels, got .3,. shifts: repair the plan again"),
    ],
)
def test_what_does_not_fit_is_refused(tiny, name, count, message):
    with pytest.raises(PlanError, match=message):
        shift_streams(tiny.float_encoder, {name: torch.zeros(count)})
