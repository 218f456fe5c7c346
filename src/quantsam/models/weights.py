"""Read checkpoints safely: never unpickle, check every name and shape before memory is taken."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quantsam.errors import WeightsError
from quantsam.models.sam import EfficientViTSam
from quantsam.models.variants import VARIANTS, Variant

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(variant: Variant) -> Shapes:
    """Return the name and shape of every entry of a variant's state dict."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in EfficientViTSam(variant).state_dict().items()}


def read_checkpoint(path: Path, variant: Variant) -> dict[str, Tensor]:
    """Read the weights of a variant from a `.pt` or `.safetensors` file.

    Args:
        path: The file.
        variant: The variant they must fit.

    Returns:
        The state dict, floating-point entries as float32 on the processor.

    Raises:
        WeightsError: The file is missing, damaged, no checkpoint, or another variant's; the message
            says which, and names the variant that would fit.
    """
    if not path.exists():
        raise WeightsError(f"weights file must exist, got {str(path)!r}: check the path, or leave it out for the hub's")
    if path.is_dir():
        raise WeightsError(f"weights must be a file, got the folder {str(path)!r}: name the .pt or .safetensors in it")
    if path.stat().st_size == 0:
        raise WeightsError(f"weights file {str(path)!r} is empty (0 bytes): download it again")
    entries = _read_pt(path, variant) if _is_zip(path) else _read_safetensors(path, variant)
    # copied: both readers map the file into memory, and a model must survive its being overwritten
    state = {
        name: value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        for name, value in entries.items()
    }
    for name, value in state.items():
        if not value.is_floating_point() and not name.endswith("num_batches_tracked"):
            kind = str(value.dtype).removeprefix("torch.")
            raise WeightsError(
                f"weights file {str(path)!r}: {name} must be floating-point, got {kind}: export the float weights"
            )
        if not bool(torch.isfinite(value).all()):
            raise WeightsError(
                f"weights file {str(path)!r}: values of {name} must be finite, got NaN or infinity: download it again"
            )
    return state


def _is_zip(path: Path) -> bool:
    """Whether a file is torch.save's zip archive rather than safetensors, told by its first bytes, not its name.

    Raises:
        WeightsError: It is neither, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise WeightsError(
            f"weights file {str(path)!r} must be readable, got: {error.strerror}: check its permissions"
        ) from error
    if start.startswith(b"PK"):
        if path.suffix == ".safetensors":  # torch.load would go by the name
            raise WeightsError(f"weights file {str(path)!r} must be safetensors, got a torch.save file: name it .pt")
        return True
    if start[8:9] == b"{":  # behind the length of its header
        return False
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"weights file {str(path)!r} is a Git LFS pointer, not the weights: run `git lfs pull`")
    what, remedy = "something else", "download it again"
    if start.lstrip()[:1] == b"<":
        what = "an HTML page"
    elif start[:1] == b"\x80":
        what, remedy = "a bare pickle, torch.save's format before 1.6", "save it again with a newer torch"
    raise WeightsError(f"weights file {str(path)!r} must be a torch.save or safetensors file, got {what}: {remedy}")


def _read_safetensors(path: Path, variant: Variant) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_shapes(shapes, path, variant)
            return {name: file.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"weights file {str(path)!r} is truncated or damaged ({_first_line(error)}): download it again"
        ) from error


def _read_pt(path: Path, variant: Variant) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights file {str(path)!r} holds Python objects besides tensors and is not opened: "
            "export the state dict alone, best as safetensors"
        ) from error
    except Exception as error:  # hostile files make the unpickler raise nearly anything
        raise WeightsError(f"weights file {str(path)!r} is truncated or damaged: download it again") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(k, str) and _is_plain(v) for k, v in content.items()):
        raise WeightsError(
            f"weights file {str(path)!r} must hold a state dict of plain tensors, got another "
            f"{type(content).__name__}: export the model's state dict alone, best as safetensors"
        )
    _check_shapes({name: tuple(value.shape) for name, value in content.items()}, path, variant)
    return content


def _is_plain(value: object) -> bool:
    """Whether it is a tensor with values in memory: not sparse, not on `meta`."""
    return isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _check_shapes(found: Mapping[str, tuple[int, ...]], path: Path, variant: Variant) -> None:
    expected = expected_shapes(variant)
    if found == expected:
        return
    for other in VARIANTS.values():
        if other is not variant and found == expected_shapes(other):
            raise WeightsError(
                f"weights file {str(path)!r} must fit model {variant.name!r}, got the weights of {other.name!r}: "
                f"use --model {other.name}"
            )
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    changed = sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k])
    detail = "; ".join(
        f"{len(names)} entries {word} (first: {names[0]})"
        for word, names in (("missing", missing), ("unknown", extra), ("of another shape", changed))
        if names
    )
    raise WeightsError(
        f"weights file {str(path)!r} must fit model {variant.name!r}, got {detail}: no EfficientViT-SAM variant fits it"
    )
