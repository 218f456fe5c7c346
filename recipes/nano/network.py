"""The network that the recipe trains: its size, its start, and how it works on windows of its frame.

A window is a square part of the frame. Its pixels and cells are those of the frame, and prompts and positions keep
the frame's coordinates; so what is learnt on small, cheap windows holds for the whole frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsam.models.blocks import LinearAttentionCore
from quantsam.models.encoder import UpSample
from quantsam.models.mask_decoder import Attention
from quantsam.models.sam import EfficientViTSam
from quantsam.models.variants import VARIANTS, Variant

CELL = 4  # pixels of the input a cell of the embedding
VARIANT = VARIANTS["nano"]
LOWEST_FREQUENCY, HIGHEST_FREQUENCY = 0.25, 16.0


def initialise(model: EfficientViTSam, generator: torch.Generator) -> None:
    """Start where learning is quick; all of it is a choice of initial values.

    - Position embedding: half of the frequencies along x, half along y. With few of them, SAM's random directions
      tell a box's inside from its outside slowly. The highest has a period of 10 px: a box's side is known to a pixel.
    - Attention: queries and keys start with the same orthogonal projection, so that what is alike, and
      what is near, attends to each other from the first step (after Trockman and Kolter, 2023).
    """
    matrix = model.prompt_encoder.pe_layer.get_buffer("positional_encoding_gaussian_matrix")
    lowest, highest = math.log10(LOWEST_FREQUENCY), math.log10(HIGHEST_FREQUENCY)
    frequencies = torch.logspace(lowest, highest, matrix.shape[1] // 2)
    matrix.zero_()
    matrix[0, 0::2] = frequencies
    matrix[1, 1::2] = frequencies
    with torch.no_grad():
        for module in model.mask_decoder.modules():
            if isinstance(module, Attention):
                nn.init.orthogonal_(module.q_proj.weight, generator=generator)
                module.k_proj.weight.copy_(module.q_proj.weight)
                module.q_proj.bias.zero_()
                module.k_proj.bias.zero_()


def build(variant: Variant, seed: int) -> EfficientViTSam:
    """Return an untrained model, the same for the same seed."""
    torch.manual_seed(seed)
    model = EfficientViTSam(variant)
    initialise(model, torch.Generator().manual_seed(seed))
    for module in model.modules():
        if isinstance(module, LinearAttentionCore):
            _keep_float(module)
        if isinstance(module, UpSample):
            _upsample_by_products(module)
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _keep_float(module: nn.Module) -> None:
    """Let a module compute in float32 within mixed precision: sums over all pixels overflow half precision."""
    forward: Callable[[Tensor], Tensor] = module.forward

    def in_float(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float())

    module.forward = in_float


def _upsample_by_products(module: UpSample) -> None:
    """Let a module up-sample by products with a matrix: the same result, several times as fast to train on a GPU."""
    matrices: dict[tuple[int, int], Tensor] = {}

    def upsampled(x: Tensor) -> Tensor:
        side = x.shape[-1]
        if side == module.size:
            return x
        if (side, module.size) not in matrices:
            eye = torch.eye(side, device=x.device)[None, None]
            size = (module.size, side)
            matrices[side, module.size] = F.interpolate(eye, size=size, mode="bicubic", align_corners=False)[0, 0]
        matrix = matrices[side, module.size]
        with torch.autocast(x.device.type, enabled=False):
            return matrix @ x.float() @ matrix.T

    module.forward = upsampled  # type: ignore[method-assign]


def set_window(model: EfficientViTSam, side: int) -> None:
    """Make the encoder and the prompt encoder work on windows of `side` px."""
    model.prompt_encoder.embed_size = side // CELL
    for module in model.modules():
        if isinstance(module, UpSample):
            module.size = side // CELL


def window_position(model: EfficientViTSam, corners: Tensor, side: int) -> Tensor:
    """Return the position embedding of windows' cells.

    Args:
        model: Its position embedding is read.
        corners: (N, 2) x y px of the windows' top-left corners in the frame.
        side: Side of the windows in px.

    Returns:
        (N, embed_dim, side / 4, side / 4).
    """
    centres = CELL * (torch.arange(side // CELL, device=corners.device) + 0.5)
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    grid = torch.stack([x, y], dim=-1) + corners[:, None, None, :]
    position: Tensor = model.prompt_encoder.pe_layer(grid / model.prompt_encoder.prompt_size)
    return position.permute(0, 3, 1, 2)
