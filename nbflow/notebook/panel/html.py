"""The panel as HTML that stands on its own: for front ends without widgets, and for the saved notebook.

No script, no classes, no style sheet: inline styles only, since front ends sanitise stored output. Colours come from
JupyterLab's variables where there are any and else from the page (`inherit`), so that light and dark themes both read
well; every state is a word, so that nothing is lost where styles are stripped. Whatever ran, the result stays under
20 kB.
"""

from __future__ import annotations

from html import escape

from nbflow.notebook.panel import rows as r
from nbflow.notebook.panel import words
from nbflow.notebook.panel.model import Model

__all__ = ["render_html"]

_COLOURS = {
    r.DONE: "var(--jp-success-color1,#2e7d32)",
    r.CACHED: "var(--jp-info-color1,#0277a8)",
    r.FAILED: "var(--jp-error-color1,#c62828)",
    r.TIMED_OUT: "var(--jp-error-color1,#c62828)",
    r.RUNNING: "var(--jp-brand-color1,#1976d2)",
    r.RETRYING: "var(--jp-warn-color1,#b26a00)",
}
_BOX = "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.5;margin:4px 0"
_TABLE = "border-collapse:collapse;margin:2px 0 0;font-size:13px"
_CELL = "text-align:left;vertical-align:top;padding:1px 16px 1px 0"
_NUMBER = "text-align:right;vertical-align:top;padding:1px 16px 1px 0"
_QUIET = "opacity:0.72"
_PRE = "margin:2px 0 6px;padding:6px 10px;font-size:12px;line-height:1.4;white-space:pre-wrap;border-left:3px solid"
_MAX_TRACEBACKS = 3
_BUDGET = 14_000


def render_html(model: Model, now: float | None = None, *, brief: bool = False, limit: int = 24) -> str:
    """Return the run as one `<div>`: the headline and a table of rows, or the headline alone if that says it all.

    Args:
        model: The run.
        now: Wall-clock seconds while it goes on; None once it is over.
        brief: Only the headline.
        limit: Most rows to show; the rest are counted.

    Returns:
        HTML with inline styles; empty if nothing ran.
    """
    head = words.headline(model, now)
    if not head:
        return ""
    view = model.view(limit)
    lone = view.lines[0].row if len(view.lines) == 1 and view.lines[0].row.kind == r.CALL else None
    if brief or words.is_all_cached(model):
        icon = r.CACHED if words.is_all_cached(model) else r.DONE
        return f'<div style="{_BOX}">{_state(icon, word=False)} {escape(head)}</div>'
    if lone is not None and not lone.traceback:
        rest = [words.progress(lone), words.elapsed(lone, now), *words.details(lone)]
        tail = "".join(f" · {escape(words.short(part, 160))}" for part in rest if part)
        return f'<div style="{_BOX}">{_state(lone.state)} <b>{escape(words.short(lone.name, 80))}</b>{tail}</div>'
    rows = [_row(line, now) for line in view.lines]
    if view.hidden:
        rows.append(
            f'<tr style="background:transparent"><td colspan="5" style="{_CELL};{_QUIET}">'
            f"… {view.hidden:,} more</td></tr>"
        )
    table = f'<table style="{_TABLE}"><tbody>{"".join(rows)}</tbody></table>'
    html = f'<div style="{_BOX}"><div>{escape(head)}</div>{table}{_tracebacks(view)}</div>'
    if len(html.encode()) > _BUDGET and limit > 1:
        return render_html(model, now, limit=limit // 2)
    return html


def _state(state: str, *, word: bool = True) -> str:
    colour = _COLOURS.get(state)
    style = f' style="color:{colour}"' if colour else f' style="{_QUIET}"'
    return f"<span{style}>{words.ICONS[state]}{' ' + state if word else ''}</span>"


def _row(line: r.Line, now: float | None) -> str:
    row = line.row
    indent = f";padding-left:{16 * line.depth}px" if line.depth else ""
    texts = [escape(words.short(text, 120)) for text in words.details(row)]
    return (
        '<tr style="background:transparent">'
        f'<td style="{_CELL};white-space:nowrap">{_state(row.state)}</td>'
        f'<td style="{_CELL}{indent}">{escape(words.short(row.name, 80))}</td>'
        f'<td style="{_NUMBER}">{escape(words.progress(row))}</td>'
        f'<td style="{_NUMBER};white-space:nowrap">{words.elapsed(row, now)}</td>'
        f'<td style="{_CELL};{_QUIET}">{" · ".join(texts)}</td></tr>'
    )


def _tracebacks(view: r.View) -> str:
    failed = [line.row for line in view.lines if line.row.traceback][:_MAX_TRACEBACKS]
    return "".join(
        f'<details style="margin:4px 0"><summary>Traceback of {escape(words.short(row.name, 80))}</summary>'
        f'<pre style="{_PRE} {_COLOURS[r.FAILED]}">{escape(_tail(row.traceback))}</pre></details>'
        for row in failed
    )


def _tail(traceback: str, limit: int = 1200) -> str:
    return traceback if len(traceback) <= limit else "…" + traceback[-limit:]
