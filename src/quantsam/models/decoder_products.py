"""Parts of attention, layer norm and up-scaling as products of small matrices, which `ImageDecoder` puts in order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from quantsam.models.mask_decoder import Attention, TwoWayBlock


def affine(projection: nn.Linear, x: Tensor) -> Tensor:
    """Apply a projection to columns: (in, N) to (out, N)."""
    y: Tensor = projection.weight @ x + projection.bias[:, None]
    return y


def tables(weights: Sequence[Tensor], x: Tensor, heads: int) -> Iterable[Tensor]:
    """Multiply each of several weights (inner, dim) by x (dim, N), in one product: (heads, d, N) each."""
    tables = torch.cat(list(weights)) @ x
    return tables.view(len(weights), heads, -1, x.shape[1]).unbind()


def split(attention: Attention, x: Tensor) -> Tensor:
    """Map (B, T, inner) to (B, heads, T, d)."""
    return x.view(*x.shape[:2], attention.heads, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """Map (heads, T, d) to (T, inner)."""
    return x.transpose(0, 1).flatten(1)


def per_head(rows: Tensor, heads: int) -> Tensor:
    """Map (R, inner) to (heads, d, R)."""
    return rows.T.view(heads, -1, len(rows)) if rows.T.is_contiguous() else rows.T.reshape(heads, -1, len(rows))


def project_queries(attention: Attention, tokens: Tensor) -> Tensor:
    """Project tokens (B, T, dim) to (B, heads, T, d), with the scores' scale applied."""
    queries = split(attention, attention.q_proj(tokens))
    return queries / math.sqrt(queries.shape[-1])


def project_keys_and_values(attention: Attention, tokens: Tensor, token_pe: Tensor) -> tuple[Tensor, Tensor]:
    """Project tokens (B, T, dim) to keys and values (B, heads, T, d), with the scores' scale applied to the keys."""
    keys = split(attention, attention.k_proj(tokens + token_pe))
    return keys / math.sqrt(keys.shape[-1]), split(attention, attention.v_proj(tokens))


def after_attention(block: TwoWayBlock, tokens: Tensor, attended: Tensor) -> Tensor:
    """Finish a block's tokens (B, T, dim) with the values they attended to in the image (B, T, inner)."""
    tokens = block.norm2(tokens + block.cross_attn_token_to_image.out_proj(attended))
    y: Tensor = block.norm3(tokens + block.mlp(tokens))
    return y


def contribution(attention: Attention, values: Tensor) -> Tensor:
    """Return what values (heads, T, d) contribute to an image token: (R, dim), without the bias, centred."""
    weight = attention.out_proj.weight.T.view(len(values), -1, attention.out_proj.out_features)  # (heads, d, dim)
    rows = (values @ weight).flatten(0, 1)
    return rows - rows.mean(1, keepdim=True)


def low_rank(weights: Tensor, shares: Tensor, projected: Tensor) -> Tensor:
    """Return (heads, T, d): weights (heads, T, N) on shares^T (N, R) times projected rows (R, inner)."""
    heads = len(weights)
    mixed = (weights.flatten(0, 1) @ shares.T).view(heads, -1, len(shares))
    return mixed @ per_head(projected, heads).transpose(1, 2)


def norm_scale(norm: nn.LayerNorm, squared: Tensor) -> Tensor:
    """Return 1 / the standard deviation of centred tokens with the given squared lengths."""
    return (squared.clamp_min(0) / norm.normalized_shape[0] + norm.eps).rsqrt()


def as_matrix(convolution: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Return a transposed convolution of size and stride 2 as a weight (in, 4 * out) and a bias (4 * out)."""
    assert convolution.bias is not None
    weight = convolution.weight.permute(0, 2, 3, 1).flatten(1).contiguous()
    return weight, convolution.bias.repeat(4)
