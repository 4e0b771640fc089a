"""Quick calls, which the panel is told of by their records: a real session, with a model that nobody draws."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import nbflow
from nbflow.core import events
from nbflow.notebook.panel import rows as r
from nbflow.notebook.panel.model import Model
from nbflow.notebook.panel.samples import Samples
from nbflow.runtime.current import Call


@pytest.fixture
def watched(tmp_path: Any) -> Iterator[Any]:
    """Return a session with a sampling observer, `told` by it, and `drain`, which folds that into `model`."""
    told: deque[Any] = deque()
    with nbflow.session(cache_store=tmp_path / "cache") as context:
        offset = context.clock.wall() - context.clock.monotonic()
        model = Model()
        samples = Samples(model, offset)
        context.add_observer(told.append, items=False, sampler=told.append)

        def drain(later_s: float = 0.0) -> None:
            while told:
                each = told.popleft()
                if isinstance(each, Call):
                    samples.take(each)
                else:
                    samples.before(each)
                    model.apply(each)
            samples.flush(context.clock.wall() + later_s)

        yield SimpleNamespace(told=told, model=model, samples=samples, drain=drain)


def shown(model: Model) -> list[tuple[int, str, str, int]]:
    """Return depth, name, state and number of calls of each row."""
    return [(line.depth, line.row.name, line.row.state, line.row.sums().total) for line in model.view().lines]


def test_loop_is_told_by_records_alone_and_counted_in_one_row(watched: Any) -> None:
    """A thousand trivial calls make no event; a few are told one by one, then all of them share a row."""

    @nbflow.task
    def same(n: int) -> int:
        return n

    for number in range(1000):
        same(number)
    assert all(isinstance(each, Call) for each in watched.told)
    watched.drain()
    assert shown(watched.model) == [(0, "same", r.DONE, 1000)]
    assert not watched.samples.busy
    for number in range(3):
        same(number)
    watched.drain()
    assert watched.model.totals() == r.Counts(done=1003)


def test_few_calls_keep_rows_of_their_own_and_nested_ones_their_place(watched: Any) -> None:
    """What a call makes stands under it, whether it is told one by one or added up."""

    @nbflow.task
    def inner(n: int) -> int:
        return n

    @nbflow.task
    def outer(n: int) -> int:
        return sum(inner(n) for _ in range(10))

    outer(1)
    watched.drain()
    assert shown(watched.model) == [(0, "outer", r.DONE, 1), (1, "inner", r.DONE, 10)]
    for number in range(20):
        outer(number)
    watched.drain()
    assert shown(watched.model) == [(0, "outer", r.DONE, 21), (1, "inner", r.DONE, 210)]


def test_call_that_takes_its_time_is_seen_while_it_runs(watched: Any) -> None:
    """A blocked call gets a row as soon as somebody looks late enough, and ends in it."""
    begun, go = threading.Event(), threading.Event()

    @nbflow.task
    def block() -> None:
        begun.set()
        go.wait(10)

    handle = nbflow.submit(block)
    assert begun.wait(10)
    watched.drain(later_s=1.0)
    assert shown(watched.model) == [(0, "block", r.RUNNING, 1)]
    assert watched.samples.busy
    go.set()
    handle.get()
    watched.drain()
    assert shown(watched.model) == [(0, "block", r.DONE, 1)]
    assert not watched.samples.busy


def test_failure_is_told_in_its_place_with_its_traceback(watched: Any) -> None:
    """A plain call that raises ends in an event, and its row stands under the call that made it."""

    @nbflow.task
    def inner() -> None:
        raise ValueError("bad")

    @nbflow.task
    def outer() -> None:
        inner()

    with pytest.raises(ValueError, match="bad"):
        outer()
    assert [type(each) for each in watched.told if not isinstance(each, Call)] == [events.TaskFailed] * 2
    watched.drain()
    assert shown(watched.model) == [(0, "outer", r.FAILED, 1), (1, "inner", r.FAILED, 1)]
    assert "ValueError: bad" in watched.model.view().lines[1].row.traceback
    assert not watched.samples.busy


def test_refused_call_leaves_nothing(watched: Any) -> None:
    """Arguments that do not fit make no call, hence no row and nothing that seems to run for ever."""

    @nbflow.task
    def same(n: int) -> int:
        return n

    with pytest.raises(TypeError):
        same(1, 2)  # type: ignore[call-arg]
    watched.drain(later_s=1.0)
    assert shown(watched.model) == []
    assert not watched.samples.busy


def test_hits_in_memory_are_counted_with_what_they_saved(watched: Any) -> None:
    """The first call is computed and told by events, each repetition is a hit."""

    @nbflow.task(cache=True)
    def slow(n: int) -> int:
        return n

    for _ in range(101):
        slow(1)
    watched.drain()
    totals = watched.model.totals()
    assert (totals.done, totals.cached, totals.missed) == (1, 100, 1)


def test_observer_of_events_still_gets_them(watched: Any) -> None:
    """Somebody else who wants every event makes quick calls tell them again."""
    heard: list[Any] = []

    @nbflow.task
    def same(n: int) -> int:
        return n

    with nbflow.session(observers=[heard.append]):
        same(1)
    assert [type(event).__name__ for event in heard if event.call_id] == [
        "TaskStarted",
        "AttemptStarted",
        "TaskCompleted",
    ]
    same(2)
    watched.drain()
    assert watched.model.totals().done == 2
