"""Subtract a constant from channels of residual streams without changing what an encoder computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from quantsam.errors import PlanError
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import copy_encoder, set_parameter
from quantsam.models.references import Convolution
from quantsam.models.structure import Stream, conv_of, structure_of


def shiftable_streams(encoder: ImageEncoder) -> Iterator[Stream]:
    """Yield the residual streams that only 1x1 convolutions read.

    A larger kernel reads zeros beyond the border; the shift would have to replace them with a constant.
    """
    for stream in structure_of(encoder).streams:
        if all(conv_of(encoder, reader).kernel_size == (1, 1) for reader in stream.readers):
            yield stream


@torch.no_grad()
def shift_streams(encoder: ImageEncoder, shifts: Mapping[str, Tensor]) -> ImageEncoder:
    """Subtract constants from residual streams. The first writer subtracts them; the readers' biases make up for them.

    Args:
        encoder: The encoder; it is not changed.
        shifts: (C,) float32, keyed by the stream's name; see `shiftable_streams`.

    Raises:
        PlanError: There is no such stream, it cannot be shifted, or the number of channels differs.
    """
    shifted = copy_encoder(encoder).eval()
    streams = {stream.name: stream for stream in shiftable_streams(encoder)}
    for name, given in shifts.items():
        if name not in streams:
            raise PlanError(f"a shifted stream must be one of {', '.join(streams)}, got {name!r}: repair again")
        first, readers = streams[name].writers[0], streams[name].readers
        count = conv_of(shifted, first).out_channels
        if given.shape != (count,):
            raise PlanError(f"{name} has {count} channels, got {tuple(given.shape)} shifts: repair the plan again")
        _add_behind(shifted, first, -given.to(conv_of(shifted, first).weight.device))
        for reader in readers:
            conv = conv_of(shifted, reader)
            missed = given.to(conv.weight.device)
            missed = missed if conv.input_scale is None else missed * conv.input_scale.factors
            _add_to_output(shifted, reader, conv.weight.double()[:, :, 0, 0] @ missed.double())
    return shifted


def _add_behind(encoder: ImageEncoder, writer: Convolution, constant: Tensor) -> None:
    """Add a constant to a convolution's output, behind its BatchNorm if it still has one."""
    conv = conv_of(encoder, writer)
    if writer.norm is not None:
        _add(encoder, encoder.get_submodule(writer.norm), writer.norm, constant)
        return
    if conv.output_scale is not None:  # it multiplies the bias too
        constant = constant / conv.output_scale.factors
    _add(encoder, conv, writer.conv, constant)


def _add_to_output(encoder: ImageEncoder, reader: Convolution, constant: Tensor) -> None:
    """Add a constant to a convolution's own output; if a BatchNorm follows, its mean absorbs the constant."""
    conv = conv_of(encoder, reader)
    if conv.bias is None and reader.norm is not None:
        norm = encoder.get_submodule(reader.norm)
        mean = norm.get_buffer("running_mean")
        norm.register_buffer("running_mean", (mean.double() - constant).to(mean.dtype))
        return
    _add(encoder, conv, reader.conv, constant)


def _add(encoder: ImageEncoder, module: nn.Module, path: str, constant: Tensor) -> None:
    weight, bias = module.get_parameter("weight"), module._parameters.get("bias")
    constant = constant.to(weight.device).double()
    total = constant if bias is None else bias.detach().double() + constant
    set_parameter(encoder, f"{path}.bias", total.to(weight.dtype))
