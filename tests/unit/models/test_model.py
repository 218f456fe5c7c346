"""The plain model: shapes, sites, sharing."""

import pytest
import torch

from quantsam.errors import InputError
from quantsam.models.blocks import LinearAttentionCore, Site
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import copy_encoder, set_parameter, state_digest, with_modules
from quantsam.models.sam import EfficientViTSam
from quantsam.models.variants import VARIANTS, get_variant
from quantsam.models.zoo import create_model, load_model


@pytest.fixture
def image():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def site_paths(encoder):
    return [name for name, module in encoder.named_modules() if isinstance(module, Site)]


def test_nano_with_its_own_weights_computes_an_embedding_of_the_declared_shape():
    model = load_model("nano")
    size, side = model.variant.input_size, model.variant.embed_size
    with torch.inference_mode():
        embedding = model.image_encoder(torch.zeros(1, 3, size, size))
    assert embedding.shape == (1, model.variant.embed_dim, side, side)
    assert embedding.isfinite().all()
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_a_batch_is_encoded_as_its_images_one_by_one(tiny, image):
    with torch.inference_mode():
        both = tiny.image_encoder(image)
        single = torch.cat([tiny.image_encoder(x[None]) for x in image])
    assert both.shape == (2, tiny.variant.embed_dim, 16, 16)
    torch.testing.assert_close(both, single, rtol=1e-4, atol=1e-4)


def test_sites_have_no_state_and_compute_nothing(tiny, image):
    encoder = tiny.float_encoder
    seen = []
    replaced = with_modules(encoder, {path: torch.nn.Identity() for path in site_paths(encoder)})
    hooked = copy_encoder(encoder)
    for path in site_paths(hooked):
        hooked.get_submodule(path).register_forward_hook(lambda *_: seen.append(1))
    with torch.inference_mode():
        expected = encoder(image)
        assert torch.equal(replaced(image), expected)
        assert torch.equal(hooked(image), expected)
    assert len(seen) == len(site_paths(encoder)) > 100  # every site is on the path of the data, once
    assert not any(key.startswith(tuple(site_paths(encoder))) for key in encoder.state_dict())
    assert list(replaced.state_dict()) == list(hooked.state_dict()) == list(encoder.state_dict())


def test_a_copy_shares_every_tensor_but_no_module(tiny):
    twin = copy_encoder(tiny.float_encoder)
    for (name, mine), (_, theirs) in zip(
        tiny.float_encoder.state_dict().items(), twin.state_dict().items(), strict=True
    ):
        assert mine.data_ptr() == theirs.data_ptr(), name
    assert not {id(m) for m in twin.modules()} & {id(m) for m in tiny.float_encoder.modules()}


def test_setting_a_weight_leaves_the_original_alone(tiny):
    path = "backbone.stages.0.op_list.0.conv"
    twin = copy_encoder(tiny.float_encoder)
    before = tiny.float_encoder.get_submodule(path).weight.clone()
    set_parameter(twin, f"{path}.weight", torch.zeros_like(before))
    assert torch.equal(tiny.float_encoder.get_submodule(path).weight, before)
    assert not twin.get_submodule(path).weight.any()


def test_with_encoder_shares_the_rest_and_leaves_the_original_unchanged(tiny, image):
    keys, encoder = list(tiny.state_dict()), tiny.image_encoder

    def constant(x):
        return torch.full((len(x), tiny.variant.embed_dim, 16, 16), 7.0)

    other = tiny.with_encoder(constant)
    assert other.image_encoder is constant
    assert other.mask_decoder is tiny.mask_decoder
    assert other.float_encoder is tiny.float_encoder is encoder is tiny.image_encoder
    assert list(tiny.state_dict()) == keys
    assert not any(key.startswith("image_encoder") for key in other.state_dict())
    assert other.weights_digest() == tiny.weights_digest()
    third = other.with_encoder(copy_encoder(encoder))  # a module after a function, and a second time
    assert third.float_encoder is encoder
    assert isinstance(third.image_encoder, ImageEncoder)
    assert third.image_encoder is not encoder
    assert other.image_encoder is constant
    with torch.inference_mode():
        assert torch.equal(third.image_encoder(image), encoder(image))


def test_digest_sees_values_and_names_but_no_step_counter(make_tiny):
    model, same, other = make_tiny(0), make_tiny(0), make_tiny(1)
    digest = state_digest(model.float_encoder)
    assert digest == state_digest(same.float_encoder) != state_digest(other.float_encoder)
    norm = model.float_encoder.get_submodule("backbone.stages.0.op_list.0.norm")
    norm.num_batches_tracked += 5
    assert state_digest(model.float_encoder) == digest
    norm.running_mean[0] += 1e-6
    assert state_digest(model.float_encoder) != digest


def test_linear_attention_is_normalized_weighted_mean_of_values():
    torch.manual_seed(0)
    core = LinearAttentionCore(dim=4, eps=1e-15)
    qkv = torch.randn(2, 3 * 2 * 4, 3, 5)
    q, k, v = qkv.reshape(2, 2, 3, 4, 15).unbind(2)
    weights = torch.einsum("bhdi,bhdj->bhij", q.relu(), k.relu())  # the quadratic form of the same attention
    expected = torch.einsum("bhij,bhdj->bhdi", weights / (weights.sum(-1, keepdim=True) + 1e-15), v)
    torch.testing.assert_close(core(qkv), expected.reshape(2, 8, 3, 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["L0", "l0", "efficientvit-sam-l0", "EfficientViT_SAM_L0"])
def test_a_variant_is_found_in_any_spelling(name):
    assert get_variant(name) is VARIANTS["l0"]


def test_an_unknown_model_is_refused_with_the_nearest_names():
    with pytest.raises(InputError, match=r"^model must be one of l0, .*nano-hard, got 'nanno': did you mean 'nano'\?$"):
        create_model("nanno")


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "", "privateuseone"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(InputError, match=r"^device must be one that PyTorch has here, got '.*': use 'cpu'$"):
        create_model("nano", device=device)


def test_every_variant_declares_one_entry_a_stage():
    for variant in VARIANTS.values():
        assert len(variant.widths) == len(variant.depths) == len(variant.blocks) == len(variant.expands)
        with torch.device("meta"):
            encoder = EfficientViTSam(variant).float_encoder
            image = torch.empty(1, 3, variant.input_size, variant.input_size)
            assert encoder(image).shape == (1, variant.embed_dim, variant.embed_size, variant.embed_size)
