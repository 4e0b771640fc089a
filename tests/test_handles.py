"""`submit`, its handles, and `as_completed`."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from nbflow import TaskHandle, as_completed, map_tasks, session, submit, task
from nbflow.errors import BackendError, DefinitionError, ParameterError, TaskCancelledError, TaskTimeoutError
from nbflow.events import StragglerLeft, TaskCancelled, TaskFailed, TaskQueued, TaskStarted, Terminal
from nbflow.settings import Settings, load_settings
from nbflow.testing import EventRecorder
from nbflow.testing.backends import FaultyBackend

_LIMIT_S = 60.0


@task
def double(x: int) -> int:
    return 2 * x


@task
async def double_async(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


@task
def fail(message: str = "oops") -> None:
    raise ValueError(message)


class Gate:
    """A task that runs until it is let through."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.free = threading.Event()
        self.runs = 0

        @task
        def wait() -> str:
            self.runs += 1
            self.begun.set()
            while not self.free.wait(0.001):
                pass
            return "through"

        self.task = wait


def one_thread() -> Settings:
    return load_settings(max_backend_threads=1)


# -- results ----------------------------------------------------------------------------------------------------------


def test_get() -> None:
    """A handle gives the result, as often as it is asked."""
    handle = submit(double, 4)
    assert handle.get(_LIMIT_S) == 8
    assert handle.result() == 8
    assert handle.wait(_LIMIT_S) is None  # type: ignore[func-returns-value]
    assert handle.done()
    assert not handle.cancelled()
    assert handle.exception is None
    assert handle.name == "double"
    assert repr(handle) == f"<TaskHandle {handle.task_id} 'double' done>"


def test_runs_elsewhere_at_once() -> None:
    """The call starts without being waited for, in another thread."""
    gate = Gate()
    handle = submit(gate.task)
    assert gate.begun.wait(_LIMIT_S)
    assert not handle.done()
    assert handle.exception is None
    assert "running" in repr(handle)
    gate.free.set()
    assert handle.get(_LIMIT_S) == "through"


def test_async_tasks() -> None:
    """An async task runs on a loop of its own in a worker; keyword arguments are passed on."""
    assert submit(double_async, x=4).get(_LIMIT_S) == 8


def test_functions() -> None:
    """A plain function is made a task."""
    assert submit(lambda x: x + 1, 1).get(_LIMIT_S) == 2


@pytest.mark.parametrize("name", ["inline", "thread", "threads"])
def test_backends(name: str) -> None:
    """Where the session is inline, threads are used."""
    with session(backend=name):
        assert submit(lambda: threading.current_thread().name).get(_LIMIT_S).startswith("nbflow-thread")


def test_unknown_backend() -> None:
    """A task whose backend is unknown cannot be submitted."""
    with pytest.raises(BackendError, match="There is no backend 'nope'"):
        submit(task(backend="nope")(lambda: 1))


def test_streams_are_refused() -> None:
    """A stream hands out items, which a handle cannot."""

    @task
    def items() -> Iterator[int]:
        yield 1

    with pytest.raises(
        DefinitionError, match=r"submit\('items'\): a stream hands out items; iterate over it, or map it"
    ):
        submit(items)


def test_failure(recorder: EventRecorder) -> None:
    """The user's exception is raised by each `get`, with its note."""
    with session(observers=[recorder]):
        handle = submit(fail, "bad")
        for _ in range(2):
            with pytest.raises(ValueError, match="bad"):
                handle.get(_LIMIT_S)
    assert isinstance(handle.exception, ValueError)
    assert handle.exception.__notes__ == ["nbflow: in task 'fail'"]
    assert "failed" in repr(handle)
    assert len(recorder.of(TaskFailed)) == 1
    recorder.check()


def test_wrong_arguments(recorder: EventRecorder) -> None:
    """Arguments that do not fit are the handle's failure, and the call ends where it was queued."""
    with session(observers=[recorder]):
        handle = submit(task(name="double_{x}")(double.func))
        with pytest.raises(ParameterError, match="missing 1 required"):
            handle.get(_LIMIT_S)
    assert recorder.kinds(handle.task_id) == ["TaskQueued", "TaskFailed"]
    recorder.check()


def test_events(recorder: EventRecorder) -> None:
    """A submitted call is queued, started and ended under the handle's id, with its backend."""
    with session(observers=[recorder]):
        handle = submit(double, 1)
        handle.get(_LIMIT_S)
    assert recorder.kinds(handle.task_id) == ["TaskQueued", "TaskStarted", "AttemptStarted", "TaskCompleted"]
    assert {recorder.of(TaskQueued)[0].backend, recorder.of(TaskStarted)[0].backend} == {"thread"}
    recorder.check()


def test_options_of_the_task_hold(recorder: EventRecorder) -> None:
    """Retries, names and timeouts work as in a plain call."""
    left = [OSError(), OSError()]

    @task(retries=2, name="flaky_{x}")
    def flaky(x: int) -> int:
        if left:
            raise left.pop()
        return x

    @task(timeout=0.05)
    def slow() -> None:
        while True:
            threading.Event().wait(0.001)

    with session(observers=[recorder]):
        assert submit(flaky, 3).get(_LIMIT_S) == 3
        with pytest.raises(TaskTimeoutError, match="passed its timeout"):
            submit(slow).get(_LIMIT_S)
    assert "flaky_3" in {event.name for event in recorder.of(TaskStarted)}
    recorder.check()


def test_an_empty_handle_is_done() -> None:
    """A handle of no call is done with None."""
    handle: TaskHandle[None] = TaskHandle()
    assert handle.done()
    assert handle.get() is None
    assert not handle.cancel()


# -- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_get_with_a_timeout(timeout: float) -> None:
    """When the time is over the waiting ends with an error, and the call goes on."""
    gate = Gate()
    handle = submit(gate.task)
    with pytest.raises(
        TaskTimeoutError, match="Task 'wait' has not ended within .* s; it goes on. Wait longer, or cancel"
    ) as caught:
        handle.get(timeout)
    assert caught.value.stopped is False  # type: ignore[attr-defined]
    assert not handle._waiters, "whoever asks in vain again and again leaves nothing behind"
    gate.free.set()
    assert handle.get(_LIMIT_S) == "through"


def test_a_timeout_error_of_the_call_is_its_own() -> None:
    """What the call itself raises is not mistaken for the end of the waiting."""

    @task
    def item() -> None:
        raise TimeoutError("the server's")

    with pytest.raises(TimeoutError, match="the server's"):
        submit(item).get(_LIMIT_S)


def test_callbacks() -> None:
    """A callback is called once with the handle: when it ends, or at once if it has."""
    gate = Gate()
    heard: list[Any] = []
    over = threading.Event()
    handle = submit(gate.task)
    handle.add_done_callback(heard.append)
    handle.add_done_callback(lambda _: over.set())
    assert heard == []
    gate.free.set()
    assert over.wait(_LIMIT_S)
    assert heard == [handle]
    handle.add_done_callback(heard.append)
    assert heard == [handle, handle]


def test_a_callback_that_raises(capfd: pytest.CaptureFixture[str]) -> None:
    """What a callback raises is reported, and keeps neither the others nor the result from anybody."""

    def raising(_: TaskHandle[Any]) -> None:
        raise LookupError("where am I?")

    gate = Gate()
    heard: list[Any] = []
    handle = submit(gate.task)
    for callback in (raising, heard.append):
        handle.add_done_callback(callback)
    gate.free.set()
    assert handle.get(_LIMIT_S) == "through"
    handle.add_done_callback(raising)
    while heard != [handle]:  # callbacks are called after those who wait are told
        gate.free.wait(0.001)
    assert capfd.readouterr().err.count("'wait' done> raised LookupError: where am I?") == 2


def test_await() -> None:
    """A handle can be awaited, more than once, while the loop goes on."""
    gate = Gate()

    async def main() -> list[Any]:
        handle = submit(gate.task)
        await asyncio.to_thread(gate.begun.wait, _LIMIT_S)
        gate.free.set()
        return [await handle, await handle, *await asyncio.gather(submit(double, 1), submit(double_async, 2))]

    assert asyncio.run(main()) == ["through", "through", 2, 4]


def test_await_a_failure() -> None:
    """Awaiting raises what the call raised."""

    async def main() -> None:
        await submit(fail)

    with pytest.raises(ValueError, match="oops"):
        asyncio.run(main())


def test_cancelled_await_cancels_the_call(recorder: EventRecorder) -> None:
    """When the awaiting asyncio task is cancelled the call is, too; shielded, it goes on."""
    gate, shielded = Gate(), Gate()

    async def main() -> None:
        handle = submit(gate.task)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle, 0.01)
        with pytest.raises(TaskCancelledError):
            await asyncio.to_thread(handle.get, _LIMIT_S)
        assert handle.cancelled()
        other = submit(shielded.task)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(_wait_for(other))), 0.01)
        assert not other.done()
        shielded.free.set()
        assert await other == "through"

    with session(observers=[recorder]):
        asyncio.run(main())
    recorder.check()


async def _wait_for(handle: TaskHandle[Any]) -> Any:
    return await handle


@pytest.mark.parametrize("wait", [lambda handles: handles[-1].get(), lambda handles: list(as_completed(handles))])
def test_an_interrupted_wait_cancels_what_it_waits_for(
    wait: Callable[[list[TaskHandle[Any]]], Any], recorder: EventRecorder
) -> None:
    """SIGINT while waiting raises KeyboardInterrupt and cancels the call, and the call that this one waits for."""
    gate = Gate()
    main = threading.get_ident()

    def interrupt() -> None:
        gate.begun.wait(_LIMIT_S)
        while not _waits(sys._current_frames()[main]):
            gate.free.wait(0.001)
        signal.pthread_kill(main, signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    with session(observers=[recorder]):
        first = submit(gate.task)
        second = submit(repr, first)
        helper.start()
        with pytest.raises(KeyboardInterrupt):
            wait([first, second])
        helper.join(_LIMIT_S)
        for handle in (first, second):
            with pytest.raises(TaskCancelledError, match="interrupt"):
                handle.get(_LIMIT_S)
    recorder.check()


def test_what_others_wait_for_is_not_given_up(recorder: EventRecorder) -> None:
    """A cancelled wait ends what only it needs; what another call waits for, too, goes on for that one."""
    gate, own = Gate(), Gate()

    async def main() -> None:
        shared, private = submit(gate.task), submit(own.task)
        left, kept = submit(repr, [shared, private]), submit(repr, shared)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(left, 0.01)
        with pytest.raises(TaskCancelledError):
            await asyncio.to_thread(private.get, _LIMIT_S)
        assert left.cancelled()
        assert not shared.done()
        gate.free.set()
        assert await kept == repr("through")

    with session(observers=[recorder]):
        asyncio.run(main())
    recorder.check()


def test_what_has_ended_is_freed_at_once() -> None:
    """A handle and its work refer to each other only while the call has not ended: no collector has to find them."""

    class Big:
        pass

    def big() -> Big:
        return Big()

    def freed(make: Callable[[], TaskHandle[Any]]) -> bool:
        handle = make()
        gone = weakref.ref(handle)
        if not handle.cancelled():  # what it raised would refer to it
            handle.get(_LIMIT_S)
        del handle
        return gone() is None

    def cancelled() -> TaskHandle[Any]:
        busy = submit(gate.task)
        handle = submit(big)
        handle.cancel()
        gate.free.set()
        busy.get(_LIMIT_S)
        return handle

    gate = Gate()
    gc.disable()
    try:
        with session(settings=one_thread()):
            assert freed(lambda: submit(big))
            assert freed(cancelled)
    finally:
        gc.enable()


def _waits(frame: FrameType | None) -> bool:
    """Whether a thread waits for a lock or a queue, for a handle."""
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names[0] == "_next" or (names[0] == "_wait" and "get" in names)


# -- cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quiet", [True, False])
def test_cancel_before_it_starts(quiet: bool, recorder: EventRecorder) -> None:
    """A call that waits for a worker never starts; that is told."""
    gate, later = Gate(), Gate()
    with session(observers=[] if quiet else [recorder], settings=one_thread()):
        running = submit(gate.task)
        waiting = submit(later.task)
        assert gate.begun.wait(_LIMIT_S)
        assert waiting.cancel()
        assert waiting.done()
        assert waiting.cancelled()
        assert not waiting.cancel()
        with pytest.raises(TaskCancelledError, match=r"Task 'wait' was cancelled \(handle\)") as caught:
            waiting.get()
        assert caught.value.reason == "handle"  # type: ignore[attr-defined]
        gate.free.set()
        assert running.get(_LIMIT_S) == "through"
    assert later.runs == 0
    if not quiet:
        assert recorder.kinds(waiting.task_id) == ["TaskQueued", "TaskCancelled"]
        recorder.check()


@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_cancel_while_it_runs(quiet: bool, kind: str, recorder: EventRecorder) -> None:
    """Running code is stopped, its clean-up runs, and the pool goes on."""
    begun, cleaned = threading.Event(), threading.Event()

    @task(retries=5)
    def item() -> None:
        begun.set()
        try:
            while True:
                threading.Event().wait(0.001)
        finally:
            cleaned.set()

    @task(retries=5)
    async def item_async() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    with session(observers=[] if quiet else [recorder], settings=one_thread()):
        handle = submit(item if kind == "sync" else item_async)
        assert begun.wait(_LIMIT_S)
        assert handle.cancel("enough")
        with pytest.raises(TaskCancelledError, match="enough"):
            handle.get(_LIMIT_S)
        assert cleaned.wait(_LIMIT_S)
        assert not handle.cancel()
        assert submit(double, 1).get(_LIMIT_S) == 2
    if not quiet:
        assert [event.reason for event in recorder.of(TaskCancelled)] == ["enough"]
        recorder.check()


@pytest.mark.parametrize("end", ["fails", "cancelled"])
def test_any_number_of_calls_in_a_row_end_with_the_first(end: str) -> None:
    """However long a chain is, nobody waits for ever."""
    gate = threading.Event()

    @task
    def first() -> int:
        gate.wait(_LIMIT_S)
        raise ValueError("no")

    with session(settings=one_thread()):
        handles = [submit(first)]
        for _ in range(1_000):
            handles.append(submit(double, handles[-1]))
        if end == "cancelled":
            handles[0].cancel("enough")
        gate.set()
        with pytest.raises(TaskCancelledError if end == "cancelled" else ValueError):
            handles[-1].get(_LIMIT_S)
        assert all(handle.done() for handle in handles)


class Slow(threading.Condition):
    """A condition that takes its lock back for ever."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())
        self.begun = threading.Event()

    def _acquire_restore(self, state: Any) -> None:
        self.begun.set()
        while True:
            pass

    def wait_here(self) -> None:
        with self:  # where it is stopped, there is no lock to give back: this raises another error
            self.wait(0.001)


@pytest.mark.parametrize("how", ["cancel", "timeout", "interrupt"])
def test_what_is_stopped_while_it_takes_a_lock_back_is_stopped(how: str, recorder: EventRecorder) -> None:
    """The error of the lock that is then missing does not hide why."""
    slow = Slow()
    with session(observers=[recorder], settings=one_thread()):
        if how == "timeout":
            with pytest.raises(TaskTimeoutError):
                task(timeout=0.05)(slow.wait_here)()
            return
        if how == "interrupt":
            helper = threading.Thread(target=lambda: slow.begun.wait(_LIMIT_S) and signal.raise_signal(signal.SIGINT))
            helper.start()
            with pytest.raises(KeyboardInterrupt):
                task(slow.wait_here)()
            helper.join()
            return
        handle = submit(task(slow.wait_here))
        assert slow.begun.wait(_LIMIT_S)
        assert handle.cancel("enough")
        with pytest.raises(TaskCancelledError, match="enough"):
            handle.get(_LIMIT_S)


def test_cancel_what_cannot_be_stopped(recorder: EventRecorder) -> None:
    """Code that does not end is left behind and reported; its worker is replaced, its late result is dropped."""
    begun, free = threading.Event(), threading.Event()

    @task
    def stuck() -> str:
        while not free.is_set():
            try:
                begun.set()
                free.wait(_LIMIT_S)
            except BaseException:
                continue
        return "late"

    with session(observers=[recorder], settings=one_thread()):
        handle = submit(stuck)
        assert begun.wait(_LIMIT_S)
        assert handle.cancel()
        with pytest.raises(TaskCancelledError):
            handle.get(_LIMIT_S)
        assert len(recorder.of(StragglerLeft)) == 1
        assert submit(double, 1).get(_LIMIT_S) == 2
        free.set()
    assert handle.cancelled()
    assert len([event for event in recorder.of(Terminal) if event.call_id == handle.task_id]) == 1
    recorder.check()


def test_cancel_after_the_end() -> None:
    """A call that has ended cannot be cancelled any more."""
    handle = submit(double, 1)
    handle.get(_LIMIT_S)
    assert not handle.cancel()
    assert not handle.cancelled()


def test_closing_the_session_withdraws_what_waits(recorder: EventRecorder) -> None:
    """Calls that wait for a worker when their session closes end as cancelled; so do those that cannot be stopped."""
    gate = Gate()
    with session(observers=[recorder], settings=one_thread()):
        running = submit(gate.task)
        assert gate.begun.wait(_LIMIT_S)
        waiting = submit(double, 1)
    for handle in (waiting, running):
        with pytest.raises(TaskCancelledError, match="the session ended"):
            handle.get(_LIMIT_S)
    gate.free.set()
    recorder.check()


def test_all_that_runs_or_waits_is_cancelled_at_once(recorder: EventRecorder) -> None:
    """Nothing that waits gets the worker of what was stopped, also where it was submitted in a session inside."""
    gate = Gate()
    with session(observers=[recorder], settings=one_thread()) as context:
        handles = [submit(gate.task)]
        assert gate.begun.wait(_LIMIT_S)
        with session(backend="thread"):
            handles += [submit(gate.task) for _ in range(5)]
            assert context.cancel_all("enough") == 6
            for handle in handles:
                with pytest.raises(TaskCancelledError, match="enough"):
                    handle.get(_LIMIT_S)
    assert gate.runs == 1
    recorder.check()


def test_what_waits_is_cancelled_by_its_id() -> None:
    """The id of an event names a call also before it has a worker."""
    gate = Gate()
    with session(settings=one_thread()) as context:
        running, waiting = submit(gate.task), submit(double, 1)
        assert gate.begun.wait(_LIMIT_S)
        assert context.cancel(waiting.task_id)
        assert waiting.cancelled()
        assert not context.cancel(waiting.task_id)
        assert not running.done()
        gate.free.set()
        assert running.get(_LIMIT_S) == "through"


# -- handles as arguments ---------------------------------------------------------------------------------------------


def test_handles_as_arguments() -> None:
    """Handles among the arguments, also in lists, tuples and dicts, are replaced by their results."""

    @task
    def collect(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    one, two = submit(double, 1), submit(double_async, 2)
    handle = submit(collect, one, [two, {"a": (one, 5)}], {"set": {1}}, key={"b": two})
    assert handle.get(_LIMIT_S) == ((2, [4, {"a": (2, 5)}], {"set": {1}}), {"key": {"b": 4}})


def test_waits_for_its_arguments(recorder: EventRecorder) -> None:
    """The call starts when the last of its handles is done, and no worker waits meanwhile."""
    gate = Gate()
    with session(observers=[recorder], settings=load_settings(max_backend_threads=2)):
        first = submit(gate.task)
        second = submit(task(name="echo_{x}")(lambda x: x), first)
        assert gate.begun.wait(_LIMIT_S)
        assert submit(double, 1).get(_LIMIT_S) == 2
        assert recorder.kinds(second.task_id) == ["TaskQueued"]
        gate.free.set()
        assert second.get(_LIMIT_S) == "through"
    assert recorder.about(second.task_id)[-1].name == "echo_through"
    recorder.check()


@pytest.mark.parametrize("late", [True, False])
def test_failed_arguments(late: bool, recorder: EventRecorder) -> None:
    """A call whose argument failed never starts, and fails with the same error."""
    with session(observers=[recorder], settings=one_thread()):
        gate = Gate()
        blocker = submit(gate.task)
        failing = submit(fail)
        if not late:
            gate.free.set()
            with pytest.raises(ValueError, match="oops"):
                failing.get(_LIMIT_S)
        second = submit(task(name="double_{x}")(double.func), failing)
        third = submit(double, [second])
        gate.free.set()
        for handle in (second, third):
            with pytest.raises(ValueError, match="oops"):
                handle.get(_LIMIT_S)
        blocker.get(_LIMIT_S)
    assert recorder.kinds(second.task_id) == ["TaskQueued", "TaskFailed"]
    recorder.check()


def test_cancelled_arguments(recorder: EventRecorder) -> None:
    """Cancelling an argument cancels what waits for it; cancelling what waits leaves the argument alone."""
    gate = Gate()
    with session(observers=[recorder]):
        first = submit(gate.task)
        assert gate.begun.wait(_LIMIT_S)
        second, third = submit(double, first), submit(double, first)
        assert third.cancel()
        assert third.cancelled()
        assert not first.done()
        first.cancel()
        with pytest.raises(TaskCancelledError):
            second.get(_LIMIT_S)
        assert second.cancelled()
    recorder.check()


# -- nesting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_nested_get_does_not_deadlock(threads: int, recorder: EventRecorder) -> None:
    """Waiting inside a worker for calls that need a worker works with a single thread, several deep."""

    @task
    def fibonacci(n: int) -> int:
        if n < 2:
            return n
        one, two = submit(fibonacci, n - 1), submit(fibonacci, n - 2)
        return one.get(_LIMIT_S) + two.get(_LIMIT_S)

    with session(observers=[recorder], settings=load_settings(max_backend_threads=threads)):
        assert submit(fibonacci, 7).get(_LIMIT_S) == 13
    recorder.check()


def test_nested_get_of_a_chain() -> None:
    """The same where what is waited for waits for others itself."""

    @task
    def chain() -> int:
        handle = submit(double, 1)
        for _ in range(5):
            handle = submit(double, handle)
        return handle.get(_LIMIT_S)

    with session(settings=one_thread()):
        assert submit(chain).get(_LIMIT_S) == 64


def test_nested_as_completed() -> None:
    """The same for `as_completed`, in whose loop further calls may be submitted."""

    @task
    def item() -> int:
        total = 0
        for handle in as_completed([submit(double, x) for x in range(5)]):
            total += submit(double, handle.get()).get(_LIMIT_S)
        return total

    with session(settings=one_thread()):
        assert submit(item).get(_LIMIT_S) == 40


@pytest.mark.parametrize("made", [double, double_async])
def test_nested_await(made: Any) -> None:
    """Awaiting a handle inside a worker lets what is awaited run."""

    @task
    async def item() -> list[int]:
        handles = [submit(made, x) for x in range(3)]
        return [await handles[0], *[await handle async for handle in as_completed(handles[1:])]]

    with session(settings=one_thread()):
        found = submit(item).get(_LIMIT_S)
    assert found[0] == 0
    assert sorted(found[1:]) == [2, 4]


def test_get_inside_a_map() -> None:
    """Items of a map on threads may submit and wait."""

    @task
    def item(x: int) -> int:
        return submit(double, x).get(_LIMIT_S)

    with session(settings=load_settings(max_backend_threads=2)):
        assert map_tasks(item, range(10), backend="thread") == [2 * x for x in range(10)]


@pytest.mark.parametrize("threads", [1, 2])
def test_parents(threads: int, recorder: EventRecorder) -> None:
    """A call that is submitted inside a task names it as its parent, and inherits its cancellation."""
    begun = threading.Event()

    @task
    def inner() -> None:
        begun.set()
        while True:
            threading.Event().wait(0.001)

    @task
    def outer() -> None:
        submit(inner).get(_LIMIT_S)

    with session(observers=[recorder], settings=load_settings(max_backend_threads=threads)):
        handle = submit(outer)
        assert begun.wait(_LIMIT_S)
        handle.cancel("enough")
        with pytest.raises(TaskCancelledError, match="enough"):
            handle.get(_LIMIT_S)
    started = {event.name: event for event in recorder.of(TaskStarted)}
    assert started["inner"].parent_id == started["outer"].call_id == handle.task_id
    recorder.check()


# -- as_completed -----------------------------------------------------------------------------------------------------


def test_as_completed_is_in_order_of_ending() -> None:
    """Handles come as they end, each once, whatever order they were given in."""
    gates = [Gate() for _ in range(3)]
    with session(settings=load_settings(max_backend_threads=3)):
        handles = [submit(gate.task) for gate in gates]
        ended = iter(as_completed([*handles, handles[0]]))
        for number in (2, 0, 1):
            gates[number].free.set()
            assert next(ended) is handles[number]
        assert list(ended) == []
    assert list(as_completed([])) == []


def test_async_as_completed() -> None:
    """The same with `async for`."""
    gates = [Gate() for _ in range(2)]

    async def main() -> None:
        handles = [submit(gate.task) for gate in gates]
        gates[1].free.set()
        order = []
        async for handle in as_completed([*handles, handles[1]]):
            order.append(handle)
            gates[0].free.set()
        assert order == [handles[1], handles[0]]
        assert {handle async for handle in as_completed(handles)} == set(handles)
        assert [handle async for handle in as_completed([])] == []

    with session(settings=load_settings(max_backend_threads=2)):
        asyncio.run(main())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_as_completed_with_a_timeout(kind: str) -> None:
    """When the time is over, an error counts what has not ended; the calls go on."""
    gate = Gate()
    handle = submit(gate.task)
    done = submit(double, 1)
    done.get(_LIMIT_S)
    seen: list[Any] = []

    async def main() -> None:
        async for found in as_completed([done, handle], timeout=0.01):
            seen.append(found)

    with pytest.raises(TaskTimeoutError, match="1 of 2 tasks have not ended within 0.01 s; they go on") as caught:
        if kind == "async":
            asyncio.run(main())
        else:
            for found in as_completed([done, handle], timeout=0.01):
                seen.append(found)
    assert caught.value.timeout_s == 0.01  # type: ignore[attr-defined]
    assert seen == [done]
    gate.free.set()
    assert handle.get(_LIMIT_S) == "through"


def test_as_completed_wants_handles() -> None:
    """Anything else is refused at once."""
    with pytest.raises(DefinitionError, match=r"as_completed needs handles from submit\(\.\.\.\), not 3"):
        as_completed([3])  # type: ignore[list-item]


# -- many at once -----------------------------------------------------------------------------------------------------


def test_cancelling_and_ending_at_the_same_time() -> None:
    """Whichever comes first, a handle is settled once, without a word on stderr."""
    for _ in range(50):
        start = threading.Barrier(2)
        meet: Callable[[], int] = start.wait
        handle = submit(task(lambda meet=meet: meet()))
        start.wait(_LIMIT_S)
        handle.cancel()
        try:
            assert handle.get(_LIMIT_S) in (0, 1)
        except TaskCancelledError:
            assert handle.cancelled()


def test_many() -> None:
    """Hundreds of handles at a time are no trouble."""
    handles = [submit(double, x) for x in range(300)]
    assert sum(handle.get() for handle in as_completed(handles)) == 2 * sum(range(300))


def test_the_end_of_a_session_cancels_what_was_submitted_in_it() -> None:
    """Nothing goes on behind a session that has ended."""
    began = threading.Event()

    @task
    def endless() -> None:
        began.set()
        while True:
            threading.Event().wait(0.01)

    with session(backend="thread"):
        handle = submit(endless)
        assert began.wait(30)
    with pytest.raises(TaskCancelledError, match="the session ended"):
        handle.get(30)


def test_an_interrupt_in_the_middle_of_a_submission_reaches_the_user() -> None:
    """It is not taken for the call's failure: the call is cancelled, never runs, and the interrupt goes on."""
    ran: list[int] = []
    made: list[TaskHandle[Any]] = []
    gate = threading.Event()

    @task
    def note() -> None:
        ran.append(1)

    with session(backend="thread", settings=Settings(max_backend_threads=1)) as context:
        busy = submit(gate.wait, 30)
        backend = context.backends.get("thread")
        real = backend.take

        def interrupted(job: Any) -> None:
            real(job)  # queued, but nobody will know
            raise KeyboardInterrupt

        backend.take = interrupted
        context.submitted, submitted = made.append, context.submitted
        with pytest.raises(KeyboardInterrupt):
            submit(note)
        del backend.take
        context.submitted = submitted
        gate.set()
        busy.get(30)
        submit(note).get(30)
    assert made[0].cancelled()
    assert len(ran) == 1
    with pytest.raises(TaskCancelledError, match="interrupt"):
        made[0].get()


def test_a_handle_on_a_backend_that_only_submits_fails_with_its_worker() -> None:
    """Where a job is not taken as it is, the end of what stands for it is its end, too."""

    class Losing(FaultyBackend):
        lose = (1,)

    with session(backend=Losing()):
        with pytest.raises(BackendError, match="told to die"):
            submit(abs, -1).get(_LIMIT_S)
        assert submit(abs, -2).get(_LIMIT_S) == 2
