"""`quantsam report`: write all results as one page."""

from __future__ import annotations

from pathlib import Path

import click

from quantsam.cli.options import DRAWING, need_extra, record_filters
from quantsam.cli.output import counted, json_option, print_json
from quantsam.cli.stores import STORE_HELP
from quantsam.cli.written import check_not_read, check_suffix


@click.command(name="report")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("quantsam-report.html"),
    show_default=True,
    help="File of the page.",
)
@click.option(
    "--figures", type=click.Path(path_type=Path), help="Folder in which to also write each chart as SVG, PNG and PDF."
)
@click.option("--store", type=click.Path(path_type=Path), help=STORE_HELP)
@record_filters
@json_option
def command(out: Path, figures: Path | None, store: Path | None, as_json: bool, **filters: str | None) -> None:
    """Write the results so far as one HTML page for a browser. The page works offline.

    The page compares schemes by accuracy, size and latency, and simulations with engines. It shows masks before and
    after, the layers that hurt, distributions, and the activations of an image. For repeated measurements, it shows the
    newest.
    """
    need_extra("report", *DRAWING)
    from quantsam.files import check_file
    from quantsam.report.figures import check_folder, write_figures
    from quantsam.report.page import write_report
    from quantsam.results.store import RecordFilter, ResultStore

    check_suffix("--out", out, (".html", ".htm"))
    check_not_read("--out", out, [ResultStore(store).path])
    check_file(out)
    if figures is not None:
        check_folder(figures)
    wanted: RecordFilter = {key: value for key, value in filters.items() if value is not None}  # type: ignore[assignment]
    report = write_report(out, ResultStore(store), wanted)
    written = write_figures(report.charts, figures) if figures is not None else []
    if report.missing_pictures:
        click.echo(
            f"quantsam: {report.missing_pictures} objects are shown without their image, which the store has lost: "
            "evaluate again to have them",
            err=True,
        )
    if as_json:
        print_json({"report": str(out), "results": report.shown, "figures": [str(path) for path in written]})
        return
    drawn = f", {len(written)} files of {len(report.charts)} charts in {figures}" if figures is not None else ""
    click.echo(f"report: {out} ({counted(report.shown, 'result')}{drawn}); open it in a browser")
