"""Show the float inputs of an encoder's convolutions to functions that measure them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from quantsam.errors import CalibrationError
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import copy_encoder
from quantsam.plans.observation import CalibrationImage, encoder_input
from quantsam.progress import Progress


def watch_inputs(
    prepared: ImageEncoder,
    lookers: Mapping[str, Callable[[Tensor], None]],
    images: Iterable[CalibrationImage],
    *,
    most: int,
    progress: Progress | None = None,
) -> None:
    """Run the first few images through the float encoder, and show convolutions' inputs (N, in, H, W) to their lookers.

    Args:
        prepared: The float encoder with a plan's transforms.
        lookers: Functions, keyed by the convolution's path; they see the input before any input scale of a repair.
        images: See `calibrate`.
        most: Maximum number of images.
        progress: Wraps the iteration over these images.

    Raises:
        CalibrationError: There are no images.
    """
    watched = copy_encoder(prepared).eval()

    def show(look: Callable[[Tensor], None]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            look(inputs[0])

        return hook

    for path, look in lookers.items():
        watched.get_submodule(path).register_forward_pre_hook(show(look))
    device = next(prepared.parameters()).device
    few = list(itertools.islice(images, most))
    if not few:
        raise CalibrationError("a repair needs at least one image, got none: name a folder of images or 'scenes:16'")
    with torch.inference_mode():
        for image in progress(few, len(few)) if progress else few:
            watched(encoder_input(image, prepared.variant.input_size).to(device))
