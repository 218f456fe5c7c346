"""The mask decoder, prepared for one image: the same masks as `MaskDecoder`, for less work.

What all prompts of an image share is computed once. What is left is reordered, which changes nothing but
the rounding:

- The image's tokens meet only a handful of prompt tokens, so a projection of the 4096 image tokens is
  moved to the prompt's side: `(x W_k) q = x (W_k q)`.
- Likewise behind an attention: `(P v) W_o = P (v W_o)`, a product of rank heads * tokens.
- Biases of keys drop out of a softmax over the keys.
- The last attention serves only the tokens that are read; of the masks only the wanted ones are made.
- Transposed convolutions of stride 2 and size 2 are products of matrices; pixels are put in order at the end.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsam.models.blocks import LayerNorm2d
from quantsam.models.mask_decoder import Attention, MaskDecoder, TwoWayBlock
from quantsam.models.prompt_encoder import PromptEncoder

PROMPTS_AT_ONCE = 2
_TOKENS_AT_ONCE = 512  # of the image, in the up-scaling: its tensors then fit the cache


class ImageDecoder:
    """Decodes prompts without a mask input, all on one image.

    Args:
        prompt_encoder: The model's.
        mask_decoder: The model's; read, never changed.
        embedding: (1, dim, H, W) of the image.
    """

    def __init__(self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder, embedding: Tensor) -> None:
        self._prompts, self._decoder = prompt_encoder, mask_decoder
        self._hw = (embedding.shape[-2], embedding.shape[-1])
        dense = prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        self._image = (embedding + dense).flatten(2).transpose(1, 2).contiguous()[0]  # (N, dim)
        self._position = prompt_encoder.dense_position().flatten(2).transpose(1, 2).contiguous()[0]
        first: TwoWayBlock = mask_decoder.transformer.layers[0]  # type: ignore[assignment]
        keys = self._image + self._position
        down, up = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        self._first_keys = _heads(down.k_proj(keys)[None], down.heads)  # (1, heads, N, d)
        self._first_values = _heads(down.v_proj(self._image)[None], down.heads)
        self._first_queries = up.q_proj(keys)  # (N, inner)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._image.device

    @torch.inference_mode()
    def decode(
        self,
        *,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        multimask: bool = True,
        best_only: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts in the prompt frame.

        Args:
            points: (B, N, 2) x y in pixels of the prompt frame, and (B, N) labels.
            boxes: (B, 4) x0 y0 x1 y1 in pixels of the prompt frame.
            multimask: Three masks a prompt instead of one.
            best_only: Keep of each prompt only the mask of highest predicted IoU.

        Returns:
            Mask logits (B, M, 4 H, 4 W) and predicted IoU (B, M).
        """
        sparse, _ = self._prompts(points, boxes, None)
        special = torch.cat([self._decoder.iou_token.weight, self._decoder.mask_tokens.weight])
        tokens = torch.cat([special.expand(len(sparse), -1, -1), sparse], dim=1)
        chosen = MaskDecoder.MULTI if multimask else MaskDecoder.SINGLE
        parts = [self._decode_part(part, chosen, best_only) for part in torch.split(tokens, PROMPTS_AT_ONCE)]
        return torch.cat([masks for masks, _ in parts]), torch.cat([iou for _, iou in parts])

    def _decode_part(self, token_pe: Tensor, chosen: range, best_only: bool) -> tuple[Tensor, Tensor]:
        transformer = self._decoder.transformer
        first, second = transformer.layers
        tokens, image = self._first_block(first, token_pe)  # type: ignore[arg-type]
        tokens, image = self._second_block(second, tokens, image, token_pe)  # type: ignore[arg-type]
        read = [0, *(1 + i for i in chosen)]  # the IoU token and the wanted masks'
        tokens, token_pe = tokens[:, read], token_pe[:, read]
        attention = transformer.final_attn_token_to_image
        queries = _queries_on_tokens(attention, tokens + token_pe)
        scores = torch.baddbmm(
            (queries @ self._position.T), queries, image.transpose(1, 2)
        )  # the image's position, without adding it to every prompt's image
        tokens = transformer.norm_final_attn(tokens + _attend(attention, scores, image))
        iou = self._decoder.iou_prediction_head(tokens[:, 0])[:, chosen.start : chosen.stop]
        mlps = self._decoder.output_hypernetworks_mlps
        hyper = torch.stack([mlps[i](tokens[:, 1 + row]) for row, i in enumerate(chosen)], dim=1)  # (B, M, dim / 8)
        if best_only:
            best = iou.argmax(1, keepdim=True)
            iou = iou.gather(1, best)
            hyper = hyper.take_along_dim(best[..., None], 1)
        return self._masks(image, hyper), iou

    def _first_block(self, block: TwoWayBlock, token_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Run the first block: every prompt attends to the same image."""
        tokens = block.norm1(block.self_attn(token_pe, token_pe, token_pe))
        down = block.cross_attn_token_to_image
        queries = _heads(down.q_proj(tokens + token_pe).flatten(0, 1)[None], down.heads)  # all prompts as one
        attended = F.scaled_dot_product_attention(queries, self._first_keys, self._first_values)
        attended = attended.transpose(1, 2).reshape(*tokens.shape[:2], -1)
        tokens = block.norm2(tokens + down.out_proj(attended))
        tokens = block.norm3(tokens + block.mlp(tokens))
        up = block.cross_attn_image_to_token
        keys = _split(up.k_proj(tokens + token_pe), up.heads) / math.sqrt(up.k_proj.out_features // up.heads)
        # (B, heads * T, inner): one head's keys in that head's columns, so that one product serves all heads
        spread = torch.einsum("bthd,hg->bhtgd", keys, torch.eye(up.heads, dtype=keys.dtype, device=keys.device))
        scores = spread.flatten(3).flatten(1, 2) @ self._first_queries.T
        return tokens, _update_image(block, self._image, scores, tokens)

    def _second_block(
        self, block: TwoWayBlock, tokens: Tensor, image: Tensor, token_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run a later block: every prompt has an image of its own."""
        moved = tokens + token_pe
        tokens = block.norm1(tokens + block.self_attn(moved, moved, tokens))
        keys = image + self._position
        down, up = block.cross_attn_token_to_image, block.cross_attn_image_to_token
        scores = _queries_on_tokens(down, tokens + token_pe) @ keys.transpose(1, 2)
        tokens = block.norm2(tokens + _attend(down, scores, image))
        tokens = block.norm3(tokens + block.mlp(tokens))
        weight, bias = _keys_on_image(up, tokens + token_pe)
        return tokens, _update_image(block, image, torch.baddbmm(bias, weight, keys.transpose(1, 2)), tokens)

    def _masks(self, image: Tensor, hyper: Tensor) -> Tensor:
        """Up-scale (B, N, dim) fourfold and read masks off it with (B, M, dim / 8)."""
        up: nn.Sequential = self._decoder.output_upscaling
        first, norm, second = up[0], up[1], up[3]
        assert isinstance(first, nn.ConvTranspose2d)
        assert isinstance(norm, LayerNorm2d)
        assert isinstance(second, nn.ConvTranspose2d)
        (weight1, bias1), (weight2, bias2) = _as_matrix(first), _as_matrix(second)
        width1, width2 = first.out_channels, second.out_channels
        height, width = self._hw
        masks = image.new_empty(len(image), hyper.shape[1], height * width, 16)
        for i in range(len(image)):
            for start in range(0, height * width, _TOKENS_AT_ONCE):
                part = slice(start, start + _TOKENS_AT_ONCE)
                x = torch.addmm(bias1, image[i, part], weight1).view(-1, width1)
                x = F.gelu(F.layer_norm(x, (width1,), norm.weight, norm.bias, norm.eps))
                x = F.gelu(torch.addmm(bias2, x, weight2)).view(-1, width2)
                masks[i, :, part] = (hyper[i] @ x.T).view(hyper.shape[1], -1, 16)
        # the 16 pixels of a token: row and column of the first convolution, then of the second
        pixels = masks.view(*masks.shape[:2], height, width, 2, 2, 2, 2)
        return pixels.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(*masks.shape[:2], 4 * height, 4 * width)


def _split(x: Tensor, heads: int) -> Tensor:
    """Map (..., inner) to (..., heads, inner / heads)."""
    return x.reshape(*x.shape[:-1], heads, -1)


def _heads(x: Tensor, heads: int) -> Tensor:
    """Map (B, N, inner) to (B, heads, N, inner / heads)."""
    return _split(x, heads).transpose(1, 2)


def _queries_on_tokens(attention: Attention, queries: Tensor) -> Tensor:
    """Return (B, heads * T, dim) which, times the image's tokens, are the scores of an attention to the image."""
    inner = attention.q_proj.out_features // attention.heads
    q = _split(attention.q_proj(queries), attention.heads) / math.sqrt(inner)  # (B, T, heads, d)
    weight = attention.k_proj.weight.view(attention.heads, -1, queries.shape[-1])  # (heads, d, dim)
    return torch.einsum("bthd,hdc->bhtc", q, weight).flatten(1, 2)


def _attend(attention: Attention, scores: Tensor, image: Tensor) -> Tensor:
    """Return what tokens get from the image: (B, T, dim) from scores (B, heads * T, N) and (B, N, dim)."""
    context = (scores.softmax(-1) @ image).view(len(image), attention.heads, -1, image.shape[-1])  # (B, heads, T, dim)
    weight = attention.v_proj.weight.view(attention.heads, -1, image.shape[-1])
    values = torch.einsum("bhtc,hdc->bthd", context, weight).flatten(2) + attention.v_proj.bias
    y: Tensor = attention.out_proj(values)
    return y


def _keys_on_image(attention: Attention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight (B, heads * T, dim) and bias (B, heads * T, 1) that map image tokens to scores."""
    inner = attention.k_proj.out_features // attention.heads
    k = _split(attention.k_proj(tokens), attention.heads) / math.sqrt(inner)  # (B, T, heads, d)
    weight = attention.q_proj.weight.view(attention.heads, -1, tokens.shape[-1])
    bias = attention.q_proj.bias.view(attention.heads, -1)
    return (
        torch.einsum("bthd,hdc->bhtc", k, weight).flatten(1, 2),
        torch.einsum("bthd,hd->bht", k, bias).flatten(1).unsqueeze(2),
    )


def _update_image(block: TwoWayBlock, image: Tensor, scores: Tensor, tokens: Tensor) -> Tensor:
    """Return the image's tokens after their attention to the prompt's: (B, N, dim).

    Args:
        block: Whose attention and norm.
        image: (N, dim), the same for all prompts, or (B, N, dim).
        scores: (B, heads * T, N).
        tokens: (B, T, dim).
    """
    attention = block.cross_attn_image_to_token
    v = _split(attention.v_proj(tokens), attention.heads)  # (B, T, heads, d)
    weight = _split(attention.out_proj.weight, attention.heads)  # (dim, heads, d)
    moved = torch.einsum("bthd,chd->bhtc", v, weight).flatten(1, 2)  # (B, heads * T, dim)
    # attention weights sum to 1 over each head's tokens: an equal share of the bias on every row
    moved = moved + attention.out_proj.bias / attention.heads
    shares = scores.view(len(tokens), attention.heads, -1, scores.shape[-1]).softmax(2).flatten(1, 2)
    y: Tensor = block.norm4(torch.bmm(shares.transpose(1, 2), moved).add_(image))
    return y


def _as_matrix(convolution: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Return a transposed convolution of size and stride 2 as a weight (in, 4 * out) and a bias (4 * out)."""
    assert convolution.bias is not None
    weight = convolution.weight.permute(0, 2, 3, 1).flatten(1).contiguous()
    return weight, convolution.bias.repeat(4)
