"""Export a plan as an ONNX graph, with the plan's scales and zero points, and weights as integers.

Every value at a site has the site's name, `stage3:4:2/input`; its codes are named `stage3:4:2/input:codes`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from quantsam.engines.onnx_formats import WIDENED, codes_tensor, storage_type, zero_point_tensor
from quantsam.engines.onnx_graph import FLOAT, Graph
from quantsam.files import atomic_write
from quantsam.models.blocks import Conv2d, LayerNorm2d, LinearAttentionCore
from quantsam.models.encoder import ImageEncoder, UpSample
from quantsam.models.references import Attention, Block, Chain, Convolution
from quantsam.models.sam import EfficientViTSam
from quantsam.models.structure import sides_of, structure_of
from quantsam.plans.biases import corrected_biases, integer_biases
from quantsam.plans.layers import discover_layers
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan, PlanSite
from quantsam.plans.prepare import prepare, weight_codes
from quantsam.quant.params import QParams

INPUT, OUTPUT = "image", "embedding"


def encoder_to_onnx(model: EfficientViTSam, plan: Plan) -> onnx.ModelProto:
    """Return a calibrated plan as an ONNX model.

    The input is `image`, float32 (N, 3, S, S), normalized. The output is `embedding`, float32 (N, embed_dim,
    embed_size, embed_size). Without optimizations, the graph computes the same as `simulate`.

    Args:
        model: The model the plan was made for.
        plan: A calibrated plan; or a plan without sites, for the float model.

    Raises:
        PlanError: The plan is not calibrated, was made for another model, or has a format that ONNX does not support.
    """
    plan.check_calibrated()
    encoder = prepare(model, plan)
    writer = EncoderWriter(encoder, plan)
    with torch.inference_mode():
        writer.write(encoder)
    variant = encoder.variant
    side, embedding = variant.input_size, (variant.embed_dim, variant.embed_size, variant.embed_size)
    metadata = {
        "quantsam.model": plan.model,
        "quantsam.scheme": plan.scheme,
        "quantsam.placement": plan.placement,
        "quantsam.plan_digest": plan.digest,
        "quantsam.encoder_digest": plan.encoder_digest,
    }
    return writer.graph.model(
        f"efficientvit_sam_{plan.model}_encoder",
        {INPUT: (FLOAT, ("N", 3, side, side))},
        {OUTPUT: (FLOAT, ("N", *embedding))},
        metadata,
    )


def save_onnx(model: onnx.ModelProto, path: str | os.PathLike[str]) -> Path:
    """Write a model to a file, completely or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    content = io.BytesIO()
    onnx.save_model(model, content)
    with atomic_write(Path(path)) as aside:
        aside.write_bytes(content.getvalue())
    return Path(path)


class EncoderWriter:
    """Writes an encoder's modules in the order of the forward pass."""

    def __init__(self, encoder: ImageEncoder, plan: Plan) -> None:
        self.graph = Graph()
        self._encoder = encoder
        self._sites = {site.path: site for site in plan.sites}
        self._biases, self._corrected = integer_biases(plan, encoder), corrected_biases(plan, encoder)
        self._scales_in_rounding = get_placement(plan.placement).scales_in_rounding
        self._labels = dict(_labels(encoder))
        self._sides = sides_of(encoder)
        self._grids: dict[tuple[object, ...], tuple[str, str]] = {}

    def label(self, path: str) -> str:
        """Return the prefix of a convolution's value names."""
        return self._labels[path]

    def write(self, encoder: ImageEncoder) -> None:
        """Write the whole encoder, from `image` to `embedding`."""
        structure = structure_of(encoder)
        features: list[str] = []
        x = INPUT
        for blocks in structure.stages:
            x = self._blocks(blocks, x)
            features.append(x)
        inputs = [
            self._up_sample(entry.up_sample, self._blocks([entry.block], features[entry.stage]))
            for entry in structure.neck_inputs
        ]
        x = inputs[-1]
        for index, other in enumerate(reversed(inputs[:-1])):
            x = self.graph.add("Add", [other, x], f"neck.sum{index}")
        x = self._blocks([*structure.neck_middle, structure.neck_output], x)
        y = self._layer_norm(encoder.norm, "norm", x)
        self.graph.add("Identity", [y], OUTPUT)

    def _blocks(self, blocks: Iterable[Block], x: str) -> str:
        for part in (part for block in blocks for part in block.parts):
            y = self._chain(part, x) if isinstance(part, Chain) else self._attention(part, x)
            x = self.graph.add("Add", [y, self._site(part.shortcut_site, x)], part.path) if part.shortcut else y
        return x

    def _chain(self, chain: Chain, x: str) -> str:
        for conv in chain.convolutions:
            x = self._convolution(conv, x)
        return x

    def _convolution(self, conv: Convolution, x: str) -> str:
        """Write a convolution and the operations that follow it."""
        x = self.conv(conv.conv, x)
        if conv.norm is not None:
            x = self._site(conv.norm_site, self._batch_norm(conv.norm, x))
        if conv.act is not None:
            x = self.graph.add("Gelu", [x], conv.act, approximate="tanh")
            x = self._site(conv.act_site, x)
        return x

    def conv(self, path: str, x: str, *, scales_output: bool = True) -> str:
        """Write a `Conv2d` between its two sites and return the name of its output.

        Args:
            path: Path of the convolution.
            x: Name of the input.
            scales_output: Whether to multiply the output by a repair's factors after its site.
        """
        conv, label = self._encoder.get_submodule(path), self._labels[path]
        assert isinstance(conv, Conv2d)
        before, after = (None if scale is None else scale.factors for scale in (conv.input_scale, conv.output_scale))
        inputs = [self._site(f"{path}.input_site", x, before=before), self._weight(conv, path, label)]
        if path in self._biases:
            bias = self._biases[path]
            codes = self.graph.constant(f"{label}bias:codes", bias.codes.cpu().numpy())
            scale = self.graph.constant(f"{label}bias:scale", bias.scale.cpu().numpy())
            inputs.append(self.graph.add("DequantizeLinear", [codes, scale], f"{label}bias", axis=0))
        elif (float_bias := self._corrected.get(path, conv.bias)) is not None:
            inputs.append(self.graph.constant(f"{label}bias", _numpy(float_bias)))
        pad, stride, kernel = int(conv.padding[0]), conv.stride[0], conv.kernel_size[0]
        y = self.graph.add(
            "Conv",
            inputs,
            f"{label}convolution",
            group=conv.groups,
            kernel_shape=[kernel] * 2,
            pads=[pad] * 4,
            strides=[stride] * 2,
        )
        return self._site(f"{path}.conv_site", y, after=after if scales_output else None)

    def _weight(self, conv: Conv2d, path: str, label: str) -> str:
        site = self._sites.get(path)
        if site is None:
            return self.graph.constant(f"{label}weight", _numpy(conv.weight))
        params = site.grid
        codes = weight_codes(self._encoder, site)
        kind = storage_type(site)
        name = self.graph.tensor(codes_tensor(f"{site.key}:codes", _codes(codes), kind))
        scale, zero_point = self._grid(site)
        if kind in WIDENED:  # stored with 4 bits, computed with 8
            name = self.graph.add("Cast", [name], f"{site.key}:codes8", to=WIDENED[kind])
            zero_point = self.graph.add("Cast", [zero_point], f"{site.key}:zero_point8", to=WIDENED[kind])
        return self.graph.add("DequantizeLinear", [name, scale, zero_point], site.key, **_axis(params))

    def _site(self, path: str, x: str, *, before: Tensor | None = None, after: Tensor | None = None) -> str:
        """Return `x`, rounded if the plan quantizes the site.

        Args:
            path: Path of the site.
            x: Name of the value.
            before: (C,) powers of two that multiply the channels before rounding: part of the quantization scale.
            after: (C,) powers of two that multiply the channels after rounding: part of the dequantization scale.
        """
        site = self._sites.get(path)
        is_scaled = before is not None or after is not None
        if site is None or (is_scaled and not self._scales_in_rounding):
            x = x if before is None else self._scaled(path, x, before)
            x = x if site is None else self._site(path, x)
            return x if after is None else self._scaled(path, x, after)
        plain = self._grid_of(x, site) if before is None or after is None else ("", "")
        into = plain if before is None else self._grid(site, "to", 1 / before.cpu())
        out = plain if after is None else self._grid(site, "from", after.cpu())
        codes = self.graph.add("QuantizeLinear", [x, *into], f"{site.key}:codes", **_axis(site.grid, before))
        return self.graph.add("DequantizeLinear", [codes, *out], site.key, **_axis(site.grid, after))

    def _scaled(self, path: str, x: str, factors: Tensor) -> str:
        constant = self.graph.constant(f"{path}.factors", factors.cpu().reshape(1, -1, 1, 1).numpy())
        return self.graph.add("Mul", [x, constant], f"{path}.scaled")

    def _grid_of(self, x: str, site: PlanSite) -> tuple[str, str]:
        """Return the names of a site's scale and zero point, shared by all sites of a value with the same grid.

        Engines merge roundings with the same names, and add in integers if a sum is rounded once.
        """
        grid = site.grid.to("cpu")
        content = (x, storage_type(site), grid.axis, grid.scale.numpy().tobytes(), grid.zero_point.numpy().tobytes())
        if content not in self._grids:
            self._grids[content] = self._grid(site)
        return self._grids[content]

    def _grid(self, site: PlanSite, name: str = "", factors: Tensor | None = None) -> tuple[str, str]:
        """Return the names of a site's scale and zero point; with factors, the scale is multiplied per channel."""
        params, kind = site.grid.to("cpu"), storage_type(site)
        scale, zero_point = params.scale, params.zero_point
        if factors is not None:
            scale, zero_point = scale * factors, zero_point.expand(len(factors))
        key = f"{site.key}:{name}_" if name else f"{site.key}:"
        points = zero_point_tensor(f"{key}zero_point", zero_point.numpy(), kind)
        return self.graph.constant(f"{key}scale", scale.numpy()), self.graph.tensor(points)

    def _batch_norm(self, path: str, x: str) -> str:
        norm = self._encoder.get_submodule(path)
        assert isinstance(norm, nn.BatchNorm2d)
        names = ("weight", "bias", "running_mean", "running_var")
        constants = [self.graph.constant(f"{path}.{name}", _numpy(getattr(norm, name))) for name in names]
        return self.graph.add("BatchNormalization", [x, *constants], path, epsilon=norm.eps)

    def _layer_norm(self, norm: LayerNorm2d, path: str, x: str) -> str:
        last = self.graph.add("Transpose", [x], f"{path}.channels_last", perm=[0, 2, 3, 1])
        weight = self.graph.constant(f"{path}.weight", _numpy(norm.weight))
        bias = self.graph.constant(f"{path}.bias", _numpy(norm.bias))
        y = self.graph.add("LayerNormalization", [last, weight, bias], path, axis=-1, epsilon=norm.eps)
        return self.graph.add("Transpose", [y], f"{path}.channels_first", perm=[0, 3, 1, 2])

    def _up_sample(self, path: str, x: str) -> str:
        module = self._encoder.get_submodule(path)
        assert isinstance(module, UpSample)
        scale = module.size / self._sides[path]
        if scale == 1:
            return x
        return self.graph.add(
            "Resize",
            [x, "", self.graph.shared([1.0, 1.0, scale, scale])],
            path,
            mode="cubic",
            cubic_coeff_a=-0.75,
            coordinate_transformation_mode="half_pixel",
        )

    def _attention(self, part: Attention, x: str) -> str:
        qkv = self._convolution(part.qkv, x)
        parts = [qkv]
        for branch in part.branches:
            y = qkv
            for conv in branch:
                y = self._convolution(conv, y)
            parts.append(y)
        joined = self.graph.add("Concat", parts, f"{part.main}.concat", axis=1)
        core = self._encoder.get_submodule(part.core)
        assert isinstance(core, LinearAttentionCore)
        proj = self._encoder.get_submodule(part.proj.conv)
        assert isinstance(proj, Conv2d)
        heads = proj.in_channels // core.dim
        return self._convolution(part.proj, self._core(core, part.core, joined, heads))

    def _core(self, core: LinearAttentionCore, path: str, qkv: str, heads: int) -> str:
        """Write linear attention as in `LinearAttentionCore`; (N, heads, dim, H*W) between the reshapes."""
        graph, dim, side = self.graph, core.dim, self._sides[path]

        def site(name: str, x: str) -> str:
            return self._site(f"{path}.sites.{name}", x)

        split = graph.add("Reshape", [qkv, graph.shared([0, heads, 3 * dim, side * side])], f"{path}.heads")
        q = graph.add("Split", [split, graph.shared([dim, dim, dim])], f"{path}.qkv", outputs=3, axis=2)
        q, k, v = site("q", q), site("k", f"{q}:1"), site("v", f"{q}:2")
        q = site("relu_q", graph.add("Relu", [q], f"{path}.relu_q"))
        k = site("relu_k", graph.add("Relu", [k], f"{path}.relu_k"))
        with_ones = graph.add("Pad", [v, graph.shared([0, 0, 0, 0, 0, 0, 1, 0]), graph.shared(1.0)], f"{path}.ones")
        transposed = graph.add("Transpose", [k], f"{path}.k_transposed", perm=[0, 1, 3, 2])
        kv = site("kv", graph.add("MatMul", [with_ones, transposed], f"{path}.kv"))
        out = site("unnormalized", graph.add("MatMul", [kv, q], f"{path}.unnormalized"))
        out = graph.add("Split", [out, graph.shared([dim, 1])], f"{path}.sums", outputs=2, axis=2)
        sums = graph.add("Add", [f"{out}:1", graph.shared(core.eps)], f"{path}.sums_eps")
        out = site("out", graph.add("Div", [out, sums], f"{path}.normalized"))
        return graph.add("Reshape", [out, graph.shared([0, heads * dim, side, side])], f"{path}.joined")


def _labels(encoder: ImageEncoder) -> Iterator[tuple[str, str]]:
    """Yield the path of every convolution and the prefix of its value names."""
    for layer in discover_layers(encoder):
        for site in layer.sites:
            if site.role == "weight":
                yield site.path, f"{layer.address}/{site.branch}"


def _numpy(x: Tensor | nn.Module) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    assert isinstance(x, Tensor)
    return x.detach().cpu().float().numpy()


def _codes(codes: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    return (codes.view(torch.uint8) if codes.is_floating_point() else codes).cpu().numpy()


def _axis(params: QParams, factors: Tensor | None = None) -> dict[str, Any]:
    if factors is not None:
        return {"axis": 1}
    return {} if params.axis is None else {"axis": params.axis}
