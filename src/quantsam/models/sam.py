"""EfficientViT-SAM: image encoder, prompt encoder and mask decoder together."""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import Tensor, nn

from quantsam.models.encoder import Encoder, ImageEncoder
from quantsam.models.graph import state_digest
from quantsam.models.image_decoder import ImageDecoder
from quantsam.models.mask_decoder import MaskDecoder
from quantsam.models.prompt_encoder import PromptEncoder
from quantsam.models.variants import Variant


class EfficientViTSam(nn.Module):
    """The whole model, in plain PyTorch: no part of it knows about quantization.

    Attributes:
        variant: Hyper-parameters of the model.
        image_encoder: Any `Encoder`; an `ImageEncoder` unless `with_encoder` replaced it.
        float_encoder: The original plain encoder, even if `with_encoder` replaced `image_encoder`.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.image_encoder: Encoder = ImageEncoder(variant)
        self.prompt_encoder = PromptEncoder(variant.embed_dim, variant.embed_size, variant.prompt_size)
        self.mask_decoder = MaskDecoder(variant.embed_dim, variant.decoder_heads, variant.decoder_mlp_dim)

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.variant.name

    def with_encoder(self, encoder: Encoder) -> EfficientViTSam:
        """Return a model that shares everything with this one but the image encoder."""
        other = copy.copy(self)  # nn.Module's registry is copied too, so that `self` keeps its own encoder
        other._modules = dict(self._modules)
        other._modules.pop("image_encoder", None)
        other.__dict__.pop("image_encoder", None)
        other.__dict__["_float_encoder"] = self.float_encoder  # past nn.Module: not a part of this model
        other.image_encoder = encoder
        return other

    @property
    def float_encoder(self) -> ImageEncoder:
        """The plain encoder, in float."""
        encoder = self.__dict__.get("_float_encoder", self.image_encoder)
        assert isinstance(encoder, ImageEncoder)
        return encoder

    @property
    def device(self) -> torch.device:
        """Device that holds the weights."""
        return next(self.mask_decoder.parameters()).device

    def weights_digest(self) -> str:
        """Return the hex digest of all weights, including those of the float encoder."""
        parts = (self.float_encoder, self.prompt_encoder, self.mask_decoder)
        return hashlib.sha256("".join(map(state_digest, parts)).encode()).hexdigest()

    def image_decoder(self, embedding: Tensor) -> ImageDecoder:
        """Return a decoder for many prompts on one image. It takes no mask input.

        Args:
            embedding: (1, embed_dim, embed_size, embed_size) embedding of the image.
        """
        return ImageDecoder(self.prompt_encoder, self.mask_decoder, embedding)

    def decode(
        self,
        embedding: Tensor,
        *,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts on one image, in the prompt frame. `image_decoder` returns a faster decoder for many prompts.

        Args:
            embedding: (1, embed_dim, embed_size, embed_size), shared by all prompts.
            points: (B, N, 2) x y in pixels of the prompt frame, and (B, N) labels.
            boxes: (B, 4) x0 y0 x1 y1 in pixels of the prompt frame.
            masks: (B, 1, 4 * embed_size, 4 * embed_size) logits of an earlier round.
            multimask: Return three masks per prompt instead of one.

        Returns:
            Mask logits (B, M, 4 * embed_size, 4 * embed_size) and predicted IoU (B, M).
        """
        sparse, dense = self.prompt_encoder(points, boxes, masks)
        chosen = MaskDecoder.MULTI if multimask else MaskDecoder.SINGLE
        result: tuple[Tensor, Tensor] = self.mask_decoder(
            embedding, self.prompt_encoder.dense_position(), sparse, dense, chosen
        )
        return result
