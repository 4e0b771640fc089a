"""Summaries of sessions."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from nbflow import TaskTimeoutError, map_tasks, session, submit, task
from nbflow.settings import load_settings
from nbflow.telemetry import summary
from nbflow.testing import EventRecorder, FakeClock


def test_counts(tmp_path: Path) -> None:
    """Calls are counted per task and state, with times, savings and workers, though nobody listened."""
    clock = FakeClock()

    @task(cache=True, cache_hash=lambda func, inputs: str(inputs["x"]))
    def slow(x: int) -> int:
        clock.advance(2.0)
        return x

    @task
    def fail() -> None:
        raise ValueError("no")

    with session(cache_store=tmp_path, clock=clock) as context:
        map_tasks(slow, [1, 2])
        map_tasks(slow, [1, 2, 3])
        with pytest.raises(ValueError, match="no"):
            fail()
        found = summary()
    assert found == summary(context)
    first, second = found.tasks
    assert (first.task, first.calls, first.completed, first.cached, first.failed) == ("slow", 5, 5, 2, 0)
    assert (first.total_s, first.longest_s, first.saved_s) == (6.0, 2.0, 4.0)
    assert (second.task, second.calls, second.failed) == ("fail", 1, 1)
    assert found.saved_s == 4.0
    assert found.complete
    assert sum(worker.calls for worker in found.workers) >= 3
    assert sum(worker.busy_s for worker in found.workers) >= 6.0
    lines = str(found).splitlines()
    assert lines[0].split() == ["task", "calls", "cached", "failed", "cancelled", "running", "time", "longest", "saved"]
    assert lines[1].split() == ["slow", "5", "2", "0", "0", "0", "6.0", "s", "2.0", "s", "4.0", "s"]
    assert len({len(line) for line in lines}) == 1


def test_running_cancelled_and_timed_out(recorder: EventRecorder) -> None:
    """Every state has its own column, and a count is never negative."""
    begun, free = threading.Event(), threading.Event()

    @task
    def wait() -> None:
        begun.set()
        while not free.wait(0.001):
            pass

    @task(timeout=0.01)
    def late() -> None:
        while True:
            threading.Event().wait(0.001)

    with session(observers=[recorder]) as context:
        handle = submit(wait)
        assert begun.wait(60)
        [row] = summary().tasks
        assert (row.running, row.calls) == (1, 1)
        handle.cancel()
        assert handle._wait()
        with pytest.raises(TaskTimeoutError):
            late()
    rows = {row.task: row for row in summary(context).tasks}
    assert (rows["wait"].running, rows["wait"].cancelled, rows["late"].timed_out) == (0, 1, 1)
    free.set()


def test_what_is_forgotten() -> None:
    """A summary of a session that has forgotten its oldest calls says so."""
    with session(settings=load_settings(max_records=3)):
        map_tasks(lambda x: x, range(2))
        assert summary().complete
        map_tasks(lambda x: x, range(5))
        found = summary()
    assert not found.complete
    assert str(found).endswith("(the oldest calls are forgotten)")


def test_nothing_ran() -> None:
    """An empty session has an empty summary."""
    with session():
        found = summary()
    assert (found.tasks, found.workers, found.complete, found.saved_s) == ((), (), True, 0)
    assert str(found).startswith("task")
