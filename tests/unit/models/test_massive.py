import pytest
import torch

import quantsam as qs
from quantsam.errors import InputError
from quantsam.models.massive import with_massive_positions
from quantsam.models.structure import structure_of
from quantsam.prediction.transforms import preprocess


@pytest.fixture(scope="module")
def nano():
    return qs.load_model("nano")


@pytest.fixture(scope="module")
def images(nano):
    return torch.cat([preprocess(image, nano.variant.input_size) for image in qs.open_images("scenes:6:4")])


@pytest.fixture(scope="module")
def hard(nano, images):
    return with_massive_positions(nano, images, ratio=200)


def streams(model, images):
    """What the last reader of each stage's stream reads, (N, C, positions)."""
    found = {}
    encoder = model.float_encoder
    for stream in list(structure_of(encoder).streams)[:-1]:
        module = encoder.get_submodule(stream.readers[-1].conv)
        hook = module.register_forward_pre_hook(lambda _, x, name=stream.name: found.update({name: x[0].flatten(2)}))
        with torch.inference_mode():
            encoder(images)
        hook.remove()
    return found


def test_it_is_nearly_the_same_function(nano, hard, images):
    with torch.inference_mode():
        true, found = nano.image_encoder(images), hard.image_encoder(images)
    assert 0 < (found - true).square().mean() < 3e-3 * true.var()


def test_a_few_positions_are_massive_in_all_channels(nano, hard, images):
    before, after = streams(nano, images), streams(hard, images)
    for name, x in after.items():
        ratios = x.abs().movedim(1, 0).flatten(1) / before[name].square().mean((0, 2)).sqrt().unsqueeze(1)
        assert ratios.amax(1).median() > 50, name
        size = x.square().mean(1).sqrt()
        outstanding = (size > 10 * size.median(1, keepdim=True).values).float().mean()
        assert 0 < outstanding < 0.04, name
        assert before[name].square().mean(1).sqrt().amax() < 10 * size.median(), name


def test_a_copy_is_changed_and_nonsense_refused(nano, hard, images):
    assert nano.weights_digest() == qs.load_model("nano").weights_digest() != hard.weights_digest()
    with pytest.raises(InputError, match=r"need images and a ratio above 1, got 6 and 1.0"):
        with_massive_positions(nano, images, ratio=1.0)
    with pytest.raises(InputError, match="got 0 and"):
        with_massive_positions(nano, images[:0])
