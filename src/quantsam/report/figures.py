"""Charts as files for a paper."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import vl_convert

from quantsam.errors import OutputError
from quantsam.files import atomic_write, unwritable
from quantsam.report.charts.chart import Chart

_PNG_SCALE = 2
_FONT = "DejaVu Sans, Liberation Sans, Helvetica, Arial, sans-serif"


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Check, before any work, that figures can be written to a folder, which need not exist.

    Raises:
        OutputError: Figures cannot be written there.
    """
    problem = unwritable(Path(folder).absolute())
    if problem:
        raise OutputError(f"cannot write figures to {folder}: {problem}; choose another folder")


def write_figures(charts: Iterable[Chart], folder: str | os.PathLike[str]) -> list[Path]:
    """Write each chart as SVG, PNG and PDF, on white.

    Args:
        charts: The charts. If a chart has choices, its first choice is drawn.
        folder: Folder for the files; made if it is missing. Files of the same names are replaced.

    Returns:
        The written files.

    Raises:
        OutputError: A file cannot be written.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = []
    for chart in charts:
        spec = {**chart.spec, "background": "white", "config": {**chart.spec["config"], "font": _FONT}}
        for suffix, convert in _CONVERTERS.items():
            path = Path(folder) / f"{chart.name}.{suffix}"
            with atomic_write(path) as aside:
                aside.write_bytes(convert(spec))
            written.append(path)
    return written


def _svg(spec: dict[str, Any]) -> bytes:
    svg: str = vl_convert.vegalite_to_svg(spec)
    return svg.encode()


def _png(spec: dict[str, Any]) -> bytes:
    png: bytes = vl_convert.vegalite_to_png(spec, scale=_PNG_SCALE)
    return png


def _pdf(spec: dict[str, Any]) -> bytes:
    pdf: bytes = vl_convert.vegalite_to_pdf(spec)
    return pdf


_CONVERTERS: dict[str, Callable[[dict[str, Any]], bytes]] = {"svg": _svg, "png": _png, "pdf": _pdf}
