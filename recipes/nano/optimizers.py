"""What makes steps of gradients: Muon for matrices, AdamW for the rest.

Muon (Jordan and others, 2024) steps along the orthogonal part of the momentum, so that directions of small gradient
are learnt as fast as those of large. Steps have the RMS of AdamW's (Liu and others, 2025, arXiv:2502.16982), so one
learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that brings singular values near 1
ITERATIONS = 5
MOMENTUM = 0.95
RMS = 0.2  # of AdamW's steps, about
WEIGHT_DECAY = 0.03
SMALLEST = 8  # rows and columns of the matrices that are worth it


def orthogonal(matrices: Tensor) -> Tensor:
    """Return the orthogonal parts, about: all singular values lie between 0.6 and 1.3.

    Args:
        matrices: (N, R, C) with R <= C.
    """
    a, b, c = COEFFICIENTS
    x: Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum. A kernel (out, in, h, w) is the matrix (out, in h w)."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(list(params), {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient; those of about one shape are handled together."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in moved]
            momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in moved]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
            shapes: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
            for p, gradient in zip(moved, ahead, strict=True):
                wide = _wide(gradient.flatten(1))
                shapes.setdefault((_rounded_up(wide.shape[0]), _rounded_up(wide.shape[1])), []).append((p, wide))
            if moved:
                torch._foreach_mul_(moved, 1 - group["lr"] * WEIGHT_DECAY)
            for (rows, columns), found in shapes.items():
                padded = [F.pad(wide, (0, columns - wide.shape[1], 0, rows - wide.shape[0])) for _, wide in found]
                for (p, wide), update in zip(found, orthogonal(torch.stack(padded)), strict=True):
                    part = update[: wide.shape[0], : wide.shape[1]]
                    part = part if len(p) == wide.shape[0] else part.mT
                    p.add_(part.reshape(p.shape), alpha=-group["lr"] * RMS * wide.shape[1] ** 0.5)


def _rounded_up(size: int) -> int:
    """Return the next power of two: rows and columns of zeros change nothing, and fewer shapes are sooner done."""
    return 1 << (size - 1).bit_length()


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


class Optimizers:
    """Several optimizers that step together."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self._optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of all of them."""
        return [group for one in self._optimizers for group in one.param_groups]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for one in self._optimizers:
            one.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Do a step of each."""
        for one in self._optimizers:
            one.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of each."""
        return [one.state_dict() for one in self._optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on from what `state_dict` gave."""
        for one, state in zip(self._optimizers, states, strict=True):
            one.load_state_dict(state)


def make_optimizer(modules: Iterable[nn.Module], rate: float) -> Optimizers:
    """Return Muon for matrices and kernels, and AdamW for what is left; its vectors do not decay.

    Depthwise kernels, embeddings, and kernels that up-sample are no matrices whose directions should be learnt alike.
    """
    named = [entry for module in modules for entry in module.named_parameters()]
    matrices = [p for name, p in named if _is_matrix(name, p)]
    others = [p for name, p in named if not _is_matrix(name, p)]
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    return Optimizers(Muon(matrices, lr=rate), torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99)))


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    if parameter.ndim < 2 or "upscaling" in name:
        return False
    is_depthwise = parameter.ndim == 4 and parameter.shape[1] == 1
    return not is_depthwise and min(len(parameter), parameter[0].numel()) >= SMALLEST
