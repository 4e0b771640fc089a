"""The live view of a run: a few lines rewritten in place, or milestones where lines cannot be rewritten.

`Board` keeps what is known: the running cell and the tasks as the kernel reported them. `LiveView` draws it in a
terminal at most ten times a second; `Milestones` writes a line when a cell with tasks ends and at every tenth of a
map, for logs and CI. What a line says is decided by pure functions of the board.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from nbflow._util import format_duration
from nbflow.cli import console
from nbflow.cli.table import clip, counts

__all__ = ["Board", "LiveView", "Milestones", "View", "live_lines", "milestone"]

_BAR = 20
_MAX_ROWS = 6
_MILESTONE_S = 1.0
"""Maps that were quicker than this get no milestones; a log is not a dashboard."""


@dataclass(slots=True)
class Board:
    """What is known of a run.

    Attributes:
        rows: The tasks, by id, as last reported.
        number, total: The running cell and how many there are; 0 before the first.
        title: What the running cell is, in a few words.
        began: Clock time at which the run began, `cell_began` the running cell.
    """

    wall: Callable[[], float] = time.time
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    number: int = 0
    total: int = 0
    title: str = ""
    began: float = 0.0
    touched: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.began = self.wall()

    def cell_started(self, number: int, total: int, source: str) -> None:
        """Take note that a cell runs."""
        self.number, self.total, self.title = number, total, cell_title(source)
        self.touched = set()

    def report(self, rows: list[dict[str, Any]]) -> None:
        """Take in rows that changed."""
        for row in rows:
            if row["cell"] is None and self.number:
                row["cell"] = f"cell {self.number}"
            self.rows[row["id"]] = row
            self.touched.add(row["id"])

    def ordered(self) -> list[dict[str, Any]]:
        """Return the tasks in order of first start."""
        return [self.rows[key] for key in sorted(self.rows)]


def cell_title(source: str) -> str:
    """Return the first line of a cell that says something; a decorator says less than what it decorates."""
    lines = [line for text in source.splitlines() if (line := text.strip())]
    return next((line for line in lines if not line.startswith("@")), "".join(lines[:1]))


def live_lines(board: Board, width: int) -> list[str]:
    """Return the lines of the live view: the running cell, then its tasks, the running ones first."""
    now = board.wall()
    spent = format_duration(now - board.began)
    head = f"cell {board.number}/{board.total} · {board.title}" if board.number else "starting the kernel"
    lines = [f"{clip(head, width - len(spent) - 5)} · {spent}"]
    rows = [board.rows[key] for key in sorted(board.touched)]
    rows.sort(key=lambda row: not row["running"])
    lines += [clip("  " + task_line(row, now), width - 1) for row in rows[:_MAX_ROWS]]
    if len(rows) > _MAX_ROWS:
        lines.append(f"  … {len(rows) - _MAX_ROWS} more")
    return lines


def task_line(row: Mapping[str, Any], now: float) -> str:
    """Return one task in one line: name, progress, what happened, time."""
    seconds = row["time_s"] + (max(0.0, now - row["since"]) if row["since"] is not None else 0.0)
    pieces = [clip(row["task"], 30)]
    done = _done(row)
    if row["maps"]:
        filled = _BAR * done // max(1, row["total"])
        pieces.append(f"[{'#' * filled}{'.' * (_BAR - filled)}] {done}/{row['total']}")
        pieces += [f"{row[name]} {name}" for name in ("cached", "failed", "cancelled") if row[name]]
    else:
        pieces.append("running" if row["running"] else counts(row))
    pieces.append(format_duration(seconds))
    if row["saved_s"]:
        pieces.append(f"saved {format_duration(row['saved_s'])}")
    return " · ".join(pieces)


def milestone(row: Mapping[str, Any]) -> str:
    """Return one ended task in one line of a log."""
    saved = f", saved {format_duration(row['saved_s'])}" if row["saved_s"] else ""
    ended = counts(row)
    if row["total"] > 1 and ended.isalpha():
        ended = f"{row['total']} {ended}"
    return f"{clip(row['task'], 40)}: {ended}, {format_duration(row['time_s'])}{saved}"


def _done(row: Mapping[str, Any]) -> int:
    return int(row["ran"] + row["cached"] + row["failed"] + row["cancelled"])


class View:
    """Shows nothing (`--quiet`); base of the two that do. All calls come from one thread.

    Args:
        board: What is known; the view keeps it up to date.
        stream: Where to write.
    """

    def __init__(self, board: Board, stream: TextIO) -> None:
        self.board = board
        self.stream = stream

    def cell_started(self, number: int, total: int, source: str) -> None:
        """A cell begins."""
        self.board.cell_started(number, total, source)

    def cell_ended(self, number: int) -> None:
        """A cell has ended, well or not."""

    def report(self, rows: list[dict[str, Any]]) -> None:
        """Tasks changed."""
        self.board.report(rows)

    def note(self, text: str) -> None:
        """Say something that must be seen."""
        console.say(f"nbflow: {text}", self.stream)

    def tick(self) -> None:
        """Time has passed; called some ten times a second."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class LiveView(View):
    """A block of lines at the end of a terminal, drawn anew whenever something changed."""

    def __init__(self, board: Board, stream: TextIO) -> None:
        super().__init__(board, stream)
        self._shown: list[str] = []

    def tick(self) -> None:
        self._draw(live_lines(self.board, console.width()))

    def note(self, text: str) -> None:
        self._draw([])
        super().note(text)

    def close(self) -> None:
        self._draw([])

    def _draw(self, lines: list[str]) -> None:
        if lines == self._shown:
            return
        # Up to the first line of the block, then clear from there to the end of the screen.
        back = f"\x1b[{len(self._shown)}A\r\x1b[J" if self._shown else ""
        self.stream.write(back + "".join(line + "\n" for line in lines))
        self.stream.flush()
        self._shown = lines


class Milestones(View):
    """One line for each task when its cell ends, and one for every tenth of a long map.

    A workflow has no cells; there, a task that took its time gets its line when it ends.
    """

    def __init__(self, board: Board, stream: TextIO) -> None:
        super().__init__(board, stream)
        self._tenths: dict[int, int] = {}
        self._told: dict[int, float] = {}
        self._cell_began = 0.0

    def cell_started(self, number: int, total: int, source: str) -> None:
        super().cell_started(number, total, source)
        self._cell_began = self.board.wall()

    def cell_ended(self, number: int) -> None:
        rows = [self.board.rows[key] for key in sorted(self.board.touched)]
        lines = [milestone(row) for row in rows if not row["nested"]]
        if not lines and (took := self.board.wall() - self._cell_began) >= _MILESTONE_S:
            lines = [f"{clip(self.board.title, 40)}: {format_duration(took)}"]
        for line in lines:
            self._write(line)

    def report(self, rows: list[dict[str, Any]]) -> None:
        super().report(rows)
        for row in rows:
            since = row["since"]
            if since is None and not self.board.total and not row["nested"]:
                if row["time_s"] - self._told.get(row["id"], 0.0) >= _MILESTONE_S:
                    self._told[row["id"]] = row["time_s"]
                    self._write(milestone(row))
            if not row["maps"] or since is None or self.board.wall() - since < _MILESTONE_S:
                continue
            tenth = 10 * _done(row) // max(1, row["total"])
            if tenth > self._tenths.get(row["id"], 0) and tenth < 10:
                self._tenths[row["id"]] = tenth
                self._write(f"{clip(row['task'], 40)}: {tenth * 10} % ({_done(row)} of {row['total']})")

    def _write(self, line: str) -> None:
        place = f"[{self.board.number}/{self.board.total}] " if self.board.total else ""
        console.say(f"{place}{line}", self.stream)
