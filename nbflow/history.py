"""What ran before: a small, bounded record of runs in the home on disk, so that times are known over restarts.

Each line of `history.jsonl` is one run of a cell, of a map, or of the calls of a task within one cell; lines are only
ever appended, in one write each time, so several kernels may do so and a crash costs one line at most. `Collector`
makes the lines from what a session remembers anyway, after a cell or at the end of a session: calls pay nothing for it.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nbflow._util import one_line, report
from nbflow.cache.folder import make_home
from nbflow.runtime import current

if TYPE_CHECKING:
    from nbflow.runtime.current import Call

__all__ = ["Collector", "History", "Run"]

_FILE = "history.jsonl"
_OLDER = "history.1.jsonl"
_MOST_BYTES = 512 * 1024  # of each of the two files: some 3,000 runs
_KEPT = 10_000  # runs in memory
_RECENT = 15  # runs that say how long the next one will take


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a cell or a map, or the calls of one task within one cell.

    Args:
        task: Name of the task or cell.
        kind: "cell", "map" or "call".
        when: Wall-clock time of its end, seconds since the epoch.
        duration_s: Seconds from begin to end; of several calls, the sum of those that were computed, if any were.
        ran: Calls that were computed; `cached`, `failed` and `cancelled` ended otherwise.
        saved_s: Seconds that cached results had cost when they were computed.
        cell: Label of the cell it ran in, such as "cell 4"; None outside cells.
        notebook: Path of the notebook, or None where it is not known.
    """

    task: str
    kind: str
    when: float
    duration_s: float
    ran: int = 0
    cached: int = 0
    failed: int = 0
    cancelled: int = 0
    saved_s: float = 0.0
    cell: str | None = None
    notebook: str | None = None

    @property
    def count(self) -> int:
        """How many calls it was."""
        return self.ran + self.cached + self.failed + self.cancelled

    @property
    def outcome(self) -> str:
        """How it ended: "failed" or "cancelled" if any call did, else "ran" if any was computed, else "cached"."""
        return next((word for word in ("failed", "cancelled", "ran") if getattr(self, word)), "cached")

    @property
    def each_s(self) -> float:
        """Seconds for one call: of a cell all of it, of maps and calls what one that was computed took on average."""
        return self.duration_s if self.kind == "cell" else self.duration_s / max(1, self.ran)


class History:
    """The record of runs in one home; safe from any thread and from several processes.

    A record that cannot be written or read is told once and then left alone: it never fails a run.

    Args:
        folder: The home; nothing is made there before the first run is recorded.
        most_bytes: Size at which older runs are put aside, and those before them forgotten.
    """

    def __init__(self, folder: str | os.PathLike[str], *, most_bytes: int = _MOST_BYTES) -> None:
        self.path = Path(folder) / _FILE
        self._older = self.path.with_name(_OLDER)
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._runs: deque[Run] = deque(maxlen=_KEPT)
        self._read_to: tuple[int, int] = (0, 0)  # inode and size of the part of the file that is in `_runs`
        self._broken = False

    @classmethod
    def open(cls, home: str | os.PathLike[str]) -> History:
        """Return the record of that home, which may not exist yet."""
        return cls(home)

    # -- writing

    def record(self, rows: Iterable[Run]) -> None:
        """Append runs, in one write. Never raises."""
        text = "".join(f"{json.dumps(_short(row), separators=(',', ':'))}\n" for row in rows)
        if not text or self._broken:
            return
        try:
            size = self._append(text.encode())
        except OSError as error:
            self._broken = True
            report(f"Runs cannot be recorded in {self.path}: {one_line(error)}. Setting history=off ends the attempts.")
        else:
            if size > self._most_bytes:
                self.prune()

    def _append(self, lines: bytes) -> int:
        """Write lines at the end of the file, and return its size."""
        if not self.path.parent.is_dir():
            make_home(self.path.parent)
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(-1, os.SEEK_END)
                # What a crash may have left unfinished gets a line of its own, which nobody can read.
                lines = lines if file.read(1) == b"\n" else b"\n" + lines
            file.write(lines)
            return size + len(lines)

    def prune(self) -> None:
        """Put the runs aside if they have become too many, and forget those put aside before; nothing else is lost."""
        try:
            if self.path.stat().st_size > self._most_bytes:
                os.replace(self.path, self._older)
        except OSError:  # another kernel has just done so, or (on Windows) is about to write: the next one will
            pass

    # -- reading

    def runs(self, limit: int | None = None, *, names: Collection[str] = (), notebook: str | None = None) -> list[Run]:
        """Return runs, oldest first.

        Args:
            limit: How many of the newest; None for all that are kept.
            names: Tasks and cells to tell of; none for all.
            notebook: Only runs of this notebook; None for all.

        Returns:
            The runs.
        """
        found = [
            run
            for run in self._all()
            if (not names or run.task in names) and (notebook is None or run.notebook == notebook)
        ]
        return found if limit is None else found[max(0, len(found) - limit) :]

    def durations(self, task: str, limit: int = _RECENT, *, kind: str | None = None) -> list[float]:
        """Return how many seconds one call of a task took in its latest runs, oldest first; hits do not count.

        Args:
            task: Name of the task or cell.
            limit: How many runs.
            kind: Only runs of that kind ("cell", "map", "call"); None for all.
        """
        chosen = [
            run.each_s for run in self._all() if run.task == task and run.outcome == "ran" and kind in (None, run.kind)
        ]
        return chosen[max(0, len(chosen) - limit) :]

    def typical_s(self, task: str, *, kind: str | None = None) -> float | None:
        """Return how many seconds a call of a task usually takes to compute, or None where that is not known.

        Args:
            task: Name of the task or cell.
            kind: Only look at "call" or "cell"; of a "map", it is the seconds that pass for each item.

        Returns:
            The median of the latest runs, which one odd run does not move.
        """
        found = self.durations(task, kind=kind)
        return median(found) if found else None

    def _all(self) -> list[Run]:
        with self._lock:
            try:
                self._read_on()
            except OSError as error:
                if not self._broken:
                    self._broken = True
                    report(f"The record of runs in {self.path} cannot be read: {one_line(error)}.")
            return list(self._runs)

    def _read_on(self) -> None:
        """Read what was appended since the last time, or everything where the file is another one."""
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                inode, size = self._read_to
                if status.st_ino != inode or status.st_size < size:
                    self._runs.clear()
                    self._parse(self._older.read_bytes() if self._older.exists() else b"")
                    size = 0
                file.seek(size)
                data = file.read()
        except FileNotFoundError:
            self._runs.clear()
            self._read_to = (0, 0)
            self._parse(self._older.read_bytes() if self._older.exists() else b"")
            return
        whole = data.rfind(b"\n") + 1  # another kernel may be writing the rest just now
        self._parse(data[:whole])
        self._read_to = (status.st_ino, size + whole)

    def _parse(self, data: bytes) -> None:
        for line in data.splitlines():
            try:
                self._runs.append(_run_of(json.loads(line)))
            except (ValueError, TypeError):  # torn, or of another version
                continue


_NAMES = tuple(spec.name for spec in fields(Run))
_NUMBERS = ("when", "duration_s", "ran", "cached", "failed", "cancelled", "saved_s")
_SHORT = {"when": 3, "duration_s": 6, "saved_s": 3}  # digits kept


def _short(run: Run) -> dict[str, Any]:
    """Return a run as a line says it: without what is nothing."""
    row = {name: value for name, value in asdict(run).items() if value or name in ("task", "duration_s")}
    return row | {name: round(row[name], digits) for name, digits in _SHORT.items() if name in row}


def _run_of(row: Any) -> Run:
    """Return the run that a line tells of; its values are checked, as anybody may have written them."""
    run = Run(**{name: value for name, value in row.items() if name in _NAMES}) if isinstance(row, dict) else None
    if run is None or not isinstance(run.task, str) or run.kind not in ("cell", "map", "call"):
        raise ValueError("not a run")
    if not all(isinstance(getattr(run, name), (int, float)) for name in _NUMBERS):
        raise TypeError("not a number")
    return run


class Collector:
    """Records the runs of a session, and of those inside it, from what they remember of their calls.

    Args:
        history: Where to.
        notebook: Path of the notebook, or None.
        is_cell: Whether a call is that of a cell.

    Safe from any thread. Of more calls at once than a session remembers (`max_records`) the oldest go untold.
    """

    def __init__(
        self, history: History, notebook: str | None = None, is_cell: Callable[[Call], bool] = lambda call: False
    ) -> None:
        self.history = history
        self.notebook = notebook
        self._is_cell = is_cell
        self._last: Call | None = None  # of the session that is collected again and again
        self._maps: dict[int, tuple[Any, float]] = {}  # those that were not over, with the last end of an item
        self._lock = threading.Lock()

    def collect(self, session: Any, *, last: bool = False) -> None:
        """Record what has ended in a session since this was called before. Never raises.

        Args:
            session: The session.
            last: Whether it is being closed, so that everything in it has ended.
        """
        inner = session.parent is not None and session.parent.collector is self
        with self._lock:
            calls = list(session.records)
            if not inner:
                before, self._last = self._last, calls[-1] if calls else self._last
                calls = _after(calls, before)
            rows = self._rows(session, calls, everything=last and not inner)
        self.history.record(rows)

    def _rows(self, session: Any, calls: list[Call], *, everything: bool) -> list[Run]:
        if not calls and not self._maps:
            return []
        offset = session.clock.wall() - session.clock.monotonic()
        about = {"cell": session.label(), "notebook": self.notebook}
        groups: dict[tuple[str, bool], list[Call]] = {}
        for call in calls:
            ended = call.ended or 0.0
            if call.map is not None:
                known = self._maps.get(call.map.id)
                self._maps[call.map.id] = (call.map, max(ended, known[1]) if known else ended)
            else:
                groups.setdefault((call.spec.name, self._is_cell(call)), []).append(call)
        rows = [_run_of_calls(name, "cell" if cell else "call", found) for (name, cell), found in groups.items()]
        for number, (state, ended) in list(self._maps.items()):
            if everything or state.over:
                del self._maps[number]
                rows.append(_run_of_map(state, ended))
        return [
            Run(**row | about | {"when": row["when"] + offset}) for row in sorted(rows, key=lambda row: row["when"])
        ]


def _after(calls: list[Call], last: Call | None) -> list[Call]:
    """Return the calls that came after `last`."""
    for place in range(len(calls) - 1, -1, -1):
        if calls[place] is last:
            return calls[place + 1 :]
    return calls


def _run_of_calls(name: str, kind: str, calls: list[Call]) -> dict[str, Any]:
    done = [call for call in calls if call.state == current.COMPLETED]
    ran = [call for call in done if not call.cached]
    cancelled = sum(call.state == current.CANCELLED for call in calls)
    return {
        "task": name,
        "kind": kind,
        "when": max(call.ended or 0.0 for call in calls),
        "duration_s": sum(call.duration_s for call in ran or calls),
        "ran": len(ran),
        "cached": len(done) - len(ran),
        "failed": len(calls) - len(done) - cancelled,
        "cancelled": cancelled,
        "saved_s": sum(call.saved_s for call in done),
    }


def _run_of_map(state: Any, ended: float) -> dict[str, Any]:
    return {
        "task": state.name,
        "kind": "map",
        "when": ended,
        "duration_s": max(0.0, ended - state.started),
        "ran": state.completed - state.cached,
        "cached": state.cached,
        "failed": state.failed,
        "cancelled": state.cancelled,
        "saved_s": state.saved_s,
    }
