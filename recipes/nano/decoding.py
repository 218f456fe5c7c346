"""The mask decoder for training: what `MaskDecoder` gives, sooner, for several prompts on each of several images.

The first block meets an image as it came, so its projections are made once an image and not once a prompt; and
transposed convolutions of size and stride 2 are products of matrices, with channels last all the way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsam.models.mask_decoder import Attention, MaskDecoder, TwoWayBlock


def decode(
    decoder: MaskDecoder, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """Decode the same number of prompts on each image, all four masks.

    Args:
        decoder: Its weights are used, and trained.
        embedding: (N, dim, H, W).
        position: (N, dim, H, W).
        sparse: (N * K, T, dim), the prompts of an image next to each other.
        dense: (1, dim, H, W), the same for all prompts: none has a mask input.

    Returns:
        Mask logits (N * K, 4, 4 H, 4 W); predicted IoU (N * K, 4).
    """
    images, (height, width) = len(embedding), embedding.shape[-2:]
    special = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    token_pe = torch.cat([special.expand(len(sparse), -1, -1), sparse], dim=1)
    start = (embedding + dense).flatten(2).transpose(1, 2)  # (N, H * W, dim)
    image_pe = position.flatten(2).transpose(1, 2)
    one, two = decoder.transformer.layers
    assert isinstance(one, TwoWayBlock)
    assert isinstance(two, TwoWayBlock)
    tokens, image = _first_block(one, start, image_pe, token_pe)
    each = image_pe[:, None].expand(-1, len(sparse) // images, -1, -1).flatten(0, 1)
    tokens, image = two(tokens, image, token_pe, each)
    last = decoder.transformer.final_attn_token_to_image
    tokens = decoder.transformer.norm_final_attn(tokens + last(tokens + token_pe, image + each, image))
    hyper = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1)
    iou: Tensor = decoder.iou_prediction_head(tokens[:, 0])
    return _masks(decoder.output_upscaling, image, hyper, (height, width)), iou


def _heads(attention: Attention, x: Tensor) -> Tensor:
    """Map (B, T, inner) to (B, heads, T, d)."""
    return x.view(*x.shape[:2], attention.heads, -1).transpose(1, 2)


def _first_block(block: TwoWayBlock, image: Tensor, image_pe: Tensor, token_pe: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens (N * K, T, dim) and what each prompt makes of its image, (N * K, H * W, dim)."""
    images, prompts = len(image), len(token_pe) // len(image)
    keys = image + image_pe
    tokens = block.norm1(block.self_attn(token_pe, token_pe, token_pe))
    down = block.cross_attn_token_to_image
    queries = (tokens + token_pe).view(images, -1, tokens.shape[-1])  # all prompts of an image attend together
    tokens = block.norm2(tokens + down(queries, keys, image).view_as(tokens))
    tokens = block.norm3(tokens + block.mlp(tokens))
    up = block.cross_attn_image_to_token
    asking = _heads(up, up.q_proj(keys))[:, None].expand(-1, prompts, -1, -1, -1).flatten(0, 1)
    answered = F.scaled_dot_product_attention(
        asking, _heads(up, up.k_proj(tokens + token_pe)), _heads(up, up.v_proj(tokens))
    )
    change = up.out_proj(answered.transpose(1, 2).flatten(2)).view(images, prompts, *image.shape[1:])
    return tokens, block.norm4((image[:, None] + change).flatten(0, 1))


def _masks(up: nn.Sequential, image: Tensor, hyper: Tensor, hw: tuple[int, int]) -> Tensor:
    """Up-scale tokens (B, H * W, dim) fourfold and read masks off them with hyper (B, M, dim / 8)."""
    first, norm, second = up[0], up[1], up[3]
    assert isinstance(first, nn.ConvTranspose2d)
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(second, nn.ConvTranspose2d)
    batch, (height, width) = len(image), hw
    x = _doubled(first, image).view(batch, height * width, 4, -1)  # (.., dim / 4)
    x = F.gelu(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
    x = F.gelu(_doubled(second, x).view(batch, height * width * 16, -1))  # (B, H * W * 16, dim / 8)
    # the 16 pixels of a cell: row and column of the first convolution, then of the second
    pixels = (x @ hyper.transpose(1, 2)).view(batch, height, width, 2, 2, 2, 2, -1).permute(0, 7, 1, 3, 5, 2, 4, 6)
    return pixels.reshape(batch, -1, 4 * height, 4 * width)


def _doubled(convolution: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Apply a transposed convolution of size and stride 2 to channels (..., in): (..., 4 * out)."""
    assert convolution.bias is not None
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 * out, in)
    return F.linear(x, weight, convolution.bias.repeat(4))
