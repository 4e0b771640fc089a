"""Event fan-out: who hears what, and what happens to an observer that raises."""

from __future__ import annotations

from typing import Any

import pytest

from nbflow import map_tasks, session, task
from nbflow.core.events import CacheMiss, Event, MapEnded, MapStarted, TaskFailed, TaskStarted
from nbflow.errors import DefinitionError
from nbflow.hooks import Fanout
from nbflow.testing import EventRecorder


def event(map_id: int | None = None, kind: type[Event] = CacheMiss) -> Event:
    more: dict[str, Any] = {"key": "k"} if kind is CacheMiss else {"duration_s": 1.0, "error": "", "error_type": ""}
    return kind(call_id=1, name="t", time=0.0, map_id=map_id, **more)


def test_every_observer_hears() -> None:
    """Observers of this session and of those around hear an event, in that order."""
    heard: list[str] = []
    outer = Fanout()
    inner = Fanout(outer)
    outer.add(lambda _: heard.append("outer"))
    inner.add(lambda _: heard.append("inner"))
    inner.emit(event())
    assert heard == ["inner", "outer"]
    outer.emit(event())
    assert heard == ["inner", "outer", "outer"]


def test_listening_means_anybody() -> None:
    """Whether somebody listens includes the sessions around; whether items are wanted, too."""
    outer = Fanout()
    inner = Fanout(outer)
    assert not inner.listening

    def observer(_: Event) -> None: ...

    outer.add(observer, items=False)
    assert inner.listening
    assert not inner.wants_items
    outer.add(observer)
    assert inner.wants_items
    outer.remove(observer)
    outer.remove(observer)
    assert not inner.listening


def test_samplers_are_told_only_if_everybody_makes_do_with_them() -> None:
    """Nobody: empty. Only samplers, here and around: all of them. One who needs events: None, while it is there."""
    outer = Fanout()
    inner = Fanout(outer)
    assert inner.samplers() == ()
    first, second, events_of = (lambda told: None), (lambda told: None), (lambda told: None)
    outer.add(first, items=False, sampler=first)
    inner.add(second, items=False, sampler=second)
    assert inner.samplers() == (second, first)
    assert outer.samplers() == (first,)
    outer.add(events_of)
    assert inner.samplers() is None
    outer.remove(events_of)
    assert inner.samplers() == (second, first)


def test_adding_twice_is_once() -> None:
    """An observer that is added again hears each event once."""
    heard: list[Event] = []
    fanout = Fanout()
    fanout.add(heard.append, items=False)
    fanout.add(heard.append)
    fanout.emit(event(map_id=3))
    assert len(heard) == 1


def test_items_false_spares_routine_events_of_items_only() -> None:
    """Failures of items, and everything outside maps, are still heard."""
    heard: list[Event] = []
    fanout = Fanout()
    fanout.add(heard.append, items=False)
    fanout.emit(event(map_id=3))
    assert heard == []
    fanout.emit(event())
    fanout.emit(event(map_id=3, kind=TaskFailed))
    assert len(heard) == 2


def test_raising_observer_is_dropped_with_one_warning() -> None:
    """An observer that raises gets no further events; the others, and the run, go on."""
    heard: list[Event] = []
    fanout = Fanout()

    def broken(_: Event) -> None:
        raise RuntimeError("broken")

    fanout.add(broken)
    fanout.add(heard.append)
    with pytest.warns(RuntimeWarning, match="broken.*raised RuntimeError: broken. It gets no further events") as warned:
        fanout.emit(event())
    assert len(warned) == 1
    fanout.emit(event())
    assert len(heard) == 2


def test_raising_observer_of_the_session_around_is_dropped_there() -> None:
    """An observer is dropped from the fan-out that it belongs to."""
    outer = Fanout()

    def broken(_: Event) -> None:
        raise RuntimeError("broken")

    outer.add(broken)
    with pytest.warns(RuntimeWarning, match="broken"):
        Fanout(outer).emit(event())
    assert not outer.listening


def test_observer_may_remove_itself() -> None:
    """Changing the observers while one is called is safe."""
    fanout = Fanout()
    heard: list[str] = []

    def once(_: Event) -> None:
        heard.append("once")
        fanout.remove(once)

    fanout.add(once)
    fanout.add(lambda _: heard.append("always"))
    fanout.emit(event())
    fanout.emit(event())
    assert heard == ["once", "always", "always"]


@pytest.mark.parametrize("observer", [None, "print", 3])
def test_what_cannot_be_called_is_refused(observer: Any) -> None:
    """An observer that is none is an error at once, naming it."""
    with pytest.raises(DefinitionError, match=f"observer={observer!r} is not callable; give a function"):
        with session(observers=[observer]):
            pass


def test_session_observers(recorder: EventRecorder) -> None:
    """A session tells its observers of its opening, its calls and its end."""

    @task
    def item() -> int:
        return 1

    with session(observers=[recorder]):
        item()
    assert recorder.kinds() == ["SessionStarted", "TaskStarted", "AttemptStarted", "TaskCompleted", "SessionEnded"]
    recorder.check()


def test_observer_without_items_hears_the_map_and_failures() -> None:
    """With `items=False` a map is its start, its end, and what failed."""

    @task
    def item(x: int) -> int:
        if x == 2:
            raise ValueError("two")
        return x

    heard: list[Event] = []
    with session() as context:
        context.add_observer(heard.append, items=False)
        map_tasks(item, range(5), on_error="collect")
        context.remove_observer(heard.append)
        map_tasks(item, range(2))
    kinds = [type(each) for each in heard]
    assert kinds == [MapStarted, TaskFailed, MapEnded]
    assert heard[1].map_id == heard[0].call_id
    assert not any(isinstance(each, TaskStarted) for each in heard)
