"""Show rows of plain values as a table in notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

_MOST = 60


def html_table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as an HTML table with a caption; if there are many rows, only the first ones.

    Args:
        title: The table's caption.
        rows: Rows with the same keys, which are the columns.
    """
    columns = list(rows[0]) if rows else []
    head = "".join(f"<th>{_escaped(column)}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{_escaped(_shown(row[column]))}</td>' for column in columns)}</tr>" for row in rows[:_MOST]
    )
    table = f"<caption>{_escaped(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    left_out = f"<p>{len(rows) - _MOST} further rows</p>" if len(rows) > _MOST else ""
    return f"<table>{table}</table>{left_out}"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    return html.escape(text)
