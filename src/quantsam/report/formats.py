"""The encoder layer by layer: its format in each scheme, and what a study and the engines say about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from quantsam.report.content import ModelResults
from quantsam.results.distribution_record import DistributionRecord
from quantsam.results.layer_formats import FLOAT, LayerFormat, forward_order, layer_formats, uniform_format
from quantsam.results.search_record import FOUND, SearchRecord
from quantsam.results.sensitivity_record import RowScore, SensitivityRecord

MOST_SCHEMES = 16


@dataclass(frozen=True, slots=True)
class SchemeFormats:
    """The formats of a scheme on the layers of a model.

    Attributes:
        name: Scheme and placement.
        formats: Short names of formats by layer; layers that are missing are in float.
        ran_in_float: Layers that the scheme quantizes but an engine ran in float, as agreement records say.
    """

    name: str
    formats: Mapping[str, str]
    ran_in_float: frozenset[str] = frozenset()

    def of(self, address: str) -> str:
        """Return the short name of a layer's format."""
        return self.formats.get(address, FLOAT)


@dataclass(frozen=True, slots=True)
class EncoderLayers:
    """The layers of a model's encoder.

    Attributes:
        kinds: Kind by address, in the order of the forward pass; an empty text if it is unknown.
        schemes: Schemes that a reader can choose.
        study: Study that quantized each layer alone; None without such a study.
    """

    kinds: Mapping[str, str]
    schemes: tuple[SchemeFormats, ...]
    study: SensitivityRecord | None

    @property
    def scores(self) -> dict[str, RowScore]:
        """Scores of the study, by address."""
        return {} if self.study is None else {row.unit: row for row in self.study.rows}


def encoder_layers(model: ModelResults) -> EncoderLayers | None:
    """Return what is known about a model's layers; None if no record says which formats they had.

    Raises:
        StoreError: A record is damaged.
    """
    studies = [study for study in (*model.studies, *model.search_studies) if _is_of_single_layers(study)]
    kinds = {row.unit: row.kind for study in studies for row in study.rows}
    found: dict[str, list[LayerFormat]] = {}
    for name, layers in _all_schemes(model, kinds):
        if layers:
            found.setdefault(name, layers)
    if not found:
        return None
    for layers in found.values():
        kinds |= {layer.address: layer.kind for layer in layers if layer.kind or layer.address not in kinds}
    float_ones = _ran_in_float(model)
    schemes = [
        SchemeFormats(name, {layer.address: layer.short for layer in layers}, float_ones.get(name, frozenset()))
        for name, layers in list(found.items())[:MOST_SCHEMES]
    ]
    ordered = sorted(kinds, key=forward_order)
    return EncoderLayers({address: kinds[address] for address in ordered}, tuple(schemes), next(iter(studies), None))


def _all_schemes(model: ModelResults, kinds: Mapping[str, str]) -> Iterator[tuple[str, list[LayerFormat]]]:
    for task in model.tasks:
        for result in task.results:
            yield _named(result.record.label, result.record.placement), layer_formats(result.record)
    for record in model.distributions:
        yield _named(record.label, record.placement), _of_sites(record)
    for search in model.searches:
        yield from _of_search(search, kinds)


def _named(label: str, placement: str | None) -> str:
    return f"{label}, placed as {placement}" if placement else label


def _of_sites(record: DistributionRecord) -> list[LayerFormat]:
    """Return the layers of the sites in a record of distributions, with their formats."""
    formats: dict[str, dict[str, set[str]]] = {}
    kinds: dict[str, str] = {}
    for site in record.sites:
        address = site.site.partition("/")[0]
        kinds[address] = site.kind
        if site.format is not None:
            formats.setdefault(address, {}).setdefault(site.role, set()).add(site.format)
    if not formats:
        return []
    joined = {a: {role: "/".join(sorted(names)) for role, names in found.items()} for a, found in formats.items()}
    return [
        LayerFormat(a, kind, joined.get(a, {}).get("weight"), joined.get(a, {}).get("activation"))
        for a, kind in kinds.items()
    ]


def _of_search(record: SearchRecord, kinds: Mapping[str, str]) -> Iterator[tuple[str, list[LayerFormat]]]:
    """Yield the schemes that a search found and kept."""
    layers = record.settings.get("layers")
    addresses = [str(address) for address in layers] if isinstance(layers, list) else []
    for entry in record.front:
        if entry.origin == FOUND and len(entry.formats) == len(addresses):
            pairs = zip(addresses, entry.formats, strict=True)
            formats = [uniform_format(address, kinds.get(address, ""), name) for address, name in pairs]
            yield _named(f"{entry.name} (found)", record.placement), formats


def _is_of_single_layers(study: SensitivityRecord) -> bool:
    settings = study.settings
    return (settings.get("by"), settings.get("mode"), settings.get("part", "both")) == ("layer", "in", "both")


def _ran_in_float(model: ModelResults) -> dict[str, frozenset[str]]:
    """Return, by scheme, the layers that an engine ran in float although the plan quantizes them."""
    found: dict[str, set[str]] = {}
    for record in model.agreements:
        name = _named(record.label, record.placement)
        found.setdefault(name, set()).update(label.partition("/")[0] for label in record.silently_float)
    return {name: frozenset(addresses) for name, addresses in found.items()}
