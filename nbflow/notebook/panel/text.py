"""The panel as plain text: for terminals, for logs, and as `text/plain` of the saved notebook.

A terminal gets one line that is redrawn; a pipe or a log gets milestones, at most one line for each tenth of the
work; both get the summary when a run is over. Drawing goes to stderr, so that what a program prints stays clean.
"""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

from nbflow.notebook.panel import rows as r
from nbflow.notebook.panel import words
from nbflow.notebook.panel.model import Model

__all__ = ["TextFace", "render_text"]


def render_text(model: Model, now: float | None = None, *, brief: bool = False, limit: int = 12) -> str:
    """Return the run as lines of text: the headline, then a line for each row.

    Args:
        model: The run.
        now: Wall-clock seconds while it goes on; None once it is over.
        brief: Only the headline.
        limit: Most rows to show; the rest are counted.

    Returns:
        Lines without a final newline; empty if nothing ran.
    """
    head = words.headline(model, now)
    if not head or brief or words.is_all_cached(model):
        return head
    view = model.view(limit)
    if len(view.lines) == 1 and not view.hidden and view.lines[0].row.kind == r.CALL:
        return _line(view.lines[0], now, 0)
    width = max(len(line.row.name) + 2 * line.depth for line in view.lines)
    rows = ["  " + _line(line, now, min(width, 40)) for line in view.lines]
    if view.hidden:
        rows.append(f"  … {view.hidden:,} more")
    return "\n".join([head, *rows])


def _line(line: r.Line, now: float | None, width: int) -> str:
    row = line.row
    name = words.short("  " * line.depth + row.name, 60)
    parts = [
        words.progress(row),
        words.elapsed(row, now),
        *(words.short(text, 100) for text in words.details(row)),
    ]
    tail = " · ".join(part for part in (row.state, *parts) if part)
    return (
        f"{words.ICONS[row.state]} {name.ljust(width)} {tail}".rstrip()
        if width
        else f"{words.ICONS[row.state]} {name} · {tail}"
    )


class TextFace:
    """Draws a run to a stream.

    Args:
        stream: Where to; None for the `sys.stderr` of the moment.

    Not thread-safe: the panel draws under its own lock.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._tenths = 0
        self._drawn = ""

    def frame(self, model: Model, now: float) -> None:
        """Show how far the run is: redraw the line of a terminal, or tell a milestone."""
        stream = self._stream or sys.stderr
        head = words.headline(model, now)
        if stream.isatty():
            line = words.short(f"nbflow: {head}", max(20, shutil.get_terminal_size().columns - 1))
            if line != self._drawn:
                stream.write(f"\r\x1b[2K{line}\r")
                stream.flush()
                self._drawn = line
            return
        sums = model.totals()
        tenths = 10 * sums.finished // sums.total if sums.total >= 10 else 0
        if self._tenths < tenths < 10:
            self._tenths = tenths
            stream.write(f"nbflow: {head}\n")
            stream.flush()

    def finish(self, text: str) -> None:
        """Replace what was drawn by the final `text`."""
        stream = self._stream or sys.stderr
        clear = "\r\x1b[2K" if self._drawn else ""
        self._drawn = ""
        stream.write(f"{clear}nbflow: {text}\n")
        stream.flush()
