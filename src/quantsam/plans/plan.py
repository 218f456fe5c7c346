"""A plan: a scheme resolved under a placement on one model, with every scale and zero point once calibrated."""

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
        path: Path of its module in the encoder.
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
        """Common prefix of its convolution's tensor names: `stage3:4:2/`, `stage4:1:0/depthwise0.`."""
        return f"{self.layer}/{self.branch}"

    @property
    def grid(self) -> QParams:
        """Its grid; the site must be calibrated."""
        assert self.params is not None, f"{self.key} is not calibrated"
        return self.params


@dataclass(frozen=True, slots=True)
class CalibrationInfo:
    """What a plan was calibrated on: name, digest (None if the images have none), number of images."""

    name: str
    digest: str | None
    count: int


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """Everything that the simulator and the engines need to know. They read it nowhere else.

    Attributes:
        model: The variant's name.
        encoder_digest: Digest of the encoder's weights before any transform.
        scheme: The scheme's name.
        scheme_digest: Digest of the scheme's rules and repairs.
        placement: The placement's name.
        sites: Every quantized tensor, in the order of the forward pass.
        transforms: Changes of the float encoder, applied first and in this order.
        calibration: What the plan was calibrated on; None until calibrated.
    """

    model: str
    encoder_digest: str
    scheme: str
    scheme_digest: str
    placement: str
    sites: tuple[PlanSite, ...]
    transforms: tuple[Transform, ...] = ()
    calibration: CalibrationInfo | None = None

    def __repr__(self) -> str:
        parts = [
            f"{self.scheme} of {self.model}",
            f"placement {self.placement}",
            f"{len(self.sites)} quantized tensors",
        ]
        if self.repairs:
            parts.append(f"repaired by {','.join(self.repairs)}")
        on = f" on {self.calibration.count} images" if self.calibration else ""
        parts.append(f"calibrated{on}" if self.is_calibrated else "not calibrated")
        return f"<Plan: {', '.join(parts)}>"

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
        """Processors on which an engine's integer kernels are exact: `any`, or `vnni` for those with VNNI."""
        order = get_placement(self.placement).pairs
        if order is None:
            return "any"
        in_pairs = weights_in_pairs(((site.kind, site, site.spec) for site in self.sites), order)
        exposed = any(s.path in in_pairs and s.role == "weight" and not s.spec.saturation_free for s in self.sites)
        return "vnni" if exposed else "any"

    @property
    def digest(self) -> str:
        """Hex digest of everything that decides what the plan computes."""
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
        """Yield weight and input of every convolution whose weight and input are both quantized."""
        inputs = {site.convolution: site for site in self.sites if site.tensor == "input"}
        for site in self.sites:
            if site.role == "weight" and site.path in inputs:
                yield site, inputs[site.path]

    def check_fits(self, model: EfficientViTSam) -> None:
        """Check that the plan was made for a model with these weights.

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
        """Check that every site has its grid.

        Raises:
            PlanError: A site has no grid.
        """
        missing = [site.key for site in self.sites if site.params is None]
        if missing:
            raise PlanError(
                f"plan must be calibrated, got {len(missing)} sites without a scale: "
                "quantsam.calibrate(model, plan, images)"
            )
