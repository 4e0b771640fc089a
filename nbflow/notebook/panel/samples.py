"""Quick calls, told by their records: what a loop of a million trivial calls costs the panel is one append for each.

The session hands over the live record of such a call when it begins. Whoever drains them tells the model of the first
few as if by events, and merely adds up the rest; a call that still runs when somebody looks, or has something to tell,
gets a row of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from nbflow.core import events
from nbflow.core.spec import TaskSpec
from nbflow.notebook.panel.model import Model
from nbflow.notebook.panel.rows import Counts
from nbflow.notebook.panel.tree import FOLD_ABOVE, MAX_ROWS
from nbflow.runtime.current import COMPLETED, RUNNING, Call

__all__ = ["Samples"]

SHOWN_AFTER_S = 0.1
"""A call that runs longer gets a row while it runs."""

_TERMINALS = (events.TaskCompleted, events.TaskFailed, events.TaskCancelled, events.TaskTimedOut)


@dataclass(slots=True)
class _Sum:
    """Calls of one task under one parent that are merely added up, until `flush`."""

    row: int
    counts: Counts
    seconds: float
    began: float
    ended: float


class Samples:
    """The quick calls of one run.

    Args:
        model: Who is told.
        offset: What a session's monotonic clock has to be added to give wall-clock seconds.

    Not thread-safe: used by whoever drains the panel's inbox, under its lock.
    """

    def __init__(self, model: Model, offset: float) -> None:
        self._model = model
        self._offset = offset
        self._open: dict[int, Call] = {}
        self._told: dict[tuple[int | None, str], int] = {}
        self._sums: dict[tuple[int | None, str], _Sum] = {}
        self._loop: tuple[TaskSpec, _Sum] | None = None  # what was added up last, outside any other call
        self._within: dict[int, int] = {}  # ids of calls that were added up, with the rows that stand for them

    @property
    def busy(self) -> bool:
        """Whether any of them still runs."""
        return bool(self._open)

    def knows(self, call: Call) -> bool:
        """Whether a call, or what it is nested in, is one of them or in their model."""
        parent = call.parent_id
        return self._model.has(call.id) or (parent is not None and (parent in self._open or self._model.has(parent)))

    def holds(self, number: int) -> bool:
        """Whether the call of that id is one of them, and has not ended."""
        return number in self._open

    def take(self, call: Call) -> None:
        """Take over the record of a call, whatever has become of it since it was handed over."""
        queued = self._model.shows(call.id)
        if call.state == COMPLETED and not queued:
            self._add(call)
            return
        self._open[call.id] = call
        if queued:
            self._model.apply(self._start_of(call))

    def before(self, event: events.Event) -> None:
        """Let a call have a row of its own because `event`, which will be applied next, tells of it or of its child."""
        for number in (event.call_id, getattr(event, "parent_id", None)):
            if number in self._open:
                self._promote(self._open[number])
        if isinstance(event, _TERMINALS):
            self._open.pop(event.call_id, None)

    def flush(self, now: float) -> None:
        """Bring the model up to date: everything was drained.

        Args:
            now: Wall-clock seconds.
        """
        for call in list(self._open.values()):
            if call.state == COMPLETED:
                del self._open[call.id]
                if self._model.shows(call.id):
                    self._tell(call)
                else:
                    self._add(call)
            elif call.state == RUNNING and call.args is None:
                del self._open[call.id]  # it was refused: its arguments did not fit
            elif call.started is not None and now - self._offset - call.started >= SHOWN_AFTER_S:
                self._promote(call)
        self._hand_over()
        self._within.clear()

    def _hand_over(self) -> None:
        """Tell the model what was added up."""
        for (parent, task), found in self._sums.items():
            self._model.count(parent, task, found.counts, found.seconds, found.began, found.ended)
        self._sums.clear()
        self._loop = None

    def _add(self, call: Call) -> None:
        """Add up a call that has completed, or tell of it if it is among the first ones."""
        parent, loop = call.parent_id, self._loop
        found = loop[1] if loop is not None and parent is None and call.spec is loop[0] else self._sum_for(call, parent)
        if found is None:
            self._tell(call)
            return
        counts, began, ended = found.counts, call.started or 0.0, call.ended or 0.0
        if call.cached:
            counts.cached += 1
            counts.saved_s += call.saved_s
        else:
            counts.done += 1
            found.seconds += ended - began
        found.ended = self._offset + ended
        self._within[call.id] = found.row

    def _sum_for(self, call: Call, parent: int | None) -> _Sum | None:
        """Return where to add up a call; None if it is one of the first, which are told one by one."""
        if parent is not None:
            if parent in self._open:
                self._promote(self._open[parent])
            parent = self._within.get(parent, parent)
        place = (parent, call.spec.name)
        found = self._sums.get(place)
        if found is None:
            told = self._told.get(place, 0)
            if told < FOLD_ABOVE:
                self._told[place] = told + 1
                return None
            self._hand_over()  # while the rows that they are nested in are still there: this folds some
            at = self._offset + (call.started or 0.0)
            row = self._model.count(parent, call.spec.name, Counts(), 0.0, at, at)
            found = self._sums[place] = _Sum(row, Counts(), 0.0, at, at)
        if parent is None:
            self._loop = (call.spec, found)
        return found

    def _promote(self, call: Call) -> None:
        """Let a call have a row of its own."""
        if not self._model.has(call.id) and len(self._model.rows) < MAX_ROWS:
            parent = self._open.get(call.parent_id or 0)
            if parent is not None:
                self._promote(parent)
            self._model.apply(self._start_of(call))

    def _tell(self, call: Call) -> None:
        """Tell of a call that has completed, as events would."""
        model = self._model
        model.apply(self._start_of(call))
        model.apply(
            events.TaskCompleted(
                call_id=call.id,
                name=call.name if call.args is None else call.spec.name,
                time=self._offset + (call.ended or 0.0),
                duration_s=call.duration_s,
                attempts=call.attempts,
                cached=call.cached,
                saved_s=call.saved_s,
            )
        )

    def _start_of(self, call: Call) -> events.TaskStarted:
        parent = call.parent_id
        return events.TaskStarted(
            call_id=call.id,
            name=call._name or call.spec.name,  # not `name`: to fill in a template runs code of the arguments
            time=self._offset + (call.started or 0.0),
            task=call.spec.name,
            kind=call.spec.kind.value,
            backend=call.backend,
            parent_id=parent if parent is None else self._within.get(parent, parent),
            worker=call.worker,
        )
