"""The page: one file with everything it needs. It requests nothing from other machines."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from importlib import metadata, resources
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from quantsam.files import atomic_write
from quantsam.report.charts.chart import Chart
from quantsam.report.content import read_content
from quantsam.report.findings import headline
from quantsam.report.galleries import Pictures
from quantsam.report.sections import all_charts, make_sections
from quantsam.report.tables import overview_table
from quantsam.results.record import utc_now
from quantsam.results.store import RecordFilter, ResultStore

_TEMPLATES = "quantsam.report"
_SCRIPTS = ("tables.js", "compare.js", "report.js")


@dataclass(frozen=True, slots=True)
class Report:
    """A report.

    Attributes:
        html: The page.
        charts: What `quantsam.report.figures` writes as files.
        missing_pictures: Number of gallery objects without their image.
        shown: Number of results that the report shows.
    """

    html: str
    charts: tuple[Chart, ...]
    missing_pictures: int
    shown: int


def make_report(store: ResultStore, filters: RecordFilter | None = None) -> Report:
    """Make a report of a store.

    Args:
        store: The store.
        filters: Which of the store's records to show.

    Raises:
        InputError: No record passes.
        StoreError: The store cannot be read, or what it holds is damaged.
    """
    content = read_content(store, filters)
    pictures = Pictures()
    sections = make_sections(content, pictures)
    charts = all_charts(sections)
    library, script = _library(), "\n".join(map(_text, _SCRIPTS))
    views = [task.comparison for section in sections for task in section.tasks if task.comparison is not None]
    page = _environment().get_template("report.html.j2")
    html = page.render(
        content=content,
        headline=headline(content.models),
        sections=sections,
        pictures=pictures.styles,
        charts=charts,
        specs={chart.name: _script_json(chart.spec) for chart in charts},
        comparisons={view.name: _script_json(view.data) for view in views},
        css=Markup(_text("report.css")),
        library=Markup(library),
        script=Markup(script),
        policy=_policy(library, script),
        overview=overview_table(content.models),
        written=utc_now()[:16].replace("T", " ") + " UTC",
        version=metadata.version("quantsam"),
    )
    return Report(html, tuple(charts), pictures.missing, content.shown)


def write_report(path: str | os.PathLike[str], store: ResultStore, filters: RecordFilter | None = None) -> Report:
    """Make a report and write it to a file. The file appears complete or not at all.

    Raises:
        InputError: No record passes.
        StoreError: The store cannot be read, or what it holds is damaged.
        OutputError: The file cannot be written.
    """
    with atomic_write(path) as aside:  # first, to check that it can be written
        report = make_report(store, filters)
        aside.write_text(report.html, encoding="utf-8")
    return report


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )


def _text(name: str) -> str:
    return (resources.files(_TEMPLATES) / "templates" / name).read_text("utf-8")


@functools.cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub lacks the default
    return bundle.replace("</script", "<\\/script")


def _script_json(value: object) -> Any:
    """Return JSON that is safe inside a script element, whatever text it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _policy(*scripts: str) -> str:
    """Allow only these scripts, and nothing from outside. Vega compiles expressions, which needs `unsafe-eval`."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
