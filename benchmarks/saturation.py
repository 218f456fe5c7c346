"""What saturation-free weights cost: how much scales grow, and the noise in the weights, against weights of 7 bits.

    python benchmarks/saturation.py [--models nano nano-outlier l0]

Full-size models have random weights, whose distribution is the worst case: most of their channels own a large pair.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import save
from engines import random_model
from torch import Tensor

import quantsam as qs
from quantsam.models.blocks import Conv2d
from quantsam.models.fold import fold_norms
from quantsam.quant.formats import get_format
from quantsam.quant.saturation import has_depthwise_shape, saturation_free_scale


def noise_db(weight: Tensor, scale: Tensor) -> Tensor:
    """Return the noise of rounding each channel, relative to its power: (out,) dB."""
    per_channel = scale.reshape(-1, 1, 1, 1)
    error = torch.round(weight / per_channel) * per_channel - weight
    return 10 * torch.log10(error.square().sum((1, 2, 3)) / weight.square().sum((1, 2, 3)))


def cost(name: str) -> dict[str, Any]:
    """Return the figures of one model, over all channels of convolutions that are not depthwise."""
    model = qs.load_model(name) if name.startswith("nano") else random_model(name)
    growth, noise = [], {"full": [], "safe": [], "7 bits": []}  # type: ignore[var-annotated]
    with torch.no_grad():
        for module in fold_norms(model.float_encoder).modules():
            if isinstance(module, Conv2d) and not has_depthwise_shape(module.weight):
                weight = module.weight.double()
                full = weight.abs().amax((1, 2, 3)) / 127
                safe = saturation_free_scale(weight, full, get_format("int8"))
                growth.append(safe / full)
                for key, scale in (("full", full), ("safe", safe), ("7 bits", full * 127 / 63)):
                    noise[key].append(noise_db(weight, scale))
    grown = torch.cat(growth)
    means = {key: float(torch.cat(values).mean()) for key, values in noise.items()}
    return {
        "channels": len(grown),
        "grown": int((grown > 1).sum()),
        "mean_growth": float(grown.mean()),
        "largest_growth": float(grown.max()),
        "noise_db": means,
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["nano", "nano-outlier", "l0"])
    found = {name: cost(name) for name in parser.parse_args().models}
    for name, figures in found.items():
        print(name, figures)
    save("saturation", {"models": found})


if __name__ == "__main__":
    main()
