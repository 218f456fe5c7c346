import pytest
import torch

import quantsam as qs
from quantsam.errors import InputError
from quantsam.models.blocks import MBConv
from quantsam.models.outliers import with_hidden_outlier_channels, with_outlier_channels
from quantsam.models.structure import structure_of
from quantsam.models.variants import VARIANTS
from quantsam.prediction.transforms import preprocess

NANO = VARIANTS["nano"]
STREAMS = [*NANO.widths[1:], NANO.neck_width]
"""Channels of each residual stream: those of stages 1 to the last, and the neck's."""


@pytest.fixture(scope="module")
def nano():
    return qs.load_model("nano")


def residual_streams(encoder):
    for stream in structure_of(encoder).streams:
        norms = [encoder.get_submodule(writer.norm) for writer in stream.writers]
        yield norms, [encoder.get_submodule(reader.conv) for reader in stream.readers]


@pytest.fixture(scope="module")
def image():
    return preprocess(qs.open_images("scenes:1:1")[0], NANO.input_size)


def embed(model, image):
    with torch.inference_mode():
        return model.image_encoder(image)


def test_it_is_the_same_function_to_the_last_bit(nano, image):
    hard = qs.load_model("nano-outlier")
    assert hard.name == hard.float_encoder.variant.name == "nano-outlier"
    assert torch.equal(embed(hard, image), embed(nano, image))
    assert hard.weights_digest() != nano.weights_digest()


def test_every_stream_has_channels_that_are_much_larger(nano):
    hard = with_outlier_channels(nano, factor=64, channels=2)
    pairs = zip(residual_streams(nano.float_encoder), residual_streams(hard.float_encoder), strict=True)
    widths = []
    for (writers, readers), (hard_writers, hard_readers) in pairs:
        raised = {tuple((h.weight / w.weight).round().tolist()) for w, h in zip(writers, hard_writers, strict=True)}
        assert len(raised) == 1  # all writers of a stream, the same channels
        factors = torch.tensor(raised.pop())
        assert sorted(factors.unique().tolist()) == [1, 64]
        assert int((factors == 64).sum()) == 2
        for reader, hard_reader in zip(readers, hard_readers, strict=True):
            assert torch.equal(hard_reader.weight * factors.reshape(1, -1, 1, 1), reader.weight)
        widths.append(len(factors))
    assert widths == STREAMS


def test_the_seed_chooses_the_channels(nano):
    def first(seed):
        writers, _ = next(residual_streams(with_outlier_channels(nano, seed=seed).float_encoder))
        return writers[0].weight

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_the_model_it_is_made_from_stays_as_it_was(nano):
    before = nano.weights_digest()
    with_outlier_channels(nano)
    assert nano.weights_digest() == before


@pytest.mark.parametrize("placement", ["thesis", "openvino"])
def test_8_bits_do_it_much_more_harm(nano, image, placement):
    def loss(model):
        plan = qs.calibrate(model, qs.make_plan(model, "int8", placement), [image])
        with torch.inference_mode():
            off = qs.simulate(model, plan)(image) - model.image_encoder(image)
        return float(off.square().mean())

    assert loss(with_outlier_channels(nano)) > 4 * loss(nano)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factor": 48}, "factor must be a power of two from 2 on, got 48"),
        ({"factor": 1}, "factor must be a power of two from 2 on, got 1"),
        ({"channels": min(STREAMS) + 1}, f"channels must be from 1 to {min(STREAMS)}, the narrowest stream of nano"),
        ({"channels": 0}, f"channels must be from 1 to {min(STREAMS)}, the narrowest stream of nano, got 0"),
    ],
)
def test_what_cannot_be(nano, arguments, message):
    with pytest.raises(InputError, match=message):
        with_outlier_channels(nano, **arguments)


def test_hidden_channels_stand_out_and_the_answers_hardly_change(nano, image):
    hard = with_hidden_outlier_channels(nano)
    true, found = embed(nano, image), embed(hard, image)
    assert 0 < float((found - true).square().sum() / true.square().sum()) < 1e-2
    assert nano.weights_digest() != hard.weights_digest()
    bottlenecks = [name for name, module in nano.float_encoder.named_modules() if isinstance(module, MBConv)]
    for name in bottlenecks:
        weights = [m.float_encoder.get_submodule(name).point_conv.conv.weight for m in (nano, hard)]
        before, after = (weight.abs().amax((0, 2, 3)) for weight in weights)
        assert int((before / after > 500).sum()) == 2
    assert len(bottlenecks) > 2


@pytest.mark.parametrize("given", [{"factor": 3}, {"factor": 1}, {"channels": 0}, {"channels": 10_000}])
def test_hidden_channels_that_cannot_be(tiny, given):
    with pytest.raises(InputError, match=r"must be (a power of two|from 1 to)"):
        with_hidden_outlier_channels(tiny, **given)
