"""One image's activations, float beside quantized, site by site, with small figures of a few channels."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantsam.errors import StoreError
from quantsam.results.record import JsonValue, Record, parsed_items
from quantsam.results.typed import typed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KIND = "activations"
LONGEST = 64
"""Pixels that a map has at most, a side."""

MOST_DRAWN = 24
"""Sites that a record draws at most."""

ZERO_CODE, CODES_ASIDE = 128, 127
"""Code of no difference in a map of differences, and how many codes lie on either side of it."""

_LEFT_OUT = ("worst_channels", "worst_sqnr_db", "channels")


@dataclass(frozen=True, slots=True)
class CodedMap:
    """A plane of values in 8 bits: evenly spaced from code 0 to code 255.

    Attributes:
        low: The value of code 0.
        high: The value of code 255.
        png: The codes as a grey PNG with 1 to `LONGEST` pixels per side, in Base64.
    """

    low: float
    high: float
    png: str

    @classmethod
    def of(cls, values: NDArray[np.float64], low: float, high: float) -> CodedMap:
        """Code (h, w) values, each side at most `LONGEST`; values beyond `low` and `high` take their codes."""
        import numpy as np  # imported here, because listing a store needs neither
        from PIL import Image

        shares = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
        data = io.BytesIO()
        Image.fromarray((255 * shares).round().astype(np.uint8)).save(data, "PNG", optimize=True)
        return cls(low, high, base64.b64encode(data.getvalue()).decode())

    @property
    def codes(self) -> NDArray[np.uint8]:
        """The codes, (h, w).

        Raises:
            StoreError: The PNG is damaged.
        """
        import numpy as np
        from PIL import Image

        try:
            with Image.open(io.BytesIO(base64.b64decode(self.png, validate=True)), formats=["PNG"]) as image:
                if image.mode != "L" or max(image.size) > LONGEST:
                    raise ValueError(f"{image.mode}, {image.width} x {image.height}")
                return np.asarray(image, np.uint8)
        except Exception as error:  # with hostile files, Pillow's readers raise almost any exception
            rule = f"a map of activations must be a grey PNG of at most {LONGEST} pixels a side"
            raise StoreError(f"the store holds one that is damaged: {rule} ({error}): measure again") from error

    @property
    def values(self) -> NDArray[np.float64]:
        """The values, (h, w), to within half a code.

        Raises:
            StoreError: The PNG is damaged.
        """
        import numpy as np

        return self.low + (self.high - self.low) * (self.codes / np.float64(255))


@dataclass(frozen=True, slots=True)
class PairedBins:
    """Counts of float and quantized values in adjacent bins of equal width.

    Attributes:
        start: Lower edge of the first bin.
        width: Width of a bin.
        fp32: Number of float values in each bin.
        quantized: Number of quantized values in each bin.
    """

    start: float
    width: float
    fp32: tuple[int, ...]
    quantized: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DrawnChannel:
    """A channel drawn as small figures.

    Maps larger than `LONGEST` are thinned: all maps show, for each block, the place where quantization changes most.

    Attributes:
        index: Index of the channel, zero-based.
        sqnr_db: The channel's own SQNR; see `ComparedSite.sqnr_db`.
        fp32: The float map; its `low` and `high` are the extremes of the whole channel.
        difference: Quantized minus float, on a scale where code 128 is zero and `high` is the largest magnitude.
        bins: Histograms of all values of the channel.
    """

    index: int
    sqnr_db: float | None
    fp32: CodedMap
    difference: CodedMap
    bins: PairedBins

    @property
    def quantized(self) -> CodedMap:
        """The quantized map on the scale of the float map: the sum of both maps, to within their codes.

        Raises:
            StoreError: The PNG is damaged.
        """
        fp32, difference = self.fp32.values, self.difference.values
        if fp32.shape != difference.shape:
            raise StoreError(f"maps of channel {self.index} must be of one shape: measure the activations again")
        return CodedMap.of(fp32 + difference, self.fp32.low, self.fp32.high)


@dataclass(frozen=True, slots=True)
class ComparedSite:
    """One site's activations for one image.

    Attributes:
        site: Name of the site in the whole model, such as `stage3:4:2/input`.
        kind: Kind of the site's layer.
        format: The plan's format for the site; None in float.
        shape: Shape of the activations; channels (heads in attention) come first.
        largest: Largest magnitude in float.
        largest_difference: Largest magnitude of quantized minus float, including all earlier rounding.
        sqnr_db: Power in float over power of the difference, in dB; None if nothing differs, or if all values are zero
            in float.
        worst_channels: The channels with the most power of the difference, highest first.
        worst_sqnr_db: The SQNR of each of these channels.
        channels: Figures of channels, worst first; empty for a site that was not drawn.
    """

    site: str
    kind: str
    format: str | None
    shape: tuple[int, ...]
    largest: float
    largest_difference: float
    sqnr_db: float | None
    worst_channels: tuple[int, ...]
    worst_sqnr_db: tuple[float | None, ...]
    channels: tuple[DrawnChannel, ...] = ()

    @property
    def rank(self) -> float:
        """The rank of a site, lowest first: its SQNR; infinite if nothing differs."""
        if self.sqnr_db is not None:
            return self.sqnr_db
        return math.inf if self.largest_difference == 0 else -math.inf

    def row(self) -> dict[str, Any]:
        """Return everything except the figures, as plain values."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _LEFT_OUT}
        found |= {name: list(getattr(self, name)) for name in ("shape", "worst_channels", "worst_sqnr_db")}
        return found

    def to_json_dict(self) -> dict[str, JsonValue]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


def sqnr_text(sqnr_db: float | None, largest_difference: float) -> str:
    """Write an SQNR.

    >>> sqnr_text(12.345, 0.1), sqnr_text(None, 0.0), sqnr_text(None, 0.1)
    ('12.3 dB', 'no difference', 'nothing but noise')
    """
    if sqnr_db is not None:
        return f"{sqnr_db:z.1f} dB"
    return "nothing but noise" if largest_difference else "no difference"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationRecord(Record):
    """One image's activations, float beside quantized; `dataset` holds the image's name."""

    kind: str = KIND

    @property
    def sites(self) -> list[ComparedSite]:
        """The sites, in the order of the forward pass.

        Raises:
            StoreError: The record is damaged.
        """
        return parsed_items(self, "sites", _site)

    @property
    def worst_first(self) -> list[ComparedSite]:
        """The sites, those that differ most first."""
        return sorted(self.sites, key=lambda site: site.rank)

    def table(self) -> list[dict[str, Any]]:
        """Return the sites as plain values, without figures."""
        return [site.row() for site in self.sites]


def _site(entry: dict[str, Any]) -> ComparedSite:
    lists = {name: tuple(entry[name]) for name in ("shape", "worst_channels", "worst_sqnr_db")}
    site = typed(ComparedSite, {**entry, **lists, "channels": tuple(map(_channel, entry["channels"]))})
    if len(site.worst_channels) != len(site.worst_sqnr_db):
        raise ValueError(f"{site.site!r} must have an SQNR for each of its worst channels")
    return site


def _channel(entry: dict[str, Any]) -> DrawnChannel:
    maps = {name: typed(CodedMap, entry[name]) for name in ("fp32", "difference")}
    return typed(DrawnChannel, {**entry, **maps, "bins": _bins(entry["bins"])})


def _bins(entry: dict[str, Any]) -> PairedBins:
    bins = typed(PairedBins, {**entry, **{name: tuple(entry[name]) for name in ("fp32", "quantized")}})
    if not bins.fp32 or len(bins.fp32) != len(bins.quantized) or min(*bins.fp32, *bins.quantized) < 0:
        raise ValueError(f"bins must have counts of both, got {len(bins.fp32)} and {len(bins.quantized)}")
    if bins.width <= 0:
        raise ValueError(f"bins must have a width above 0, got {bins.width}")
    return bins
