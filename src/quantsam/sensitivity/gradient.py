"""Estimate every site's noise in the embedding from a few backward passes per image.

To first order, an error d at a site moves the embedding by J d, where J is the Jacobian. For a random vector r of
signs, the expectation of (r^T J d)^2 is ||J d||^2. One backward pass computes r^T J for all sites (Hutchinson's
estimator).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from quantsam.data.dataset import UInt8Image
from quantsam.errors import DatasetError
from quantsam.models.graph import set_parameter, with_modules
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan, PlanSite
from quantsam.plans.prepare import prepare, rounded_weight
from quantsam.prediction.transforms import preprocess
from quantsam.quant.quantizers import fake_quantize

PROBES = 4


class _ErrorSite(nn.Module):
    """Passes values on and records the product of their rounding error and the gradient that comes back."""

    def __init__(self, key: str, rounded: nn.Module, products: dict[str, float]) -> None:
        super().__init__()
        self.key, self.rounded, self.products = key, rounded, products

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1  # a separate tensor, whose gradient is this site's gradient
        with torch.no_grad():
            error = self.rounded(x.detach()) - x
        if y.requires_grad:
            y.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: self._note(float((gradient * error).sum(dtype=torch.float64)))
            )
        return y

    def _note(self, product: float) -> None:
        self.products[self.key] = product


class _Rounded(nn.Module):
    def __init__(self, site: PlanSite) -> None:
        super().__init__()
        self.site = site

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.site.spec, self.site.grid)


def gradient_noise(
    model: EfficientViTSam, plan: Plan, pictures: Iterable[UInt8Image], *, probes: int = PROBES, seed: int = 0
) -> dict[str, float]:
    """Estimate how much noise each site of a plan adds to the embedding.

    Args:
        model: The float model.
        plan: A calibrated plan for this model.
        pictures: Images, (H, W, 3) uint8 each.
        probes: Number of random vectors, and so of backward passes, per image.
        seed: Seed of the random vectors.

    Returns:
        The noise energy relative to the embedding's energy, keyed by site. Errors of different sites count as
        independent.

    Raises:
        PlanError: The plan does not fit, or is not calibrated.
        DatasetError: There is no image.
    """
    plan.check_calibrated()
    prepared = prepare(model, plan)
    products: dict[str, float] = {}
    errors: dict[str, tuple[Tensor, Tensor]] = {}
    sites = {s.path: _ErrorSite(s.key, _Rounded(s), products) for s in plan.sites if s.role == "activation"}
    encoder = with_modules(prepared, sites).eval()
    for site in plan.sites:
        if site.role == "weight" and site.params is not None:
            weight = prepared.get_submodule(site.path).get_parameter("weight").detach()
            set_parameter(encoder, f"{site.path}.weight", weight.clone())
            parameter = encoder.get_submodule(site.path).get_parameter("weight").requires_grad_(True)
            errors[site.key] = (rounded_weight(prepared, site) - weight, parameter)
    generator = torch.Generator().manual_seed(seed)
    noise = {site.key: 0.0 for site in plan.sites}
    signal = 0.0
    for picture in pictures:
        x = preprocess(picture, model.variant.input_size).to(next(prepared.parameters()).device).requires_grad_(True)
        with torch.enable_grad():
            embedding = encoder(x)
            signal += probes * float(embedding.detach().double().square().sum())
            for number in range(probes):
                signs = torch.randint(0, 2, embedding.shape, generator=generator).to(embedding) * 2 - 1
                for _, parameter in errors.values():
                    parameter.grad = None
                embedding.backward(signs, retain_graph=number < probes - 1)
                for key, (error, parameter) in errors.items():
                    assert parameter.grad is not None
                    products[key] = float((parameter.grad * error).sum(dtype=torch.float64))
                for key, product in products.items():
                    noise[key] += product**2
    if not signal:
        raise DatasetError("a gradient study needs at least one image, got none: name other data")
    return {key: value / signal for key, value in noise.items()}
