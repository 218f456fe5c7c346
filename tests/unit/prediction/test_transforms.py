"""Pre- and post-processing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from quantsam.prediction.geometry import scaled_hw
from quantsam.prediction.transforms import (
    PIXEL_MEAN,
    PIXEL_STD,
    mask_resize,
    preprocess,
    scale_coordinates,
)


@pytest.mark.parametrize(
    ("image_hw", "longest", "expected"),
    [
        ((480, 640), 1024, (768, 1024)),
        ((640, 480), 512, (512, 384)),
        ((3, 1024), 512, (2, 512)),  # 1.5 rounds up, not to even
        ((5, 1024), 512, (3, 512)),  # 2.5 too
        ((1, 5000), 512, (1, 512)),  # never 0
        ((1, 1), 1024, (1024, 1024)),
    ],
)
def test_scaled_hw_rounds_half_up(image_hw, longest, expected):
    assert scaled_hw(image_hw, longest) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([64, 256, 512, 1024]))
def test_scaled_hw_fills_the_longer_side_and_keeps_the_shape(height, width, longest):
    new_height, new_width = scaled_hw((height, width), longest)
    assert max(new_height, new_width) == longest
    assert min(new_height, new_width) >= 1
    exact = min(height, width) * longest / max(height, width)
    assert abs(min(new_height, new_width) - max(exact, 1)) <= 0.5 + 1e-9


def test_preprocess_normalizes_as_segment_anything_does():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = (torch.from_numpy(image).permute(2, 0, 1) - PIXEL_MEAN[:, None, None]) / PIXEL_STD[:, None, None]
    result = preprocess(image, 8)
    assert (result.shape, result.dtype) == ((1, 3, 8, 8), torch.float32)
    torch.testing.assert_close(result[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("image_hw", "inside"), [((20, 40), (32, 64)), ((90, 30), (64, 21)), ((1, 900), (1, 64))])
def test_preprocess_pads_at_the_bottom_and_right_with_zeros(image_hw, inside):
    result = preprocess(np.full((*image_hw, 3), 255, np.uint8), 64)
    height, width = inside
    assert result.shape == (1, 3, 64, 64)
    assert (result[..., :height, :width] > 2).all()
    assert not result[..., height:, :].any()
    assert not result[..., :, width:].any()


def test_preprocess_does_not_touch_its_input():
    image = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    image.setflags(write=False)
    preprocess(image, 64)  # writing, or handing a read-only array to torch, would raise
    flipped = image[:, ::-1]  # negative strides
    assert torch.equal(preprocess(flipped, 64)[..., :32], preprocess(image, 64)[..., :32].flip(3))


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_coordinates_map_the_corners_of_the_picture_to_those_of_the_frame(height, width):
    corners = torch.tensor([[0.0, 0.0], [width, height]])
    new_height, new_width = scaled_hw((height, width), 1024)
    scaled = scale_coordinates(corners, (height, width), 1024)
    torch.testing.assert_close(scaled, torch.tensor([[0.0, 0.0], [new_width, new_height]]))


def test_coordinates_keep_their_leading_shape():
    assert scale_coordinates(torch.zeros(5, 7, 2), (10, 20), 64).shape == (5, 7, 2)


@pytest.mark.parametrize("image_hw", [(48, 64), (64, 20), (100, 130), (7, 9)])
def test_mask_resize_undoes_preprocess(image_hw):
    height, width = image_hw
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.uint8(255 * (0.5 + 0.25 * np.sin(2 * x / width) + 0.25 * np.cos(2 * y / height)))
    frame = preprocess(np.stack([smooth] * 3, axis=-1), 256)[:, :1]
    back = mask_resize(image_hw, 256, 256)(frame) * PIXEL_STD[0] + PIXEL_MEAN[0]
    assert back.shape == (1, 1, height, width)
    assert (back[0, 0] - torch.from_numpy(smooth)).abs().mean() < 2


def test_mask_resize_cuts_the_padding_off():
    masks = torch.full((2, 3, 16, 16), -9.0)
    masks[..., :8, :] = 4.0  # the upper half is the image, the lower one padding
    result = mask_resize((32, 64), 16, 64)(masks)
    assert result.shape == (2, 3, 32, 64)
    assert (result[..., :28, :] == 4).all()


@pytest.mark.parametrize("image_hw", [(48, 64), (64, 48), (7, 300), (300, 7), (1, 1), (256, 256), (100, 333)])
@pytest.mark.parametrize("prompt_size", [64, 256, 1024])
def test_mask_resize_is_up_sampling_cutting_and_resizing(image_hw, prompt_size):
    masks = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    full = F.interpolate(masks, (prompt_size, prompt_size), mode="bilinear", align_corners=False)
    height, width = scaled_hw(image_hw, prompt_size)
    expected = F.interpolate(full[..., :height, :width], image_hw, mode="bilinear", align_corners=False)
    resize = mask_resize(image_hw, 64, prompt_size)
    torch.testing.assert_close(resize(masks), expected, rtol=1e-5, atol=1e-5)
    cut = masks[..., : resize.low_hw[0], : resize.low_hw[1]]
    assert torch.equal(resize(cut), resize(masks))
