"""A page of a value: of tables and arrays some rows, of text some lines, of containers some items.

Whatever the value, a page is at most `MAX_BYTES` of plain text, so looking at a dataset of gigabytes costs the notebook
nothing; what is cut says so.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from nbflow._util import package_of
from nbflow.datasets.catalog import shape_of
from nbflow.datasets.registry import type_name

__all__ = ["MAX_BYTES", "preview"]

MAX_BYTES = 100_000
ROWS = 50
COLUMNS = 30
_CELL = 200


def preview(value: Any, page: int = 0) -> dict[str, Any]:
    """Return a page of `value` as plain data.

    Args:
        value: Any value.
        page: Which page, from 0; one that is not there means the nearest that is.

    Returns:
        `kind` ("table", "text" or "image") and what belongs to it: `columns` and `rows` of strings, `text`, or `image`;
        `page`, `pages`, and `note` where something was left out.
    """
    image = _image(value)
    if image is not None:
        return image
    if isinstance(value, str):
        return _text(value, page)
    found = _grid(value, page)
    return found if found is not None else _text(repr(value), page)


def _grid(value: Any, page: int) -> dict[str, Any] | None:
    """Return a page of a value that has rows; None for one that has none."""
    total = (shape_of(value) or (0,))[0] if not isinstance(value, (set, frozenset)) else len(value)
    pages = max(1, -(-total // ROWS))
    page = min(max(0, page), pages - 1)
    first = page * ROWS
    note = ""
    if isinstance(value, Mapping):
        columns = ["key", "type", "value"]
        items = islice(value.items(), first, first + ROWS)
        rows = [[_cell(key), type_name(type(each)), _cell(each)] for key, each in items]
    elif (table := _table(value, first)) is not None:
        columns, rows = table
    elif isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (bytes, bytearray)):
        columns = ["", "value"]
        rows = [[str(first + at), _cell(each)] for at, each in enumerate(islice(value, first, first + ROWS))]
    elif hasattr(value, "dtype") and shape_of(value):
        columns, rows = _array(value, first)
    else:
        return None
    if len(columns) > COLUMNS + 1:
        note = f"{len(columns) - COLUMNS - 1:,} more columns"
        columns, rows = columns[: COLUMNS + 1], [row[: COLUMNS + 1] for row in rows]
    while len(json.dumps(rows)) > MAX_BYTES - 4000 and len(rows) > 1:
        rows = rows[: len(rows) // 2]
        note = "rows are long: not all of this page are shown"
    return {
        "kind": "table",
        "columns": columns,
        "rows": rows,
        "page": page,
        "pages": pages,
        "total": total,
        "note": note,
    }


def _table(value: Any, first: int) -> tuple[list[str], list[list[str]]] | None:
    """Return columns and rows of a table of pandas, polars or pyarrow."""
    if hasattr(value, "iloc") and hasattr(value, "columns"):
        part = value.iloc[first : first + ROWS, : COLUMNS * 2]
        rows = [
            [_cell(name), *map(_cell, row)] for name, row in zip(part.index, part.itertuples(index=False), strict=True)
        ]
        return ["", *map(str, value.columns)], rows
    if hasattr(value, "iloc"):
        part = value.iloc[first : first + ROWS]
        return ["", str(value.name or "value")], [[_cell(name), _cell(each)] for name, each in part.items()]
    if hasattr(value, "iter_rows") and hasattr(value, "columns"):
        found = value.slice(first, ROWS).iter_rows()
        return ["", *value.columns], [[str(first + at), *map(_cell, row)] for at, row in enumerate(found)]
    if hasattr(value, "column_names") and hasattr(value, "slice"):
        columns = [each.to_pylist() for each in value.slice(first, ROWS).columns]
        rows = [[str(first + at), *map(_cell, row)] for at, row in enumerate(zip(*columns, strict=True))]
        return ["", *value.column_names], rows
    return None


def _array(value: Any, first: int) -> tuple[list[str], list[list[str]]]:
    part = value[first : first + ROWS]
    if value.ndim == 1:
        return ["", "value"], [[str(first + at), _cell(each)] for at, each in enumerate(part)]
    width = value.shape[1]
    if value.ndim == 2:
        rows = [[str(first + at), *map(_cell, row[: COLUMNS * 2])] for at, row in enumerate(part)]
        return ["", *map(str, range(width))], rows
    return ["", "value"], [[str(first + at), f"array of shape {each.shape}"] for at, each in enumerate(part)]


def _text(text: str, page: int) -> dict[str, Any]:
    size = MAX_BYTES // 4  # characters that take four bytes each
    pages = max(1, -(-len(text) // size))
    page = min(max(0, page), pages - 1)
    return {"kind": "text", "text": text[page * size : (page + 1) * size], "page": page, "pages": pages, "note": ""}


def _image(value: Any) -> dict[str, Any] | None:
    """Return a picture that is small enough; a larger one by its size; None for what is none."""
    if package_of(type(value)) == "PIL":
        from io import BytesIO

        small = value.copy()
        small.thumbnail((480, 480))
        buffer = BytesIO()
        small.save(buffer, format="PNG")
        data, note = buffer.getvalue(), f"{value.width} × {value.height} pixels"
    elif isinstance(value, bytes) and value.startswith(b"\x89PNG\r\n\x1a\n"):
        data, note = value, ""
    else:
        return None
    if len(data) > MAX_BYTES * 3 // 4:
        return {
            "kind": "text",
            "text": "(a picture that is too large to be shown here)",
            "page": 0,
            "pages": 1,
            "note": note,
        }
    return {"kind": "image", "image": base64.b64encode(data).decode(), "page": 0, "pages": 1, "note": note}


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else str(value) if isinstance(value, (int, float)) else repr(value)
    if not isinstance(value, str) and (text.startswith(("Timestamp(", "datetime.")) or hasattr(value, "dtype")):
        text = str(value)
    text = text.replace("\n", "⏎")
    return text if len(text) <= _CELL else f"{text[:_CELL]}…"
