"""Scale channels by powers of two without changing what an encoder computes.

A power of two changes no digit of a float, so the float model stays the same to the last bit. An engine that rounds
`x / (s * 2^e)` computes the same codes as a simulation that rounds `(x * 2^-e) / s`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantsam.errors import PlanError
from quantsam.models.blocks import ChannelScale, Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import copy_encoder, set_parameter
from quantsam.models.references import Convolution
from quantsam.models.structure import Port, structure_of

LARGEST_EXPONENT = 40
"""Larger exponents would bring weights and activations near the limits of float32."""


@torch.no_grad()
def scale_links(encoder: ImageEncoder, exponents: Mapping[str, Tensor]) -> ImageEncoder:
    """Divide channels between linear operations by `2^e`: divide what writers write, multiply the readers' weights.

    Args:
        encoder: The encoder; it is not changed.
        exponents: (C,) integers, keyed by the link's name; see `Structure.links`.

    Raises:
        PlanError: There is no such link, or the number of channels differs.
    """
    scaled = copy_encoder(encoder).eval()
    links = {link.name: link for link in structure_of(encoder).links(encoder)}
    for name, given in exponents.items():
        if name not in links:
            raise PlanError(f"a scaled stream must be one of the encoder's {len(links)}, got {name!r}: repair again")
        for reader in links[name].readers:
            path = reader.convolution.conv
            _scale_in_channels(scaled, path, _spread(given, reader, _convolution(scaled, path).in_channels, name))
        for writer in links[name].writers:
            path = writer.convolution.conv
            spread = _spread(given, writer, _convolution(scaled, path).out_channels, name)
            _scale_written(scaled, writer.convolution, spread)
    return scaled


def _spread(exponents: Tensor, port: Port, width: int, name: str) -> Tensor:
    """Return the exponents of all channels of a port's convolution, (width,): 0 for channels outside the port."""
    count = width if port.channels is None else len(port.channels)
    if exponents.shape != (count,):
        raise PlanError(f"{name} has {count} channels, got {tuple(exponents.shape)} exponents: repair the plan again")
    if port.channels is None:
        return exponents
    spread = exponents.new_zeros(width)
    spread[list(port.channels)] = exponents
    return spread


@torch.no_grad()
def scale_inputs(encoder: ImageEncoder, exponents: Mapping[str, Tensor]) -> ImageEncoder:
    """Divide channels of convolution inputs by `2^e` before the input's site, and multiply the weights.

    Args:
        encoder: The encoder; it is not changed.
        exponents: (in,) integers, keyed by the convolution's path.

    Raises:
        PlanError: There is no such convolution, or the number of channels differs.
    """
    scaled = copy_encoder(encoder).eval()
    for path, given in exponents.items():
        conv = _convolution(scaled, path)
        _scale_in_channels(scaled, path, given)
        conv.input_scale = ChannelScale(-given.to(conv.weight.device))
    return scaled


@torch.no_grad()
def scale_outputs(encoder: ImageEncoder, exponents: Mapping[str, Tensor]) -> ImageEncoder:
    """Divide channels of convolution outputs by `2^e` in weight and bias, and multiply behind the output's site.

    Args:
        encoder: The encoder; it is not changed.
        exponents: (out,) integers, keyed by the convolution's path.

    Raises:
        PlanError: There is no such convolution, or the number of channels differs.
    """
    scaled = copy_encoder(encoder).eval()
    for path, given in exponents.items():
        conv = _convolution(scaled, path)
        factors = _factors(-given, conv.out_channels, path, conv.weight)
        set_parameter(scaled, f"{path}.weight", conv.weight * factors.reshape(-1, 1, 1, 1))
        if conv.bias is not None:
            set_parameter(scaled, f"{path}.bias", conv.bias * factors)
        conv.output_scale = ChannelScale(given.to(conv.weight.device))
    return scaled


def check_shifts(encoder: ImageEncoder, shifts: Mapping[str, Tensor]) -> None:
    """Check that shifts belong to an encoder's convolutions, with one shift per output channel.

    Raises:
        PlanError: There is no such convolution, or the number of channels differs.
    """
    for path, given in shifts.items():
        count = _convolution(encoder, path).out_channels
        if given.shape != (count,):
            raise PlanError(f"{path} has {count} channels, got {tuple(given.shape)} shifts: repair the plan again")


def _convolution(encoder: ImageEncoder, path: str) -> Conv2d:
    known = {convolution.conv for convolution in structure_of(encoder).convolutions}
    if path not in known:
        raise PlanError(f"a repaired convolution must be one of the encoder's {len(known)}, got {path!r}: repair again")
    conv = encoder.get_submodule(path)
    assert isinstance(conv, Conv2d)
    return conv


def _factors(exponents: Tensor, channels: int, name: str, like: Tensor) -> Tensor:
    if exponents.shape != (channels,):
        raise PlanError(
            f"{name} has {channels} channels, got {tuple(exponents.shape)} exponents: repair the plan again"
        )
    return torch.exp2(exponents.to(like.device, like.dtype))


def scaled_weight(conv: Conv2d, exponents: Tensor) -> Tensor:
    """Return a convolution's weight with its input channels multiplied by `2^e`, (out, in / groups, kernel, kernel)."""
    factors = torch.exp2(exponents.to(conv.weight.device, conv.weight.dtype))
    by_group = factors.reshape(conv.groups, 1, -1)  # the channels that each output channel of a group reads
    by_output = by_group.expand(-1, conv.out_channels // conv.groups, -1).reshape(conv.out_channels, -1, 1, 1)
    return conv.weight.detach() * by_output


def largest_weights(conv: Conv2d) -> Tensor:
    """Return the largest magnitude of the weights that read each of a convolution's input channels, (in,)."""
    largest = conv.weight.detach().abs().amax((2, 3))  # (out, in / groups)
    return largest.reshape(conv.groups, -1, largest.shape[1]).amax(1).flatten()


def _scale_in_channels(encoder: ImageEncoder, path: str, exponents: Tensor) -> None:
    conv = _convolution(encoder, path)
    _factors(exponents, conv.in_channels, path, conv.weight)  # raises if their number differs
    set_parameter(encoder, f"{path}.weight", scaled_weight(conv, exponents))


def _scale_written(encoder: ImageEncoder, writer: Convolution, exponents: Tensor) -> None:
    """Scale what a convolution writes; change its BatchNorm if it still has one."""
    path = writer.norm or writer.conv
    module: nn.Module = encoder.get_submodule(path)
    weight = module.get_parameter("weight")
    factors = _factors(-exponents, len(weight), path, weight)
    set_parameter(encoder, f"{path}.weight", weight * factors.reshape(-1, *[1] * (weight.ndim - 1)))
    bias = module._parameters.get("bias")
    if bias is not None:
        set_parameter(encoder, f"{path}.bias", bias * factors)
