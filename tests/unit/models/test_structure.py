"""The description of an encoder covers it: every convolution once, every stream with all that write and read it."""

import pytest
import torch
from torch import nn

from quantsam.models.blocks import Conv2d, LinearAttentionCore
from quantsam.models.encoder import ImageEncoder
from quantsam.models.fold import fold_norms
from quantsam.models.references import Attention
from quantsam.models.structure import sides_of, structure_of
from quantsam.models.variants import VARIANTS


def on_meta(name):
    with torch.device("meta"):
        return ImageEncoder(VARIANTS[name])


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_module_that_computes_is_named_once(name):
    encoder = on_meta(name)
    structure = structure_of(encoder)
    convs = [conv.conv for conv in structure.convolutions]
    assert sorted(convs) == sorted(path for path, m in encoder.named_modules() if isinstance(m, Conv2d))
    norms = [conv.norm for conv in structure.convolutions if conv.norm]
    assert sorted(norms) == sorted(path for path, m in encoder.named_modules() if isinstance(m, nn.BatchNorm2d))
    acts = [conv.act for conv in structure.convolutions if conv.act]
    assert sorted(acts) == sorted(path for path, m in encoder.named_modules() if isinstance(m, nn.GELU))
    cores = [part.core for block in structure.blocks for part in block.parts if isinstance(part, Attention)]
    assert cores == [path for path, m in encoder.named_modules() if isinstance(m, LinearAttentionCore)]
    sites = [
        site
        for conv in structure.convolutions
        for site in (
            conv.input_site,
            conv.conv_site,
            *([conv.norm_site] if conv.norm else []),
            *([conv.act_site] if conv.act else []),
        )
    ]
    assert all(encoder.get_submodule(site) is not None for site in sites)


def test_a_folded_encoder_has_no_norms():
    encoder = ImageEncoder(VARIANTS["nano"]).eval()
    folded = structure_of(fold_norms(encoder))
    assert [c.conv for c in folded.convolutions] == [c.conv for c in structure_of(encoder).convolutions]
    assert not any(conv.norm for conv in folded.convolutions)


@pytest.mark.parametrize("name", ["nano", "l0", "xl1"])
def test_writers_and_readers_of_a_stream_have_its_width(name):
    encoder = on_meta(name)
    variant = encoder.variant
    streams = list(structure_of(encoder).streams)
    assert [stream.name for stream in streams] == [f"stage{i}" for i in range(1, len(variant.widths))] + ["neck"]
    for stream, width in zip(streams, [*variant.widths[1:], variant.neck_width], strict=True):
        assert {encoder.get_submodule(writer.conv).out_channels for writer in stream.writers} == {width}
        assert {encoder.get_submodule(reader.conv).in_channels for reader in stream.readers} == {width}
        assert len(stream.writers) > 1


def test_scaling_a_stream_where_it_is_written_and_read_changes_nothing(make_tiny):
    model = make_tiny(3)
    encoder = model.float_encoder
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = encoder(image)
        for stream in structure_of(encoder).streams:
            for writer in stream.writers:
                norm = encoder.get_submodule(writer.norm)
                norm.weight.mul_(4)
                norm.bias.mul_(4)
            for reader in stream.readers:
                encoder.get_submodule(reader.conv).weight.div_(4)
        assert torch.equal(encoder(image), before)  # 4 is a power of two


def test_sides_are_those_of_a_forward_pass(make_tiny):
    encoder = make_tiny(3).float_encoder
    seen = {}
    for path in sides_of(encoder):
        hook = lambda module, inputs, path=path: seen.update({path: inputs[0].shape[-1]})  # noqa: E731
        encoder.get_submodule(path).register_forward_pre_hook(hook)
    with torch.inference_mode():
        encoder(torch.zeros(1, 3, 64, 64))
    assert sides_of(encoder) == seen
