"""An observer that keeps what it hears, and knows in which order a call may be told.

The order is a regular language (see `nbflow.core.events`), so it is checked as one: each event of a call becomes a
letter, and the word that they make must match one pattern. Events that may come at any time (progress, log lines,
datasets) make no letter.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import TypeVar

from nbflow.core import events as facts
from nbflow.core.events import Event

__all__ = ["EventRecorder"]

E = TypeVar("E", bound=Event)

_LETTERS: dict[type[Event], str] = {
    facts.TaskQueued: "q",
    facts.TaskStarted: "s",
    facts.CacheMiss: "m",
    facts.CacheFailed: "f",
    facts.CacheWritten: "w",
    facts.AttemptStarted: "a",
    facts.AttemptPlaced: "p",
    facts.ItemYielded: "i",
    facts.AttemptFailed: "x",
    facts.RetryScheduled: "r",
    facts.TaskCompleted: "C",
    facts.TaskFailed: "F",
    facts.TaskCancelled: "K",
    facts.TaskTimedOut: "T",
}

# A call that never started (its handle was cancelled, or its arguments failed) ends right after it was queued.
_WORD = re.compile(r"q[FK]|q?s[mf]*(ap*i*xr)*(ap*i*x?)?[wf]*[CFKT]")


class EventRecorder:
    """An observer, `session(observers=[recorder])`, that keeps every event; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Keep `event`."""
        with self._lock:
            self._events.append(event)

    @property
    def events(self) -> list[Event]:
        """All events so far, in order of arrival; a copy."""
        with self._lock:
            return list(self._events)

    def clear(self) -> None:
        """Forget all events."""
        with self._lock:
            self._events.clear()

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of a class or of its subclasses: `recorder.of(TaskCompleted)`, `recorder.of(Terminal)`."""
        return [event for event in self.events if isinstance(event, kind)]

    def calls(self) -> list[int]:
        """Return the ids of the calls that were queued or started, oldest first."""
        heard = (event.call_id for event in self.events if isinstance(event, facts.TaskQueued | facts.TaskStarted))
        return list(dict.fromkeys(heard))

    def about(self, call_id: int) -> list[Event]:
        """Return the events of one call (or map)."""
        return [event for event in self.events if event.call_id == call_id]

    def kinds(self, call_id: int | None = None) -> list[str]:
        """Return the class names of the events of one call, or of all events."""
        return [type(event).__name__ for event in (self.events if call_id is None else self.about(call_id))]

    def check(self) -> None:
        """Assert that every call was told by the grammar of `nbflow.core.events` and ended exactly once.

        Raises:
            AssertionError: A call, an attempt or a map was told in another way; the message shows the events.
        """
        for call_id in self.calls():
            self._check_call(self.about(call_id))
        known = set(self.calls())
        for event in self.events:
            told_alone = isinstance(event, facts.Terminal | facts.AttemptStarted) and event.call_id not in known
            assert not told_alone, f"{event} is about a call that was never queued nor started."
        for started in self.of(facts.MapStarted):
            self._check_map(started)

    def _check_call(self, told: Sequence[Event]) -> None:
        word = "".join(_LETTERS.get(type(event), "") for event in told)
        kinds = [type(event).__name__ for event in told]
        name = told[-1].name
        ends = sum(isinstance(event, facts.Terminal) for event in told)
        assert ends == 1, f"Call {name!r} must end exactly once, not {ends} times: {kinds}."
        assert _WORD.fullmatch(word), f"Call {name!r} was told in no valid order: {kinds}."
        numbers = [event.number for event in told if isinstance(event, facts.AttemptStarted)]
        assert numbers == list(range(1, len(numbers) + 1)), f"Attempts of {name!r} are numbered {numbers}."
        end = next(event for event in told if isinstance(event, facts.Terminal))
        assert end.attempts == len(numbers), f"{end} counts {end.attempts} attempts; {len(numbers)} were started."
        cached = isinstance(end, facts.TaskCompleted) and end.cached
        assert not (cached and numbers), f"{name!r} came from the cache and yet ran: {kinds}."

    def _check_map(self, started: facts.MapStarted) -> None:
        ended = [event for event in self.about(started.call_id) if isinstance(event, facts.MapEnded)]
        assert len(ended) == 1, f"Map {started.name!r} must end exactly once, not {len(ended)} times."
        (end,) = ended
        counted = end.completed + end.failed + end.cancelled
        assert counted == end.total == started.total, f"{end} counts {counted} items; the map had {started.total}."
        assert end.cached <= end.completed, f"{end} counts more cached items than completed ones."
