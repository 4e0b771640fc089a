"""What `%flow history` shows: how the tasks and cells of this notebook ran over time, over restarts too.

The record itself is `nbflow.history`; here is who belongs to it (which notebook, which calls are cells) and how it
looks. A chart has one bar for each run: its height is the duration, its colour and its tooltip say how it ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Any

from nbflow._util import format_duration
from nbflow.history import History, Run
from nbflow.notebook.cellkey import CellKeyer, ForcedKeyer
from nbflow.notebook.drawing import COLOURS, ICONS

if TYPE_CHECKING:
    from nbflow.runtime.current import Call

__all__ = ["HISTORY_LIMIT", "PastRuns", "is_cell", "notebook_path", "past_runs"]

HISTORY_LIMIT = 30
_BAR = 6  # width of a bar with its gap, in pixels
_HEIGHT = 26
_LEVELS = "▁▂▃▄▅▆▇█"
_STATES = {"ran": "fresh"}  # what the drawings call an outcome
_HEADINGS = ("name", "runs", "last run", "outcome", "typical", "saved", "durations")


def notebook_path(shell: Any) -> str | None:
    """Return the path of the notebook that a shell runs, where its front end says so."""
    told = shell.user_ns.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME")
    return told if isinstance(told, str) and told.endswith(".ipynb") else None


def is_cell(call: Call) -> bool:
    """Whether a call is that of a `%%task` cell."""
    return isinstance(call.spec.keyer, (CellKeyer, ForcedKeyer))


def past_runs(
    history: History, notebook: str | None, names: Sequence[str], limit: int, *, now: float | None = None
) -> PastRuns:
    """Return the runs of a notebook as a table with charts.

    Args:
        history: The record of runs.
        notebook: Path of the notebook; None for those of all notebooks of this home.
        names: Tasks and cells to tell of; none for all.
        limit: How many runs of each.
        now: Wall-clock time, seconds since the epoch.
    """
    series: dict[tuple[str, str], list[Run]] = {}
    for run in history.runs(names=names, notebook=notebook):
        series.setdefault((run.task, run.kind), []).append(run)
    return PastRuns([runs[-limit:] for runs in series.values()], time.time() if now is None else now)


class PastRuns:
    """Runs of several tasks over time, as HTML and as text.

    Args:
        series: The runs of each, oldest first.
        now: Wall-clock time, seconds since the epoch.
    """

    def __init__(self, series: Sequence[Sequence[Run]], now: float) -> None:
        self.series = sorted(series, key=lambda runs: runs[-1].when, reverse=True)
        self._now = now

    def __repr__(self) -> str:
        if not self.series:
            return _EMPTY
        rows = [_HEADINGS, *((*self._facts(runs, icons=True), _spark(runs)) for runs in self.series)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        if not self.series:
            return f"<i>{escape(_EMPTY)}</i>"
        head = "".join(f'<th style="text-align:left">{text}</th>' for text in _HEADINGS)
        body = "".join(self._html_row(runs) for runs in self.series)
        return (
            '<div style="max-height:640px;overflow:auto"><table style="font-variant-numeric:tabular-nums">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def _html_row(self, runs: Sequence[Run]) -> str:
        name, count, when, outcome, *rest = self._facts(runs)
        state = _state(outcome)
        word = f'<span style="color:{COLOURS[state]}">{ICONS[state]} {outcome}</span>'
        cells = [escape(name), count, when, word, *rest, _chart(name, runs)]
        return "<tr>" + "".join(f'<td style="text-align:left">{text}</td>' for text in cells) + "</tr>"

    def _facts(self, runs: Sequence[Run], *, icons: bool = False) -> tuple[str, ...]:
        last = runs[-1]
        took = [run.duration_s for run in runs if run.outcome == "ran"]
        name = f"{last.task} (map)" if last.kind == "map" else last.task
        return (
            name,
            str(len(runs)),
            f"{format_duration(max(0.0, self._now - last.when))} ago",
            f"{ICONS[_state(last.outcome)]} {last.outcome}" if icons else last.outcome,
            format_duration(median(took)) if took else "–",
            format_duration(sum(run.saved_s for run in runs)),
        )


_EMPTY = "No runs of this notebook are on record yet; they are noted from now on, in .nbflow beside the notebook."


def _state(outcome: str) -> str:
    return _STATES.get(outcome, outcome)


def _spark(runs: Sequence[Run]) -> str:
    """Return a chart of durations in characters: one for each run; a dot is a hit."""
    most = max(run.duration_s for run in runs) or 1.0
    top = len(_LEVELS) - 1
    return "".join("·" if run.outcome == "cached" else _LEVELS[round(run.duration_s / most * top)] for run in runs)


def _chart(name: str, runs: Sequence[Run]) -> str:
    """Return a chart of durations as SVG; its scale is its own, and the longest run is written beside it."""
    most = max(run.duration_s for run in runs) or 1.0
    bars = []
    for number, run in enumerate(runs):
        height = max(2.0, run.duration_s / most * (_HEIGHT - 2))
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.when))
        calls = f" · {run.count} calls" if run.count > 1 else ""
        title = f"{when}: {run.outcome}, {format_duration(run.duration_s)}{calls}"
        bars.append(
            f'<rect x="{number * _BAR}" y="{_HEIGHT - height:.1f}" width="{_BAR - 2}" height="{height:.1f}" rx="1" '
            f'fill="{COLOURS[_state(run.outcome)]}"><title>{escape(title)}</title></rect>'
        )
    width = max(len(runs) * _BAR, _BAR)
    label = escape(f"Durations of {name}: {len(runs)} runs, the longest {format_duration(most)}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" width="{width}" height="{_HEIGHT}" '
        f'viewBox="0 0 {width} {_HEIGHT}" style="vertical-align:middle">{"".join(bars)}</svg>'
        f'<span style="opacity:.7;font-size:85%;margin-left:6px">≤ {format_duration(most)}</span>'
    )
