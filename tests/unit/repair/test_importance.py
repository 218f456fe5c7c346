"""How much channels matter to those that read them."""

import pytest
import torch

import quantsam as qs
from quantsam.models.outliers import with_hidden_outlier_channels
from quantsam.models.structure import structure_of
from quantsam.plans.prepare import prepare
from quantsam.repair.importance import output_gain, output_importance


@pytest.fixture(scope="module")
def nano():
    return qs.load_model("nano")


def folded(model):
    return prepare(model, qs.make_plan(model, "int8", "onnxruntime"))


def test_by_hand(nano):
    encoder = folded(nano)
    found = output_importance(encoder)
    chain = next(p for b in structure_of(encoder).blocks for p in b.parts if p.convolutions[0].kind == "mbc_expand")
    expand, depthwise, project = (encoder.get_submodule(c.conv).weight.detach().double() for c in chain.convolutions)
    read = torch.einsum("ohkl,o->h", project.square(), found[chain.convolutions[2].conv])
    torch.testing.assert_close(found[chain.convolutions[1].conv], read / read.mean())
    through = read / read.mean() * depthwise.square().sum((1, 2, 3))
    torch.testing.assert_close(found[chain.convolutions[0].conv], through / through.mean())
    assert len(expand) == len(through)


def test_what_is_scaled_up_and_read_less_matters_less(nano):
    before, after = output_importance(folded(nano)), output_importance(folded(with_hidden_outlier_channels(nano)))
    changed = 0
    for path, values in before.items():
        ratio = after[path] / values
        lowered = ratio < 1e-3
        if lowered.any():
            assert int(lowered.sum()) == 2
            changed += 1
            assert ratio[~lowered].min() > 0.5  # the mean is what it was, or lower
    assert changed == 2 * sum(c.kind == "mbc_project" for c in structure_of(nano.float_encoder).convolutions)


def test_it_is_the_same_before_batchnorm_is_folded(nano):
    raw, done = nano.float_encoder, folded(nano)
    for path, values in output_importance(raw).items():
        torch.testing.assert_close(values, output_importance(done)[path], rtol=1e-4, atol=1e-6)
    for convolution in structure_of(done).convolutions:
        assert torch.equal(output_gain(done, convolution), torch.ones_like(output_gain(done, convolution)))
