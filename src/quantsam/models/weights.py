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

HUB_REPOSITORY = "mit-han-lab/efficientvit-sam"
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
    entries = _read_safetensors(path, variant) if path.suffix == ".safetensors" else _read_pt(path, variant)
    state = {name: value.float() if value.is_floating_point() else value for name, value in entries.items()}
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WeightsError(f"weights file {str(path)!r}: values of {name} must be finite: download it again")
    return state


def _read_safetensors(path: Path, variant: Variant) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_shapes(shapes, path, variant)
            return {name: file.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights file {str(path)!r} is damaged or no safetensors file: {error}") from error


def _read_pt(path: Path, variant: Variant) -> dict[str, Tensor]:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"weights file {str(path)!r} is a Git LFS pointer, not the weights: run `git lfs pull`")
    if not start.startswith(b"PK"):
        what = "an HTML page" if start.lstrip()[:1] == b"<" else "not one"
        raise WeightsError(
            f"weights file {str(path)!r} must be a checkpoint saved by torch.save or safetensors, got {what}: "
            "download it again"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise WeightsError(f"weights file {str(path)!r} is truncated or damaged: download it again") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights file {str(path)!r} holds Python objects besides tensors and is not opened: "
            "export the state dict alone, best as safetensors"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(
            f"weights file {str(path)!r} must hold a state dict of tensors, got {type(content).__name__}"
        )
    _check_shapes({name: tuple(value.shape) for name, value in content.items()}, path, variant)
    return content


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


def download_checkpoint(variant: Variant) -> Path:
    """Return the official checkpoint from the Hugging Face hub, downloaded once and then cached.

    Raises:
        WeightsError: The hub cannot be reached and nothing is cached.
    """
    from huggingface_hub import hf_hub_download  # slow to import, needed only here
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name = variant.checkpoint_file
    remedy = f"download {name} from huggingface.co/{HUB_REPOSITORY} elsewhere and pass it with --weights {name}"
    try:
        return Path(hf_hub_download(HUB_REPOSITORY, name))
    except LocalEntryNotFoundError as error:
        raise WeightsError(
            f"weights of {variant.name!r} are not cached and the hub cannot be reached: {remedy}"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"weights of {variant.name!r} cannot be had from the hub ({reason}): {remedy}") from error
