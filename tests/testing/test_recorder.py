"""The observer of tests: what it keeps, and which orders it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from nbflow.core import events
from nbflow.testing import EventRecorder

_STARTED = {"task": "t", "kind": "sync", "backend": "inline"}


def _event(kind: type[events.Event], call_id: int = 1, **data: Any) -> events.Event:
    defaults: dict[type[events.Event], dict[str, Any]] = {
        events.TaskQueued: {"backend": "thread"},
        events.TaskStarted: _STARTED,
        events.CacheMiss: {"key": "k"},
        events.CacheWritten: {"key": "k", "size_bytes": 1, "duration_s": 0.0},
        events.CacheFailed: {"stage": "save", "error": "full"},
        events.AttemptStarted: {"number": 1},
        events.AttemptFailed: {"number": 1, "error": "E"},
        events.RetryScheduled: {"number": 2, "delay_s": 0.0},
        events.ItemYielded: {"index": 0},
        events.TaskCompleted: {"duration_s": 0.0, "attempts": 1},
        events.TaskFailed: {"duration_s": 0.0, "attempts": 1, "error": "E", "error_type": "E"},
        events.TaskCancelled: {"duration_s": 0.0, "attempts": 0},
        events.LogLine: {"text": "hello"},
    }
    return kind(call_id=call_id, name="t", time=0.0, **{**defaults.get(kind, {}), **data})


def _told(*kinds: type[events.Event] | events.Event) -> EventRecorder:
    recorder = EventRecorder()
    for kind in kinds:
        recorder(kind if isinstance(kind, events.Event) else _event(kind))
    return recorder


GOOD = [
    (events.TaskStarted, events.AttemptStarted, events.TaskCompleted),
    (events.TaskStarted, events.LogLine, events.AttemptStarted, events.LogLine, events.TaskCompleted),
    (
        events.TaskQueued,
        events.TaskStarted,
        events.CacheMiss,
        events.AttemptStarted,
        events.CacheWritten,
        events.TaskCompleted,
    ),
    (events.TaskStarted, events.CacheMiss, events.AttemptStarted, events.CacheFailed, events.TaskCompleted),
    (events.TaskStarted, events.AttemptStarted, events.ItemYielded, events.ItemYielded, events.TaskCompleted),
    (events.TaskStarted, events.AttemptStarted, events.AttemptFailed, events.TaskFailed),
    (events.TaskQueued, events.TaskCancelled),
    (events.TaskStarted, _event(events.TaskCompleted, cached=True, attempts=0)),
    (
        events.TaskStarted,
        events.AttemptStarted,
        events.AttemptFailed,
        events.RetryScheduled,
        _event(events.AttemptStarted, number=2),
        _event(events.TaskCompleted, attempts=2),
    ),
    (
        events.TaskStarted,
        events.AttemptStarted,
        events.AttemptFailed,
        events.RetryScheduled,
        _event(events.TaskCancelled, attempts=1),
    ),
]

BAD = {
    "no end": (events.TaskStarted, events.AttemptStarted),
    "two ends": (events.TaskStarted, events.AttemptStarted, events.TaskCompleted, events.TaskCompleted),
    "something after the end": (events.TaskStarted, events.AttemptStarted, events.TaskCompleted, events.CacheWritten),
    "miss after the attempt": (events.TaskStarted, events.AttemptStarted, events.CacheMiss, events.TaskCompleted),
    "failed attempt, then a save": (
        events.TaskStarted,
        events.AttemptStarted,
        events.AttemptFailed,
        _event(events.AttemptStarted, number=2),
        _event(events.TaskCompleted, attempts=2),
    ),
    "attempts misnumbered": (events.TaskStarted, _event(events.AttemptStarted, number=2), events.TaskCompleted),
    "attempts miscounted": (events.TaskStarted, events.AttemptStarted, _event(events.TaskCompleted, attempts=3)),
    "cached and yet run": (events.TaskStarted, events.AttemptStarted, _event(events.TaskCompleted, cached=True)),
    "never started": (events.TaskCompleted,),
    "attempt of nobody": (events.AttemptStarted,),
}


@pytest.mark.parametrize("kinds", GOOD)
def test_good_orders_pass(kinds: tuple[Any, ...]) -> None:
    """Every order that the grammar allows passes the check."""
    _told(*kinds).check()


@pytest.mark.parametrize("kinds", BAD.values(), ids=BAD.keys())
def test_bad_orders_fail(kinds: tuple[Any, ...]) -> None:
    """Every break of the grammar fails the check."""
    with pytest.raises(AssertionError):
        _told(*kinds).check()


def test_maps_must_add_up() -> None:
    """A map ends once and accounts for each of its items."""
    start = events.MapStarted(call_id=7, name="m", time=0.0, total=2, backend="thread")
    tally = {"total": 2, "completed": 1, "cached": 0, "failed": 1, "cancelled": 0, "duration_s": 0.0}
    end = events.MapEnded(call_id=7, name="m", time=0.0, **tally)
    _told(start, end).check()
    with pytest.raises(AssertionError, match="exactly once"):
        _told(start).check()
    lost = events.MapEnded(call_id=7, name="m", time=0.0, **{**tally, "failed": 0})
    with pytest.raises(AssertionError, match="counts 1 items"):
        _told(start, lost).check()


def test_it_finds_events_again() -> None:
    """Events can be asked for by class, by base class and by call."""
    recorder = _told(events.TaskStarted, events.AttemptStarted, events.TaskCompleted, _event(events.TaskQueued, 2))
    assert recorder.calls() == [1, 2]
    assert recorder.kinds(1) == ["TaskStarted", "AttemptStarted", "TaskCompleted"]
    assert [event.call_id for event in recorder.of(events.Terminal)] == [1]
    recorder.clear()
    assert recorder.events == []
