"""The hyper-parameters of every variant, in one table.

Source: EfficientViT-SAM (Zhang, Cai, Han, 2024, arXiv:2402.05008) and Segment Anything (Kirillov et
al., 2023, arXiv:2304.02643). `nano` is this project's own toy variant: it has the same blocks, layer kinds
and addresses, and is small enough to ship with the package. `nano-outlier` is the same function with outlier channels
(`models/outliers.py`). `nano-hard` was trained to have massive positions. It also has outlier channels that no scale
of a stream reaches.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from quantsam.errors import InputError, one_of

BlockKind = Literal["res", "fmb", "mb", "att3", "att5"]


@dataclass(frozen=True, slots=True)
class Variant:
    """Hyper-parameters of one EfficientViT-SAM.

    Attributes:
        name: The variant's name, `l0` ... `xl1`, `nano`, `nano-outlier` or `nano-hard`.
        input_size: Side in pixels of the encoder's square input.
        prompt_size: Side in pixels of the square prompt frame, in which the prompt encoder takes coordinates.
        widths: Channels of each backbone stage.
        depths: Blocks of each stage, not counting the stem or down-sampling block that opens it.
        blocks: Kind of each stage's blocks; `att3`/`att5` name the kernel of the multi-scale branch.
        expands: Expansion ratio of each stage's blocks; the down-sampling block expands four times as much.
        attention_dim: Channels of one linear-attention head.
        neck_stages: The stages that feed the neck, deepest first.
        neck_width: Channels inside the neck.
        neck_depth: Fused blocks in the neck.
        neck_expand: Expansion ratio of those blocks.
        embed_dim: Channels of the image embedding and of the prompt tokens.
        embed_size: Side of the image embedding.
        decoder_heads: Attention heads of the mask decoder.
        decoder_mlp_dim: Hidden width of the decoder's MLP.
        weights_file: File of the weights that ship with quantsam, in `models/weights`; None if they are on the hub.
        outliers: Where outlier channels are added to these weights, see `models.outliers`; None for nowhere.
        calibration: Default calibration images, used when the user names none; None if they cannot be made.
        iou_threshold: Least predicted IoU of a mask when everything is segmented, 0..1.
        stability_threshold: Least stability of a mask when everything is segmented, 0..1.
        about: What a reader of results should know about the variant.
    """

    name: str
    input_size: int
    prompt_size: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    blocks: tuple[BlockKind, ...]
    expands: tuple[int, ...]
    attention_dim: int
    neck_stages: tuple[int, ...]
    neck_width: int
    neck_depth: int
    neck_expand: int
    embed_dim: int = 256
    embed_size: int = 64
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    weights_file: str | None = None
    outliers: Literal["streams", "bottlenecks"] | None = None
    calibration: str | None = None
    iou_threshold: float = 0.88
    stability_threshold: float = 0.95
    about: str = ""

    @property
    def checkpoint_file(self) -> str:
        """File name of the official checkpoint on the Hugging Face hub."""
        return f"efficientvit_sam_{self.name}.pt"


_ABOUT_NANO = (
    "A small model that comes along with quantsam, trained on scenes and 2,200 photographs: "
    "it shows how things work, and says nothing of the official models."
)

_L_BLOCKS: tuple[BlockKind, ...] = ("res", "fmb", "fmb", "mb", "att5")
_XL_BLOCKS: tuple[BlockKind, ...] = ("res", "fmb", "fmb", "fmb", "att3", "att3")


def _l(name: str, depths: tuple[int, ...], neck_depth: int) -> Variant:
    return Variant(
        name=name,
        input_size=512,
        prompt_size=1024,
        widths=(32, 64, 128, 256, 512),
        depths=depths,
        blocks=_L_BLOCKS,
        expands=(1, 4, 4, 4, 6),
        attention_dim=32,
        neck_stages=(4, 3, 2),
        neck_width=256,
        neck_depth=neck_depth,
        neck_expand=1,
    )


def _xl(name: str, depths: tuple[int, ...], neck_depth: int) -> Variant:
    return Variant(
        name=name,
        input_size=1024,
        prompt_size=1024,
        widths=(32, 64, 128, 256, 512, 1024),
        depths=depths,
        blocks=_XL_BLOCKS,
        expands=(1, 4, 4, 4, 4, 6),
        attention_dim=32,
        neck_stages=(5, 4, 3),
        neck_width=256,
        neck_depth=neck_depth,
        neck_expand=4,
    )


VARIANTS: dict[str, Variant] = {
    "l0": _l("l0", depths=(1, 1, 1, 4, 4), neck_depth=4),
    "l1": _l("l1", depths=(1, 1, 1, 6, 6), neck_depth=8),
    "l2": _l("l2", depths=(1, 2, 2, 8, 8), neck_depth=12),
    "xl0": _xl("xl0", depths=(0, 1, 1, 2, 3, 3), neck_depth=6),
    "xl1": _xl("xl1", depths=(1, 2, 2, 4, 6, 6), neck_depth=12),
    "nano": Variant(
        name="nano",
        input_size=320,
        prompt_size=320,
        widths=(16, 32, 64, 128, 192),
        depths=(1, 1, 1, 2, 3),
        blocks=_L_BLOCKS,
        expands=(1, 2, 2, 4, 4),
        attention_dim=16,
        neck_stages=(4, 3, 2, 1),  # stage 1 has the embedding's resolution, as the last one has in L and XL
        neck_width=48,
        neck_depth=2,
        neck_expand=1,
        embed_dim=96,
        embed_size=80,  # 4 px a cell: masks have all of the input's pixels
        decoder_heads=2,
        decoder_mlp_dim=256,
        weights_file="nano.safetensors",
        calibration="scenes:32:1",
        # nano is less certain of its masks: with SAM's thresholds it finds none on photographs. With these it finds 7.6
        # per COCO image on average, and some on each of 12 images (benchmarks/everything.py --images 12)
        iou_threshold=0.5,
        stability_threshold=0.5,
        about=_ABOUT_NANO,
    ),
}
VARIANTS["nano-outlier"] = dataclasses.replace(
    VARIANTS["nano"],
    name="nano-outlier",
    outliers="streams",
    about=f"nano with outlier channels: the same function in FP32, much harder to quantize. {_ABOUT_NANO}",
)
VARIANTS["nano-hard"] = dataclasses.replace(
    VARIANTS["nano"],
    name="nano-hard",
    weights_file="nano-hard.safetensors",
    outliers="bottlenecks",
    about="nano, trained on to have massive positions, and with outlier channels: nearly as good in FP32, far harder "
    f"to quantize (recipes/nano/harden.py). {_ABOUT_NANO}",
)


def get_variant(name: str) -> Variant:
    """Return a variant by name. Upper or lower case and the official prefix do not matter.

    Raises:
        InputError: No variant has that name.

    >>> get_variant("efficientvit-sam-L0").input_size
    512
    """
    key = name.lower().replace("_", "-").removeprefix("efficientvit-sam-")
    if key not in VARIANTS:
        raise InputError(one_of("model", name, VARIANTS, like=key))
    return VARIANTS[key]
