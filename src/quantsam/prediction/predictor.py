"""Predict masks from an image and prompts; all coordinates are in pixels of the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from quantsam.data.images import check_image_array
from quantsam.errors import InputError
from quantsam.models.image_decoder import ImageDecoder
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.prediction import Prediction
from quantsam.prediction.transforms import MaskResize, mask_resize, preprocess, scale_coordinates

MASK_THRESHOLD = 0.0

PROMPTS_A_BATCH = 16


@dataclass(frozen=True, slots=True, eq=False)
class CandidateMasks:
    """All masks that the model predicts for prompts on one image. A mask is resized on request.

    Attributes:
        low_res: (B, M, h, w) logits.
        predicted_iou: (B, M) float32, the model's own estimate of each mask's quality.
        resize: Resizes these logits to the image's resolution.
    """

    low_res: Tensor
    predicted_iou: Tensor
    resize: MaskResize

    def sampled(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> CandidateMasks:
        """Return the same masks, restricted to some rows and columns of the image."""
        resize = MaskResize(self.resize.rows[torch.from_numpy(rows)], self.resize.columns[:, torch.from_numpy(columns)])
        return CandidateMasks(self.low_res, self.predicted_iou, resize)

    @torch.inference_mode()
    def mask(self, prompt: int, number: int) -> NDArray[np.bool_]:
        """Return one mask of a prompt, (H, W)."""
        mask: NDArray[np.bool_] = (self.resize(self.low_res[prompt, number]) > MASK_THRESHOLD).cpu().numpy()
        return mask


class Predictor:
    """Segments one image at a time. The image is encoded once; prompts are then cheap.

    >>> from quantsam.models.zoo import load_model
    >>> predictor = Predictor(load_model("nano"))
    >>> predictor.set_image(np.zeros((48, 64, 3), np.uint8))
    >>> predictor.predict(box=[8, 8, 40, 40]).masks.shape
    (3, 48, 64)
    """

    def __init__(self, model: EfficientViTSam) -> None:
        self.model = model
        self.image_hw: tuple[int, int] | None = None
        self._embedding: Tensor | None = None
        self._decoder: ImageDecoder | None = None

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device

    @torch.inference_mode()
    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Encode an image.

        Args:
            image: (H, W, 3) uint8 RGB.

        Raises:
            InputError: The array has another shape or type.
        """
        check_image_array(image)
        x = preprocess(image, self.model.variant.input_size)
        self.set_embedding(self.model.image_encoder(x.to(self.device)), (image.shape[0], image.shape[1]))

    @torch.inference_mode()
    def set_embedding(self, embedding: Tensor, image_hw: tuple[int, int]) -> None:
        """Use an image that is already encoded.

        Args:
            embedding: (1, embed_dim, embed_size, embed_size), the encoder's output.
            image_hw: Height and width of the image.
        """
        self._embedding, self.image_hw = embedding, image_hw
        self._decoder = self.model.image_decoder(embedding)

    def predict(
        self,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask: bool = True,
        logits: bool = False,
    ) -> Prediction:
        """Segment the object that one prompt indicates.

        Args:
            points: (N, 2) x y in pixels of the image.
            labels: (N,) 1 for a point on the object, 0 for a point off it.
            box: (4,) x0 y0 x1 y1 in pixels of the image.
            mask_input: (1, 4 * embed_size, 4 * embed_size) logits of an earlier prediction.
            multimask: Return three masks, for ambiguous prompts, instead of one.
            logits: Return logits instead of bool masks.

        Raises:
            InputError: No image was set, no prompt was given, or a prompt has the wrong shape or values.
        """
        masks, iou, low_res = self.predict_batch(
            points=None if points is None else self._tensor(points, "points"),
            labels=None if labels is None else self._tensor(labels, "labels"),
            boxes=None if box is None else self._tensor(box, "box"),
            mask_input=None if mask_input is None else self._tensor(mask_input, "mask_input"),
            multimask=multimask,
            logits=logits,
        )
        return Prediction(masks[0].cpu().numpy(), iou[0].cpu().numpy(), low_res[0].cpu().numpy())

    @torch.inference_mode()
    def predict_batch(
        self,
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask: bool = True,
        logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Segment the objects that a batch of prompts indicates, all on the same image.

        Args:
            points: (B, N, 2) x y in pixels of the image.
            labels: (B, N), 1 or 0; -1 for padding.
            boxes: (B, 4) x0 y0 x1 y1 in pixels of the image.
            mask_input: (B, 1, 4 * embed_size, 4 * embed_size) logits.
            multimask: Return three masks per prompt instead of one.
            logits: Return logits instead of bool masks.

        Returns:
            Masks (B, M, H, W), predicted IoU (B, M), low-resolution logits (B, M, h, w).

        Raises:
            InputError: No image was set, no prompt was given, or a prompt has the wrong shape or values.
        """
        decoder, embedding, image_hw = self._ready()
        scaled_points, scaled_boxes = self._scaled(points, labels, boxes, image_hw)
        if mask_input is None:
            low_res, iou = decoder.decode(points=scaled_points, boxes=scaled_boxes, multimask=multimask)
        else:
            _check_mask_input(mask_input, len(next(p for p in (points, boxes) if p is not None)), self.model)
            mask_input = mask_input.to(self.device).float()
            low_res, iou = self.model.decode(
                embedding, points=scaled_points, boxes=scaled_boxes, masks=mask_input, multimask=multimask
            )
        masks = mask_resize(image_hw, low_res.shape[-1], self.model.variant.prompt_size)(low_res)
        return masks if logits else masks > MASK_THRESHOLD, iou, low_res

    @torch.inference_mode()
    def best_masks(
        self, *, points: Tensor | None = None, labels: Tensor | None = None, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return only the mask of highest predicted IoU per prompt; faster than `predict_batch`.

        Args:
            points: (B, N, 2) x y in pixels of the image.
            labels: (B, N), 1 or 0; -1 for padding.
            boxes: (B, 4) x0 y0 x1 y1 in pixels of the image.

        Returns:
            Masks (B, H, W) bool and predicted IoU (B,).

        Raises:
            InputError: No image was set, no prompt was given, or a prompt has the wrong shape or values.
        """
        best, image_hw = self._small(points, labels, boxes, best_only=True)
        masks = torch.empty(len(best.low_res), *image_hw, dtype=torch.bool, device=self.device)
        for mask, low in zip(masks, best.low_res[:, 0], strict=True):  # one mask's logits at a time, to save memory
            torch.gt(best.resize(low), MASK_THRESHOLD, out=mask)
        return masks, best.predicted_iou[:, 0]

    @torch.inference_mode()
    def candidates(
        self, *, points: Tensor | None = None, labels: Tensor | None = None, boxes: Tensor | None = None
    ) -> CandidateMasks:
        """Segment a batch of prompts, and keep all three masks per prompt at low resolution.

        Args:
            points: (B, N, 2) x y in pixels of the image.
            labels: (B, N), 1 or 0; -1 for padding.
            boxes: (B, 4) x0 y0 x1 y1 in pixels of the image.

        Raises:
            InputError: No image was set, no prompt was given, or a prompt has the wrong shape or values.
        """
        return self._small(points, labels, boxes, best_only=False)[0]

    def _small(
        self, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, *, best_only: bool
    ) -> tuple[CandidateMasks, tuple[int, int]]:
        """Segment a batch of prompts at the decoder's resolution; return masks, and the image's height and width."""
        decoder, _, image_hw = self._ready()
        scaled_points, scaled_boxes = self._scaled(points, labels, boxes, image_hw)
        variant = self.model.variant
        resize = mask_resize(image_hw, 4 * variant.embed_size, variant.prompt_size)
        low_res, iou = decoder.decode(
            points=scaled_points, boxes=scaled_boxes, best_only=best_only, low_hw=resize.low_hw
        )
        return CandidateMasks(low_res, iou, resize), image_hw

    def _ready(self) -> tuple[ImageDecoder, Tensor, tuple[int, int]]:
        if self._embedding is None or self._decoder is None or self.image_hw is None:
            raise InputError("a predictor needs an image before prompts, got none: call set_image(image) first")
        return self._decoder, self._embedding, self.image_hw

    def _scaled(
        self, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, image_hw: tuple[int, int]
    ) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
        """Check prompts and scale them to the prompt frame."""
        _check_prompts(points, labels, boxes)
        prompt_size = self.model.variant.prompt_size
        scaled_points = scaled_boxes = None
        if points is not None and labels is not None:
            xy = scale_coordinates(points.to(self.device).float(), image_hw, prompt_size)
            scaled_points = (xy, labels.to(self.device).long())
        if boxes is not None:
            corners = boxes.to(self.device).float().reshape(-1, 2, 2)
            scaled_boxes = scale_coordinates(corners, image_hw, prompt_size).reshape(-1, 4)
        return scaled_points, scaled_boxes

    def _tensor(self, values: ArrayLike, name: str) -> Tensor:
        """Return one prompt's array as a batch of one."""
        try:
            return torch.as_tensor(np.asarray(values, dtype=np.float32), device=self.device)[None]
        except (ValueError, TypeError) as error:
            raise InputError(f"{name} must be an array of numbers, got {type(values).__name__}: {error}") from error


def _check_prompts(points: Tensor | None, labels: Tensor | None, boxes: Tensor | None) -> None:
    if points is None and boxes is None:
        raise InputError("a prediction needs points or boxes, got neither: give points and labels, or a box")
    if (points is None) != (labels is None):
        raise InputError("points and labels must be given together, got one of them: one label, 1 or 0, for each point")
    if points is not None and labels is not None:
        _check_points(points, labels)
        if boxes is not None and len(boxes) != len(points):
            raise InputError(
                f"there must be one box for each set of points, got {len(boxes)} boxes and {len(points)} sets: "
                "give the rest of the prompts in another call"
            )
    if boxes is not None:
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes):
            raise InputError(
                "a box must be 4 numbers x0 y0 x1 y1 in pixels, and boxes (B, 4), got a batch of shape "
                f"{tuple(boxes.shape)}: give one box to predict, several to predict_batch"
            )
        _check_finite("boxes", boxes)


def _check_points(points: Tensor, labels: Tensor) -> None:
    if points.ndim != 3 or points.shape[2] != 2 or labels.shape != points.shape[:2] or not labels.numel():
        raise InputError(
            f"points must be (N, 2) with (N,) labels, N at least 1, got {tuple(points.shape[1:])} and "
            f"{tuple(labels.shape[1:])}: one x y in pixels and one label, 1 or 0, for each point"
        )
    _check_finite("points", points)
    wrong = labels[(labels != 1) & (labels != 0) & (labels != -1)]
    if len(wrong):
        raise InputError(
            f"a label must be 1 (on the object), 0 (off it) or -1 (padding), got {float(wrong[0]):g}: "
            "give corners of a box as a box"
        )


def _check_mask_input(mask_input: Tensor, batch: int, model: EfficientViTSam) -> None:
    side = 4 * model.variant.embed_size
    if mask_input.shape != (batch, 1, side, side):
        raise InputError(
            f"mask_input must be (1, {side}, {side}) for each of {batch} prompts, got a batch of shape "
            f"{tuple(mask_input.shape)}: take one of an earlier prediction's low_res_logits"
        )
    _check_finite("mask_input", mask_input)


def _check_finite(name: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{name} must be finite, got NaN or infinity: check where the numbers come from")
