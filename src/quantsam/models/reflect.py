"""Reflect residual streams without changing what an encoder computes: a stream is linear between blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from quantsam.errors import PlanError
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import copy_encoder, set_parameter
from quantsam.models.references import Convolution
from quantsam.models.structure import Stream, conv_of, structure_of


def reflectable_streams(encoder: ImageEncoder) -> Iterator[Stream]:
    """Yield the residual streams whose writers and readers can absorb a matrix: BatchNorm folded, no channel scales."""
    for stream in structure_of(encoder).streams:
        writers, readers = ([conv_of(encoder, one) for one in some] for some in (stream.writers, stream.readers))
        is_folded = all(writer.norm is None for writer in stream.writers)
        if is_folded and not any(w.output_scale for w in writers) and not any(r.input_scale for r in readers):
            yield stream


@torch.no_grad()
def reflect_streams(encoder: ImageEncoder, mirrors: Mapping[str, Tensor]) -> ImageEncoder:
    """Multiply residual streams by `I - a b^T` where they are written and where they are read.

    With `b^T a = 2` this matrix is its own inverse.

    Args:
        encoder: The encoder; it is not changed.
        mirrors: (2, C) float32 with rows `a` and `b`, keyed by the stream's name. See `reflectable_streams`.

    Raises:
        PlanError: There is no such stream, the number of channels differs, or `b^T a` is not 2.
    """
    reflected = copy_encoder(encoder).eval()
    streams = {stream.name: stream for stream in reflectable_streams(encoder)}
    for name, given in mirrors.items():
        if name not in streams:
            raise PlanError(f"a reflected stream must be one of {', '.join(streams)}, got {name!r}: repair again")
        count = conv_of(reflected, streams[name].writers[0]).out_channels
        if given.shape != (2, count):
            raise PlanError(f"{name} has {count} channels, got mirrors {tuple(given.shape)}: repair the plan again")
        a, b = given.double()
        if abs(float(a @ b) - 2) > 1e-4:
            raise PlanError(f"the mirror of {name} must be its own inverse, got b.a = {float(a @ b)}: repair again")
        a = a * (2 / (a @ b))
        for writer in streams[name].writers:
            _write(reflected, writer, a, b)
        for reader in streams[name].readers:
            conv = conv_of(reflected, reader)
            weight, device = conv.weight.double(), conv.weight.device
            seen = torch.einsum("oikl,i->okl", weight, a.to(device)).unsqueeze(1)
            changed = weight - seen * b.to(device).reshape(1, -1, 1, 1)
            set_parameter(reflected, f"{reader.conv}.weight", changed.to(conv.weight.dtype))
    return reflected


def _write(encoder: ImageEncoder, writer: Convolution, a: Tensor, b: Tensor) -> None:
    conv = conv_of(encoder, writer)
    for name, values in conv.named_parameters():
        wide = values.double()
        given = torch.einsum("o...,o->...", wide, b.to(wide.device)).unsqueeze(0)
        changed = wide - a.to(wide.device).reshape(-1, *[1] * (wide.ndim - 1)) * given
        set_parameter(encoder, f"{writer.conv}.{name}", changed.to(values.dtype))
