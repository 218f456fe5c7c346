"""FP16 audit: compare an encoder's tensors with the largest float16 number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantsam.errors import CalibrationError
from quantsam.models.blocks import LayerNorm2d, Residual
from quantsam.models.encoder import ImageEncoder, Neck, UpSample
from quantsam.models.graph import copy_encoder
from quantsam.plans.layers import discover_layers
from quantsam.plans.observation import CalibrationImage, encoder_input
from quantsam.progress import Progress

LARGEST_FP16 = 65504.0
_SQUARES = "layernorm_squares"


@dataclass(frozen=True, slots=True)
class TensorRange:
    """The largest magnitude of one tensor over all images.

    Attributes:
        name: A site, `stage3:4:2/act`; a weight, `stage3:4:2/weight`; or a tensor outside the layers: the module path
            for a residual sum or an up-sampling; the module path with `/layernorm_squares` for the squares inside a
            LayerNorm.
        kind: `activation` or `weight`.
        largest: Largest magnitude.
    """

    name: str
    kind: str
    largest: float

    @property
    def overflows(self) -> bool:
        """Whether the tensor becomes infinite in float16."""
        return not self.largest <= LARGEST_FP16

    @property
    def headroom(self) -> float:
        """The factor by which the tensor could grow; infinite for a tensor of zeros."""
        return LARGEST_FP16 / self.largest if self.largest else float("inf")


def audit_half_precision(
    encoder: ImageEncoder, images: Iterable[CalibrationImage], *, progress: Progress | None = None
) -> tuple[TensorRange, ...]:
    """Measure every tensor of a float encoder; the result lists the largest first.

    The squares inside a LayerNorm are measured too. A float16 graph computes them in float16, whose largest number is
    the square of 255.9, unless the LayerNorm stays in float32, as the EfficientViT-SAM authors had to do.

    Args:
        encoder: The float encoder.
        images: Images, as for calibration.
        progress: Wraps the iteration over the images.

    Raises:
        CalibrationError: There are no images.
        InputError: An image is not a valid image.
    """
    watched = copy_encoder(encoder).eval()
    largest: dict[str, Tensor] = {}
    for name, path in _tensors(watched).items():
        watched.get_submodule(path).register_forward_hook(_watch(largest, name))
    for path, module in watched.named_modules():
        if isinstance(module, LayerNorm2d):
            module.register_forward_hook(_watch_squares(largest, f"{path}/{_SQUARES}"))
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        for image in progress(images, None) if progress else images:
            watched(encoder_input(image, encoder.variant.input_size).to(device))
    if not largest:
        raise CalibrationError("an audit needs at least one image, got none: name a folder of images or 'scenes:16'")
    found = [TensorRange(name, "activation", float(value)) for name, value in largest.items()]
    found += [
        TensorRange(f"{layer.address}/{site.name}", "weight", float(_weight(encoder, site.path).abs().max()))
        for layer in discover_layers(encoder)
        for site in layer.sites
        if site.role == "weight"
    ]
    return tuple(sorted(found, key=lambda entry: -entry.largest if entry.largest == entry.largest else float("-inf")))


def conclusion(found: Iterable[TensorRange]) -> str:
    """Say in one sentence whether the encoder can run in float16."""
    entries = list(found)
    over = [entry for entry in entries if entry.overflows]
    if not over:
        top = entries[0]
        return f"FP16 is safe here: the largest value is {top.largest:.4g} at {top.name}, {top.headroom:.0f} times less"
    shown = over[:3] + [entry for entry in over[3:] if entry.name.endswith(_SQUARES)]
    names = ", ".join(entry.name for entry in shown) + (", ..." if len(over) > len(shown) else "")
    return f"FP16 would overflow at {len(over)} tensors ({names}): keep these in float32, or use bfloat16"


def _tensors(encoder: ImageEncoder) -> dict[str, str]:
    """Return the tensors' names with the module that outputs each."""
    names = {
        f"{layer.address}/{site.name}": site.path
        for layer in discover_layers(encoder)
        for site in layer.sites
        if site.role == "activation"
    }
    names |= {path: path for path, module in encoder.named_modules() if isinstance(module, (Residual, UpSample, Neck))}
    return names | {"embedding": "norm"}


def _watch(largest: dict[str, Tensor], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
        top = output.abs().amax()
        largest[name] = torch.maximum(largest[name], top) if name in largest else top

    return hook


def _watch_squares(largest: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
    """Watch the squares of the deviations from the mean over the channels, before they are averaged."""
    watch = _watch(largest, name)

    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        (x,) = inputs
        watch(module, inputs, (x - x.mean(dim=1, keepdim=True)).square())

    return hook


def _weight(encoder: ImageEncoder, path: str) -> Tensor:
    return encoder.get_submodule(path).get_parameter("weight").detach()
