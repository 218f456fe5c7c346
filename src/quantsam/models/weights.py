"""Read checkpoints safely: unpickle no objects, and check every name and shape before allocating memory."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quantsam.errors import WeightsError, first_line
from quantsam.files import shown
from quantsam.models.checkpoint_entries import COUNTER, Shapes, entries_of, expected_shapes
from quantsam.models.checkpoint_files import is_torch_file
from quantsam.models.variants import Variant

_NESTED = ("state_dict", "model_state_dict", "model", "ema", "network", "net", "weights", "params")
Choose = Callable[[Shapes], dict[str, str]]


def read_checkpoint(path: Path, variant: Variant) -> dict[str, Tensor]:
    """Read the weights of a variant from a `.pt` or `.safetensors` file.

    Names may contain the parts that PyTorch's wrappers add (`module.`, `_orig_mod.`) and a common prefix (`model.`).
    Counters that nothing reads may be missing or surplus.

    Args:
        path: The file.
        variant: The variant that the weights must fit.

    Returns:
        The state dict, floating-point entries as float32 on the processor.

    Raises:
        WeightsError: The file is missing, damaged, not a checkpoint, or belongs to another variant; the message
            says which, and names the variant that fits.
    """
    if not path.exists():
        raise WeightsError(f"weights file must exist, got {str(path)!r}: check the path, or leave it out for the hub's")
    if path.is_dir():
        raise WeightsError(f"weights must be a file, got the folder {str(path)!r}: name the .pt or .safetensors in it")
    if path.stat().st_size == 0:
        raise WeightsError(f"weights file {str(path)!r} is empty (0 bytes): download it again")
    read = _read_pt if is_torch_file(path) else _read_safetensors
    entries = read(path, lambda shapes: entries_of(shapes, path, variant))
    # copied: both readers map the file into memory, and the model must survive if the file is overwritten
    state = {
        name: value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        for name, value in entries.items()
    }
    for name, value in state.items():
        if not value.is_floating_point() and not name.endswith(COUNTER):
            kind = str(value.dtype).removeprefix("torch.")
            raise WeightsError(
                f"weights file {str(path)!r}: {name} must be floating-point, got {kind}: export the float weights"
            )
        if not bool(torch.isfinite(value).all()):
            raise WeightsError(
                f"weights file {str(path)!r}: values of {name} must be finite, got NaN or infinity: download it again"
            )
    shapes = expected_shapes(variant)
    counters = {name: torch.tensor(0) for name in shapes if name.endswith(COUNTER)}
    return counters | {name: value.reshape(shapes[name]) for name, value in state.items()}


@contextmanager
def _utf8_path(path: Path) -> Iterator[str]:
    """Yield a name under which libraries that take only UTF-8 can open a file."""
    if shown(str(path)) == str(path):
        yield str(path)
        return
    with path.open("rb") as file:
        yield f"/dev/fd/{file.fileno()}"


def _read_safetensors(path: Path, choose: Choose) -> dict[str, Tensor]:
    try:
        with _utf8_path(path) as name, safe_open(name, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return {name: file.get_tensor(stored) for name, stored in choose(shapes).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"weights file {str(path)!r} is truncated or damaged ({first_line(error)}): download it again"
        ) from error


def _read_pt(path: Path, choose: Choose) -> dict[str, Tensor]:
    try:
        with _utf8_path(path) as name:
            content = torch.load(name, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights file {str(path)!r} holds Python objects besides tensors and is not opened: "
            "export the state dict alone, best as safetensors"
        ) from error
    except Exception as error:  # hostile files make the unpickler raise nearly anything
        raise WeightsError(f"weights file {str(path)!r} is truncated or damaged: download it again") from error
    content = _state_dict(content)
    if isinstance(content, dict) and any(isinstance(value, Tensor) for value in content.values()):
        # drop numbers and strings beside the weights, for example an epoch
        content = {key: value for key, value in content.items() if not isinstance(value, int | float | str | None)}
    if not isinstance(content, dict) or not all(isinstance(k, str) and _is_plain(v) for k, v in content.items()):
        raise WeightsError(
            f"weights file {str(path)!r} must hold a state dict of plain tensors, got another "
            f"{type(content).__name__}: export the model's state dict alone, best as safetensors"
        )
    return {name: content[stored] for name, stored in choose({k: tuple(v.shape) for k, v in content.items()}).items()}


def _state_dict(content: object) -> object:
    """Return the state dict from a training checkpoint, which also holds the epoch and the optimizer's state."""
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return _state_dict(content[key])
    return content


def _is_plain(value: object) -> bool:
    """Return whether a value is a dense tensor with values in memory: not sparse, not on `meta`."""
    return isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"
