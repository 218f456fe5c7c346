"""The prepared decoder gives what the plain one gives."""

import pytest
import torch

from quantsam.models.image_decoder import ImageDecoder
from quantsam.models.variants import VARIANTS
from quantsam.models.zoo import create_model, load_model

SIDE = VARIANTS["nano"].prompt_size
"""Of nano's masks, too."""


def prompts(kind, count, side):
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * side / 2
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * side / 2], dim=1)
    points = torch.rand(count, 3, 2, generator=generator) * side
    labels = torch.randint(-1, 2, (count, 3), generator=generator)
    return {
        "boxes": {"boxes": boxes},
        "points": {"points": (points, labels)},
        "both": {"boxes": boxes, "points": (points, labels)},
    }[kind]


def embedding_of(model):
    variant = model.variant
    shape = (1, variant.embed_dim, variant.embed_size, variant.embed_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def nano():
    return load_model("nano")


@pytest.mark.parametrize("kind", ["boxes", "points", "both"])
@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("count", [1, 7])
@torch.inference_mode()
def test_masks_and_quality_are_those_of_the_plain_decoder(nano, kind, multimask, count):
    embedding = embedding_of(nano)
    given = prompts(kind, count, nano.variant.prompt_size)
    masks, iou = nano.decode(embedding, **given, multimask=multimask)
    found = ImageDecoder(nano.prompt_encoder, nano.mask_decoder, embedding).decode(**given, multimask=multimask)
    torch.testing.assert_close(found[0], masks, rtol=1e-4, atol=1e-5 * float(masks.abs().max()))
    torch.testing.assert_close(found[1], iou, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_full_size_with_untrained_weights():
    torch.manual_seed(0)
    model = create_model("l0")
    embedding = embedding_of(model)
    given = prompts("boxes", 3, 1024)
    masks, iou = model.decode(embedding, **given)
    found = ImageDecoder(model.prompt_encoder, model.mask_decoder, embedding).decode(**given)
    torch.testing.assert_close(found[0], masks, rtol=1e-4, atol=1e-5 * float(masks.abs().max()))
    torch.testing.assert_close(found[1], iou, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_the_best_mask_alone_is_the_one_of_highest_predicted_iou(nano):
    embedding = embedding_of(nano)
    given = prompts("boxes", 6, SIDE)
    decoder = ImageDecoder(nano.prompt_encoder, nano.mask_decoder, embedding)
    masks, iou = decoder.decode(**given)
    best_masks, best_iou = decoder.decode(**given, best_only=True)
    rows, best = torch.arange(6), iou.argmax(1)
    assert (best_masks.shape, best_iou.shape) == ((6, 1, SIDE, SIDE), (6, 1))
    torch.testing.assert_close(best_iou[:, 0], iou[rows, best])
    torch.testing.assert_close(best_masks[:, 0], masks[rows, best], rtol=1e-4, atol=1e-5 * float(masks.abs().max()))


@torch.inference_mode()
def test_a_prompt_does_not_depend_on_its_neighbours(nano):
    embedding = embedding_of(nano)
    decoder = ImageDecoder(nano.prompt_encoder, nano.mask_decoder, embedding)
    boxes = prompts("boxes", 6, SIDE)["boxes"]
    together, _ = decoder.decode(boxes=boxes)
    alone = torch.cat([decoder.decode(boxes=box[None])[0] for box in boxes])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize("low_hw", [(SIDE, 193), (97, SIDE), (1, 1)])
@torch.inference_mode()
def test_a_part_of_the_logits_is_cut_from_all(nano, low_hw):
    decoder = ImageDecoder(nano.prompt_encoder, nano.mask_decoder, embedding_of(nano))
    given = prompts("points", 2, SIDE)
    masks, _ = decoder.decode(**given)
    part, _ = decoder.decode(**given, low_hw=low_hw)
    expected = masks[..., : low_hw[0], : low_hw[1]]
    assert part.shape == expected.shape != masks.shape
    torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5 * float(masks.abs().max()))


@torch.inference_mode()
def test_norms_with_gain_and_bias():
    torch.manual_seed(1)
    model = create_model("l0")
    for block in model.mask_decoder.transformer.layers:
        block.norm4.weight.normal_(1, 0.5)
        block.norm4.bias.normal_(0, 0.5)
    embedding = embedding_of(model)
    given = prompts("both", 2, 1024)
    masks, iou = model.decode(embedding, **given)
    found = ImageDecoder(model.prompt_encoder, model.mask_decoder, embedding).decode(**given)
    torch.testing.assert_close(found[0], masks, rtol=1e-4, atol=1e-5 * float(masks.abs().max()))
    torch.testing.assert_close(found[1], iou, rtol=1e-5, atol=1e-5)
