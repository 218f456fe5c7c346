"""Make and load models by name."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import torch

from quantsam.errors import InputError
from quantsam.files import expanded
from quantsam.models.hub import download_checkpoint
from quantsam.models.outliers import with_hidden_outlier_channels, with_outlier_channels
from quantsam.models.sam import EfficientViTSam
from quantsam.models.variants import get_variant
from quantsam.models.weights import read_checkpoint


def create_model(name: str, *, device: str | torch.device = "cpu") -> EfficientViTSam:
    """Return a model without trained weights, in eval mode.

    Args:
        name: `l0`, `l1`, `l2`, `xl0`, `xl1`, `nano`, `nano-outlier` or `nano-hard`.
        device: Device to put the model on.

    Raises:
        InputError: There is no such variant or device.
    """
    return EfficientViTSam(get_variant(name)).eval().to(_device(device))


def load_model(
    name: str, weights: str | os.PathLike[str] | None = None, *, device: str | torch.device = "cpu"
) -> EfficientViTSam:
    """Return a model with trained weights, in eval mode.

    Args:
        name: `l0`, `l1`, `l2`, `xl0`, `xl1`, `nano`, `nano-outlier` or `nano-hard`. `models.outliers` adds outlier
            channels to the weights of the last two.
        weights: A local `.pt` or `.safetensors` file. If None, weights of the nano variants come from the package;
            other weights are downloaded once from the Hugging Face hub.
        device: Device to put the model on.

    Raises:
        InputError: There is no such variant or device.
        WeightsError: The weights cannot be found or do not fit.
    """
    variant = get_variant(name)
    target = _device(device)
    if weights is not None:
        path = expanded(weights)
    elif variant.weights_file is not None:
        path = Path(str(resources.files("quantsam.models") / "weights" / variant.weights_file))
    else:
        path = download_checkpoint(variant)
    state = read_checkpoint(path, variant)
    with torch.device("meta"):
        model = EfficientViTSam(variant)
    model.load_state_dict(state, assign=True)
    if variant.outliers == "streams":
        model = with_outlier_channels(model)
    elif variant.outliers == "bottlenecks":
        model = with_hidden_outlier_channels(model)
    return model.eval().requires_grad_(False).to(target)


def _device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(f"device must be one that PyTorch has here, got {str(device)!r}: use 'cpu'") from error
    return found
