"""SAM's prompt encoder turns points, boxes and masks into tokens (Kirillov et al., 2023, section A)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from quantsam.models.blocks import LayerNorm2d


class PositionEmbedding(nn.Module):
    """Random Fourier features of coordinates in the unit square (Tancik et al., 2020)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, xy: Tensor) -> Tensor:
        """Map coordinates (..., 2) in [0, 1] to (..., 2 * features)."""
        matrix = self.get_buffer("positional_encoding_gaussian_matrix")
        angles = 2 * math.pi * ((2 * xy - 1) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class PromptEncoder(nn.Module):
    """Turns prompts into sparse tokens (points, box corners) and a dense embedding (mask)."""

    def __init__(self, embed_dim: int, embed_size: int, prompt_size: int, mask_channels: int = 16) -> None:
        super().__init__()
        self.embed_dim, self.embed_size, self.prompt_size = embed_dim, embed_size, prompt_size
        self.pe_layer = PositionEmbedding(embed_dim // 2)
        # negative point, positive point, top-left corner, bottom-right corner
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, 2),
            LayerNorm2d(mask_channels // 4, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, 2),
            LayerNorm2d(mask_channels, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(mask_channels, embed_dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def dense_position(self) -> Tensor:
        """Return the position embedding of the image embedding's grid, (1, embed_dim, size, size)."""
        matrix = self.get_buffer("pe_layer.positional_encoding_gaussian_matrix")
        centre = (torch.arange(self.embed_size, device=matrix.device, dtype=matrix.dtype) + 0.5) / self.embed_size
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        grid: Tensor = self.pe_layer(torch.stack([x, y], dim=-1))
        return grid.permute(2, 0, 1).unsqueeze(0)

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Embed points.

        Args:
            points: (B, N, 2) float, x y in pixels of the prompt frame.
            labels: (B, N) int: 1 positive, 0 negative, 2 and 3 box corners, -1 padding.

        Returns:
            Tokens (B, N, embed_dim).
        """
        tokens: Tensor = self.pe_layer((points + 0.5) / self.prompt_size)
        tokens = tokens * (labels != -1).unsqueeze(-1)
        embeddings = [e.get_parameter("weight") for e in self.point_embeddings]
        kinds = torch.cat([self.not_a_point_embed.weight, *embeddings])
        return tokens + kinds[labels.long() + 1]

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embed a batch of prompts on one image.

        Args:
            points: (B, N, 2) coordinates in pixels of the prompt frame and (B, N) labels.
            boxes: (B, 4) as x0 y0 x1 y1 in pixels of the prompt frame.
            masks: (B, 1, 4 * embed_size, 4 * embed_size) logits.

        Returns:
            Sparse tokens (B, T, embed_dim); dense embedding (B or 1, embed_dim, size, size).
        """
        sparse: list[Tensor] = []
        if points is not None:
            coordinates, labels = points
            if boxes is None:  # a padding point stands in for the box
                coordinates = torch.cat([coordinates, coordinates.new_zeros(len(coordinates), 1, 2)], dim=1)
                labels = torch.cat([labels, labels.new_full((len(labels), 1), -1)], dim=1)
            sparse.append(self.embed_points(coordinates, labels))
        if boxes is not None:
            corner_labels = torch.tensor([2, 3], device=boxes.device).expand(len(boxes), 2)
            sparse.append(self.embed_points(boxes.reshape(-1, 2, 2), corner_labels))
        if masks is not None:
            dense: Tensor = self.mask_downscaling(masks)
        else:
            dense = self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(-1, -1, self.embed_size, self.embed_size)
        if not sparse:
            return dense.new_zeros(len(dense), 0, self.embed_dim), dense
        return torch.cat(sparse, dim=1), dense
