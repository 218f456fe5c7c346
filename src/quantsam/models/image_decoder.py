"""The mask decoder, prepared for one image: the same masks as `MaskDecoder`, for a fraction of the work.

An image has thousands of tokens, a prompt a handful. In a two-way block the image's tokens X (N, dim) attend to the
prompt's tokens: `X' = norm(X + S^T M)`. S (heads * T, N) holds the weight of each prompt token for each image token,
and M (heads * T, dim) holds what the prompt tokens contribute. All prompts start from the same X. A layer norm
consists of a centring, which is linear, a scale r per token, and a gain per channel. So behind any linear map L

    X' L = r * (X C G L  +  S^T (M C G L)) + b L        C centres, G and b are the norm's gain and bias

`X C G L` is the same for all prompts and is computed once per image. The rest has rank heads * T. No prompt ever gets
N x dim tokens of its own. This only reorders the decoder's sums, so the results differ only by rounding. Also:

- The norm's scale is computed from |X C|^2, S and small products, without X'.
- Terms that are the same for all tokens or keys drop out of a softmax or are added once: biases, the sum of shares.
- The last attention serves only the tokens that are read. Only the wanted masks are computed, and only where the image
  is, not where it was padded.
- Transposed convolutions of stride 2 and size 2 are matrix products; the pixels are put in order at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsam.models.blocks import LayerNorm2d
from quantsam.models.decoder_products import (
    affine,
    after_attention,
    as_matrix,
    contribution,
    joined,
    low_rank,
    norm_scale,
    per_head,
    project_keys_and_values,
    project_queries,
    tables,
)
from quantsam.models.mask_decoder import MaskDecoder, TwoWayBlock
from quantsam.models.prompt_encoder import PromptEncoder

PROMPTS_AT_ONCE = 8  # their own tokens are computed together; each prompt meets the image on its own
_VALUES_AT_ONCE = 1 << 17  # in the up-scaling, so that its tensors fit the cache


@dataclass(frozen=True, slots=True)
class _Once:
    """The image after the first block, as one prompt sees it: `scale * (A + shares^T moved) G + b`."""

    shares: Tensor  # (R, N), R = heads * T
    moved: Tensor  # (R, dim), centred
    values: Tensor  # (heads, T, d), from which `moved` was made
    scale: Tensor  # (N,)


@dataclass(frozen=True, slots=True)
class _Twice:
    """The image after the second block: `scale * (first's + shares^T moved) G + b`."""

    first: _Once
    shares: Tensor  # (R, N)
    moved: Tensor  # (R, dim), centred
    scale: Tensor  # (N,)


class ImageDecoder:
    """Decodes prompts without a mask input, all on one image.

    Args:
        prompt_encoder: The model's prompt encoder.
        mask_decoder: The model's mask decoder; it is not changed.
        embedding: (1, dim, H, W) embedding of the image.
    """

    def __init__(self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder, embedding: Tensor) -> None:
        self._prompts, self._decoder = prompt_encoder, mask_decoder
        self._hw = (embedding.shape[-2], embedding.shape[-1])
        blocks = mask_decoder.transformer.layers
        assert len(blocks) == 2
        one, two = blocks
        assert isinstance(one, TwoWayBlock)
        assert isinstance(two, TwoWayBlock)
        last = mask_decoder.transformer.final_attn_token_to_image
        self._one, self._two, self._last = one, two, last
        dense = prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        image = (embedding + dense).flatten(2)[0]  # (dim, N)
        position = prompt_encoder.dense_position().flatten(2)[0].contiguous()
        down1, up1 = one.cross_attn_token_to_image, one.cross_attn_image_to_token
        down2, up2 = two.cross_attn_token_to_image, two.cross_attn_image_to_token

        # the first block reads the unchanged image: tables of (heads, d, N), values of (heads, N, d)
        self._keys1, queries = tables((down1.k_proj.weight, up1.q_proj.weight), image + position, down1.heads)
        self._queries1 = queries.add_(up1.q_proj.bias.view(up1.heads, -1, 1))
        (values,) = tables((down1.v_proj.weight,), image, down1.heads)
        self._values1 = values.transpose(1, 2)

        # A, what the first norm scales: centred. Shares sum to 1 per head, so the bias of their product counts once
        start = image + up1.out_proj.bias[:, None]
        start -= start.mean(0)
        self._gain1, self._gain2 = one.norm4.weight, two.norm4.weight
        gained = torch.diag(self._gain1)  # G1; G1 C, which the second norm scales; G1 C G2; each multiplies A
        centred = gained - gained.mean(0)
        twice = centred * self._gain2[:, None]
        back = self._gain1[:, None] * centred
        convolution = mask_decoder.output_upscaling[0]
        assert isinstance(convolution, nn.ConvTranspose2d)
        self._up_weight, up_bias = as_matrix(convolution)  # (dim, 4 * width)
        (
            self._start_out1,
            self._keys2,
            values2,
            self._queries2,
            self._gained_out1,
            self._gained_out2,
            self._keys3,
            values3,
        ) = tables(
            (
                up1.out_proj.weight.T,
                down2.k_proj.weight @ gained,
                down2.v_proj.weight @ gained,
                up2.q_proj.weight @ gained,
                up1.out_proj.weight.T @ (back - back.mean(0)),
                up2.out_proj.weight.T @ centred,
                last.k_proj.weight @ twice,
                last.v_proj.weight @ twice,
            ),
            start,
            last.heads,
        )
        self._values2, self._values3 = values2.transpose(1, 2), values3.transpose(1, 2)
        self._up_image = start.T @ (twice.T @ self._up_weight)  # (N, 4 * width)
        self._start_squared = start.square().sum(0)  # (N,)
        start *= self._gain1[:, None]
        start -= start.mean(0)
        self._gained_squared = start.square().sum(0)
        offset = one.norm4.bias + up2.out_proj.bias  # added before the second norm, the same for all tokens
        self._offset = offset - offset.mean()  # (dim,)
        self._gained_offset = self._offset @ start  # (N,)

        # contributions of the norms' biases and the position: independent of image and prompt
        bias1, bias2 = one.norm4.bias[:, None], two.norm4.bias[:, None]
        self._keys2_fixed, self._queries2_fixed, self._keys3_fixed = tables(
            (down2.k_proj.weight, up2.q_proj.weight, last.k_proj.weight), position, last.heads
        )
        self._keys2_fixed += (down2.k_proj.weight @ bias1).view(down2.heads, -1, 1)
        self._queries2_fixed += affine(up2.q_proj, bias1).view(up2.heads, -1, 1)
        self._keys3_fixed += (last.k_proj.weight @ bias2).view(last.heads, -1, 1)
        self._values2_fixed = affine(down2.v_proj, bias1).view(down2.heads, 1, -1)
        self._values3_fixed = affine(last.v_proj, bias2).view(last.heads, 1, -1)
        self._up_fixed = up_bias + two.norm4.bias @ self._up_weight

    @property
    def device(self) -> torch.device:
        """Device on which the decoder computes."""
        return self._keys1.device

    @property
    def low_size(self) -> int:
        """Side of the mask logits."""
        return 4 * self._hw[0]

    @torch.inference_mode()
    def decode(
        self,
        *,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        multimask: bool = True,
        best_only: bool = False,
        low_hw: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts in the prompt frame.

        Args:
            points: (B, N, 2) x y in pixels of the prompt frame, and (B, N) labels.
            boxes: (B, 4) x0 y0 x1 y1 in pixels of the prompt frame.
            multimask: Return three masks per prompt instead of one.
            best_only: Return only the mask of highest predicted IoU per prompt.
            low_hw: Number of rows and columns of the logits to compute, at most the default (4 H, 4 W).

        Returns:
            Mask logits (B, M, *low_hw) and predicted IoU (B, M).
        """
        sparse, _ = self._prompts(points, boxes, None)
        special = torch.cat([self._decoder.iou_token.weight, self._decoder.mask_tokens.weight])
        tokens = torch.cat([special.expand(len(sparse), -1, -1), sparse], dim=1)
        chosen = MaskDecoder.MULTI if multimask else MaskDecoder.SINGLE
        hw = low_hw or (4 * self._hw[0], 4 * self._hw[1])
        parts = [self._decode_part(part, chosen, best_only, hw) for part in torch.split(tokens, PROMPTS_AT_ONCE)]
        return torch.cat([masks for masks, _ in parts]), torch.cat([iou for _, iou in parts])

    def _decode_part(
        self, token_pe: Tensor, chosen: range, best_only: bool, low_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        one, two, last = self._one, self._two, self._last
        tokens = one.norm1(one.self_attn(token_pe, token_pe, token_pe))
        queries = project_queries(one.cross_attn_token_to_image, tokens + token_pe)
        tokens = after_attention(one, tokens, torch.stack([self._attend_first(one_prompt) for one_prompt in queries]))
        keys, values = project_keys_and_values(one.cross_attn_image_to_token, tokens, token_pe)
        images = [self._update_once(*pair) for pair in zip(keys, values, strict=True)]

        moved = tokens + token_pe
        tokens = two.norm1(tokens + two.self_attn(moved, moved, tokens))
        queries = project_queries(two.cross_attn_token_to_image, tokens + token_pe)
        attended = torch.stack([self._attend_second(*pair) for pair in zip(queries, images, strict=True)])
        tokens = after_attention(two, tokens, attended)
        keys, values = project_keys_and_values(two.cross_attn_image_to_token, tokens, token_pe)
        images2 = [self._update_twice(*triple) for triple in zip(keys, values, images, strict=True)]

        read = [0, *(1 + i for i in chosen)]  # the IoU token and the wanted masks'
        tokens, token_pe = tokens[:, read], token_pe[:, read]
        queries = project_queries(last, tokens + token_pe)
        attended = torch.stack([self._attend_last(*pair) for pair in zip(queries, images2, strict=True)])
        tokens = self._decoder.transformer.norm_final_attn(tokens + last.out_proj(attended))
        iou = self._decoder.iou_prediction_head(tokens[:, 0])[:, chosen.start : chosen.stop]
        mlps = self._decoder.output_hypernetworks_mlps
        hyper = torch.stack([mlps[i](tokens[:, 1 + row]) for row, i in enumerate(chosen)], dim=1)  # (B, M, dim / 8)
        if best_only:
            best = iou.argmax(1, keepdim=True)
            iou = iou.gather(1, best)
            hyper = hyper.take_along_dim(best[..., None], 1)
        return torch.stack([self._masks(*pair, low_hw) for pair in zip(images2, hyper, strict=True)]), iou

    def _attend_first(self, queries: Tensor) -> Tensor:
        """Return what one prompt's tokens (heads, T, d) get from the unchanged image: (T, inner)."""
        context = (queries @ self._keys1).softmax(-1) @ self._values1
        return joined(context) + self._one.cross_attn_token_to_image.v_proj.bias

    def _update_once(self, keys: Tensor, values: Tensor) -> _Once:
        """Let the image attend to one prompt's (heads, T, d) keys and values."""
        shares = (keys @ self._queries1).softmax(1).flatten(0, 1)
        moved = contribution(self._one.cross_attn_image_to_token, values)
        change = (2 * values @ self._start_out1).flatten(0, 1).addmm_(moved @ moved.T, shares)
        squared = self._start_squared + change.mul_(shares).sum(0)
        return _Once(shares, moved, values, norm_scale(self._one.norm4, squared))

    def _attend_second(self, queries: Tensor, image: _Once) -> Tensor:
        """Return what one prompt's tokens (heads, T, d) get from the image after the first block: (T, inner)."""
        attention = self._two.cross_attn_token_to_image
        gained = image.moved * self._gain1
        scores = self._scores_on_once(
            queries, image, gained @ attention.k_proj.weight.T, self._keys2, self._keys2_fixed
        )
        weights = scores.softmax(-1).mul_(image.scale)
        context = weights @ self._values2 + self._values2_fixed
        context += low_rank(weights, image.shares, gained @ attention.v_proj.weight.T)
        return joined(context)

    def _update_twice(self, keys: Tensor, values: Tensor, image: _Once) -> _Twice:
        """Let the image after the first block attend to one prompt's (heads, T, d) keys and values."""
        attention = self._two.cross_attn_image_to_token
        gained = image.moved * self._gain1
        scores = self._scores_on_once(
            keys, image, gained @ attention.q_proj.weight.T, self._queries2, self._queries2_fixed
        )
        shares = scores.softmax(1).flatten(0, 1)
        moved = contribution(attention, values)
        gained = gained - gained.mean(1, keepdim=True)
        # |r (A G + S^T M) + offset|^2 of the image after the first block ...
        own = (2 * image.values @ self._gained_out1).flatten(0, 1).addmm_(gained @ gained.T, image.shares)
        squared = self._gained_squared + own.mul_(image.shares).sum(0)
        with_offset = self._gained_offset + (gained @ self._offset) @ image.shares
        before = image.scale * (image.scale * squared + 2 * with_offset) + self._offset.square().sum()
        # ... and of what the second block adds to it
        change = (values @ self._gained_out2).flatten(0, 1).addmm_(moved @ gained.T, image.shares)
        change.mul_(2 * image.scale).add_((2 * (moved @ self._offset))[:, None])
        change.addmm_(moved @ moved.T, shares)
        after = before + change.mul_(shares).sum(0)
        return _Twice(image, shares, moved, norm_scale(self._two.norm4, after))

    def _scores_on_once(self, small: Tensor, image: _Once, projected: Tensor, table: Tensor, fixed: Tensor) -> Tensor:
        """Return (heads, T, N): prompt vectors times projected image tokens.

        Args:
            small: (heads, T, d).
            image: After the first block.
            projected: (R, inner), the image's moved rows behind gain and projection.
            table: (heads, d, N), the image's start behind gain and projection.
            fixed: (heads, d, N), the part that does not depend on the prompt.
        """
        low = (small @ per_head(projected, len(small))).flatten(0, 1)  # (heads * T, R)
        scores = (small @ table).flatten(0, 1).addmm_(low, image.shares).mul_(image.scale)
        return scores.view(*small.shape[:2], -1).baddbmm_(small, fixed)

    def _attend_last(self, queries: Tensor, image: _Twice) -> Tensor:
        """Return what the tokens that are read (heads, T, d) get from the image after both blocks: (T, inner)."""
        key, value = self._last.k_proj.weight.T, self._last.v_proj.weight.T
        first, heads = image.first, len(queries)
        gained1, gained2, offset = self._behind_second_gain(image)
        low1 = (queries @ per_head(gained1 @ key, heads)).flatten(0, 1)
        low2 = (queries @ per_head(gained2 @ key, heads)).flatten(0, 1)
        low3 = (queries @ per_head((offset @ key)[None], heads)).flatten(0, 1)  # (heads * T, 1)
        scores = (queries @ self._keys3).flatten(0, 1).addmm_(low1, first.shares).mul_(first.scale)
        scores = scores.addmm_(low2, image.shares).add_(low3).mul_(image.scale)
        weights2 = scores.view(*queries.shape[:2], -1).baddbmm_(queries, self._keys3_fixed).softmax(-1)
        weights2.mul_(image.scale)
        weights1 = weights2 * first.scale
        context = weights1 @ self._values3 + self._values3_fixed
        context += low_rank(weights1, first.shares, gained1 @ value)
        context += low_rank(weights2, image.shares, gained2 @ value)
        context += weights2.sum(-1, keepdim=True) * per_head((offset @ value)[None], heads).transpose(1, 2)
        return joined(context)

    def _behind_second_gain(self, image: _Twice) -> tuple[Tensor, Tensor, Tensor]:
        """Return both blocks' moved rows, (R, dim) each, and the offset (dim,), behind the second norm's gain."""
        gained = image.first.moved * self._gain1
        gained = gained - gained.mean(1, keepdim=True)
        return gained * self._gain2, image.moved * self._gain2, self._offset * self._gain2

    def _masks(self, image: _Twice, hyper: Tensor, low_hw: tuple[int, int]) -> Tensor:
        """Up-scale the image's tokens fourfold and read masks off them with (M, dim / 8): (M, *low_hw)."""
        up: nn.Sequential = self._decoder.output_upscaling
        norm, second = up[1], up[3]
        assert isinstance(norm, LayerNorm2d)
        assert isinstance(second, nn.ConvTranspose2d)
        weight, bias = as_matrix(second)
        height, width = (-(-side // 4) for side in low_hw)
        first = image.first
        rows = torch.cat([*self._behind_second_gain(image)[:2], self._offset[None] * self._gain2]) @ self._up_weight
        scale = image.scale * first.scale
        factors = torch.cat([first.shares * scale, image.shares * image.scale, image.scale[None]])  # (2 R + 1, N)
        factors, start, scale = (
            factors.view(-1, *self._hw)[:, :height, :width].flatten(1),
            self._up_image.view(*self._hw, -1)[:height, :width].flatten(0, 1),
            scale.view(self._hw)[:height, :width].flatten()[:, None],
        )
        masks = hyper.new_empty(len(hyper), height * width, 16)
        at_once = max(1, _VALUES_AT_ONCE // rows.shape[1])
        for begin in range(0, height * width, at_once):
            part = slice(begin, begin + at_once)
            x = torch.addmm(self._up_fixed, factors[:, part].T, rows).addcmul_(start[part], scale[part])
            x = F.layer_norm(x.view(-1, len(norm.weight)), norm.weight.shape, norm.weight, norm.bias, norm.eps)
            x = F.gelu(torch.addmm(bias, F.gelu(x), weight)).view(-1, hyper.shape[1])
            masks[:, part] = (hyper @ x.T).view(len(hyper), -1, 16)
        # the 16 pixels of a token: row and column of the first convolution, then of the second
        pixels = masks.view(-1, height, width, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return pixels.reshape(-1, 4 * height, 4 * width)[:, : low_hw[0], : low_hw[1]]
