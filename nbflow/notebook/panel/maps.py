"""The rows of maps: live counters, the items that run now, and the first failed ones.

`Maps` extends the tree by what becomes of a map. Its counters come from samples, the newest by its time stamp, and its
end has the last word; an item adds nothing to the totals, since its map has counted it.
"""

from __future__ import annotations

from nbflow.core import events
from nbflow.notebook.panel.rows import (
    CACHED,
    ITEM,
    MAP,
    RUNNING,
    Counts,
    MapSampled,
    Row,
    short,
)
from nbflow.notebook.panel.tree import MAX_FAILED, IdSet, Tree, summed_state

__all__ = ["Maps"]

_TRACEBACK = 2500


class Maps(Tree):
    """The tree with maps in it.

    Args:
        history: Seconds that each task took when it was last computed, and under `task[]` those of an item of its maps.
    """

    def __init__(self, history: dict[str, float] | None = None) -> None:
        super().__init__()
        self.history = {} if history is None else history
        self._ended = IdSet()

    def _map(self, number: int, name: str) -> Row:
        row = self.rows.get(number)
        if row is None:
            row = self._add(Row(number, MAP, name.partition("[")[0], RUNNING, counts=Counts()))
            row.task = row.name
        return row

    def _on_map_started(self, event: events.MapStarted) -> None:
        if event.call_id in self._ended and event.call_id not in self.rows:
            return
        row = self._map(event.call_id, event.name)
        assert row.counts is not None
        row.name = row.task = event.name
        row.backend, row.cell, row.started = event.backend, event.cell or "", event.time
        self._adopt(row, event.parent_id)
        each = self.history.get(f"{event.name}[]")
        if row.live:
            row.total = event.total
            row.expected_s = None if each is None else each * event.total
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
                row.items, row.cacheable = event.items, event.cacheable
            _count_misses(row)

    def _on_map_ended(self, event: events.MapEnded) -> None:
        if not self._ended.add(event.call_id):
            return
        row = self._map(event.call_id, event.name)
        row.name = row.task = event.name
        row.counts = counts = _counts_of(event, 0)
        counts.cancelled += counts.queued
        counts.queued = 0
        _count_misses(row)
        row.total, row.done, row.items = event.total, counts.finished, ()
        row.duration_s = event.duration_s
        if row.started is None:
            row.started = event.time - event.duration_s
        if counts.done and not (counts.failed or counts.cancelled or counts.cached):
            self.history[f"{event.name}[]"] = event.duration_s / counts.done
        row.state = summed_state(counts)
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
        row = self._add(Row(event.call_id, ITEM, event.name, task=event.name))
        self._adopt(row, event.map_id)
        self._finish(row, event, state)

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
                short(event.error),
                event.traceback[-_TRACEBACK:],
            )
        elif isinstance(event, events.TaskTimedOut):
            row.error = short(event.error)
        elif isinstance(event, events.TaskCancelled):
            row.error = short(event.reason)


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


def _count_misses(row: Row) -> None:
    """What a map of cached calls computed, or tried to, was not in the cache."""
    if row.counts is not None and (row.cacheable or row.counts.cached):
        row.counts.missed = row.counts.done + row.counts.failed
