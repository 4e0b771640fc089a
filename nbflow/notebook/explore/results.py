"""What a call left to be seen: its value, its figures and what it printed, as parts that any page can show.

A part is a kind (html, png, jpeg, svg, text, error) and text. Values are rendered by the shell's own formatters, so
they look as in any output; figures that a call made are drawn and closed.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from html import escape
from typing import Any, NamedTuple, TypeAlias

from nbflow._util import trim_traceback
from nbflow.notebook.explore.figures import Figures
from nbflow.notebook.recorder import Item

__all__ = ["NOTHING", "Part", "Shown", "error_parts", "html_of", "parts_of", "text_of"]

Part: TypeAlias = tuple[str, str]
MAX_BYTES = 4_000_000
NOTHING: Part = ("text", "(nothing to show)")
_KINDS = (
    ("image/svg+xml", "svg"),
    ("image/png", "png"),
    ("image/jpeg", "jpeg"),
    ("text/html", "html"),
    ("text/latex", "text"),
    ("text/markdown", "text"),
    ("text/plain", "text"),
)
_PRE = "margin:2px 0;white-space:pre-wrap;font-family:var(--jp-code-font-family,monospace);font-size:13px"


class Shown(NamedTuple):
    """What a cell that was explored leaves in the cache: what there is to be seen, and nothing else."""

    parts: list[Part]


def parts_of(
    formatter: Callable[[Any], tuple[dict[str, Any], Any]],
    value: Any,
    items: Iterable[Item] = (),
    figures: Figures | None = None,
) -> list[Part]:
    """Return everything a call left to be seen, in order: what it printed and showed, its value, its figures.

    Args:
        formatter: The shell's `display_formatter.format`.
        value: What it returned.
        items: What a recorder kept of its output.
        figures: The figures that it made; they are closed.
    """
    found: list[Part] = []
    for item in items:
        if item[0] == "stream":
            found.append(("text", str(item[2])))
        else:
            found.append(_part(item[1]))
    drawn, others = figures.take(value) if figures is not None else (None, [])
    if drawn is not None:
        found.append(("png", drawn))
    elif isinstance(value, Shown):
        found += value.parts
    elif value is not None:
        found.append(_part(formatter(value)[0]))
    found += [("png", each) for each in others]
    return found or [NOTHING]


def error_parts(error: BaseException) -> list[Part]:
    """Return what there is to be seen of a failure."""
    return [("error", trim_traceback(error, 6000))]


def html_of(parts: Iterable[Part]) -> str:
    """Return parts as HTML that stands on its own."""
    pieces = []
    for kind, data in parts:
        if kind in ("png", "jpeg"):
            pieces.append(f'<img style="max-width:100%" src="data:image/{kind};base64,{data}">')
        elif kind in ("html", "svg"):
            pieces.append(f"<div>{data}</div>")
        else:
            colour = ";color:var(--jp-error-color1,#c62828)" if kind == "error" else ""
            pieces.append(f'<pre style="{_PRE}{colour}">{escape(data)}</pre>')
    return "".join(pieces)


def text_of(parts: Iterable[Part]) -> str:
    """Return parts as text; of pictures and HTML only that they are there."""
    return "\n".join(data if kind in ("text", "error") else f"<{kind}>" for kind, data in parts)


def _part(data: dict[str, Any]) -> Part:
    """Return the best of what a bundle offers, that is not too large."""
    for mime, kind in _KINDS:
        content = data.get(mime)
        if isinstance(content, bytes):
            content = base64.b64encode(content).decode()
        if isinstance(content, str) and len(content) <= MAX_BYTES:
            return kind, content.replace("\n", "") if kind in ("png", "jpeg") else content
    return "text", f"(a result of more than {MAX_BYTES / 1e6:g} MB is not shown)"
