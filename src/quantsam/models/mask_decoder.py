"""SAM's mask decoder: a two-way transformer and hyper-networks (Kirillov et al., 2023, section A)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsam.models.blocks import LayerNorm2d


class Attention(nn.Module):
    """Multi-head attention. Its inner width may be smaller than the width of the tokens."""

    def __init__(self, dim: int, heads: int, downsample: int = 1) -> None:
        super().__init__()
        self.heads = heads
        inner = dim // downsample
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from (B, Nq, dim) to (B, Nk, dim); returns (B, Nq, dim)."""

        def split(x: Tensor) -> Tensor:  # (B, N, inner) -> (B, heads, N, inner / heads)
            return x.reshape(*x.shape[:-1], self.heads, -1).transpose(1, 2)

        out = F.scaled_dot_product_attention(split(self.q_proj(q)), split(self.k_proj(k)), split(self.v_proj(v)))
        y: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return y


class _MlpBlock(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lin2(F.relu(self.lin1(x)))
        return y


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the image, then pass an MLP. Then the image attends to the tokens."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, downsample=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _MlpBlock(dim, mlp_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, downsample=2)

    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens (B, T, dim) and image (B, H*W, dim) to the same shapes."""
        if self.first:  # the first block adds no position to the tokens and has no residual
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        keys = image + image_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, keys, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(keys, tokens + token_pe, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two two-way blocks and a last attention from the tokens to the image."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(dim, heads, mlp_dim, first=i == 0) for i in range(depth))
        self.final_attn_token_to_image = Attention(dim, heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, image_pe: Tensor, token_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Map image (B, H*W, dim) and tokens (B, T, dim) to the updated tokens and image."""
        tokens = token_pe
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe)
        tokens = tokens + self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens), image


class _Mlp(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out)])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.layers[0](x))
        x = F.relu(self.layers[1](x))
        y: Tensor = self.layers[2](x)
        return y


class MaskDecoder(nn.Module):
    """Maps an image embedding and prompt tokens to 3 + 1 masks and their predicted IoU."""

    NUM_MASKS = 4  # one for unambiguous prompts, then three for ambiguous ones
    SINGLE = range(1)
    MULTI = range(1, NUM_MASKS)

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(dim, heads, mlp_dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(self.NUM_MASKS, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, 2),
            LayerNorm2d(dim // 4, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(_Mlp(dim, dim // 8) for _ in range(self.NUM_MASKS))
        self.iou_prediction_head = _Mlp(dim, self.NUM_MASKS)

    def forward(
        self, embedding: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, chosen: range
    ) -> tuple[Tensor, Tensor]:
        """Decode a batch of prompts.

        Args:
            embedding: (1 or B, dim, H, W); all prompts share an embedding of one image.
            image_pe: (1, dim, H, W).
            sparse: (B, T, dim) prompt tokens.
            dense: (1 or B, dim, H, W) mask embedding.
            chosen: Masks to return: `MULTI`, the three of ambiguous prompts, or `SINGLE`.

        Returns:
            Mask logits (B, len(chosen), 4 H, 4 W); predicted IoU (B, len(chosen)).
        """
        batch = len(sparse)
        special = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([special.expand(batch, -1, -1), sparse], dim=1)
        image = (embedding + dense).expand(batch, -1, -1, -1)
        height, width = image.shape[-2:]
        tokens, image = self.transformer(image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2), tokens)
        upscaled = self.output_upscaling(image.transpose(1, 2).unflatten(2, (height, width)))  # (B, dim/8, 4H, 4W)
        hyper = torch.stack([self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in chosen], dim=1)
        masks = (hyper @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        iou: Tensor = self.iou_prediction_head(tokens[:, 0])
        return masks, iou[:, chosen.start : chosen.stop]
