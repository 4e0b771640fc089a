"""Workers that wait for calls of their own pool: what they wait for runs, and a stop ends only whom it is meant for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest

from nbflow import as_completed, session, submit, task
from nbflow.engine import Runtime
from nbflow.errors import TaskCancelledError, TaskTimeoutError
from nbflow.handles import TaskHandle
from nbflow.settings import load_settings

LONG = 60.0


def threads(count: int) -> Any:
    return session(backend="thread", settings=load_settings(max_backend_threads=count))


class Held:
    """A call that a test lets go on, and a box in which others find its handle."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.box: list[TaskHandle[str]] = []

    def body(self) -> str:
        self.begun.set()
        while not self.go.wait(0.01):  # can be stopped
            pass
        return "made"

    def handle(self) -> TaskHandle[str]:
        while not self.box:
            threading.Event().wait(0.001)
        return self.box[0]


@task(backend="process")
def far(n: int) -> int:
    return n


def near(n: int) -> int:
    return n + 1


def test_what_becomes_ready_while_its_only_worker_waits() -> None:
    """A call that needs one from another pool is not there yet when the worker begins to wait."""
    with threads(1):
        assert submit(lambda: submit(near, submit(far, 1)).get(timeout=LONG)).get(timeout=LONG) == 2


@pytest.mark.parametrize("last", [far, near])
def test_what_others_need_in_between(last: Callable[[int], int]) -> None:
    """A call of the pool that is only needed by one from another pool is run, too."""
    with threads(1):
        assert submit(lambda: submit(last, submit(far, submit(near, 1))).get(timeout=LONG)).get(timeout=LONG) >= 2


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("executor", [False, True])
def test_a_stop_of_who_waits_spares_what_it_waits_for(how: str, executor: bool) -> None:
    """The call that waits ends at once; the other, which somebody else submitted, goes on to its end."""
    held = Held()
    waits = task(timeout=0.2 if how == "timeout" else None)(lambda: held.handle().get())
    with (
        ThreadPoolExecutor(1) if executor else nullcontext() as pool,
        session(backend=pool or "thread", settings=load_settings(max_backend_threads=1)),
    ):
        waiting = submit(waits)
        held.box.append(submit(held.body))
        assert held.begun.wait(LONG)
        if how == "cancel":
            waiting.cancel("not needed")
        with pytest.raises(TaskCancelledError if how == "cancel" else TaskTimeoutError):
            waiting.get(timeout=LONG)
        assert not held.box[0].done()
        held.go.set()
        assert held.box[0].get(timeout=LONG) == "made"


def test_who_waits_leaves_at_its_own_deadline() -> None:
    """`get(timeout)` does not stay for what runs in its worker's place."""
    held = Held()

    def impatient() -> str:
        with pytest.raises(TaskTimeoutError):
            submit(held.body).get(timeout=0.05)
        assert not held.go.is_set()
        return "left"

    with threads(1):
        waiting = submit(impatient)
        assert waiting.get(timeout=LONG) == "left"
        held.go.set()


def test_one_thing_at_a_time() -> None:
    """What a worker of a pool of one waits for runs in a row, however much of it is ready."""
    running, most = set(), []

    def item(number: int) -> int:
        running.add(number)
        most.append(len(running))
        running.discard(number)
        return number

    def outer() -> list[int]:
        handles = [submit(item, number) for number in range(20)]
        total = submit(sum, handles)
        assert total.get(timeout=LONG) == sum(range(20))
        return sorted(handle.get() for handle in as_completed([submit(item, number) for number in range(20)]))

    with threads(1):
        assert submit(outer).get(timeout=LONG) == list(range(20))
    assert set(most) == {1}


def test_waiting_again_and_again_leaves_nothing() -> None:
    """Polling keeps no callbacks and no helpers."""
    held = Held()
    with threads(1):
        handle = submit(held.body)

        def polls() -> None:
            for _ in range(5):
                with pytest.raises(TaskTimeoutError):
                    handle.get(timeout=0.001)
                with pytest.raises(TaskTimeoutError):
                    list(as_completed([handle], timeout=0.001))

        polls()
        assert held.begun.wait(LONG)
        last = submit(near, handle)
        for _ in range(3):
            with pytest.raises(TaskTimeoutError):
                list(as_completed([last], timeout=0.001))
        assert (handle._waiters, len(handle._callbacks)) == ([], 1)  # that of the call that needs it
        assert (last._waiters, last._callbacks, list(last._helpers)) == ([], [], [])
        held.box.append(handle)
        handle.cancel()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", [TaskHandle.get, lambda handle: next(iter(as_completed([handle]))).get()])
def test_waiting_for_all_in_what_others_wait_for(workers: int, how: Callable[[Any], int]) -> None:
    """`wait_all` leaves out who waits for it, whatever thread that runs in, and what needs it."""
    with Runtime(python_threads=workers) as runtime:
        box: list[Any] = []
        go = threading.Event()

        def inner() -> int:
            go.wait(LONG)
            runtime.wait_all()
            return 1

        def outer() -> int:
            go.wait(LONG)
            return how(box[0]) + 1

        first = runtime.submit(outer)
        box.append(runtime.submit(inner))
        needs = runtime.submit(near, box[0])
        go.set()
        assert first.get(LONG) == 2
        assert needs.get(LONG) == 2


def test_a_stop_while_a_thread_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes once the thread runs: else its lock would stay locked, and what the thread is to do undone."""
    starts, told = threading.Event(), threading.Event()
    start = threading.Thread.start

    def slow(thread: threading.Thread) -> None:
        if thread.name == "nbflow-thread-2":
            starts.set()
            assert told.wait(LONG)
            for _ in range(1000):  # it would strike here
                pass
        start(thread)
        started.append(thread.name)

    started: list[str] = []

    def submits() -> None:
        submit(near, 1)
        threading.Event().wait(LONG)

    with threads(2):
        monkeypatch.setattr(threading.Thread, "start", slow)
        handle = submit(submits)
        assert starts.wait(LONG)
        handle._call.cancel("stop")  # type: ignore[union-attr]
        told.set()
        with pytest.raises(TaskCancelledError):
            handle.get(timeout=LONG)
        assert "nbflow-thread-2" in started
        assert submit(near, 2).get(timeout=LONG) == 3
