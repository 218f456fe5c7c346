"""A plan: scheme x placement resolved on one model, and after calibration every scale and zero point."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from quantsam.errors import PlanError
from quantsam.models.graph import state_digest
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.layers import Role, SiteName
from quantsam.plans.placements import get_placement
from quantsam.plans.processors import weights_in_pairs
from quantsam.plans.transforms import Transform, transforms_digest
from quantsam.quant.params import QParams, TensorSpec
from quantsam.runtime.processor import Processors


@dataclass(frozen=True, slots=True, eq=False)
class PlanSite(SiteName):
    """One quantized tensor.

    Attributes:
        layer: Address of its layer, `stage3:4:2`.
        kind: Kind of its layer.
        name: Its name in the layer.
        role: Weight or activation.
        path: The module in the encoder.
        spec: How it is quantized.
        params: Its grid; None until calibrated.
    """

    layer: str
    kind: str
    name: str
    role: Role
    path: str
    spec: TensorSpec
    params: QParams | None = None

    @property
    def key(self) -> str:
        """Its name in the whole model, `stage3:4:2/input`."""
        return f"{self.layer}/{self.name}"

    @property
    def label(self) -> str:
        """What names of its convolution's tensors begin with, `stage3:4:2/`, `stage4:1:0/depthwise0.`."""
        return f"{self.layer}/{self.branch}"

    @property
    def grid(self) -> QParams:
        """Its grid, where it was calibrated."""
        assert self.params is not None, f"{self.key} is not calibrated"
        return self.params


@dataclass(frozen=True, slots=True)
class CalibrationInfo:
    """What a plan was calibrated on: name, digest (None where the images had none), number of images."""

    name: str
    digest: str | None
    count: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that the simulator and the engines need to know, and the only place where they learn it.

    Attributes:
        model: The variant's name.
        encoder_digest: Digest of the weights of the encoder that the plan was made for, before any transform.
        scheme: The scheme's name.
        scheme_digest: Digest of its rules.
        placement: The placement's name.
        sites: Every quantized tensor, in the order of the forward pass.
        transforms: What is done to the float encoder first, in this order.
        calibration: What it was calibrated on; None until then.
    """

    model: str
    encoder_digest: str
    scheme: str
    scheme_digest: str
    placement: str
    sites: tuple[PlanSite, ...]
    transforms: tuple[Transform, ...] = ()
    calibration: CalibrationInfo | None = None

    @property
    def is_calibrated(self) -> bool:
        """Whether every site has its grid."""
        return all(site.params is not None for site in self.sites)

    @property
    def repairs(self) -> tuple[str, ...]:
        """The names of the repairs that made its transforms, in their order."""
        return tuple(dict.fromkeys(t.repair for t in self.transforms if t.repair is not None))

    @property
    def processors(self) -> Processors:
        """Where an engine's integer kernels compute it exactly: on `any` processor, or only on those with `vnni`."""
        order = get_placement(self.placement).pairs
        if order is None:
            return "any"
        in_pairs = weights_in_pairs(((site.kind, site, site.spec) for site in self.sites), order)
        exposed = any(s.path in in_pairs and s.role == "weight" and not s.spec.saturation_free for s in self.sites)
        return "vnni" if exposed else "any"

    @property
    def digest(self) -> str:
        """Hex digest of all that decides what the plan computes."""
        digest = hashlib.sha256(json.dumps([self.model, self.encoder_digest, self.placement]).encode())
        digest.update(transforms_digest(self.transforms).encode())
        for site in self.sites:
            digest.update(json.dumps([site.key, dataclasses.asdict(site.spec)]).encode())
            if site.params is not None:
                digest.update(str(site.params.axis).encode())
                digest.update(site.params.scale.cpu().numpy().tobytes())
                digest.update(site.params.zero_point.cpu().numpy().tobytes())
        return digest.hexdigest()

    def quantized_convolutions(self) -> Iterator[tuple[PlanSite, PlanSite]]:
        """Yield the weight and the input of every convolution both of which are quantized."""
        inputs = {site.convolution: site for site in self.sites if site.tensor == "input"}
        for site in self.sites:
            if site.role == "weight" and site.path in inputs:
                yield site, inputs[site.path]

    def check_fits(self, model: EfficientViTSam) -> None:
        """Make sure that the plan was made for a model with these weights.

        Raises:
            PlanError: The model is another variant or has other weights.
        """
        if model.name != self.model:
            raise PlanError(
                f"plan was made for model {self.model!r}, got {model.name!r}: make and calibrate one for {model.name}"
            )
        found = state_digest(model.float_encoder)
        if found != self.encoder_digest:
            raise PlanError(
                f"plan was made for encoder weights {self.encoder_digest[:12]}, got {found[:12]}: "
                "load the weights it was calibrated with, or calibrate again"
            )

    def check_calibrated(self) -> None:
        """Make sure that every site has its grid.

        Raises:
            PlanError: One has none.
        """
        missing = [site.key for site in self.sites if site.params is None]
        if missing:
            raise PlanError(
                f"plan must be calibrated, got {len(missing)} sites without a scale: "
                "quantsam.calibrate(model, plan, images)"
            )
