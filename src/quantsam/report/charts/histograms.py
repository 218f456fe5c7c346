"""How the values of a site are distributed, and what its grid covers: the site is chosen on the page."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from quantsam.report.charts.chart import Chart, Row, finished
from quantsam.report.theme import CLIPPED
from quantsam.results.distribution_record import SiteDistribution

_MOST_BARS = 200  # channels; more are joined, so that no extreme is lost
_BLUE = "#0072b2"
_SHORT = "format(datum.value, '~s')"  # 0, 500, 1k


def histogram_chart(name: str, sites: Sequence[SiteDistribution]) -> Chart:
    """All values of the chosen site, with the range of its grid; the counts on a logarithmic scale."""
    rows = [
        {"site": s.site, "start": s.bins.start, "width": s.bins.width, "counts": list(s.bins.counts)} for s in sites
    ]
    limits = _limits(sites)
    counts = [0, *(10**power for power in range(15))]
    decades = alt.Axis(values=counts, labelExpr=_SHORT, labelOverlap=True)
    bars = (
        _of_chosen(alt.Chart(alt.NamedData("rows")))
        .transform_flatten(["counts"])
        .transform_window(bin="row_number()")
        .transform_filter("datum.counts > 0")
        .transform_calculate(left="datum.start + (datum.bin - 1) * datum.width", right="datum.left + datum.width")
        .mark_bar(color=_BLUE)
        .encode(
            x=alt.X("left:Q", title="value", scale=alt.Scale(zero=False), axis=alt.Axis(labelExpr=_SHORT)),
            x2="right:Q",
            y=alt.Y("counts:Q", title="values", scale=alt.Scale(type="symlog"), axis=decades),
            y2=alt.datum(0),
            tooltip=[
                alt.Tooltip("left:Q", title="from", format=".4g"),
                alt.Tooltip("right:Q", title="to", format=".4g"),
                alt.Tooltip("counts:Q", title="values", format=","),
            ],
        )
    )
    rules = (
        _of_chosen(alt.Chart(alt.NamedData("limits")))
        .mark_rule(color=CLIPPED, strokeWidth=2)
        .encode(x="at:Q", tooltip=[alt.Tooltip("at:Q", title="end of the grid", format=".4g"), "clipped:N"])
    )
    spec = finished(
        (bars + rules).add_params(_chosen(sites)),
        {"rows": rows, "limits": limits},
        description=f"Histogram of one of {len(sites)} sites with the range of its grid",
        height=220,
    )
    reading = "Counts on a logarithmic scale. Orange: the ends of the grid, beyond which values are clipped; "
    reading += "not drawn where each channel has a grid of its own."
    return Chart(name, "Values and grid", reading, spec, sum(c > 0 for c in sites[0].bins.counts), _choices(sites))


def channels_chart(name: str, sites: Sequence[SiteDistribution]) -> Chart:
    """The range of each channel of the chosen site: an outlier channel stands out, and widens the grid of all."""
    rows = [_channel_row(site) for site in sites]
    bars = (
        _of_chosen(alt.Chart(alt.NamedData("rows")))
        .transform_flatten(["lows", "highs"], as_=["low", "high"])
        .transform_window(bar="row_number()")
        .transform_calculate(
            left="(datum.bar - 1) * datum.joined - 0.4",
            right="min(datum.bar * datum.joined, datum.channels) - 0.6",
            first="(datum.bar - 1) * datum.joined",
            last="min(datum.bar * datum.joined, datum.channels) - 1",
            named="datum.first == datum.last ? '' + datum.first : datum.first + ' to ' + datum.last",
        )
        .mark_bar(color=_BLUE)
        .encode(
            x=alt.X("left:Q", title="channel", scale=alt.Scale(nice=False)),
            x2="right:Q",
            y=alt.Y("low:Q", title="smallest to largest value", axis=alt.Axis(labelExpr=_SHORT)),
            y2="high:Q",
            tooltip=[
                alt.Tooltip("named:N", title="channel"),
                alt.Tooltip("low:Q", title="smallest", format=".4g"),
                alt.Tooltip("high:Q", title="largest", format=".4g"),
            ],
        )
    )
    rules = _of_chosen(alt.Chart(alt.NamedData("limits"))).mark_rule(color=CLIPPED, strokeWidth=2).encode(y="at:Q")
    spec = finished(
        (bars + rules).add_params(_chosen(sites)),
        {"rows": rows, "limits": _limits(sites)},
        description=f"Range of each channel of one of {len(sites)} sites",
        height=220,
    )
    reading = (
        "A channel that reaches far beyond the others takes the grid's steps from them. Orange: the ends of the grid."
    )
    return Chart(name, "Range of each channel", reading, spec, len(rows[0]["lows"]), _choices(sites))


def _chosen(sites: Sequence[SiteDistribution]) -> alt.Parameter:
    return alt.param(name="chosen", value=sites[0].site)


def _choices(sites: Sequence[SiteDistribution]) -> dict[str, str]:
    return {
        site.site: f"{site.site} ({site.kind})" + (f", {site.outlier_ratio:.0f}x" if site.outlier_ratio else "")
        for site in sites
    }


def _of_chosen(chart: alt.Chart) -> alt.Chart:
    return chart.transform_filter("datum.site === chosen")


def _limits(sites: Sequence[SiteDistribution]) -> list[Row]:
    return [
        {"site": s.site, "at": at, "clipped": "" if s.clipped is None else f"{100 * s.clipped:.3g} % clipped"}
        for s in sites
        for at in (s.grid_low, s.grid_high)
        if at is not None and not s.per_channel
    ]


def _channel_row(site: SiteDistribution) -> Row:
    """Return a site's channels, neighbours joined where there are too many to draw."""
    joined = -(-len(site.channel_lows) // _MOST_BARS)
    starts = range(0, len(site.channel_lows), joined)
    return {
        "site": site.site,
        "joined": joined,
        "channels": len(site.channel_lows),
        "lows": [min(site.channel_lows[i : i + joined]) for i in starts],
        "highs": [max(site.channel_highs[i : i + joined]) for i in starts],
    }
