"""The page that `nbflow run --html` writes: what a run came to, in one file that needs nothing else.

Summary, failures, tasks, a timeline, a graph, and for a notebook its cells with what they showed. There is no script
and no style sheet from elsewhere, so the page can be mailed, kept as an artefact of CI, and read in ten years. Facts
in, text out; only `write_page` touches a file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from nbflow._util import format_duration
from nbflow.cli.console import without_colours
from nbflow.cli.progress import cell_title
from nbflow.cli.table import counts, summary_line, verdict
from nbflow.notebook.drawing import ICONS, Bar, Box, Picture, draw_graph, draw_timeline

__all__ = ["Page", "cell_graph", "task_graph", "write_page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em }
body { color: #222; background: #fff }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #8884 }
table { border-collapse: collapse; font-size: 14px }
th, td { text-align: left; padding: .2em .9em .2em 0; vertical-align: top }
th { border-bottom: 1px solid #8888 } td.n { text-align: right; white-space: nowrap }
pre { background: #8881; padding: .6em .8em; overflow: auto; margin: .3em 0; font: 13px/1.4 ui-monospace, monospace }
pre.out { background: none } pre.bad { border-left: 3px solid #cc3b3b }
.ok { color: #2a9d6a } .bad { color: #cc3b3b } .dim { opacity: .7 }
.wide { overflow: auto } img, svg { max-width: 100% }
details { margin: .5em 0 } summary { cursor: pointer }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #161616 } }
"""
_STATES = {"ran": "fresh", "unfinished": "running"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page tells.

    Attributes:
        title: Notebook or workflow.
        status: How the run ended, in a word or two; `ok` if all went well.
        message: What went wrong, in one line; empty if nothing did.
        traceback: Of the cell or workflow that failed.
        parameters: Values given by `-p`.
        rows: The tasks, as reported.
        took_s: Seconds of the whole run.
        graph: What feeds what; None to draw none.
        cells: The executed cells of a notebook.
        result: What a workflow returned, as text; empty if nothing.
    """

    title: str
    status: str
    message: str = ""
    traceback: str = ""
    parameters: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    took_s: float
    graph: Picture | None = None
    cells: Sequence[Any] = ()
    result: str = ""

    def html(self, now: datetime) -> str:
        """Return the page.

        Args:
            now: The time that it bears.
        """
        parts = [
            ("", self._summary(now)),
            ("Failures", self._failures()),
            ("Tasks", self._tasks()),
            ("Timeline", self._timeline()),
            ("Graph", _picture(self.graph)),
            ("Result", f'<pre class="out">{escape(self.result)}</pre>' if self.result else ""),
            ("Cells", "\n".join(_cell(cell) for cell in self.cells)),
        ]
        body = "\n".join((f"<h2>{name}</h2>\n{text}" if name else text) for name, text in parts if text)
        title = escape(self.title)
        return (
            f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
            f"<body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
        )

    def _summary(self, now: datetime) -> str:
        fine = self.status == "ok"
        icon, kind = (ICONS["fresh"], "ok") if fine else (ICONS["failed"], "bad")
        lines = [
            f'<p><b class="{kind}">{icon} {escape(self.status)}</b> · '
            f"{escape(summary_line(self.rows, self.took_s))}<br>"
            f'<span class="dim">{now:%Y-%m-%d %H:%M:%S %Z}</span></p>'
        ]
        if self.parameters:
            rows = [[escape(name), f"<code>{escape(repr(value))}</code>"] for name, value in self.parameters.items()]
            lines.append(_table(["parameter", "value"], rows))
        return "\n".join(lines)

    def _failures(self) -> str:
        parts = []
        if self.message:
            parts.append(f"<p><b>{escape(self.message)}</b></p>{_trace(self.traceback)}")
        for row in self.rows:
            if row["error"] and row["failed"]:
                where = f" in {row['cell']}" if row["cell"] else ""
                head = f"{row['task']}{where}: {row['failed']} of {row['total']} failed, last with {row['error']}"
                parts.append(
                    f"<details><summary>{escape(head)}</summary>{_trace(row.get('traceback') or '')}</details>"
                )
        return "\n".join(parts)

    def _tasks(self) -> str:
        rows = []
        for row in self.rows:
            state = _state(row)
            indent = "&nbsp;&nbsp;" if row["nested"] else ""
            rows.append(
                [
                    f"{ICONS.get(state, '')} {indent}{escape(row['task'])}",
                    escape((row["cell"] or "").removeprefix("cell ")),
                    escape(counts(row)),
                    str(row["total"]),
                    format_duration(row["time_s"]),
                    format_duration(row["saved_s"]) if row["saved_s"] else "",
                    escape(row["error"] or row["why"] or ""),
                ]
            )
        head = ["task", "cell", "result", "count", "time", "saved", "why"]
        return _table(head, rows, numbers=(3, 4, 5)) if rows else ""

    def _timeline(self) -> str:
        bars = [
            Bar(row["task"], began, ended, state, f"{row['task']}{' in ' + row['cell'] if row['cell'] else ''}")
            for row in self.rows
            for began, ended, state in row.get("bars", ())
        ]
        return _picture(draw_timeline(bars)) if bars else ""


def write_page(page: Page, path: Path) -> None:
    """Write a page, dated now."""
    path.write_text(page.html(datetime.now().astimezone()), encoding="utf-8")


def _state(row: Mapping[str, Any]) -> str:
    word = verdict(row)
    return _STATES.get(word, word)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table; its cells are HTML already."""
    lines = ["<tr>" + "".join(f"<th>{title}</th>" for title in head) + "</tr>"]
    for row in rows:
        cells = (f"<td{' class=n' if place in numbers else ''}>{cell}</td>" for place, cell in enumerate(row))
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _trace(text: str) -> str:
    return f'<pre class="bad">{escape(without_colours(text))}</pre>' if text else ""


def _picture(picture: Picture | None) -> str:
    return f'<div class="wide">{picture.svg}</div>' if picture is not None and picture.svg else ""


# --- cells --------------------------------------------------------------------------------------------------------


def _cell(cell: Any) -> str:
    """Return one cell: text as it is, code with what it showed."""
    if cell.cell_type != "code":
        return f'<pre class="out">{escape(cell.source)}</pre>' if cell.source.strip() else ""
    if not cell.source.strip():
        return ""
    number = cell.execution_count
    head = f'<div class="dim" id="cell-{number}">cell {number}</div>' if number else '<div class="dim">not run</div>'
    return f"{head}<pre>{escape(cell.source)}</pre>" + "".join(_output(output) for output in cell.outputs)


def _output(output: Any) -> str:
    if output.output_type == "stream":
        return f'<pre class="out">{escape(without_colours(output.text))}</pre>'
    if output.output_type == "error":
        return _trace("\n".join(output.traceback))
    data = output.data
    for kind in ("text/html", "image/svg+xml"):
        if kind in data:
            return f'<div class="wide">{data[kind]}</div>'
    for kind in ("image/png", "image/jpeg", "image/gif"):
        if kind in data:
            return f'<img alt="" src="data:{kind};base64,{"".join(data[kind].split())}">'
    text = data.get("text/plain") or data.get("text/markdown") or data.get("text/latex") or ""
    return f'<pre class="out">{escape(without_colours(str(text)))}</pre>' if text else ""


# --- graphs -------------------------------------------------------------------------------------------------------


def task_graph(root: str, rows: Sequence[Mapping[str, Any]], state: str) -> Picture:
    """Draw which task was called by whom, below a workflow.

    Args:
        root: Name of the workflow.
        rows: Its tasks, as reported.
        state: One of the words of `drawing.ICONS`, for the workflow.
    """
    boxes = {root: Box(root, "workflow", state)}
    edges: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        boxes.setdefault(row["task"], Box(row["task"], "", _state(row), counts(row)))
        caller = (row.get("caller") or "") if row["nested"] else root
        if caller in boxes and caller != row["task"]:
            edges[caller, row["task"]] = [counts(row)]
    return draw_graph(list(boxes.values()), edges)


def cell_graph(cells: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> Picture | None:
    """Draw which cell of a notebook feeds which, by the names that they bind and read; imports are left out.

    Args:
        cells: The executed cells.
        rows: Its tasks, as reported.

    Returns:
        The picture; None if no cell feeds another.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["cell"] or "", []).append(row)
    source_of: dict[str, str] = {}
    boxes: dict[str, Box] = {}
    edges: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.cell_type != "code" or not cell.execution_count:
            continue
        place = f"cell {cell.execution_count}"
        title = cell_title(cell.source)
        name = f"{cell.execution_count}: {title.removeprefix('%%task').strip() or title}"
        inputs, outputs = _names(cell.source)
        for each in inputs:
            if (source := source_of.get(each)) is not None:
                edges.setdefault((source, name), []).append(each)
        source_of |= dict.fromkeys(outputs, name)
        boxes[name] = Box(name, place, _cell_state(cell, found.get(place, [])), title)
    linked = {name for pair in edges for name in pair}
    shown = [box for name, box in boxes.items() if name in linked]
    return draw_graph(shown, edges) if shown else None


def _cell_state(cell: Any, rows: Sequence[Mapping[str, Any]]) -> str:
    if any(output.output_type == "error" for output in cell.outputs):
        return "failed"
    states = [_state(row) for row in rows]
    return next((word for word in ("failed", "cancelled", "fresh") if word in states), states[0] if states else "fresh")


def _names(source: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names that a cell reads and binds; nothing for what is not Python."""
    from IPython.core import inputtransformer2  # half a second that only this page costs

    from nbflow.notebook.names import find_effects

    first, _, rest = source.partition("\n")
    if first.startswith("%%"):
        source = rest if first.startswith(("%%task", "%%time", "%%capture")) else ""
    try:
        manager: Any = inputtransformer2.TransformerManager
        body = ast.parse(manager().transform_cell(source)).body
    except SyntaxError:
        return (), ()
    effects = find_effects(body)
    imports = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    known = set(find_effects(imports).outputs) | {"get_ipython"}
    inputs = tuple(name for name in (*effects.inputs, *effects.mentions) if name not in known)
    return inputs, tuple(name for name in effects.outputs if name not in known)
