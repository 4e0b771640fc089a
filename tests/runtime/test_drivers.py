"""The four drivers: one script of outcomes leaves the same trace in all kinds."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest

from nbflow import session, submit, task
from nbflow.core.events import Event, TaskStarted
from nbflow.errors import TaskCancelledError
from nbflow.runtime import current
from nbflow.tasks import Task
from nbflow.testing import EventRecorder, FakeClock

KINDS = ["sync", "async", "stream", "async stream"]
_LIMIT_S = 60.0


def scripted(kind: str, outcomes: Sequence[Any], **options: Any) -> tuple[Task[Any, Any], Callable[[], Any]]:
    """Return a task of that kind whose attempts have the given outcomes, and a function that calls it to its end."""
    left = list(outcomes)

    def step() -> Any:
        outcome = left.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def sync() -> Any:
        return step()

    async def asynchronous() -> Any:
        await asyncio.sleep(0)
        return step()

    def stream() -> Iterator[Any]:
        yield step()

    async def async_stream() -> AsyncIterator[Any]:
        await asyncio.sleep(0)
        yield step()

    body = {"sync": sync, "async": asynchronous, "stream": stream, "async stream": async_stream}[kind]
    made: Task[Any, Any] = task(**{"name": "scripted", **options})(body)

    async def collect() -> Any:
        return [item async for item in made()][0]

    calls: dict[str, Callable[[], Any]] = {
        "sync": lambda: made(),
        "async": lambda: asyncio.run(made()),
        "stream": lambda: next(iter([*made()])),
        "async stream": lambda: asyncio.run(collect()),
    }
    return made, calls[kind]


def trace(kind: str, outcomes: Sequence[Any], **options: Any) -> tuple[list[str], Any]:
    """Return the events of one call, without those of items, and what came of it."""
    recorder = EventRecorder()
    with session(observers=[recorder], clock=FakeClock()):
        try:
            found = scripted(kind, outcomes, **options)[1]()
        except BaseException as error:
            found = error
    recorder.check()
    return [name for name in recorder.kinds(recorder.calls()[0]) if name != "ItemYielded"], found


OOPS, DOWN = ValueError("oops"), OSError("down")
START, FAILED, AGAIN = ["TaskStarted", "AttemptStarted"], ["AttemptFailed"], ["RetryScheduled", "AttemptStarted"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("outcomes", "events"),
    [
        ([5], [*START, "TaskCompleted"]),
        ([OOPS], [*START, *FAILED, "TaskFailed"]),
        ([KeyboardInterrupt()], [*START, "TaskCancelled"]),
        ([TaskCancelledError("no", reason="why")], [*START, "TaskCancelled"]),
    ],
)
def test_same_trace_in_all_kinds(kind: str, outcomes: list[Any], events: list[str]) -> None:
    """What one attempt comes to is told in the same way whatever the kind."""
    told, found = trace(kind, outcomes)
    assert told == events
    assert found is outcomes[-1] or found == outcomes[-1] or type(found) is type(outcomes[-1])


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("outcomes", "events"),
    [
        ([OOPS, DOWN, 5], [*START, *FAILED, *AGAIN, *FAILED, *AGAIN, "TaskCompleted"]),
        ([OOPS, DOWN, OOPS], [*START, *FAILED, *AGAIN, *FAILED, *AGAIN, *FAILED, "TaskFailed"]),
        ([OOPS, KeyboardInterrupt()], [*START, *FAILED, *AGAIN, "TaskCancelled"]),
        ([OOPS, TypeError()], [*START, *FAILED, *AGAIN, *FAILED, "TaskFailed"]),
    ],
)
def test_same_trace_with_retries(kind: str, outcomes: list[Any], events: list[str]) -> None:
    """The same with retries, where the kind can have them."""
    told, found = trace(kind, outcomes, retries=2, retry_delay=1.0, retry_on=(ValueError, OSError))
    assert told == events
    assert found is outcomes[-1] or found == outcomes[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_call_is_current_inside_and_only_there(kind: str) -> None:
    """While the function runs its call is the current one; before and after it is not."""
    seen: list[Any] = []

    with session() as context:
        made, call = scripted(kind, [5])
        context.add_observer(lambda event: seen.append(current.frame()) if isinstance(event, TaskStarted) else None)
        assert current.frame() is context
        assert call() == 5
        assert current.frame() is context
        record = context.records[-1]
        assert seen == [record]
        assert (record.state, record.attempts, record.spec) == ("completed", 1, made.spec)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outcome", [5, OOPS, KeyboardInterrupt()])
def test_records(kind: str, outcome: Any) -> None:
    """A call leaves a record with its state and error that keeps no argument alive."""
    with session() as context:
        with contextlib.suppress(ValueError, KeyboardInterrupt):
            scripted(kind, [outcome])[1]()
        (record,) = context.records
    states = {int: "completed", ValueError: "failed", KeyboardInterrupt: "cancelled"}
    assert record.state == states[type(outcome)]
    assert record.args is record.kwargs is record.parent is record.stop is None
    assert record.ended >= record.started
    if outcome != 5:
        assert record.error is not None


@pytest.mark.parametrize("kind", KINDS)
def test_cancelled_before_the_function_runs(kind: str) -> None:
    """A call that is cancelled as it starts never reaches the function."""
    recorder = EventRecorder()
    with session(observers=[recorder]) as context:
        context.add_observer(lambda event: isinstance(event, TaskStarted) and context.cancel(event.call_id))
        with pytest.raises(TaskCancelledError, match=r"Task 'scripted' was cancelled \(panel\)"):
            scripted(kind, [])[1]()
    recorder.check()


def test_threads_do_not_share_the_current_call() -> None:
    """Calls on several threads each have their own frame."""
    meeting = threading.Barrier(2)

    @task
    def item() -> tuple[int, int]:
        meeting.wait(_LIMIT_S)
        call = current.current_call()
        assert call is not None
        meeting.wait(_LIMIT_S)
        return call.id, threading.get_ident()

    with session():
        handles = [submit(item) for _ in range(2)]
        found = [handle.get(_LIMIT_S) for handle in handles]
    assert [call_id for call_id, _ in found] == [handle.task_id for handle in handles]


def test_async_calls_do_not_share_the_current_call() -> None:
    """Concurrent coroutines each have their own frame, across awaits."""

    @task
    async def item(x: int) -> bool:
        mine = current.current_call()
        for _ in range(x):
            await asyncio.sleep(0)
        return current.current_call() is mine and mine is not None and mine.inputs == {"x": x}

    async def main() -> list[bool]:
        return await asyncio.gather(*(item(x) for x in range(5)))

    with session():
        assert asyncio.run(main()) == [True] * 5


def test_events_come_in_time(fake_clock: FakeClock) -> None:
    """Events carry the session's wall clock, and durations are measured on its monotonic one."""
    heard: list[Event] = []

    @task
    def item() -> None:
        fake_clock.advance(2)

    with session(clock=fake_clock, observers=[heard.append]):
        item()
    ended = next(event for event in heard if type(event).__name__ == "TaskCompleted")
    assert ended.duration_s == 2.0  # type: ignore[attr-defined]
    assert [event.time for event in heard] == sorted(event.time for event in heard)
