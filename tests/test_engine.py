"""`Runtime`: submitting, waiting, failures, progress, the watchdog, timeouts, and its end."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

import nbflow
from nbflow import Runtime, TaskHandle, get_default_runtime, progress, session, set_default_runtime, submit, task
from nbflow.backends import ThreadBackend
from nbflow.errors import BackendError, DefinitionError, TaskCancelledError, TaskError, TaskTimeoutError
from nbflow.events import TaskQueued, TaskStarted
from nbflow.testing import EventRecorder, FakeClock

_LIMIT_S = 60.0


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    """Return a runtime with two workers of each kind."""
    with Runtime(threads=2, io_threads=2, python_threads=2) as found:
        yield found


class Gate:
    """A function that runs until it is let through; its arguments do not matter."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.free = threading.Event()

    def wait(self, *_: Any) -> str:
        self.begun.release()
        while not self.free.wait(0.001):
            pass
        return "through"


class Pipeline:
    def run(self) -> str:
        return "ran"

    def __call__(self) -> str:
        return "called"


def fail(message: str = "oops") -> None:
    raise ValueError(message)


async def double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


# -- submitting -------------------------------------------------------------------------------------------------------


def test_functions_coroutines_and_blocking_calls(runtime: Runtime) -> None:
    """Each kind runs in the pool that is meant for it, and gives its result."""
    where: Any = lambda: threading.current_thread().name  # noqa: E731

    async def where_async() -> str:
        return threading.current_thread().name

    assert runtime.submit(where).get(_LIMIT_S).startswith("nbflow-python-")
    assert runtime.submit(where_async).get(_LIMIT_S).startswith("nbflow-coroutine-")
    assert runtime.submit_io(where).get(_LIMIT_S).startswith("nbflow-io-")
    assert runtime.submit(double, 21).get(_LIMIT_S) == 42


def test_sizes() -> None:
    """Zeros are chosen by the machine; the Python pool only counts once it was used."""
    with Runtime(threads=3, io_threads=5) as runtime:
        assert (runtime.threads, runtime.io_threads, runtime.python_threads) == (3, 5, 0)
        runtime.submit(len, []).get(_LIMIT_S)
        assert runtime.python_threads == 3
    with Runtime(threads=100) as runtime:
        runtime.submit(len, []).get(_LIMIT_S)
        assert runtime.python_threads == 32


@pytest.mark.parametrize("sizes", [{"threads": -1}, {"io_threads": True}, {"python_threads": 1.5}, {"stall_s": 0}])
def test_wrong_sizes(sizes: dict[str, Any]) -> None:
    """A size that is none is named."""
    with pytest.raises(DefinitionError, match=next(iter(sizes))):
        Runtime(**sizes)


def test_names(runtime: Runtime) -> None:
    """Names are derived as a reader would write them, unless one is given."""

    def local() -> None:
        pass

    names = {
        "json.dumps": functools.partial(__import__("json").dumps, 1),
        "builtins.len": functools.partial(len, []),
        "local": local,
        "<lambda>": lambda: None,
        "Pipeline.run": Pipeline().run,
        f"{__name__}.Pipeline": Pipeline(),
        f"{__name__}.Gate": Gate,
        "quick": task(name="quick")(lambda: None),
    }
    assert {name: runtime.submit(function).name for name, function in names.items()} == {name: name for name in names}
    assert runtime.submit(local, name="other").name == "other"
    assert runtime.submit(Pipeline).get(_LIMIT_S).run() == "ran"


def test_a_real_argument_called_name(runtime: Runtime) -> None:
    """`functools.partial` carries a keyword argument that `submit` would take for itself."""
    handle = runtime.submit(functools.partial(dict, name="inner"), other=1, name="outer")
    assert handle.get(_LIMIT_S) == {"name": "inner", "other": 1}
    assert handle.name == "outer"


@pytest.mark.parametrize("wrong", [None, 3, "text"])
def test_what_cannot_be_called(runtime: Runtime, wrong: Any) -> None:
    """It is refused at once, with a TypeError."""
    with pytest.raises(TypeError, match="neither a function nor a handle"):
        runtime.submit(wrong)


def test_streams_and_empty_names_are_refused(runtime: Runtime) -> None:
    """A stream has no one result, and a name needs a letter."""

    def stream() -> Iterator[int]:
        yield 1

    with pytest.raises(DefinitionError, match="a stream hands out items"):
        runtime.submit(stream)
    with pytest.raises(DefinitionError, match="non-empty"):
        runtime.submit(len, [], name="")


def test_handles_as_arguments(runtime: Runtime) -> None:
    """Handles are replaced by results inside lists, tuples and dicts too, whatever pool they come from."""
    first, second = runtime.submit(double, 1), runtime.submit_io(lambda: 5)
    third = runtime.submit(lambda value, *, more: (value, more), {"a": [first, (second,)]}, more=first)
    assert third.get(_LIMIT_S) == ({"a": [2, (5,)]}, 2)


def test_tasks_keep_their_options(runtime: Runtime) -> None:
    """A cached task is cached, one with retries is retried."""
    runs: list[int] = []

    @task(cache="session")
    def cached(x: int) -> int:
        return x + 1

    @task(retries=2)
    def shaky() -> int:
        runs.append(1)
        if len(runs) < 3:
            raise OSError("not yet")
        return 7

    with session(cache_store="off") as context:
        assert [runtime.submit(cached, 1).get(_LIMIT_S) for _ in range(2)] == [2, 2]
        assert runtime.submit(shaky).get(_LIMIT_S) == 7
        assert [call.cached for call in context.records] == [False, True, False]


def test_handles_pass_through(runtime: Runtime) -> None:
    """A handle from elsewhere is waited for and counted here; its arguments and its name are given."""
    gate = Gate()
    with session():
        handle = submit(gate.wait)
        assert gate.begun.acquire(timeout=_LIMIT_S)
        assert runtime.submit(handle) is handle
        assert runtime.submit(handle) is handle
        with pytest.raises(DefinitionError, match="takes nothing more"):
            runtime.submit(handle, name="other")  # type: ignore[call-overload]
        assert runtime.get_progress()["running"] == 1
        gate.free.set()
        runtime.wait_all()
        assert handle.done()
    assert runtime.get_progress()["completed"] == 1
    failed = runtime.submit(runtime.submit(fail))
    runtime.wait_all()
    assert runtime.get_failed() == [failed]


def test_context_variables(runtime: Runtime) -> None:
    """A call sees the context variables of whoever submitted it."""
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    who.set("me")
    assert runtime.submit(who.get).get(_LIMIT_S) == "me"


def test_events(runtime: Runtime, recorder: EventRecorder) -> None:
    """Observers, and so the panel, see calls as those of any backend, under the name that was given."""
    with session(observers=[recorder]):
        runtime.submit(len, [], name="sizes").get(_LIMIT_S)
    assert [event.name for event in recorder.of(TaskQueued)] == ["sizes"]
    assert [(event.name, event.backend) for event in recorder.of(TaskStarted)] == [("sizes", "python")]
    recorder.check()


@pytest.mark.parametrize("function", [Runtime.submit, Runtime.submit_io])
def test_nested_submits_never_deadlock(function: Any) -> None:
    """A call that waits for calls that wait, much deeper than there are workers, ends; also across the pools."""
    with Runtime(threads=1, io_threads=1, python_threads=1) as runtime:

        def down(depth: int) -> int:
            return function(runtime, up, depth - 1).get() + 1 if depth else 0

        def up(depth: int) -> int:
            return runtime.submit(down, depth - 1).get() + 1 if depth else 0

        async def both(depth: int) -> int:
            return await runtime.submit(both_back, depth - 1) + 1 if depth else 0

        def both_back(depth: int) -> int:
            return runtime.submit(both, depth - 1).get() + 1 if depth else 0

        assert runtime.submit(down, 20).get(_LIMIT_S) == 20
        assert runtime.submit(both, 10).get(_LIMIT_S) == 10


# -- waiting and failures ---------------------------------------------------------------------------------------------


def test_wait(runtime: Runtime) -> None:
    """`wait` gives nothing and raises what the call raised."""
    assert runtime.wait(runtime.submit(len, [])) is None  # type: ignore[func-returns-value]
    with pytest.raises(ValueError, match="bad"):
        runtime.wait(runtime.submit(fail, "bad"))


def test_wait_all(runtime: Runtime) -> None:
    """It waits for everything, also for what calls submit, raises nothing, and lists failures until cleared."""

    def outer() -> None:
        runtime.submit(fail, "inner", name="late")

    done = runtime.submit(outer)
    runtime.wait_all()
    assert done.done()
    assert [(handle.name, str(handle.exception)) for handle in runtime.get_failed()] == [("late", "inner")]
    runtime.wait_all()
    assert len(runtime.get_failed()) == 1
    runtime.clear_failed()
    runtime.wait_all(raise_on_error=True)
    assert runtime.get_failed() == []


def test_wait_all_raises(runtime: Runtime) -> None:
    """With `raise_on_error` every failure is named, once, after everything has ended."""
    gate = Gate()
    runtime.submit(fail, "one", name="first")
    runtime.submit(fail, "two", name="second")
    slow = runtime.submit(gate.wait)
    gate.free.set()
    with pytest.raises(RuntimeError, match=r"2 task\(s\) failed:\n") as caught:
        runtime.wait_all(raise_on_error=True)
    assert slow.done()
    assert isinstance(caught.value, TaskError)
    assert {"first: ValueError: one", "second: ValueError: two"} < set(str(caught.value).splitlines())
    assert isinstance(caught.value.__cause__, ValueError)
    runtime.wait_all(raise_on_error=True)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_wait_all_is_not_poisoned(runtime: Runtime, kind: type[BaseException]) -> None:
    """What ends programs stays in its handle; workers live on, and the next waiting knows nothing of it."""

    def leave() -> None:
        raise kind(3)

    for _ in range(4):
        runtime.submit(leave)
    runtime.wait_all()
    assert [type(handle.exception) for handle in runtime.get_failed()] == [kind] * 4
    with pytest.raises(TaskError, match=kind.__name__):
        runtime.wait_all(raise_on_error=True)
    runtime.wait_all(raise_on_error=True)
    assert runtime.submit(len, []).get(_LIMIT_S) == 0


def test_wait_all_inside_a_call(runtime: Runtime) -> None:
    """A call that waits for all does not wait for itself, and runs what waits for a worker."""
    ended: list[int] = []

    def outer() -> list[int]:
        for number in range(5):
            runtime.submit(ended.append, number)
        runtime.wait_all()
        return sorted(ended)

    assert runtime.submit(outer).get(_LIMIT_S) == [0, 1, 2, 3, 4]


def test_calls_that_wait_for_all(runtime: Runtime) -> None:
    """Calls that wait for all do not wait for each other, nor for one that helps while it waits itself."""
    meeting = threading.Barrier(2)

    def both() -> str:
        meeting.wait(_LIMIT_S)
        runtime.wait_all()
        return "done"

    handles = [runtime.submit(both) for _ in range(2)]
    assert [handle.get(_LIMIT_S) for handle in handles] == ["done", "done"]
    with Runtime(python_threads=1) as single:

        def inner() -> int:
            single.wait_all()
            return 1

        waiting: list[TaskHandle[int]] = []

        def outer() -> int:
            return waiting[0].get() + 1

        gate = Gate()
        single.submit(gate.wait)
        last = single.submit(outer)
        waiting.append(single.submit(inner))
        gate.free.set()
        assert last.get(_LIMIT_S) == 2
    assert runtime._tally._waiting == {}


def test_names_of_tasks(runtime: Runtime) -> None:
    """A name that is a template is filled in, as everywhere."""
    runtime.submit(task(name="fit_{depth}")(lambda depth: depth), 7)
    runtime.wait_all()
    assert [row["name"] for row in runtime.get_progress()["tasks"]] == ["fit_7"]


def test_cancelled_calls_are_no_failures(runtime: Runtime) -> None:
    """A call that was cancelled on purpose counts nowhere, and its row says so."""
    gate = Gate()
    handle = runtime.submit(gate.wait)
    assert gate.begun.acquire(timeout=_LIMIT_S)
    handle.cancel()
    runtime.wait_all(raise_on_error=True)
    assert handle.cancelled()
    assert runtime.get_failed() == []
    found = runtime.get_progress()
    assert (found["total"], found["failed"]) == (0, 0)
    assert [row["state"] for row in found["tasks"]] == ["cancelled"]


def test_error_callback(runtime: Runtime) -> None:
    """It is called for each failure, with handle and error, before `wait_all` returns; None clears it."""
    seen: list[tuple[str, str, bool]] = []
    runtime.set_error_callback(lambda handle, error: seen.append((handle.name, str(error), handle.done())))
    runtime.submit(fail, "bad", name="monitored")
    runtime.submit(len, [])
    runtime.wait_all()
    assert seen == [("monitored", "bad", True)]
    runtime.set_error_callback(None)
    runtime.submit(fail)
    runtime.wait_all()
    assert len(seen) == 1
    with pytest.raises(DefinitionError, match="not callable"):
        runtime.set_error_callback(3)  # type: ignore[arg-type]


def test_error_callback_that_raises(runtime: Runtime, capfd: pytest.CaptureFixture[str]) -> None:
    """Its own error is reported, and does no harm."""

    def callback(handle: TaskHandle[Any], error: BaseException) -> None:
        raise LookupError("where am I?")

    runtime.set_error_callback(callback)
    runtime.submit(fail, name="monitored")
    runtime.wait_all()
    assert "error callback of the runtime raised LookupError: where am I? for 'monitored'" in capfd.readouterr().err
    assert len(runtime.get_failed()) == 1


def test_interrupt_while_waiting_for_all(runtime: Runtime) -> None:
    """An interrupt cancels what is waited for, queued or running; the next waiting works."""
    gate = Gate()
    handles = [runtime.submit(gate.wait) for _ in range(6)]
    assert gate.begun.acquire(timeout=_LIMIT_S)

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(0.05, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        runtime.wait_all()
    timer.join()
    runtime.wait_all(raise_on_error=True)
    assert all(handle.cancelled() for handle in handles)
    assert runtime.submit(len, []).get(_LIMIT_S) == 0


# -- progress and watchdog --------------------------------------------------------------------------------------------


def test_progress(runtime: Runtime) -> None:
    """Counts, workers and rows are those of Python calls, under the promised keys."""
    gate = Gate()

    def steps() -> None:
        for number in progress(range(4)):
            if number == 3:
                gate.wait()

    runtime.submit(len, [], name="short").get(_LIMIT_S)
    runtime.submit(fail, name="broken")
    runtime.wait_all()
    runtime.submit(steps, name="steps")
    runtime.submit(gate.wait, name="other")
    for _ in range(2):
        assert gate.begun.acquire(timeout=_LIMIT_S)
    runtime.submit(len, [], name="later")
    found = runtime.get_progress()
    gate.free.set()
    assert list(found) == ["total", "completed", "running", "queued", "failed", "workers", "tasks", "errors"]
    assert [found[key] for key in list(found)[:5]] == [5, 1, 2, 1, 1]
    assert sorted(row["task"] for row in found["workers"]) == ["other", "steps"]
    assert [(row["id"], row["idle"], row["queue_depth"]) for row in found["workers"]] == [(0, False, 1), (1, False, 1)]
    rows = {row["name"]: row for row in found["tasks"]}
    assert [rows[name]["state"] for name in ("short", "broken", "steps", "other", "later")] == [
        "completed",
        "failed",
        "running",
        "running",
        "queued",
    ]
    assert rows["short"]["progress_pct"] == 100.0
    assert rows["short"]["execution_duration_ms"] >= 0 <= rows["short"]["queued_duration_ms"]
    assert rows["later"]["execution_duration_ms"] == 0
    assert found["errors"] == ["broken: ValueError: oops"]
    runtime.wait_all()
    assert all(row["idle"] and not row["task"] for row in runtime.get_progress()["workers"])


def test_progress_of_running_calls(runtime: Runtime) -> None:
    """What `nbflow.progress` tells inside a call is its percentage, though nobody listens."""
    gate = Gate()
    clock = FakeClock()

    def steps() -> None:
        for number in progress(range(4)):
            clock.advance(1.0)
            if number == 2:
                gate.wait()

    with session(clock=clock):
        runtime.submit(steps)
        assert gate.begun.acquire(timeout=_LIMIT_S)
        assert [row["progress_pct"] for row in runtime.get_progress()["tasks"]] == [50.0]
        gate.free.set()
        runtime.wait_all()


def test_watchdog() -> None:
    """It bites when work waits behind workers that are all stuck, and not before, nor when something moves."""
    clock, gate, tick = FakeClock(), Gate(), threading.Event()

    def steps() -> None:
        for _ in progress(iter([1, 2])):
            gate.wait()
            tick.wait(_LIMIT_S)

    with session(clock=clock), Runtime(python_threads=1, stall_s=5) as runtime:
        assert runtime.is_responsive()
        runtime.submit(gate.wait)
        assert gate.begun.acquire(timeout=_LIMIT_S)
        clock.advance(100)
        assert runtime.is_responsive()  # a long call is no trouble while nothing waits for its worker
        waiting = runtime.submit(len, [])
        assert runtime.is_responsive()
        clock.advance(6)
        assert not runtime.is_responsive()
        gate.free.set()
        waiting.get(_LIMIT_S)
        assert runtime.is_responsive()
        runtime.submit(steps)
        for _ in range(2):
            runtime.submit(len, [])
        assert gate.begun.acquire(timeout=_LIMIT_S)
        clock.advance(6)
        assert not runtime.is_responsive()
        tick.set()
        runtime.wait_all()
        assert runtime.is_responsive()
    assert not runtime.is_responsive()


def test_waiting_for_arguments_is_no_stall() -> None:
    """A call that waits for handles among its arguments waits for no worker."""
    clock, gate = FakeClock(), Gate()
    with session(clock=clock), Runtime(python_threads=1, stall_s=5) as runtime:
        first = runtime.submit(gate.wait)
        runtime.submit(len, first)
        clock.advance(60)
        assert runtime.is_responsive()
        gate.free.set()


def test_memory_is_bounded(runtime: Runtime) -> None:
    """The runtime keeps neither results nor handles of calls that have ended well."""

    class Big:
        pass

    handle = runtime.submit(Big)
    seen = weakref.ref(handle.get(_LIMIT_S))
    runtime.wait_all()
    kept = weakref.ref(handle)
    del handle
    gc.collect()
    assert seen() is None
    assert kept() is None
    for _ in range(1200):
        runtime.submit(fail)
    runtime.wait_all()
    assert len(runtime.get_failed()) == 1000
    assert len(runtime.get_progress()["tasks"]) == 1000
    with pytest.raises(TaskError, match=r"1200 task\(s\) failed"):
        runtime.wait_all(raise_on_error=True)


# -- timeouts ---------------------------------------------------------------------------------------------------------


def test_default_task_timeout(runtime: Runtime) -> None:
    """A call whose task says nothing fails at the deadline; one with a timeout of its own keeps it; 0 clears it."""
    gate = Gate()
    runtime.set_default_task_timeout(20)
    with pytest.raises(TaskTimeoutError, match=r"passed its timeout of 0.02 s"):
        runtime.submit(gate.wait).get(_LIMIT_S)
    own = runtime.submit(task(timeout=_LIMIT_S)(Gate.wait), gate)
    runtime.set_default_task_timeout("0s")
    free = runtime.submit(gate.wait)
    gate.free.set()
    assert (own.get(_LIMIT_S), free.get(_LIMIT_S)) == ("through", "through")


def test_global_timeout(runtime: Runtime) -> None:
    """When the runtime is busy for too long, what runs and what waits fails with TaskTimeoutError, in that stretch."""
    gate = Gate()
    runtime.set_timeout("50ms")
    handles = [runtime.submit(gate.wait) for _ in range(5)]
    runtime.wait_all()
    for handle in handles:
        with pytest.raises(TaskTimeoutError, match=r"the runtime's timeout of 0.05 s") as caught:
            handle.get(_LIMIT_S)
        assert caught.value.stopped
    assert len(runtime.get_failed()) == 5
    assert runtime.submit(len, []).get(_LIMIT_S) == 0


def test_global_timeout_set_while_busy(runtime: Runtime) -> None:
    """The time begins when it is set; 0 takes it back."""
    gate = Gate()
    handle = runtime.submit(gate.wait)
    runtime.set_timeout("1h")
    runtime.set_timeout(0)
    assert not handle.done()
    runtime.set_timeout(10)
    with pytest.raises(TaskTimeoutError):
        handle.get(_LIMIT_S)


@pytest.mark.parametrize("wrong", [-1, None, True, "soon", "5 weeks", float("nan"), float("inf")])
def test_what_is_no_time(runtime: Runtime, wrong: Any) -> None:
    """It is refused, as a ValueError and a TypeError."""
    for method in (runtime.set_timeout, runtime.set_default_task_timeout):
        with pytest.raises(ValueError, match="give milliseconds") as caught:
            method(wrong)
        assert isinstance(caught.value, TypeError)


# -- life -------------------------------------------------------------------------------------------------------------


def test_shutdown_waits() -> None:
    """It waits for calls and for those that they submit; afterwards nothing can be submitted. Idempotent."""
    runtime = Runtime(python_threads=1)
    ended: list[str] = []

    def outer() -> None:
        runtime.submit(ended.append, "inner")

    runtime.submit(outer)
    runtime.shutdown()
    runtime.shutdown()
    assert ended == ["inner"]
    assert "shut down" in repr(runtime)
    with pytest.raises(BackendError, match="was shut down"):
        runtime.submit(len, [])
    assert runtime.get_progress()["completed"] == 2


def test_shutdown_without_waiting() -> None:
    """What waits for a worker is cancelled, what runs ends by itself, and then the threads go."""
    runtime, gate = Runtime(python_threads=1), Gate()
    running = runtime.submit(gate.wait)
    assert gate.begun.acquire(timeout=_LIMIT_S)
    waiting = [runtime.submit(gate.wait) for _ in range(3)]
    runtime.shutdown(wait=False)
    assert all(handle.cancelled() for handle in waiting)
    assert not running.done()
    gate.free.set()
    assert running.get(_LIMIT_S) == "through"


def test_a_block_left_by_an_exception_cancels() -> None:
    """Nobody will look at the results then."""
    gate = Gate()
    with pytest.raises(ZeroDivisionError), Runtime(python_threads=1) as runtime:
        handles = [runtime.submit(gate.wait) for _ in range(3)]
        _ = 1 // 0
    assert all(handle.cancelled() for handle in handles)
    with pytest.raises(TaskCancelledError, match="the block was left by ZeroDivisionError"):
        handles[-1].get()


def test_other_backends() -> None:
    """A backend can be named, and is then owned; or given, and is then left alone."""
    with Runtime(3, backend="thread") as named:
        assert named.submit(lambda: threading.current_thread().name).get(_LIMIT_S).startswith("nbflow-thread")
        assert named.submit_io(double, 2).get(_LIMIT_S) == 4
        assert (named.threads, named.io_threads, named.python_threads) == (3, 0, 0)
        assert len(named.get_progress()["workers"]) == 3
    pool = ThreadBackend()
    pool.start()
    with Runtime(backend=pool) as given:
        assert given.submit(len, []).get(_LIMIT_S) == 0
    assert pool.submit(len, ([],)).result(_LIMIT_S) == 0
    pool.stop()


def test_processes() -> None:
    """On processes a runtime has the same books: progress is heard, running calls are stopped, failures come back."""

    def steps() -> None:
        for _ in progress(range(600)):
            time.sleep(0.2)

    with Runtime(1, backend="process") as runtime:
        assert not runtime.local
        assert runtime.submit(os.getpid).get(_LIMIT_S) != os.getpid()
        assert runtime.submit(lambda pair: pair, [runtime.submit(double, 4)]).get(_LIMIT_S) == [8]
        handle = runtime.submit(steps)
        pause = threading.Event()
        while not runtime.get_progress()["tasks"][-1]["progress_pct"]:
            pause.wait(0.01)
        assert runtime.get_progress()["running"] == 1
        handle.cancel()
        with pytest.raises(TaskCancelledError):
            handle.get(_LIMIT_S)
        runtime.submit(fail, "elsewhere")
        with pytest.raises(TaskError, match="ValueError: elsewhere"):
            runtime.wait_all(raise_on_error=True)


def test_backends_that_do_not_fit() -> None:
    """Options without effect, inline and unknown backends are refused."""
    with pytest.raises(DefinitionError, match="io_threads has no effect with backend='thread'"):
        Runtime(io_threads=3, backend="thread")
    with pytest.raises(DefinitionError, match="nothing to wait for"):
        Runtime(backend="inline")
    with pytest.raises(BackendError, match="There is no backend 'nope'"):
        Runtime(backend="nope")


def test_default_runtime() -> None:
    """There is one, made on first use; another can take its place; one that was shut down is replaced."""
    set_default_runtime(None)
    try:
        first = get_default_runtime()
        assert get_default_runtime() is first
        first.shutdown()
        assert get_default_runtime() is not first
        with Runtime(threads=1) as own:
            set_default_runtime(own)
            assert get_default_runtime() is own
        with pytest.raises(DefinitionError, match="is no Runtime"):
            set_default_runtime(3)  # type: ignore[arg-type]
    finally:
        set_default_runtime(None)


def test_top_level_names() -> None:
    """They are there, and only imported when used."""
    assert nbflow.Runtime is Runtime
    assert nbflow.get_default_runtime is get_default_runtime


def test_signal_handlers_are_left_alone(runtime: Runtime) -> None:
    """Making and using a runtime installs none."""
    before: Any | FrameType = signal.getsignal(signal.SIGINT)
    runtime.submit(len, []).get(_LIMIT_S)
    assert signal.getsignal(signal.SIGINT) is before
