"""Copies of an encoder with some modules replaced. They share everything else with the original."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantsam.models.encoder import ImageEncoder


def copy_encoder(encoder: ImageEncoder) -> ImageEncoder:
    """Return an encoder with its own modules that shares every parameter and buffer with `encoder`."""
    shared = {id(t): t for t in itertools.chain(encoder.parameters(), encoder.buffers())}
    return copy.deepcopy(encoder, shared)


def with_modules(encoder: ImageEncoder, modules: Mapping[str, nn.Module]) -> ImageEncoder:
    """Return a copy (see `copy_encoder`) with the modules at the given paths replaced."""
    twin = copy_encoder(encoder)
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        twin.get_submodule(parent).register_module(name, module)
    return twin


def set_parameter(encoder: ImageEncoder, path: str, value: Tensor) -> None:
    """Replace the parameter at `path` in the module that owns it; the new one is not trainable."""
    owner, _, name = path.rpartition(".")
    encoder.get_submodule(owner).register_parameter(name, nn.Parameter(value, requires_grad=False))


def state_digest(module: nn.Module) -> str:
    """Return the hex SHA-256 of a module's parameters and buffers: names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue  # counts training steps; changes no result
        digest.update(f"{name}:{tuple(value.shape)}:{value.dtype};".encode())
        data = value.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(data.view(torch.uint8).numpy()))
    return digest.hexdigest()
