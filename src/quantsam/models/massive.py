"""Give massive positions to a model that has none: nearly the same function in float, but much harder to quantize.

In large models, a whole stream is hundreds of times as large at a few positions as elsewhere (Sun et al., 2024,
arXiv:2402.17762). All channels are large at these positions, so no scale per channel undoes them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantsam.errors import InputError
from quantsam.models.encoder import ImageEncoder
from quantsam.models.references import Chain
from quantsam.models.sam import EfficientViTSam
from quantsam.models.structure import Stream, Structure, structure_of

SPARE = 1 / 6  # share of a block's hidden channels, the least important ones; one of them becomes the detector
PEAK = 8.0  # output of the detector at its largest position
THRESHOLD = 3  # the detector begins to fire at the value of the position with this rank by size


@torch.no_grad()
def with_massive_positions(model: EfficientViTSam, images: Tensor, *, ratio: float = 200.0) -> EfficientViTSam:
    """Return a copy of a model whose residual streams are `ratio` times as large at a few positions of an image.

    An unimportant hidden channel fires at these positions. Its block then adds a vector to the stream there, in the
    direction in which the stream varies least; the vector lies in all channels. The readers' weights lose this
    direction, so they do not see the vector.

    Args:
        model: A float model; it is not changed.
        images: (N, 3, S, S) float32, preprocessed. Directions and thresholds are found on them.
        ratio: Size of the added vector, in units of each channel's root mean square.

    Raises:
        InputError: There are no images, or `ratio` is not above 1.
    """
    if not len(images) or ratio <= 1:
        raise InputError(f"massive positions need images and a ratio above 1, got {len(images)} and {ratio}")
    hard = copy.deepcopy(model)
    encoder = hard.float_encoder
    structure = structure_of(encoder)
    for stream in structure.streams:
        detector = _writer_with_hidden_channels(structure, stream)
        if detector is not None:
            _add(encoder, stream, detector, images, ratio)
    return hard


def _writer_with_hidden_channels(structure: Structure, stream: Stream) -> Chain | None:
    parts = (part for block in structure.blocks for part in block.parts)
    chains = (part for part in parts if isinstance(part, Chain) and len(part.convolutions) > 1)
    return next((chain for chain in chains if chain.convolutions[-1] in stream.writers), None)


def _add(encoder: ImageEncoder, stream: Stream, chain: Chain, images: Tensor, ratio: float) -> None:
    direction = _least_direction(encoder, stream, images)
    hidden, last = chain.convolutions[-2:]
    number, threshold, gain = _detector(encoder, chain, images)
    before = encoder.get_submodule(hidden.norm or hidden.conv)
    weight, bias = before.get_parameter("weight"), before.get_parameter("bias")
    weight[number] *= gain
    bias[number] = (bias[number] - threshold) * gain
    written = direction.written * ratio / PEAK
    if last.norm:
        norm = encoder.get_submodule(last.norm)
        assert isinstance(norm, nn.BatchNorm2d)
        written = written * (norm.get_buffer("running_var") + norm.eps).sqrt() / norm.weight
    weight = encoder.get_submodule(last.conv).get_parameter("weight")
    weight[:, number] = 0
    weight[:, number, weight.shape[2] // 2, weight.shape[3] // 2] = written
    for reader in stream.readers:
        weight = encoder.get_submodule(reader.conv).get_parameter("weight")
        seen = torch.einsum("oikl,i->okl", weight, direction.written).unsqueeze(1)
        weight.sub_(seen * direction.read.reshape(1, -1, 1, 1))


@dataclass(frozen=True)
class _Direction:
    """A direction of a stream: the vector to write, and the vector that measures it, (C,) each; their product is 1."""

    written: Tensor
    read: Tensor


def _least_direction(encoder: ImageEncoder, stream: Stream, images: Tensor) -> _Direction:
    seen = _record(encoder, {r.conv: _input for r in stream.readers}, images)
    x = torch.cat([values.movedim(1, -1).flatten(0, 2) for values in seen.values()]).double()  # (positions, C)
    size = x.square().mean(0).sqrt()
    x = x / size
    vector = torch.linalg.eigh(x.T @ x).eigenvectors[:, 0]
    wide = math.sqrt(len(vector))
    return _Direction((size * vector * wide).float(), (vector / wide / size).float())


def _detector(encoder: ImageEncoder, chain: Chain, images: Tensor) -> tuple[int, float, float]:
    """Return a hidden channel, the value above which it fires, and the gain with which it then reaches `PEAK`."""
    hidden, last = chain.convolutions[-2:]
    assert hidden.act is not None
    before = hidden.norm or hidden.conv
    z = _record(encoder, {before: _output}, images)[before]
    size = encoder.get_submodule(hidden.act)(z).square().mean((0, 2, 3)).sqrt()
    importance = encoder.get_submodule(last.conv).get_parameter("weight").abs().sum((0, 2, 3)) * size
    top = z.flatten(2).topk(THRESHOLD, dim=2).values  # (N, hidden, THRESHOLD)
    stands_out = ((top[:, :, 0] - top[:, :, -1]) / z.std((0, 2, 3))).median(0).values.nan_to_num(0)
    spare = importance.argsort()[: max(4, round(SPARE * len(importance)))]
    number = int(spare[stands_out[spare].argmax()])
    threshold = float(top[:, number, -1].median())
    above = float((top[:, number, 0] - threshold).clamp(min=0).mean())
    return number, threshold, PEAK / max(above, 1e-3)


def _input(inputs: Sequence[Tensor], output: Tensor) -> Tensor:
    return inputs[0]


def _output(inputs: Sequence[Tensor], output: Tensor) -> Tensor:
    return output


def _record(
    encoder: ImageEncoder, wanted: Mapping[str, Callable[[Sequence[Tensor], Tensor], Tensor]], images: Tensor
) -> dict[str, Tensor]:
    """Return the inputs or outputs of modules by path, (N, C, H, W)."""
    found: dict[str, list[Tensor]] = {path: [] for path in wanted}

    def keep(path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: found[path].append(wanted[path](inputs, output))

    hooks = [encoder.get_submodule(path).register_forward_hook(keep(path)) for path in wanted]
    for batch in torch.split(images, 6):
        encoder(batch)
    for hook in hooks:
        hook.remove()
    return {path: torch.cat(values) for path, values in found.items()}
