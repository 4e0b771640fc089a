"""The state of a run, as a pure reducer: events in, rows and totals out.

`Model.apply` folds one event; nothing here reads a clock, draws, or does I/O, so every face shows the same truth and
tests replay whole runs by hand. Events may come late, twice, in any order or not at all; the rules are:

* A terminal event wins: whatever arrives for that call afterwards only fills in what is still unknown.
* Counters of a map come from `MapProgressed` samples, the newest by its time stamp; `MapEnded` is the last word.
* Quick calls in a loop are merely counted in their task's row; one that is still running when somebody looks, fails, or
  has something to tell gets a row of its own.
* Memory is bounded: calls of one task under one parent are folded into one *task* row once there are more than a few,
  failures are kept one by one only up to a bound, and what runs beyond `MAX_ROWS` is merely counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from nbflow.core import events
from nbflow.notebook.panel.rows import (
    BAD,
    CACHED,
    CALL,
    CANCELLED,
    DONE,
    FAILED,
    ITEM,
    LEFT,
    MAP,
    QUEUED,
    RETRYING,
    ROOT,
    RUNNING,
    TASK,
    TIMED_OUT,
    Counts,
    Line,
    MapSampled,
    Row,
    View,
)

__all__ = ["FOLD_ABOVE", "MAX_FAILED", "MAX_ROWS", "Model"]

FOLD_ABOVE = 5
"""So many finished calls of one task are shown one by one; from the next on they share a row."""
MAX_FAILED = 10
"""So many failures of one task or map are kept one by one."""
MAX_ROWS = 400
"""With so many rows, further calls are only counted: in the row of their task, or in that of `OTHERS`."""
MAX_PROMOTED = 10
"""So many calls that are merely counted get rows of their own each time that somebody looks."""
OTHERS = "other tasks"

_TEXT = 240
_TRACEBACK = 2500


class _IdSet:
    """A set of ids that are mostly dense: chunks of 1,024 bits, so that a million of them take some 200 kB."""

    __slots__ = ("_chunks",)

    def __init__(self) -> None:
        self._chunks: dict[int, int] = {}

    def add(self, number: int) -> bool:
        """Add `number`; False if it was there."""
        chunk, bit = number >> 10, 1 << (number & 1023)
        bits = self._chunks.get(chunk, 0)
        self._chunks[chunk] = bits | bit
        return not bits & bit

    def __contains__(self, number: int) -> bool:
        return bool(self._chunks.get(number >> 10, 0) >> (number & 1023) & 1)


@dataclass(slots=True, eq=False)
class _Family:
    """The calls of one task (or maps of one name) under one parent, and the row that they fold into."""

    finished: list[int] = field(default_factory=list)
    group: Row | None = None
    failed: int = 0


class Model:
    """The rows of one run.

    Args:
        history: Seconds that each task took when it was last computed; completed calls bring it up to date. It
            is where `Row.expected_s` comes from.

    Attributes:
        rows: All rows by id; ids of calls and maps as in events, negative ones for task rows.
        version: Grows with every event that changed something.
        started, latest: Time stamps of the first and the newest fact, or None.

    Not thread-safe: one thread at a time may use it.
    """

    def __init__(self, history: dict[str, float] | None = None) -> None:
        self.rows: dict[int, Row] = {}
        self.version = 0
        self.started: float | None = None
        self.latest: float | None = None
        self.history = {} if history is None else history
        self._ended = _IdSet()
        self._retried = _IdSet()
        self._kids: dict[int, dict[int, None]] = {}
        self._families: dict[int, dict[tuple[str, str], _Family]] = {}
        self._light: dict[int, tuple[Row, events.TaskStarted]] = {}
        self._groups = 0

    def apply(self, event: events.Event) -> None:
        """Fold one event into the rows; events that the panel does not show are ignored."""
        handler = _HANDLERS.get(type(event))
        if handler is None:
            return
        handler(self, event)
        self.version += 1
        time = event.time
        if self.started is None or time < self.started:
            self.started = time
        if self.latest is None or time > self.latest:
            self.latest = time

    def close(self) -> None:
        """Nothing more will come: rows that never ended are marked as left running."""
        self._light.clear()
        for row in self.rows.values():
            if not row.live:
                continue
            row.state, row.items = LEFT, ()
            if row.counts is not None:
                row.counts.left += row.counts.queued + row.counts.running
                row.counts.queued = row.counts.running = 0
        self.version += 1

    def knows(self, event: events.Event) -> bool:
        """Whether `event` is about a call, a map or a parent that this model has seen."""
        ids = (event.call_id, event.map_id, getattr(event, "parent_id", None))
        return any(
            number is not None and (number in self.rows or number in self._light or number in self._ended)
            for number in ids
        )

    @property
    def live(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._light) or any(row.live for row in self.rows.values())

    @property
    def busy(self) -> bool:
        """Whether anything runs by itself; a stream that nobody iterates may never end and does not count."""
        return bool(self._light) or any(row.live and not row.stream for row in self.rows.values())

    def totals(self) -> Counts:
        """Sum up all calls, items of maps included."""
        sums = Counts()
        for row in self.rows.values():
            sums.add(row.sums())
        return sums

    def view(self, limit: int = 40) -> View:
        """Choose at most `limit` lines: failed and live rows first, each with the rows that it is nested in.

        Children follow their parent, siblings the order in which they started. Calls that run long enough to be looked
        at get rows of their own now.
        """
        for number in tuple(islice(self._light, MAX_PROMOTED if len(self.rows) < MAX_ROWS else 0)):
            self._promote(number)
        lines = list(self._walk(ROOT, 0, set()))
        if len(lines) <= limit:
            return View(tuple(lines), 0)
        chosen: set[int] = set()
        for line in sorted(lines, key=_urgency):
            path = [line.row.id]
            while (above := self.rows[path[-1]].parent) in self.rows and above not in chosen and above not in path:
                path.append(above)
            path = [number for number in path if number not in chosen]
            if len(chosen) + len(path) <= limit:
                chosen.update(path)
        return View(
            tuple(line for line in lines if line.row.id in chosen),
            len(lines) - len(chosen),
        )

    def _walk(self, parent: int, depth: int, seen: set[int]) -> Iterator[Line]:
        if parent == ROOT:
            rows = [row for row in self.rows.values() if row.parent not in self.rows]
        else:
            rows = [self.rows[number] for number in self._kids.get(parent, ())]
        for row in sorted(rows, key=_by_start):
            if row.id not in seen:
                seen.add(row.id)
                yield Line(row, depth)
                yield from self._walk(row.id, depth + 1, seen)

    # -- calls ------------------------------------------------------------

    def _row(self, event: events.Event, kind: str = CALL) -> Row | None:
        """Return the row of a call, made where it is new; None if it is over and folded away, or only counted."""
        number = event.call_id
        if number in self._light and len(self.rows) < MAX_ROWS:
            self._promote(number)
        row = self.rows.get(number)
        if row is None and number not in self._light and number not in self._ended:
            row = self.rows[number] = Row(number, kind, event.name, task=event.name)
            self._kids.setdefault(ROOT, {})[number] = None
        return row

    def _adopt(self, row: Row, parent: int | None) -> None:
        if parent is not None and parent != row.parent and parent != row.id:
            self._leave(row)
            row.parent = parent
            self._kids.setdefault(parent, {})[row.id] = None

    def _leave(self, row: Row) -> None:
        kids = self._kids.get(row.parent, {})
        kids.pop(row.id, None)
        if not kids:
            self._kids.pop(row.parent, None)

    def _on_queued(self, event: events.TaskQueued) -> None:
        if event.map_id is None and (row := self._row(event)) is not None:
            row.backend = event.backend

    def _on_started(self, event: events.TaskStarted) -> None:
        number = event.call_id
        if event.map_id is not None or number in self._light:
            return
        if number not in self.rows:
            if number in self._ended:
                return
            if (group := self._group_for(event)) is not None:
                self._light[number] = (group, event)
                group.sums().running += 1
                group.state = RUNNING
                return
        self._start(event, event.parent_id)

    def _group_for(self, event: events.TaskStarted) -> Row | None:
        """Return the task row in which a new call is merely counted, until it proves worth a row of its own."""
        above = self._light.get(event.parent_id or ROOT)
        parent = above[0].id if above is not None else event.parent_id
        families = self._families.get(parent if parent in self.rows else ROOT)
        family = families.get((CALL, event.task)) if families is not None else None
        if family is not None and family.group is not None:
            return family.group
        return self._group(ROOT, CALL, OTHERS, event.time) if len(self.rows) >= MAX_ROWS else None

    def _start(self, event: events.TaskStarted, parent: int | None) -> None:
        row = self._row(event)
        if row is None:
            return
        row.task, row.backend, row.worker = event.task, event.backend, event.worker or ""
        row.started, row.cell = event.time, event.cell or ""
        row.stream = "stream" in event.kind
        row.expected_s = self.history.get(event.task)
        self._adopt(row, parent)
        if row.state == QUEUED:
            row.state = RUNNING

    def _promote(self, number: int) -> None:
        """Give a call that was merely counted a row of its own."""
        group, event = self._light.pop(number)
        counts = group.sums()
        counts.running -= 1
        group.state = _summed_state(counts)
        in_group = event.parent_id is not None and event.parent_id not in self.rows and group.task == event.task
        self._start(event, group.parent if in_group else event.parent_id)

    def _on_attempt(self, event: events.AttemptStarted) -> None:
        if event.number == 1 and event.call_id in self._light:
            return
        if event.map_id is None and (row := self._row(event)) is not None:
            row.attempts = max(row.attempts, event.number)
            if row.state in (QUEUED, RETRYING):
                row.state = RUNNING

    def _on_retry(self, event: events.RetryScheduled) -> None:
        if event.map_id is not None:
            if self._retried.add(event.call_id << 6 | min(event.number, 63)):
                self._map(event.map_id, event.name).retries += 1
        elif (row := self._row(event)) is not None and row.attempts < event.number:
            row.attempts = max(row.attempts, event.number - 1)
            if row.live:
                row.state = RETRYING

    def _on_progress(self, event: events.ProgressMade) -> None:
        if event.map_id is None and (row := self._row(event)) is not None and event.time >= row.progress_at:
            row.done, row.total, row.label = (
                event.done,
                event.total,
                _short(event.label or ""),
            )
            row.progress_at = event.time
            if row.state == QUEUED:
                row.state = RUNNING

    def _told(self, event: events.Event) -> Row | None:
        """Return the row where a remark on this call belongs: its map's, if it is an item."""
        number = event.call_id if event.map_id is None else event.map_id
        if number in self._light and len(self.rows) < MAX_ROWS:
            self._promote(number)
        return self.rows.get(number)

    def _on_line(self, event: events.LogLine) -> None:
        row = self._told(event)
        text = next((line for line in reversed(event.text.splitlines()) if line.strip()), "")
        if row is not None and text and event.time >= row.line_at:
            row.line, row.line_at = _short(text.strip()), event.time

    def _on_miss(self, event: events.CacheMiss) -> None:
        if event.map_id is None and (row := self._told(event)) is not None:
            row.reason = _short(event.reason or "")

    def _on_cache_failed(self, event: events.CacheFailed) -> None:
        if (row := self._told(event)) is not None:
            row.note = _short(f"not cached: {event.error}")

    def _on_changed(self, event: events.ValueChanged) -> None:
        if (row := self._told(event)) is not None:
            row.note = _short(f"`{event.holder}` was changed in place since {event.origin}")

    def _on_straggler(self, event: events.StragglerLeft) -> None:
        if (row := self._told(event)) is not None:
            row.note = "could not be stopped and ran on by itself"

    def _on_lost(self, event: events.WorkerLost) -> None:
        if (row := self._told(event)) is not None:
            row.note = _short(f"worker {event.worker} lost: {event.reason}")

    def _on_end(self, event: events.Terminal) -> None:
        state = _ENDINGS[type(event)]
        if event.map_id is not None:
            if state in BAD:
                self._item_failed(event, state)
            return
        if not self._ended.add(event.call_id):
            return
        if event.call_id in self._light:
            if state not in BAD or len(self.rows) >= MAX_ROWS:
                self._count_end(self._light.pop(event.call_id)[0], event, state)
                return
            self._promote(event.call_id)
        row = self.rows.get(event.call_id)
        if row is None:
            row = self.rows[event.call_id] = Row(event.call_id, CALL, event.name, task=event.name)
            self._kids.setdefault(ROOT, {})[row.id] = None
        self._finish(row, event, state)
        if row.state == DONE:
            self.history[row.task] = event.duration_s
        self._settle(row)

    def _finish(self, row: Row, event: events.Terminal, state: str) -> None:
        row.state, row.name = state, event.name
        row.duration_s, row.attempts = (
            event.duration_s,
            max(event.attempts, row.attempts),
        )
        if row.started is None:
            row.started = event.time - event.duration_s
        if isinstance(event, events.TaskCompleted):
            if event.cached:
                row.state, row.saved_s = CACHED, event.saved_s
        elif isinstance(event, events.TaskFailed):
            row.error, row.traceback = (
                _short(event.error),
                event.traceback[-_TRACEBACK:],
            )
        elif isinstance(event, events.TaskTimedOut):
            row.error = _short(event.error)
        elif isinstance(event, events.TaskCancelled):
            row.error = _short(event.reason)

    def _count_end(self, group: Row, event: events.Terminal, state: str) -> None:
        """End a call that never had a row: the common lot of quick calls in a loop, hence no detour."""
        counts = group.sums()
        counts.running -= 1
        if isinstance(event, events.TaskCompleted) and event.cached:
            counts.cached += 1
            counts.saved_s += event.saved_s
        elif state == DONE:
            counts.done += 1
            self.history[group.task] = event.duration_s
        elif state == CANCELLED:
            counts.cancelled += 1
        else:
            counts.failed += 1
        group.duration_s = (group.duration_s or 0.0) + event.duration_s
        group.state = _summed_state(counts)

    # -- maps -------------------------------------------------------------

    def _map(self, number: int, name: str) -> Row:
        row = self.rows.get(number)
        if row is None:
            row = self.rows[number] = Row(number, MAP, name.partition("[")[0], RUNNING, counts=Counts())
            row.task = row.name
            self._kids.setdefault(ROOT, {})[number] = None
        return row

    def _on_map_started(self, event: events.MapStarted) -> None:
        if event.call_id in self._ended and event.call_id not in self.rows:
            return
        row = self._map(event.call_id, event.name)
        assert row.counts is not None
        row.name = row.task = event.name
        row.backend, row.cell, row.started = event.backend, event.cell or "", event.time
        self._adopt(row, event.parent_id)
        if row.live:
            row.total = event.total
            row.counts.queued = max(0, event.total - row.counts.finished - row.counts.running)

    def _on_map_progress(self, event: events.MapProgressed) -> None:
        if event.call_id in self._ended:
            return
        row = self._map(event.call_id, event.name)
        if event.time >= row.progress_at:
            row.progress_at = event.time
            row.counts = _counts_of(event, event.running)
            row.total, row.done = event.total, row.counts.finished
            if isinstance(event, MapSampled):
                row.items = event.items

    def _on_map_ended(self, event: events.MapEnded) -> None:
        if not self._ended.add(event.call_id):
            return
        row = self._map(event.call_id, event.name)
        row.name = row.task = event.name
        row.counts = counts = _counts_of(event, 0)
        counts.cancelled += counts.queued
        counts.queued = 0
        row.total, row.done, row.items = event.total, counts.finished, ()
        row.duration_s = event.duration_s
        if row.started is None:
            row.started = event.time - event.duration_s
        row.state = _summed_state(counts)
        self._settle(row)

    def _item_failed(self, event: events.Terminal, state: str) -> None:
        assert event.map_id is not None
        if event.map_id in self._ended and event.map_id not in self.rows:
            return
        if not self._ended.add(event.call_id):
            return
        self._map(event.map_id, event.name)
        if sum(self.rows[number].kind == ITEM for number in self._kids.get(event.map_id, ())) >= MAX_FAILED:
            return
        row = self.rows[event.call_id] = Row(event.call_id, ITEM, event.name, task=event.name)
        self._kids.setdefault(ROOT, {})[row.id] = None
        self._adopt(row, event.map_id)
        self._finish(row, event, state)

    # -- folding ----------------------------------------------------------

    def _family(self, parent: int, of: str, task: str) -> _Family:
        families = self._families.setdefault(parent, {})
        if len(families) > MAX_ROWS:
            return families.get((of, task)) or families.setdefault((of, OTHERS), _Family())
        return families.setdefault((of, task), _Family())

    def _group(self, parent: int, of: str, task: str, started: float | None) -> Row:
        family = self._family(parent, of, task)
        if family.group is None:
            self._groups += 1
            group = Row(
                -self._groups,
                TASK,
                task,
                DONE,
                task=task,
                of=of,
                counts=Counts(),
                started=started,
            )
            family.group = self.rows[group.id] = group
            self._kids.setdefault(ROOT, {})[group.id] = None
            self._adopt(group, parent)
        return family.group

    def _settle(self, row: Row) -> None:
        """Put a finished row among those of its task, and fold these once they are many."""
        if len(self.rows) > MAX_ROWS:
            row.task = OTHERS if self._family(ROOT, row.kind, row.task).group is None else row.task
            self._fold(row, ROOT)
            return
        parent = row.parent if row.parent in self.rows else ROOT
        family = self._family(parent, row.kind, row.task)
        if row.state in BAD:
            family.failed += 1
            if family.failed > MAX_FAILED:
                self._fold(row, parent)
            return
        family.finished.append(row.id)
        if family.group is not None or len(family.finished) > FOLD_ABOVE:
            finished, family.finished = family.finished, []
            for number in finished:
                if number in self.rows:
                    self._fold(self.rows[number], parent)

    def _fold(self, row: Row, parent: int) -> None:
        """Let the row of its task stand for `row`, and for what is nested in it."""
        of = row.of if row.kind == TASK else row.kind
        group = self._group(parent, of, row.task, row.started)
        self._sum_into(group, row)
        self._leave(row)
        del self.rows[row.id]
        self._families.pop(row.id, None)
        for number in list(self._kids.get(row.id, ())):
            child = self.rows[number]
            if child.kind == ITEM:
                self._leave(child)
                del self.rows[number]
            else:
                self._adopt(child, group.id)
                if not child.live:
                    self._fold(child, group.id)

    def _sum_into(self, group: Row, row: Row) -> None:
        assert group.counts is not None
        group.counts.add(row.sums())
        group.retries += row.retries + max(0, row.attempts - 1)
        group.duration_s = (group.duration_s or 0.0) + (row.duration_s or 0.0)
        if row.started is not None:
            group.started = row.started if group.started is None else min(group.started, row.started)
        if row.error and row.state in BAD:
            group.error, group.traceback = row.error, row.traceback
        group.reason, group.note = row.reason or group.reason, row.note or group.note
        group.state = _summed_state(group.counts)


def _counts_of(event: events.MapProgressed | events.MapEnded, running: int) -> Counts:
    """Turn a map's counters (where completed includes cached) into ours; never negative."""
    cached = min(event.cached, event.completed)
    counts = Counts(
        running=running,
        done=event.completed - cached,
        cached=cached,
        failed=event.failed,
        cancelled=event.cancelled,
        saved_s=event.saved_s,
    )
    counts.queued = max(0, event.total - counts.finished - running)
    return counts


def _summed_state(counts: Counts) -> str:
    if counts.running or counts.queued:
        return RUNNING
    if counts.failed:
        return FAILED
    if counts.cancelled:
        return CANCELLED
    return CACHED if counts.cached and not counts.done else DONE


def _by_start(row: Row) -> tuple[float, int]:
    return (float("inf") if row.started is None else row.started, abs(row.id))


def _urgency(line: Line) -> tuple[int, int, float]:
    row = line.row
    rank = 0 if row.state in BAD else 1 if row.state in (RUNNING, RETRYING) else 2 if row.counts is not None else 3
    return (rank, line.depth, -(row.started or 0.0))


def _short(text: str, limit: int = _TEXT) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


_ENDINGS: dict[type[events.Event], str] = {
    events.TaskCompleted: DONE,
    events.TaskFailed: FAILED,
    events.TaskCancelled: CANCELLED,
    events.TaskTimedOut: TIMED_OUT,
}

_HANDLERS: dict[type[events.Event], Callable[[Model, Any], None]] = {
    events.TaskQueued: Model._on_queued,
    events.TaskStarted: Model._on_started,
    events.AttemptStarted: Model._on_attempt,
    events.RetryScheduled: Model._on_retry,
    events.ProgressMade: Model._on_progress,
    events.LogLine: Model._on_line,
    events.CacheMiss: Model._on_miss,
    events.CacheFailed: Model._on_cache_failed,
    events.StragglerLeft: Model._on_straggler,
    events.ValueChanged: Model._on_changed,
    events.WorkerLost: Model._on_lost,
    events.TaskCompleted: Model._on_end,
    events.TaskFailed: Model._on_end,
    events.TaskCancelled: Model._on_end,
    events.TaskTimedOut: Model._on_end,
    events.MapStarted: Model._on_map_started,
    events.MapProgressed: Model._on_map_progress,
    MapSampled: Model._on_map_progress,
    events.MapEnded: Model._on_map_ended,
}
