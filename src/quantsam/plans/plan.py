"""A plan: scheme x placement resolved on one model, and after calibration every scale and zero point."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from quantsam.errors import PlanError
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import state_digest
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.calibration import (
    CalibrationImage,
    Observations,
    Progress,
    calibrate_weights,
    observe_activations,
)
from quantsam.plans.layers import Role, discover_layers
from quantsam.plans.placements import get_placement
from quantsam.plans.processors import Processors, weights_in_pairs
from quantsam.plans.resolve import resolve
from quantsam.quant.params import QParams, TensorSpec
from quantsam.schemes.load import load_scheme
from quantsam.schemes.scheme import Scheme


@dataclass(frozen=True, slots=True, eq=False)
class PlanSite:
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
        encoder_digest: Digest of the encoder's weights that the plan was made for.
        scheme: The scheme's name.
        scheme_digest: Digest of its rules.
        placement: The placement's name.
        sites: Every quantized tensor, in the order of the forward pass.
        calibration: What it was calibrated on; None until then.
        encoder: The float encoder; not saved.
    """

    model: str
    encoder_digest: str
    scheme: str
    scheme_digest: str
    placement: str
    sites: tuple[PlanSite, ...]
    calibration: CalibrationInfo | None = None
    encoder: ImageEncoder | None = field(default=None, repr=False)

    @property
    def is_calibrated(self) -> bool:
        """Whether every site has its grid."""
        return all(site.params is not None for site in self.sites)

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
        for site in self.sites:
            digest.update(json.dumps([site.key, dataclasses.asdict(site.spec)]).encode())
            if site.params is not None:
                digest.update(str(site.params.axis).encode())
                digest.update(site.params.scale.cpu().numpy().tobytes())
                digest.update(site.params.zero_point.cpu().numpy().tobytes())
        return digest.hexdigest()

    def calibrate(self, images: Iterable[CalibrationImage] = (), *, progress: Progress | None = None) -> Plan:
        """Measure every site, all in one pass over the images, and return the plan with its grids.

        Args:
            images: Files, RGB uint8 arrays (H, W, 3), or preprocessed float tensors (1 or N, 3, S, S).
                Not needed when only weights are quantized.
            progress: Wraps the iteration over the images, given their number where it is known.

        Raises:
            CalibrationError: There are no images, they show nothing, or a site is constant or not finite.
        """
        weights = self._weight_grids()  # first: what is wrong with them is known at once
        seen = self.observe(images, progress=progress) if self._activations() else None
        return self._with_grids(weights, seen, getattr(images, "name", "images"), getattr(images, "digest", None))

    def observe(self, images: Iterable[CalibrationImage], *, progress: Progress | None = None) -> Observations:
        """Show images to the activations' observers, see `calibrate`; what several have seen can be merged."""
        encoder = get_placement(self.placement).prepare(self._own_encoder())
        return observe_activations(encoder, self._activations(), images, progress)

    def with_observations(self, seen: Observations | None, name: str, digest: str | None) -> Plan:
        """Return the plan with its grids.

        Args:
            seen: By the observers of all activations; None if there are none.
            name: Of the images.
            digest: Of the images, if they have one.

        Raises:
            CalibrationError: See `calibrate`.
        """
        return self._with_grids(self._weight_grids(), seen, name, digest)

    def _weight_grids(self) -> dict[str, QParams]:
        encoder = get_placement(self.placement).prepare(self._own_encoder())
        return calibrate_weights(encoder, {s.key: (s.path, s.spec) for s in self.sites if s.role == "weight"})

    def _with_grids(
        self, weights: dict[str, QParams], seen: Observations | None, name: str, digest: str | None
    ) -> Plan:
        params = weights | (seen.grids(self._activations()) if seen is not None else {})
        sites = tuple(dataclasses.replace(site, params=params[site.key]) for site in self.sites)
        info = None if seen is None else CalibrationInfo(name, digest, seen.count)
        return dataclasses.replace(self, sites=sites, calibration=info)

    def _activations(self) -> dict[str, tuple[str, TensorSpec]]:
        return {site.key: (site.path, site.spec) for site in self.sites if site.role == "activation"}

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
                f"plan must be calibrated, got {len(missing)} sites without a scale: plan.calibrate(images)"
            )

    def bind(self, model: EfficientViTSam) -> Plan:
        """Return the plan tied to a model's encoder, after `check_fits`."""
        self.check_fits(model)
        return dataclasses.replace(self, encoder=model.float_encoder)

    def _own_encoder(self) -> ImageEncoder:
        if self.encoder is None:
            raise PlanError("a loaded plan must be bound to its model before use: plan.bind(model)")
        return self.encoder


def make_plan(
    model: EfficientViTSam,
    scheme: Scheme | str,
    placement: str = "thesis",
    *,
    weights: bool = True,
    activations: bool = True,
) -> Plan:
    """Resolve a scheme on a model.

    Args:
        model: The model, in float.
        scheme: A scheme, or what `load_scheme` takes.
        placement: Name of the placement.
        weights: Quantize weights (the thesis' `quantize_W`).
        activations: Quantize activations (the thesis' `quantize_A`).

    Returns:
        A plan that is not calibrated yet.

    Raises:
        SchemeError: The scheme does not fit the model.
        InputError: There is no such placement.
    """
    scheme = scheme if isinstance(scheme, Scheme) else load_scheme(scheme)
    encoder = model.float_encoder
    sites = resolve_sites(encoder, scheme, placement, weights=weights, activations=activations)
    return Plan(model.name, state_digest(encoder), scheme.name, scheme.digest, placement, sites, encoder=encoder)


def resolve_sites(
    encoder: ImageEncoder, scheme: Scheme, placement: str, *, weights: bool = True, activations: bool = True
) -> tuple[PlanSite, ...]:
    """Return what `make_plan` would quantize; the encoder's weights are not read and may be on `meta`."""
    roles = {"weight": weights, "activation": activations}
    placed = get_placement(placement)
    resolved = resolve(scheme, placed, discover_layers(placed.prepare(encoder)), encoder.variant.name)
    return tuple(
        PlanSite(str(layer.address), layer.kind, site.name, site.role, site.path, spec)
        for layer, site, spec in resolved
        if roles[site.role]
    )
