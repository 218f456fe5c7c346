"""Boxes a second: our decoding against one box at a time, as the official evaluation does it; and how the masks agree.

    python benchmarks/decoder.py [--models l0 nano] [--boxes 32 7] [--rounds 5]

Two references ask for three masks of one box, up-sample all three to the 1024-pixel frame and on to the picture, and
take the best: `official` with the official decoder's own arithmetic (attention and norms written out, the position
added where it is used), `plain` with our `MaskDecoder`, which leaves these to PyTorch's fused operations. All start
from the same embedding; ours includes what it prepares once an image. COCO has seven boxes an image. Target: at least
2.5 times, masks of the same IoU to 0.9999. L0's weights are random, which changes no time.
"""

from __future__ import annotations

import argparse
import copy
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import interleaved_ms, save
from numpy.typing import NDArray
from torch import Tensor

import quantsam as qs
from quantsam.data.scenes import make_scene
from quantsam.evaluation.prompts import answer_boxes
from quantsam.memory import keep_freed_memory
from quantsam.metrics.iou import mask_iou
from quantsam.models.blocks import LayerNorm2d
from quantsam.models.mask_decoder import Attention, TwoWayBlock
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.geometry import scaled_hw
from quantsam.prediction.transforms import preprocess, scale_coordinates

HW = (480, 640)


class _Attention(Attention):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (
            y.reshape(*y.shape[:2], self.heads, -1).transpose(1, 2)
            for y in (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        )
        scores = q @ k.permute(0, 1, 3, 2)
        weights = torch.softmax(scores / math.sqrt(q.shape[-1]), dim=-1)
        y: Tensor = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        return y


class _LayerNorm2d(LayerNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class _TwoWayBlock(TwoWayBlock):
    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, image + image_pe, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = image + self.cross_attn_image_to_token(image + image_pe, tokens + token_pe, tokens)
        return tokens, self.norm4(image)


def as_official(model: EfficientViTSam) -> EfficientViTSam:
    """Return a copy whose mask decoder computes as the official one does."""
    model = copy.deepcopy(model)
    written_out = {Attention: _Attention, LayerNorm2d: _LayerNorm2d, TwoWayBlock: _TwoWayBlock}
    for module in model.mask_decoder.modules():
        module.__class__ = written_out.get(type(module), type(module))
    return model


@torch.inference_mode()
def one_at_a_time(model: EfficientViTSam, embedding: Tensor, boxes: Tensor) -> list[NDArray[np.bool_]]:
    """Return the best mask of each box, one box at a time."""
    size = model.variant.prompt_size
    height, width = scaled_hw(HW, size)
    found = []
    for box in scale_coordinates(boxes.reshape(-1, 2, 2), HW, size).reshape(-1, 1, 4):
        low, iou = model.decode(embedding, boxes=box)
        full = F.interpolate(low, (size, size), mode="bilinear", align_corners=False)[..., :height, :width]
        masks = F.interpolate(full, HW, mode="bilinear", align_corners=False)[0] > 0
        found.append(masks[int(iou.argmax())].numpy())
    return found


def measure(name: str, count: int, rounds: int) -> dict[str, Any]:
    """Return times, ratios and agreement of one model."""
    torch.manual_seed(0)
    model = qs.load_model("nano") if name == "nano" else qs.create_model(name)
    official = as_official(model)
    image = np.ascontiguousarray(make_scene(0, size=640).image[: HW[0]])
    with torch.inference_mode():
        embedding = model.image_encoder(preprocess(image, model.variant.input_size))
    corners = torch.rand(count, 2) * torch.tensor([400.0, 300.0])
    boxes = torch.cat([corners, corners + 20 + torch.rand(count, 2) * torch.tensor([200.0, 150.0])], dim=1)
    rows = [tuple(box) for box in boxes.tolist()]

    def ours() -> list[NDArray[np.bool_]]:
        predictor = qs.Predictor(model)
        predictor.set_embedding(embedding, HW)  # what is computed once an image counts too
        return [answer.mask for answer in answer_boxes(predictor, rows)]

    times = interleaved_ms(
        {
            "official_ms": lambda: one_at_a_time(official, embedding, boxes),
            "plain_ms": lambda: one_at_a_time(model, embedding, boxes),
            "ours_ms": ours,
        },
        rounds,
    )
    pairs = zip(one_at_a_time(official, embedding, boxes), ours(), strict=True)
    ious = [1.0 if not (a.any() or b.any()) else mask_iou(a, b) for a, b in pairs]
    result = {
        "model": name,
        "boxes": count,
        **{f"{key}_a_box": value / count for key, value in times.items()},
        "ratio_to_official": times["official_ms"] / times["ours_ms"],
        "ratio_to_plain": times["plain_ms"] / times["ours_ms"],
        "mean_iou": float(np.mean(ious)),
        "least_iou": float(np.min(ious)),
    }
    print({key: round(value, 5) if isinstance(value, float) else value for key, value in result.items()})
    return result


def main() -> None:
    """Measure every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["l0", "nano"])
    parser.add_argument("--boxes", nargs="+", type=int, default=[32, 7])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    keep_freed_memory()  # as the command line does; for all three
    rows = [measure(name, count, args.rounds) for name in args.models for count in args.boxes]
    save("decoder", {"threads": torch.get_num_threads(), "rounds": args.rounds, "rows": rows})


if __name__ == "__main__":
    main()
