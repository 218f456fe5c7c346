"""Tables of layers: studies, repairs, searches, distributions, activations, and the encoder under schemes."""

from __future__ import annotations

from collections.abc import Sequence

from quantsam.report.formats import EncoderLayers
from quantsam.report.tables import STANDARD_ERROR, Table, TableRow, number
from quantsam.results.activation_record import ComparedSite
from quantsam.results.distribution_record import SiteDistribution
from quantsam.results.repair_record import RepairRecord
from quantsam.results.search_record import FOUND, SearchEntry, SearchRecord, dominating
from quantsam.results.sensitivity_record import SensitivityRecord

_MOST_SCHEMES = 6
_MASK_LOSS = "Mask loss: 100 less the mean IoU of the masks with FP32's own"


def study_table(record: SensitivityRecord) -> Table:
    """Return the rows of a study, the worst first."""
    by = str(record.settings.get("by", "layer"))
    columns = (by, "kind", ">mIoU lost", ">± SE", ">mask loss", ">± SE", ">SQNR dB", ">images")
    rows = [
        TableRow(
            (
                row.name,
                row.kind,
                number(row.drop),
                number(row.drop_se),
                number(row.mask_loss),
                number(row.mask_loss_se),
                number(row.sqnr_db, ".1f"),
                str(row.images),
            )
        )
        for row in record.worst_first
    ]
    note = f"Ordered by mask loss. {_MASK_LOSS}, which is less noisy than mIoU. {STANDARD_ERROR}"
    if record.settings.get("method") == "race":
        note += f" A race: a {by} is measured on more images while its rank is undecided."
    return Table(f"{record.label} on {record.dataset}, by mask loss", columns, tuple(rows), note)


def repair_table(record: RepairRecord) -> Table:
    """Return the gain and cost of each repair."""
    columns = ["tried", "kept", ">mask loss", ">± SE", ">gain", ">± SE", ">encoder MiB"]
    first, timed = record.steps[0].encoder_ms, all(step.encoder_ms for step in record.steps)
    columns += [">ms", ">of unrepaired"] if timed else []
    rows = []
    for step in record.steps:
        numbers = map(number, (step.mask_loss, step.mask_loss_se, step.gain, step.gain_se))
        cells = [step.name, "yes" if step.kept else "", *numbers, f"{step.size_bytes / 2**20:.2f}"]
        if timed and step.encoder_ms and first:
            cells += [number(step.encoder_ms, ".1f"), f"{step.encoder_ms / first:.2f}"]
        rows.append(TableRow(tuple(cells), "good" if step.kept and step.gain is not None else "plain"))
    note = f"{_MASK_LOSS}, on calibration images that were held out. Gain: paired with what was kept before. "
    note += "±: one standard error, over images."
    return Table(f"Repairs of {record.scheme}, placed as {record.placement} does", tuple(columns), tuple(rows), note)


def search_table(record: SearchRecord) -> Table:
    """Return what a search found, beside the hand-made schemes."""
    entries = record.entries
    columns = ("scheme", "origin", ">encoder MiB", ">mIoU lost", ">± SE", ">held out: lost", ">± SE", "")
    rows = []
    for entry in entries:
        numbers = (entry.drop, entry.drop_se, entry.held_out_drop, entry.held_out_drop_se)
        cells = (entry.name, entry.origin, f"{entry.size_bytes / 2**20:.2f}", *map(number, numbers))
        rows.append(TableRow((*cells, _remark(entry, entries))))
    return Table(f"Search on {record.dataset}", columns, tuple(rows), STANDARD_ERROR)


def _remark(entry: SearchEntry, entries: Sequence[SearchEntry]) -> str:
    if entry.origin == FOUND:
        return "on the front" if entry.on_front else ""
    better = dominating(entry, entries)
    return "" if better is None else f"{better.name} costs less and loses no more"


def distribution_table(sites: Sequence[SiteDistribution], most: int) -> Table:
    """Return the sites whose channels differ most, with the effect of their grids. Each tensor is listed once.

    Args:
        sites: Ranked sites.
        most: Number of tensors to list.
    """
    columns = ("site", "kind", "format", ">range", ">grid", ">clipped", ">SQNR dB", ">outlier ratio", "channels")
    same: dict[tuple[object, ...], list[SiteDistribution]] = {}
    for site in sites:  # what a layer gives is what the next one takes in
        same.setdefault((site.values, site.low, site.high, site.outliers), []).append(site)
    rows = [_distribution_row(together) for together in list(same.values())[:most]]
    note = "Outlier ratio: how much further the widest channel reaches than the median one; each doubling costs the "
    note += "other channels one bit of resolution. Channels: the widest ones, each with its ratio."
    return Table("Sites with the widest outlier channels", columns, tuple(rows), note)


def _distribution_row(together: Sequence[SiteDistribution]) -> TableRow:
    site = together[0]
    return TableRow(
        (
            " = ".join(s.site for s in together),
            site.kind,
            f"{site.format or 'float'}{', per channel' if site.per_channel else ''}",
            _range(site.low, site.high),
            _range(site.grid_low, site.grid_high),
            "" if site.clipped is None else f"{100 * site.clipped:.2g} %",
            number(site.sqnr_db, ".1f"),
            number(site.outlier_ratio, ".1f"),
            ", ".join(f"{o.index} ({o.ratio:.0f}x)" for o in site.outliers[:3]),
        )
    )


def activation_table(sites: Sequence[ComparedSite], most: int) -> Table:
    """Return the sites whose activations differ most for one image. Each tensor is listed once.

    Args:
        sites: Ranked sites.
        most: Number of tensors to list.
    """
    columns = ("site", "kind", "format", "shape", ">largest", ">largest difference", ">SQNR dB", "channels")
    same: dict[tuple[object, ...], list[ComparedSite]] = {}
    for site in sites:  # what a layer gives is what the next one takes in
        key = (site.shape, site.largest, site.largest_difference, site.sqnr_db, site.worst_channels, site.worst_sqnr_db)
        same.setdefault(key, []).append(site)
    rows = [_activation_row(together) for together in list(same.values())[:most]]
    note = "Largest: magnitudes in float. Differences and SQNR: with all that was rounded before. "
    note += "Channels: those that differ most, each with its own SQNR in dB."
    return Table("Sites whose activations differ most", columns, tuple(rows), note)


def _activation_row(together: Sequence[ComparedSite]) -> TableRow:
    site = together[0]
    pairs = zip(site.worst_channels, site.worst_sqnr_db, strict=True)
    return TableRow(
        (
            " = ".join(s.site for s in together),
            site.kind,
            site.format or "float",
            " x ".join(map(str, site.shape)),
            _short(site.largest),
            _short(site.largest_difference),
            number(site.sqnr_db, "z.1f"),
            ", ".join(str(channel) if sqnr is None else f"{channel} ({sqnr:z.1f})" for channel, sqnr in pairs),
        )
    )


def encoder_table(layers: EncoderLayers) -> Table:
    """Return, layer by layer, the formats in some schemes, the cost of the layer alone, and what ran in float."""
    schemes = layers.schemes[:_MOST_SCHEMES]
    in_float = [scheme for scheme in layers.schemes if scheme.ran_in_float]
    scores = layers.scores
    columns = ["layer", "kind", *(scheme.name for scheme in schemes)]
    columns += [">mask loss", ">± SE", ">SQNR dB"] if scores else []
    columns += ["quantized, ran in float"] if in_float else []
    rows = []
    for address, kind in layers.kinds.items():
        cells = [address, kind, *(scheme.of(address) for scheme in schemes)]
        if scores:
            score = scores.get(address)
            found = (None,) * 3 if score is None else (score.mask_loss, score.mask_loss_se, score.sqnr_db)
            cells += [number(found[0]), number(found[1]), number(found[2], ".1f")]
        if in_float:
            cells.append("; ".join(scheme.name for scheme in in_float if address in scheme.ran_in_float))
        rows.append(TableRow(tuple(cells)))
    hidden = len(layers.schemes) - len(schemes)
    notes = [f"{hidden} more schemes are in the chart alone."] if hidden else []
    if layers.study is not None:
        notes.append(f"{_MASK_LOSS}, of the layer alone in {layers.study.label}, on {layers.study.dataset}.")
        notes.append(STANDARD_ERROR)
    return Table("Layers in the order of the forward pass", tuple(columns), tuple(rows), " ".join(notes))


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_short(low)} … {_short(high)}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
