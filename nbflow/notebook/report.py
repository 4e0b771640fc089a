"""What `nbflow run` gets to know about the tasks of a kernel.

`Tally` folds events into one row per task and cell: how many calls ran, were cached, failed, and what that cost or
saved. `install` (in the kernel, only if `NBFLOW_REPORT` is set) sends rows that changed over the comm target
`nbflow.report`: at most ten messages a second, and a last one before a cell ends, so that nothing is lost when the
kernel goes on. Comm messages are not stored in the notebook; the number of messages depends on time only, never on the
number of tasks.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable
from contextvars import copy_context
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from nbflow.core import events

__all__ = ["COMM_TARGET", "ENVIRONMENT_SWITCH", "Reporter", "Tally", "TaskRow", "install"]

COMM_TARGET = "nbflow.report"
ENVIRONMENT_SWITCH = "NBFLOW_REPORT"
_INTERVAL_S = 0.1
_BARS = 100


@dataclass(slots=True)
class TaskRow:
    """One task in one cell; calls and items of maps are counted, not listed.

    Attributes:
        id: Position of the row, in order of first start.
        task: Name of the task.
        cell: Label of the cell that called it, such as "cell 4"; None outside cells.
        nested: Whether it was called by another task (whose time then includes it); `caller` is its name, if known.
        maps: How many maps of it were started.
        total: Calls and items of maps; `ran`, `cached`, `failed`, `cancelled` and `running` of them are in that state.
        time_s: Seconds of calls and maps that have ended.
        saved_s: Seconds that cached results had cost when they were computed.
        since: Wall-clock time (seconds since the epoch) of the oldest start that has not ended; None when idle.
        why: Why the cache missed, in words.
        error: The last error, in one line; `traceback` is all of it, without our frames.
        bars: Begin, end (seconds since the epoch) and state of calls and maps that have ended; late ones share one.
    """

    id: int
    task: str
    cell: str | None = None
    nested: bool = False
    maps: int = 0
    total: int = 0
    ran: int = 0
    cached: int = 0
    failed: int = 0
    cancelled: int = 0
    running: int = 0
    time_s: float = 0.0
    saved_s: float = 0.0
    since: float | None = None
    why: str | None = None
    error: str | None = None
    traceback: str | None = None
    caller: str | None = None
    bars: list[tuple[float, float, str]] = field(default_factory=list)


class _Counts(Protocol):
    """The counters that a live map, a `MapProgressed` and a `MapEnded` share."""

    @property
    def completed(self) -> int: ...
    @property
    def cached(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def cancelled(self) -> int: ...
    @property
    def saved_s(self) -> float: ...


class Tally:
    """Folds events into rows; an observer (`session.add_observer(tally, items=False)`), safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: list[TaskRow] = []
        self._index: dict[tuple[str | None, str, bool], TaskRow] = {}
        self._calls: dict[int, TaskRow] = {}
        self._maps: dict[int, _LiveMap] = {}
        self._open: Counter[int] = Counter()
        self._changed: dict[int, TaskRow] = {}

    def __call__(self, event: events.Event) -> None:
        """Take note of `event`; kinds that do not matter here are ignored."""
        with self._lock:
            match event:
                case events.MapStarted():
                    self._map_started(event)
                case events.MapEnded():
                    self._map_ended(event)
                case events.TaskStarted(map_id=None):
                    self._call_started(event)
                case events.Terminal(map_id=None):
                    self._call_ended(event)
                case events.Terminal(map_id=int(map_id)) if map_id in self._maps:
                    # Items are counted by their map; only what went wrong is told item by item.
                    self._note_error(self._maps[map_id].row, event)
                case events.CacheMiss(call_id=call_id, reason=str(reason)) if call_id in self._calls:
                    row = self._calls[call_id]
                    row.why = reason
                    self._changed[row.id] = row

    def sample(self, maps: Iterable[Any]) -> None:
        """Read the live counters of running maps, whose items make no events."""
        for state in maps:
            with self._lock:
                self._count(state.id, state, running=state.running)

    def rows(self) -> list[TaskRow]:
        """Return all rows in order of first start; they are live objects, not copies."""
        with self._lock:
            return list(self._rows)

    def changes(self) -> list[dict[str, Any]]:
        """Return the rows that changed since the last call, as plain dicts."""
        with self._lock:
            changed, self._changed = self._changed, {}
            return [asdict(row) for row in changed.values()]

    def _row(self, cell: str | None, task: str, parent_id: int | None) -> TaskRow:
        key = (cell, task, bool(parent_id))
        if (row := self._index.get(key)) is None:
            row = self._index[key] = TaskRow(len(self._rows), task, cell, bool(parent_id))
            if parent_id in self._calls:
                row.caller = self._calls[parent_id].task
            self._rows.append(row)
        return row

    def _begin(self, row: TaskRow, event: events.Event) -> None:
        if not self._open[row.id]:
            row.since = event.time
        self._open[row.id] += 1
        self._changed[row.id] = row

    def _end(self, row: TaskRow, event: events.Terminal | events.MapEnded, state: str) -> None:
        row.time_s += event.duration_s
        began = event.time - event.duration_s
        if len(row.bars) == _BARS:
            began = row.bars.pop()[0]
        row.bars.append((began, event.time, state))
        self._open[row.id] -= 1
        if not self._open[row.id]:
            row.since = None
        self._changed[row.id] = row

    def _call_started(self, event: events.TaskStarted) -> None:
        row = self._calls[event.call_id] = self._row(event.cell, event.task, event.parent_id)
        row.total += 1
        row.running += 1
        self._begin(row, event)

    def _call_ended(self, event: events.Terminal) -> None:
        if (row := self._calls.pop(event.call_id, None)) is None:
            return
        row.running -= 1
        state = "fresh"
        if isinstance(event, events.TaskCompleted):
            row.cached += event.cached
            row.ran += not event.cached
            row.saved_s += event.saved_s
            state = "cached" if event.cached else state
        elif isinstance(event, events.TaskCancelled):
            row.cancelled += 1
            state = "cancelled"
        else:
            row.failed += 1
            state = "failed"
            self._note_error(row, event)
        self._end(row, event, state)

    def _map_started(self, event: events.MapStarted) -> None:
        row = self._row(event.cell, event.name, event.parent_id)
        row.maps += 1
        row.total += event.total
        self._maps[event.call_id] = _LiveMap(row)
        self._begin(row, event)

    def _map_ended(self, event: events.MapEnded) -> None:
        self._count(event.call_id, event, running=0)
        if (live := self._maps.pop(event.call_id, None)) is not None:
            words = {"failed": event.failed, "cancelled": event.cancelled, "fresh": event.completed - event.cached}
            self._end(live.row, event, next((word for word, count in words.items() if count), "cached"))

    def _note_error(self, row: TaskRow, event: events.Terminal) -> None:
        if isinstance(event, events.TaskFailed):
            row.error, row.traceback = event.error, event.traceback
        elif isinstance(event, events.TaskTimedOut):
            row.error = f"timed out after {event.timeout_s:g} s"
        else:
            return
        self._changed[row.id] = row

    def _count(self, map_id: int, counts: _Counts, running: int) -> None:
        """Bring a row up to date with the counters of one of its maps."""
        if (live := self._maps.get(map_id)) is None:
            return
        row, seen = live.row, live.seen
        now = {
            "ran": counts.completed - counts.cached,
            "cached": counts.cached,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
            "running": running,
            "saved_s": counts.saved_s,
        }
        if now != seen:
            for name, value in now.items():
                setattr(row, name, getattr(row, name) + value - seen.get(name, 0))
            live.seen = now
            self._changed[row.id] = row


class _LiveMap:
    """A running map: its row, and the counters that the row has taken in already."""

    __slots__ = ("row", "seen")

    def __init__(self, row: TaskRow) -> None:
        self.row = row
        self.seen: dict[str, float] = {}


class Reporter:
    """Sends a session's tally to `nbflow run`: ten times a second while a cell runs, and before it ends.

    Args:
        session: The notebook's session.
        shell: The IPython shell, whose cell events start and stop the sending.
        comm: Where rows go: anything with `send(data)`.
        interval_s: Seconds between two messages.
    """

    def __init__(self, session: Any, shell: Any, comm: Any, interval_s: float = _INTERVAL_S) -> None:
        self.tally = Tally()
        self._session = session
        self._comm = comm
        self._interval_s = interval_s
        self._sending = threading.Lock()
        self._stop: threading.Event | None = None
        self._depth = 0
        session.add_observer(self.tally, items=False)
        shell.events.register("pre_run_cell", self._cell_started)
        shell.events.register("post_run_cell", self._cell_ended)
        # Installed by a line of a cell, so that cell is running now.
        self._cell_started()

    def attach(self, session: Any) -> None:
        """Listen to `session` instead of the one before it; attaching the same one again changes nothing."""
        if session is not self._session:
            self.flush()
            self._session.remove_observer(self.tally)
            self._session = session
            session.add_observer(self.tally, items=False)

    def flush(self, unless: threading.Event | None = None) -> None:
        """Send what changed since the last message, unless that flag is set by now; safe from any thread."""
        with self._sending:
            if unless is not None and unless.is_set():
                return
            self.tally.sample(self._session.live_maps())
            if rows := self.tally.changes():
                self._comm.send({"rows": rows})

    def _cell_started(self, info: Any = None) -> None:
        self._depth += 1
        if self._stop is None:
            self._stop = threading.Event()
            # A comm message names the cell it belongs to by a context variable, and clients drop messages of cells that
            # have ended: hence one thread per cell, in a copy of the cell's context.
            context = copy_context()
            threading.Thread(
                target=context.run, args=(self._pump, self._stop), name="nbflow-report", daemon=True
            ).start()

    def _cell_ended(self, result: Any = None) -> None:
        # Cells can nest: `%flow run` runs other cells from within one.
        self._depth = max(0, self._depth - 1)
        if self._stop is not None and not self._depth:
            self._stop.set()
            self._stop = None
        self.flush()

    def _pump(self, stop: threading.Event) -> None:
        while not stop.wait(self._interval_s):
            # The cell's last message is the last that anybody reads; what changes later is for the next cell to send.
            self.flush(unless=stop)


def install(session: Any) -> Reporter | None:
    """Report the tasks of the notebook's session to `nbflow run`, if that is what runs this kernel.

    Call it again when another session takes over; reporting then goes on with that one.

    Args:
        session: The notebook's session.

    Returns:
        The reporter; None where `NBFLOW_REPORT` is not set or there is no kernel.
    """
    if not os.environ.get(ENVIRONMENT_SWITCH):
        return None
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    reporter: Reporter | None = getattr(shell, "nbflow_reporter", None)
    if reporter is None:
        from comm import create_comm

        reporter = shell.nbflow_reporter = Reporter(session, shell, create_comm(target_name=COMM_TARGET))
    else:
        reporter.attach(session)
    return reporter
