"""The state of a run, as a pure reducer: events in, rows and totals out.

`Model.apply` folds one event; nothing here reads a clock, draws, or does I/O, so every face shows the same truth and
tests replay whole runs by hand. Events may come late, twice, in any order or not at all; the rules are:

* A terminal event wins: whatever arrives for that call afterwards only fills in what is still unknown.
* Counters of a map come from `MapProgressed` samples, the newest by its time stamp; `MapEnded` is the last word.
* Quick calls in a loop are merely counted in their task's row; one that is still running when somebody looks, fails, or
  has something to tell gets a row of its own.
* A failed call that is run again keeps its row: what the new call does shows there, and the map's counters stay.
* Memory is bounded; `tree` says how.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from nbflow.core import events
from nbflow.notebook.panel.maps import Maps
from nbflow.notebook.panel.rows import (
    BAD,
    CALL,
    CANCELLED,
    DONE,
    FAILED,
    LEFT,
    QUEUED,
    RETRYING,
    ROOT,
    RUNNING,
    TIMED_OUT,
    Counts,
    MapSampled,
    Row,
    View,
    short,
)
from nbflow.notebook.panel.tree import FOLD_ABOVE, MAX_FAILED, MAX_ROWS, OTHERS, IdSet, summed_state

__all__ = ["FOLD_ABOVE", "MAX_FAILED", "MAX_ROWS", "Model"]

MAX_PROMOTED = 10
"""So many calls that are merely counted get rows of their own each time that somebody looks."""
_MAX_EDGES = 200
_MAX_SUBMITTED = 2000


class Model(Maps):
    """The rows of one run.

    Args:
        history: Seconds that each task took when it was last computed; completed calls bring it up to date. It
            is where `Row.expected_s` comes from.

    Attributes:
        edges: Which task feeds or calls which: "result" where a handle was passed, "calls" where one calls the other.
        version: Grows with every event that changed something.
        started, latest: Time stamps of the first and the newest fact, or None.

    Not thread-safe: one thread at a time may use it.
    """

    def __init__(self, history: dict[str, float] | None = None) -> None:
        super().__init__(history)
        self.edges: dict[tuple[str, str], str] = {}
        self.version = 0
        self.started: float | None = None
        self.latest: float | None = None
        self._retried = IdSet()
        self._light: dict[int, tuple[Row, events.TaskStarted]] = {}
        self._submitted: dict[int, str] = {}  # tasks of the latest calls that others may wait for
        self._again: dict[int, int] = {}  # ids of calls that run once more what the row of that id stands for

    def apply(self, event: events.Event) -> None:
        """Fold one event into the rows; events that the panel does not show are ignored."""
        handler = _HANDLERS.get(type(event))
        if handler is None:
            return
        self.version += 1
        if event.call_id in self._again:
            self._on_again(event)
            return
        handler(self, event)
        time = event.time
        if self.started is None or time < self.started:
            self.started = time
        if self.latest is None or time > self.latest:
            self.latest = time

    def retry(self, number: int, row: int) -> bool:
        """Let what the call `number` does show in that row, whose call failed; False if there is no such row."""
        if row not in self.rows or self.rows[row].state not in BAD:
            return False
        self._again[number] = row
        self.rows[row].state = QUEUED
        self.version += 1
        return True

    def count(self, parent: int | None, task: str, calls: Counts, duration_s: float, began: float, ended: float) -> int:
        """Add quick calls that were not told one by one to the row of their task.

        Args:
            parent: Id of the call or row that they are nested in.
            task: Name of the task.
            calls: How they ended.
            duration_s: Seconds that all of them took together.
            began: When the first of them began.
            ended: When the last of them ended.

        Returns:
            The id of the row.
        """
        within = parent if parent is not None and parent in self.rows else ROOT
        group = self._group(within, CALL, task, began)
        family = self._family(within, CALL, task)
        for number in family.finished:
            if number in self.rows:
                self._fold(self.rows[number], within)
        family.finished.clear()
        counts = group.sums()
        counts.add(calls)
        group.duration_s = (group.duration_s or 0.0) + duration_s
        group.state = summed_state(counts)
        if calls.done:
            self.history[task] = duration_s / max(1, calls.done)
        self.started = began if self.started is None else min(began, self.started)
        self.latest = ended if self.latest is None else max(ended, self.latest)
        self.version += 1
        return group.id

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
        return any(number is not None and self.has(number) for number in ids)

    def has(self, number: int) -> bool:
        """Whether this model has seen a call, map or row of that id."""
        return number in self.rows or number in self._light or number in self._ended or number in self._again

    def shows(self, number: int) -> bool:
        """Whether a call has a row of its own, or is the retry of one that has."""
        return number in self.rows or number in self._again

    @property
    def live(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._light) or any(row.live for row in self.rows.values())

    @property
    def busy(self) -> bool:
        """Whether anything runs by itself; a stream that nobody iterates may never end and does not count."""
        return bool(self._light) or any(row.live and not row.stream for row in self.rows.values())

    def view(self, limit: int = 40) -> View:
        """See `Tree.view`; calls that run long enough to be looked at get rows of their own now."""
        for number in tuple(islice(self._light, MAX_PROMOTED if len(self.rows) < MAX_ROWS else 0)):
            self._promote(number)
        return super().view(limit)

    # -- calls ------------------------------------------------------------

    def _row(self, event: events.Event, kind: str = CALL) -> Row | None:
        """Return the row of a call, made where it is new; None if it is over and folded away, or only counted."""
        number = event.call_id
        if number in self._light and len(self.rows) < MAX_ROWS:
            self._promote(number)
        row = self.rows.get(number)
        if row is None and number not in self._light and number not in self._ended:
            row = self._add(Row(number, kind, event.name, task=event.name))
        return row

    def _on_queued(self, event: events.TaskQueued) -> None:
        if event.map_id is None and (row := self._row(event)) is not None:
            row.backend = event.backend
            self._submitted[event.call_id] = event.name
            for needed in event.needs:
                self._edge(self._submitted.get(needed), event.name, "result")
            if len(self._submitted) > _MAX_SUBMITTED:
                del self._submitted[next(iter(self._submitted))]

    def _edge(self, source: str | None, target: str, kind: str) -> None:
        if source is not None and source != target and len(self.edges) < _MAX_EDGES:
            self.edges.setdefault((source, target), kind)

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
        if (above := self.rows.get(row.parent)) is not None:
            self._edge(above.task, row.task, "calls")
        if row.state == QUEUED and (event.worker or event.backend not in ("process", "dask")):
            row.state = RUNNING

    def _promote(self, number: int) -> None:
        """Give a call that was merely counted a row of its own."""
        group, event = self._light.pop(number)
        counts = group.sums()
        counts.running -= 1
        group.state = summed_state(counts)
        in_group = event.parent_id is not None and event.parent_id not in self.rows and group.task == event.task
        self._start(event, group.parent if in_group else event.parent_id)

    def _on_attempt(self, event: events.AttemptStarted) -> None:
        if event.number == 1 and event.call_id in self._light:
            return
        if event.map_id is None and (row := self._row(event)) is not None:
            row.attempts = max(row.attempts, event.number)
            if row.state in (QUEUED, RETRYING):
                row.state = RUNNING

    def _on_placed(self, event: events.AttemptPlaced) -> None:
        if event.map_id is None and (row := self._row(event)) is not None:
            row.worker = event.worker
            if row.state in (QUEUED, RETRYING):
                row.state, row.started = RUNNING, event.time

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
                short(event.label or ""),
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
            row.line, row.line_at = short(text.strip()), event.time

    def _on_miss(self, event: events.CacheMiss) -> None:
        if event.map_id is None and (row := self._told(event)) is not None:
            row.reason, row.missed = short(event.reason or ""), True

    def _on_cache_failed(self, event: events.CacheFailed) -> None:
        if (row := self._told(event)) is not None:
            row.note = short(f"not cached: {event.error}")

    def _on_changed(self, event: events.ValueChanged) -> None:
        if (row := self._told(event)) is not None:
            row.note = short(f"`{event.holder}` was changed in place since {event.origin}")

    def _on_straggler(self, event: events.StragglerLeft) -> None:
        if (row := self._told(event)) is not None:
            row.note = "could not be stopped and ran on by itself"

    def _on_lost(self, event: events.WorkerLost) -> None:
        if (row := self._told(event)) is not None:
            row.note = short(f"worker {event.worker} lost: {event.reason}")

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
            row = self._add(Row(event.call_id, CALL, event.name, task=event.name))
        self._finish(row, event, state)
        if row.state == DONE:
            self.history[row.task] = event.duration_s
        self._settle(row)

    def _on_again(self, event: events.Event) -> None:
        """Show what a retry does in the row of the call that failed; the totals of a map are not changed by it."""
        row = self.rows.get(self._again[event.call_id])
        if row is None:
            return
        if isinstance(event, events.TaskStarted):
            row.state, row.started, row.worker = RUNNING, event.time, event.worker or ""
            row.duration_s, row.error, row.traceback, row.line = None, "", "", ""
        elif isinstance(event, events.ProgressMade):
            row.done, row.total = event.done, event.total
        elif isinstance(event, events.LogLine):
            row.line = short(event.text.strip())
        elif isinstance(event, events.Terminal):
            del self._again[event.call_id]
            row.retries += 1
            row.error = row.traceback = ""
            self._finish(row, event, _ENDINGS[type(event)])
            row.retry = event.call_id

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
        group.state = summed_state(counts)


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
    events.AttemptPlaced: Model._on_placed,
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
