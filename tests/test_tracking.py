"""Progress of loops inside tasks."""

from __future__ import annotations

from typing import Any

import pytest

from nbflow import progress, session, task
from nbflow.errors import DefinitionError
from nbflow.events import ProgressMade
from nbflow.testing import EventRecorder, FakeClock


def test_a_loop_in_a_task_tells_how_far_it_is() -> None:
    """First and last state are told, and what lies between at most ten times a second."""
    recorder, clock = EventRecorder(), FakeClock()

    @task
    def count() -> int:
        found = 0
        for item in progress(range(40), label="files"):
            clock.advance(0.03)
            found += item
        return found

    with session(observers=[recorder], clock=clock):
        assert count() == sum(range(40))
    told = recorder.of(ProgressMade)
    assert [told[0].done, told[-1].done] == [0, 40]
    assert 8 <= len(told) <= 14
    assert {(event.total, event.label, event.name) for event in told} == {(40, "files", "count")}
    recorder.check()


def test_outside_of_a_call_the_items_are_passed_on() -> None:
    """Nobody has to know whether a function runs as a task."""
    assert list(progress(iter("abc"))) == ["a", "b", "c"]
    with session():
        assert list(progress({1: 2})) == [1]


def test_an_unknown_total_stays_unknown() -> None:
    """A generator has no length, unless the caller knows it."""
    recorder = EventRecorder()

    @task
    def loop(**options: Any) -> list[int]:
        return list(progress((n for n in range(3)), **options))

    with session(observers=[recorder]):
        assert loop() == loop(total=3) == [0, 1, 2]
    assert [event.total for event in recorder.of(ProgressMade)] == [None, None, 3, 3]


@pytest.mark.parametrize(("arguments", "options"), [((5,), {}), (([],), {"total": -1}), (([],), {"total": "x"})])
def test_bad_input_is_one_clear_line(arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Said where `progress` is called, not at the first item."""
    with pytest.raises(DefinitionError, match="progress"):
        progress(*arguments, **options)
