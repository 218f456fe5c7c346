"""Export prompt encoder and mask decoder as one float ONNX graph, for any number of prompts and points."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from quantsam.engines.onnx_graph import FLOAT, Graph
from quantsam.models.mask_decoder import Attention, MaskDecoder, TwoWayBlock
from quantsam.models.sam import EfficientViTSam

EMBEDDING, POINTS, LABELS, MASKS, IOU = "embedding", "points", "labels", "masks", "predicted_iou"
_KINDS = 5  # padding, off, on, top left, bottom right


def decoder_to_onnx(model: EfficientViTSam) -> onnx.ModelProto:
    """Return prompt encoder and mask decoder as an ONNX model.

    Inputs: `embedding`, float32 (1, C, H, W), for one image; `points`, float32 (B, N, 2), x y in pixels of the prompt
    frame; `labels`, int64 (B, N): 1 on the object, 0 off it, 2 and 3 the corners of a box, -1 padding. A prompt without
    a box ends with a padding point, as in SAM's prompt encoder.

    Outputs: `masks`, float32 logits (B, 4, 4 H, 4 W), where the first mask is for unambiguous prompts, and
    `predicted_iou`, float32 (B, 4).
    """
    writer = _Writer(model)
    with torch.inference_mode():
        writer.write()
    variant = model.variant
    side = variant.embed_size
    return writer.graph.model(
        f"efficientvit_sam_{model.name}_decoder",
        {
            EMBEDDING: (FLOAT, (1, variant.embed_dim, side, side)),
            POINTS: (FLOAT, ("B", "N", 2)),
            LABELS: (TensorProto.INT64, ("B", "N")),
        },
        {
            MASKS: (FLOAT, ("B", MaskDecoder.NUM_MASKS, 4 * side, 4 * side)),
            IOU: (FLOAT, ("B", MaskDecoder.NUM_MASKS)),
        },
        {"quantsam.model": model.name},
    )


class _Writer:
    """Writes the decoder; an image's tokens are (1 or B, H W, C), a prompt's (B, T, C)."""

    def __init__(self, model: EfficientViTSam) -> None:
        self.graph = Graph()
        self._model = model
        self._count = 0

    def write(self) -> None:
        variant, decoder = self._model.variant, self._model.mask_decoder
        pe, dense = self._model.prompt_encoder.dense_position(), self._model.prompt_encoder.no_mask_embed.weight
        flat = self._op("Reshape", EMBEDDING, self.graph.shared([1, variant.embed_dim, variant.embed_size**2]))
        image = self._op("Transpose", flat, perm=[0, 2, 1])
        image = self._op("Add", image, self._constant(dense[None]))
        image_pe = self._constant(pe.flatten(2).transpose(1, 2))
        token_pe = self._tokens()
        tokens = token_pe
        for block in decoder.transformer.layers:
            assert isinstance(block, TwoWayBlock)
            tokens, image = self._block(block, tokens, image, token_pe, image_pe)
        queries, keys = self._op("Add", tokens, token_pe), self._op("Add", image, image_pe)
        attended = self._attention(decoder.transformer.final_attn_token_to_image, queries, keys, image)
        tokens = self._norm(decoder.transformer.norm_final_attn, self._op("Add", tokens, attended))
        self._masks(decoder, tokens, image)

    def _tokens(self) -> str:
        """Embed prompts, and put them after the decoder's own tokens."""
        prompts, decoder, dim = self._model.prompt_encoder, self._model.mask_decoder, self._model.variant.embed_dim
        matrix = prompts.get_buffer("pe_layer.positional_encoding_gaussian_matrix")
        unit = self._op("Div", self._op("Add", POINTS, self._number(0.5)), self._number(prompts.prompt_size))
        centred = self._op("Sub", self._op("Mul", unit, self._number(2.0)), self._number(1.0))
        angles = self._op("MatMul", centred, self._constant(matrix))
        angles = self._op("Mul", angles, self._number(2 * math.pi))
        position = self._op("Concat", self._op("Sin", angles), self._op("Cos", angles), axis=-1)
        real = self._op("Cast", self._op("GreaterOrEqual", LABELS, self.graph.shared([0])), to=FLOAT)
        position = self._op("Mul", position, self._op("Unsqueeze", real, self.graph.shared([-1])))
        kinds = [prompts.not_a_point_embed, *prompts.point_embeddings]
        table = torch.cat([kind.get_parameter("weight") for kind in kinds])
        assert len(table) == _KINDS
        index = self._op("Add", LABELS, self.graph.shared([1]))
        points = self._op("Add", position, self._op("Gather", self._constant(table), index, axis=0))
        special = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        batch = self._op("Shape", POINTS, start=0, end=1)
        shape = self._op("Concat", batch, self.graph.shared([len(special), dim]), axis=0)
        return self._op("Concat", self._op("Expand", self._constant(special[None]), shape), points, axis=1)

    def _block(self, block: TwoWayBlock, tokens: str, image: str, token_pe: str, image_pe: str) -> tuple[str, str]:
        if block.first:
            tokens = self._attention(block.self_attn, tokens, tokens, tokens)
        else:
            moved = self._op("Add", tokens, token_pe)
            tokens = self._op("Add", tokens, self._attention(block.self_attn, moved, moved, tokens))
        tokens = self._norm(block.norm1, tokens)
        keys = self._op("Add", image, image_pe)
        attended = self._attention(block.cross_attn_token_to_image, self._op("Add", tokens, token_pe), keys, image)
        tokens = self._norm(block.norm2, self._op("Add", tokens, attended))
        hidden = self._op("Relu", self._linear(block.mlp.lin1, tokens))
        tokens = self._norm(block.norm3, self._op("Add", tokens, self._linear(block.mlp.lin2, hidden)))
        moved = self._op("Add", tokens, token_pe)
        attended = self._attention(block.cross_attn_image_to_token, keys, moved, tokens)
        return tokens, self._norm(block.norm4, self._op("Add", image, attended))

    def _attention(self, module: Attention, q: str, k: str, v: str) -> str:
        inner = module.q_proj.out_features
        size = inner // module.heads

        def heads(projection: nn.Linear, x: str, perm: list[int]) -> str:
            split = self._op("Reshape", self._linear(projection, x), self.graph.shared([0, -1, module.heads, size]))
            return self._op("Transpose", split, perm=perm)

        query = self._op("Mul", heads(module.q_proj, q, [0, 2, 1, 3]), self._number(1 / math.sqrt(size)))
        scores = self._op("MatMul", query, heads(module.k_proj, k, [0, 2, 3, 1]))
        context = self._op("MatMul", self._op("Softmax", scores, axis=-1), heads(module.v_proj, v, [0, 2, 1, 3]))
        joined = self._op("Transpose", context, perm=[0, 2, 1, 3])
        return self._linear(module.out_proj, self._op("Reshape", joined, self.graph.shared([0, -1, inner])))

    def _masks(self, decoder: MaskDecoder, tokens: str, image: str) -> None:
        """Up-scale the image's tokens with two products each, and compute the masks from them."""
        up: Any = decoder.output_upscaling
        side, masks = self._model.variant.embed_size, MaskDecoder.NUM_MASKS
        x = self._transposed_convolution(up[0], image)
        x = self._op("Reshape", x, self.graph.shared([0, side * side, 4, up[0].out_channels]))
        x = self._op("Gelu", self._norm(up[1], x))
        x = self._op("Gelu", self._transposed_convolution(up[3], x))
        x = self._op("Reshape", x, self.graph.shared([0, side * side * 16, up[3].out_channels]))
        own = self._op("Slice", tokens, *(self.graph.shared([n]) for n in (1, 1 + masks, 1)))
        hyper = self._op("Unsqueeze", own, self.graph.shared([2]))  # (B, M, 1, C)
        mlps: list[Any] = [mlp.layers for mlp in decoder.output_hypernetworks_mlps]
        for layer in range(3):
            weight = torch.stack([layers[layer].weight.T for layers in mlps])
            bias = torch.stack([layers[layer].bias[None] for layers in mlps])
            hyper = self._op("Add", self._op("MatMul", hyper, self._constant(weight)), self._constant(bias))
            hyper = self._op("Relu", hyper) if layer < 2 else hyper
        hyper = self._op("Transpose", self._op("Squeeze", hyper, self.graph.shared([2])), perm=[0, 2, 1])
        x = self._op("MatMul", x, hyper)  # (B, H W 16, M)
        # the 16 pixels of a token: row and column of the first convolution, then of the second
        x = self._op("Reshape", x, self.graph.shared([0, side, side, 2, 2, 2, 2, masks]))
        x = self._op("Transpose", x, perm=[0, 7, 1, 3, 5, 2, 4, 6])
        self.graph.add("Reshape", [x, self.graph.shared([0, masks, 4 * side, 4 * side])], MASKS)
        first = self._op("Gather", tokens, self.graph.constant("iou_token", np.asarray(0, np.int64)), axis=1)
        layers: Any = decoder.iou_prediction_head.layers
        first = self._op("Relu", self._linear(layers[0], first))
        first = self._op("Relu", self._linear(layers[1], first))
        self.graph.add("Identity", [self._linear(layers[2], first)], IOU)

    def _transposed_convolution(self, conv: Any, x: str) -> str:
        """Apply a convolution with kernel and stride 2 to tokens (..., in): (..., 4 out), row, column, channel."""
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
        return self._op("Add", self._op("MatMul", x, self._constant(weight)), self._constant(conv.bias.repeat(4)))

    def _linear(self, module: nn.Linear, x: str) -> str:
        product = self._op("MatMul", x, self._constant(module.weight.T))
        return self._op("Add", product, self._constant(module.bias))

    def _norm(self, norm: nn.LayerNorm, x: str) -> str:
        weight, bias = self._constant(norm.weight), self._constant(norm.bias)
        return self._op("LayerNormalization", x, weight, bias, axis=-1, epsilon=norm.eps)

    def _op(self, op: str, *inputs: str, **attributes: Any) -> str:
        self._count += 1
        return self.graph.add(op, inputs, f"{op}{self._count}", **attributes)

    def _number(self, value: float) -> str:
        return self.graph.shared(float(value))

    def _constant(self, value: Tensor) -> str:
        self._count += 1
        array: NDArray[np.float32] = value.detach().cpu().float().contiguous().numpy()
        return self.graph.constant(f"weight{self._count}", array)
