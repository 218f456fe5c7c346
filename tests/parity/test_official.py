"""The model against the official implementation: state dicts, sizes, outputs."""

import gc
import json

import numpy as np
import pytest
import torch

from quantsam.models.sam import EfficientViTSam
from quantsam.models.variants import VARIANTS

OFFICIAL = ("l0", "l1", "l2", "xl0", "xl1")
BOXES = torch.tensor([[100.0, 150, 600, 700], [20, 30, 200, 90]])
POINTS = (torch.tensor([[[300.0, 400], [50, 60]]]), torch.tensor([[1, 0]]))


@pytest.mark.parametrize("name", OFFICIAL)
def test_state_dict_has_the_official_keys_and_shapes_in_order(shared_reference, name):
    official = json.loads((shared_reference / "official" / f"state_dict_{name}.json").read_text())
    published = json.loads((shared_reference / "official" / "published.json").read_text())
    with torch.device("meta"):
        model = EfficientViTSam(VARIANTS[name])
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == official
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == published[name]["params_m"]


@pytest.mark.parametrize("name", ["l0", *(pytest.param(n, marks=pytest.mark.slow) for n in ("l1", "l2", "xl0", "xl1"))])
def test_outputs_are_the_official_ones(shared_reference, deterministic, request, name):
    if name == "l0":
        model = request.getfixturevalue("filled_l0")
    else:
        model = deterministic.fill(EfficientViTSam(VARIANTS[name]))
    with torch.inference_mode():
        embedding = model.image_encoder(deterministic.normalised(model.variant.input_size))
        box_masks, box_iou = model.decode(embedding, boxes=BOXES)
        point_masks, point_iou = model.decode(embedding, points=POINTS)
    del model
    gc.collect()
    found = [embedding[:, ::8, ::4, ::4], box_masks[:, :, ::8, ::8], box_iou, point_masks[:, :, ::8, ::8], point_iou]
    with np.load(shared_reference / "official" / f"outputs_{name}.npz") as official:
        assert len(official.files) == len(found)
        for key, tensor in zip(official.files, found, strict=True):
            expected = official[key]
            assert tensor.shape == expected.shape, key
            assert np.abs(tensor.numpy() - expected).max() <= 1e-4 * np.abs(expected).max(), key
