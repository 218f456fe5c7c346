"""Torchao's part of peers.py, run by a Python that has torchao and this torch: quantizes and compiles for x86.

    python by_torchao.py SOURCE.pt2 TARGET.pt2 PICTURES.npz SETTINGS

SOURCE is the encoder as `torch.export.save` wrote it. PICTURES has `images`, (N, 3, S, S). SETTINGS is JSON:
`quantize`, false for FP32, and `threads`. The last line printed is JSON: versions and a note.

The target is Inductor's package of compiled code and weights. PyTorch loads it without torchao. What
`X86InductorQuantizer` does not quantize by default (additions alone, attention, activations) stays float.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
import torchao
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)


def quantize(encoder: GraphModule, images: torch.Tensor) -> GraphModule:
    """Return the encoder with its convolutions quantized, calibrated on images."""
    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(encoder, quantizer)
    for image in images:
        prepared(image[None])
    converted: GraphModule = convert_pt2e(prepared)
    return converted


def main() -> None:
    """Quantize as asked, and compile."""
    source, target, data, settings = sys.argv[1:]
    asked = json.loads(settings)
    torch.set_num_threads(asked["threads"])  # compiled code keeps the number that it was compiled with
    images = torch.from_numpy(np.load(data)["images"])
    with torch.no_grad():
        encoder = torch.export.load(source).module()
        if asked["quantize"]:
            encoder = quantize(encoder, images)
        started = time.perf_counter()
        exported = torch.export.export(encoder, (images[:1],), strict=True)
        freezing = {"freezing": True}
        torch._inductor.aoti_compile_and_package(exported, package_path=target, inductor_configs=freezing)
    note = f"{time.perf_counter() - started:.0f} s of it to compile"
    print(json.dumps({"versions": {"torchao": torchao.__version__}, "note": note}))


if __name__ == "__main__":
    main()
