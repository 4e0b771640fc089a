"""Maps and gathers: order, options, failures, interrupts, nesting; datasets from inside and outside tasks."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbflow import gather_tasks, load_dataset, map_tasks, save_dataset, session, submit, task
from nbflow.errors import (
    BackendError,
    DatasetError,
    DatasetNotFoundError,
    DefinitionError,
    ParameterError,
    TaskCancelledError,
    TaskTimeoutError,
)
from nbflow.events import (
    AttemptFailed,
    DatasetLoaded,
    DatasetSaved,
    Event,
    MapEnded,
    MapStarted,
    StragglerLeft,
    TaskCancelled,
    TaskFailed,
    TaskStarted,
    Terminal,
)
from nbflow.runtime import current
from nbflow.sessions import SessionContext
from nbflow.settings import load_settings
from nbflow.testing import EventRecorder

_LIMIT_S = 60.0
LOCAL = ["inline", "thread"]


@task
def double(x: int) -> int:
    return 2 * x


@task
async def double_async(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


@task
def items(n: int) -> Iterator[int]:
    yield from range(n)


@task
async def async_items(n: int) -> AsyncIterator[int]:
    for item in range(n):
        await asyncio.sleep(0)
        yield item


def forever() -> None:
    """Run until stopped; never blocks for long at a time."""
    while True:
        threading.Event().wait(0.001)


# -- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", LOCAL)
@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("number", [0, 1, 2, 3, 100])
def test_results_are_in_order(backend: str, quiet: bool, number: int, recorder: EventRecorder) -> None:
    """One result per item, in order, however many there are, and whether somebody listens or not."""
    with session(observers=[] if quiet else [recorder]) as context:
        assert map_tasks(double, range(number), backend=backend) == [2 * x for x in range(number)]
        assert len(context.records) == number
    recorder.check()


@pytest.mark.parametrize("backend", LOCAL)
@pytest.mark.parametrize(
    ("made", "expected"),
    [(double, [0, 2, 4]), (double_async, [0, 2, 4]), (items, [[], [0], [0, 1]]), (async_items, [[], [0], [0, 1]])],
)
def test_all_kinds(backend: str, made: Any, expected: Any, recorder: EventRecorder) -> None:
    """Every kind of task can be mapped; streams give a list per item."""
    with session(observers=[recorder]):
        assert map_tasks(made, range(3), backend=backend) == expected
    recorder.check()


def test_without_a_session() -> None:
    """Maps need no session."""
    assert map_tasks(double, range(3)) == [0, 2, 4]
    assert map_tasks(double, range(3), backend="thread") == [0, 2, 4]


def test_shortest_iterable_ends_the_map() -> None:
    """Iterables are zipped; generators are taken, too."""
    add = task(lambda x, y: x + y)
    assert map_tasks(add, [1, 2, 3], (x for x in (10, 20))) == [11, 22]


def test_keyword_arguments() -> None:
    """`kwargs` go to every call."""

    @task
    def power(x: int, *, exponent: int) -> int:
        return int(x**exponent)

    assert map_tasks(power, [1, 2, 3], kwargs={"exponent": 2}) == [1, 4, 9]
    assert asyncio.run(gather_tasks(double_async, [], kwargs={})) == []


def test_plain_functions_are_made_tasks() -> None:
    """Functions and lambdas can be mapped as they are."""
    assert map_tasks(lambda x: x + 1, [1, 2]) == [2, 3]
    assert map_tasks(len, ["a", "bc"]) == [1, 2]


@pytest.mark.parametrize("chunksize", [1, 2, 7, 1000])
@pytest.mark.parametrize("concurrency", [None, 1, 3])
def test_chunks_and_concurrency_keep_the_results(chunksize: int, concurrency: int | None) -> None:
    """Neither option changes what comes out."""
    found = map_tasks(double, range(50), backend="thread", chunksize=chunksize, concurrency=concurrency)
    assert found == [2 * x for x in range(50)]


def most_at_a_time(run: Callable[[Callable[[], None]], Any]) -> int:
    """Return how many items ran at the same time at most."""
    running = most = 0
    lock = threading.Lock()

    def item() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.001)
        with lock:
            running -= 1

    run(item)
    return most


@pytest.mark.parametrize("limit", [1, 2])
def test_concurrency_of_threads(limit: int) -> None:
    """No more than so many items run at a time."""
    with session(settings=load_settings(max_backend_threads=8)):
        most = most_at_a_time(
            lambda item: map_tasks(lambda _: item(), range(20), backend="thread", concurrency=limit, chunksize=1)
        )
    assert most <= limit


@pytest.mark.parametrize("kind", ["gather", "map"])
def test_concurrency_of_coroutines(kind: str) -> None:
    """The same on the loop, where without a limit all run at a time."""
    running = most = 0

    @task
    async def item(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    def run(**options: Any) -> int:
        nonlocal most
        most = 0
        if kind == "map":
            map_tasks(item, range(10), **options)
        else:
            asyncio.run(gather_tasks(item, range(10), **options))
        return most

    assert run(concurrency=3) == 3
    assert run(concurrency=1) == 1
    assert run() == 10


def test_threads_run_side_by_side() -> None:
    """Two items meet."""
    meeting = threading.Barrier(2)
    with session(settings=load_settings(max_backend_threads=2)):
        assert sorted(map_tasks(lambda _: meeting.wait(_LIMIT_S), range(2), backend="thread")) == [0, 1]


def test_which_backend() -> None:
    """Argument, else inline inside a task, else the task's own, else the session's."""

    def where(_: int) -> bool:
        return threading.current_thread() is threading.main_thread()

    plain, own = task(where), task(backend="thread")(where)

    @task
    def inside(_: int, made: Any, backend: str | None) -> bool:
        me = threading.current_thread()
        return all(map_tasks(lambda _: threading.current_thread() is me, range(3), backend=backend))

    def on_main(made: Any, **options: Any) -> bool:
        return all(map_tasks(made, range(3), **options))

    assert on_main(plain)
    assert not on_main(plain, backend="thread")
    assert not on_main(own)
    assert on_main(own, backend="inline")
    with session(backend="thread"):
        assert not on_main(plain)
        assert on_main(plain, backend="sequential")
        assert map_tasks(inside, [0], kwargs={"made": plain, "backend": None}) == [True]
    with pytest.raises(BackendError, match="There is no backend 'nope'"):
        map_tasks(plain, range(3), backend="nope")
    with pytest.raises(BackendError, match="There is no backend 'nope'"):
        map_tasks(plain, [], backend="nope")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concurrency": 0}, "concurrency=0 must be a whole number ≥ 1, or None."),
        ({"concurrency": True}, "concurrency=True must be a whole number"),
        ({"chunksize": 1.5}, "chunksize=1.5 must be a whole number"),
        ({"on_error": "ignore"}, "on_error='ignore' must be 'raise' or 'collect'."),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    """A bad option is one line, before anything runs."""
    with pytest.raises(DefinitionError) as caught:
        map_tasks(double, [1], **options)
    assert said in str(caught.value)
    if "chunksize" not in options:
        with pytest.raises(DefinitionError) as caught:
            asyncio.run(gather_tasks(double_async, [1], **options))
        assert said in str(caught.value)


def test_what_cannot_be_mapped() -> None:
    """Values where functions or iterables are wanted say so."""
    with pytest.raises(DefinitionError, match="A task is made of a function, not of 3"):
        map_tasks(3, [1])  # type: ignore[call-overload]
    with pytest.raises(DefinitionError, match=r"map_tasks\('double'\): give one iterable per parameter"):
        map_tasks(double)
    with pytest.raises(DefinitionError, match=r"gather_tasks\('double_async'\): give one iterable per parameter"):
        asyncio.run(gather_tasks(double_async))
    with pytest.raises(
        DefinitionError, match=r"map_tasks\('double'\): argument 2 is 5, which cannot be iterated; give one"
    ):
        map_tasks(double, [1], 5)  # type: ignore[arg-type]


# -- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", LOCAL)
def test_events_of_a_map(backend: str, recorder: EventRecorder) -> None:
    """A map is told around its items, which name it; the tallies add up."""
    with session(observers=[recorder]):
        map_tasks(double, range(5), backend=backend)
    (started,), (ended,) = recorder.of(MapStarted), recorder.of(MapEnded)
    assert (started.total, started.backend, started.name) == (5, backend, "double")
    assert (ended.completed, ended.failed, ended.cancelled, ended.cached) == (5, 0, 0, 0)
    assert {event.map_id for event in recorder.of(TaskStarted)} == {started.call_id}
    assert sorted(event.index for event in recorder.of(TaskStarted) if event.index is not None) == list(range(5))
    assert {event.backend for event in recorder.of(TaskStarted)} == {backend}
    recorder.check()


def test_index_does_not_leak(recorder: EventRecorder) -> None:
    """A task that is called by an item is no item."""

    @task
    def leaf() -> None: ...

    @task
    def item(_: int) -> None:
        leaf()

    with session(observers=[recorder]):
        map_tasks(item, range(2))
    assert [event.name for event in recorder.of(TaskStarted)] == ["item[0]", "leaf", "item[1]", "leaf"]


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quiet", [True, False])
def test_inline_stops_at_the_first_failure(quiet: bool, recorder: EventRecorder) -> None:
    """Items after the one that failed never run."""
    ran: list[int] = []

    @task
    def item(x: int) -> None:
        ran.append(x)
        if x == 2:
            raise ValueError("two")

    with session(observers=[] if quiet else [recorder]), pytest.raises(ValueError, match="two") as caught:
        map_tasks(item, range(10))
    assert ran == [0, 1, 2]
    assert caught.value.__notes__ == ["nbflow: in task 'item[2]'"]
    if not quiet:
        (ended,) = recorder.of(MapEnded)
        assert (ended.completed, ended.failed, ended.cancelled) == (2, 1, 7)
        recorder.check()


@pytest.mark.parametrize("quiet", [True, False])
def test_threads_stop_at_the_first_failure(quiet: bool, recorder: EventRecorder) -> None:
    """What runs is told to end, what waits never starts, and the failure is raised."""
    started, ended = threading.Event(), threading.Event()
    ran: list[int] = []

    @task
    def item(x: int) -> None:
        ran.append(x)
        if x == 0:
            started.wait(_LIMIT_S)
            raise ValueError("zero")
        started.set()
        try:
            forever()
        finally:
            ended.set()

    with session(observers=[] if quiet else [recorder], settings=load_settings(max_backend_threads=2)):
        with pytest.raises(ValueError, match="zero"):
            map_tasks(item, range(100), backend="thread")
        assert ended.wait(_LIMIT_S)
    assert len(ran) <= 3
    if not quiet:
        recorder.check()
        assert [event.reason for event in recorder.of(TaskCancelled)] == ["another item failed"]


def test_coroutines_stop_at_the_first_failure(recorder: EventRecorder) -> None:
    """The rest is cancelled and awaited, clean-up included, before the failure is raised."""
    cleaned: list[int] = []

    @task
    async def item(x: int) -> None:
        if x == 2:
            raise ValueError("two")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(x)

    async def main() -> None:
        with pytest.raises(ValueError, match="two"):
            await gather_tasks(item, range(4))
        assert sorted(cleaned) in ([0, 1], [0, 1, 3])

    with session(observers=[recorder]):
        asyncio.run(main())
        with pytest.raises(ValueError, match="two"):
            map_tasks(item, range(4))
    recorder.check()


@pytest.mark.parametrize("backend", [*LOCAL, "gather"])
def test_collecting_failures(backend: str, recorder: EventRecorder) -> None:
    """With `on_error="collect"` all items run, and exceptions stand among the results."""

    def body(x: int) -> int:
        if x % 2:
            raise ValueError(f"odd {x}")
        return x

    @task
    async def item_async(x: int) -> int:
        return body(x)

    with session(observers=[recorder]):
        if backend == "gather":
            results = asyncio.run(gather_tasks(item_async, range(4), on_error="collect"))
        else:
            results = map_tasks(task(body), range(4), backend=backend, on_error="collect")
    assert [results[0], results[2]] == [0, 2]
    assert [str(results[1]).splitlines()[0], str(results[3])] == ["odd 1", "odd 3"]
    (ended,) = recorder.of(MapEnded)
    assert (ended.completed, ended.failed) == (2, 2)
    recorder.check()


@pytest.mark.parametrize("backend", LOCAL)
@pytest.mark.parametrize("quiet", [True, False])
def test_wrong_arguments_of_items(backend: str, quiet: bool, recorder: EventRecorder) -> None:
    """An item that does not fit the signature counts as failed, without any event of its own."""

    @task
    def item(x: int) -> None: ...

    with session(observers=[recorder] if not quiet else []):
        with pytest.raises(ParameterError, match="takes 1 positional argument but 2 were given"):
            map_tasks(item, [1, 2], [3, 4], backend=backend)
        results = map_tasks(item, [1, 2], [3, 4], backend=backend, on_error="collect")
    assert all(isinstance(result, ParameterError) for result in results)
    if not quiet:
        assert recorder.of(MapEnded)[-1].failed == 2
        assert not recorder.of(Terminal)


def test_retries_of_items() -> None:
    """Each item is retried by itself."""
    left = {0: 1, 1: 2}
    lock = threading.Lock()

    @task(retries=2)
    def item(x: int) -> int:
        with lock:
            left[x] = left.get(x, 0) - 1
            if left[x] >= 0:
                raise OSError("down")
        return x

    assert map_tasks(item, range(3), backend="thread") == [0, 1, 2]


def test_timeout_of_items(recorder: EventRecorder) -> None:
    """An item that passes its timeout on a thread is stopped and fails the map."""

    @task(timeout=0.05)
    def item(x: int) -> None:
        if x == 1:
            forever()

    with session(observers=[recorder]), pytest.raises(TaskTimeoutError, match=r"item\[1\]"):
        map_tasks(item, range(3), backend="thread")
    recorder.check()


# -- interrupts and cancellation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", LOCAL)
@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_interrupt(backend: str, quiet: bool, kind: str, recorder: EventRecorder) -> None:
    """SIGINT while a map runs ends it with KeyboardInterrupt; nothing is queued or running any more."""
    begun, over = threading.Semaphore(0), threading.Semaphore(0)
    ran: list[int] = []
    at_a_time = 2 if backend == "thread" else 1

    def body(x: int) -> None:
        ran.append(x)
        begun.release()
        try:
            forever()
        finally:
            over.release()

    async def body_async(x: int) -> None:
        ran.append(x)
        begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            over.release()

    def interrupt() -> None:
        for _ in range(at_a_time):
            begun.acquire(timeout=_LIMIT_S)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]

    helper = threading.Thread(target=interrupt)
    made = task(body) if kind == "sync" else task(body_async)
    with session(observers=[] if quiet else [recorder], settings=load_settings(max_backend_threads=2)) as context:
        helper.start()
        with pytest.raises(KeyboardInterrupt):
            map_tasks(made, range(20), backend=backend, concurrency=at_a_time)
        helper.join(_LIMIT_S)
        assert all(over.acquire(timeout=_LIMIT_S) for _ in range(at_a_time))
        assert len(ran) == at_a_time
        assert context.live_maps() == []
        assert map_tasks(double, range(5), backend=backend) == [0, 2, 4, 6, 8]
    if not quiet:
        recorder.check()
        assert recorder.of(MapEnded)[0].cancelled == 20


@pytest.mark.parametrize("backend", ["inline", "thread", "gather"])
@pytest.mark.parametrize("what", ["map", "all"])
@pytest.mark.parametrize("quiet", [True, False])
def test_cancelling_a_map(backend: str, what: str, quiet: bool, recorder: EventRecorder) -> None:
    """Cancelling a map from another thread stops what runs, starts nothing more, and raises TaskCancelledError."""
    begun = threading.Event()
    ran: list[int] = []

    def body(x: int) -> None:
        ran.append(x)
        if x == 3:
            begun.set()
            forever()

    async def body_async(x: int) -> None:
        ran.append(x)
        if x == 3:
            begun.set()
            await asyncio.Event().wait()

    context: SessionContext
    with session(observers=[] if quiet else [recorder], settings=load_settings(max_backend_threads=1)) as context:

        def cancel() -> None:
            begun.wait(_LIMIT_S)
            (state,) = context.live_maps()
            assert context.cancel(state.id, "panel") if what == "map" else context.cancel_all("panel")

        helper = threading.Thread(target=cancel)
        helper.start()
        with pytest.raises(TaskCancelledError, match=r"was cancelled \(panel\)") as caught:
            if backend == "gather":
                asyncio.run(gather_tasks(task(body_async), range(100), concurrency=1))
            else:
                map_tasks(task(body), range(100), backend=backend, chunksize=1)
        helper.join(_LIMIT_S)
        assert caught.value.reason == "panel"  # type: ignore[attr-defined]
    assert ran == [0, 1, 2, 3]
    if not quiet:
        recorder.check()


def test_cancelling_a_map_that_is_over() -> None:
    """A map that has ended cannot be cancelled."""
    states: list[Any] = []

    @task
    def item(_: int) -> None:
        states.extend(current.current_call().session.live_maps())  # type: ignore[union-attr]

    with session():
        map_tasks(item, [0])
    assert not states[0].cancel("late")


def test_cancelling_one_item_fails_the_map(recorder: EventRecorder) -> None:
    """A single item that is cancelled ends the map as a failure would; collected, it is one of the results."""
    with session(observers=[recorder]) as context:

        def cancel(event: Any) -> None:
            if isinstance(event, TaskStarted) and event.index == 1:
                context.cancel(event.call_id, "not this one")

        context.add_observer(cancel)
        with pytest.raises(TaskCancelledError, match="not this one"):
            map_tasks(double, range(3))
        results = map_tasks(double, range(3), on_error="collect")
    assert [results[0], results[2]] == [0, 4]
    assert isinstance(results[1], TaskCancelledError)
    recorder.check()


def test_straggler_of_a_map(recorder: EventRecorder) -> None:
    """A thread that cannot be stopped is left behind and reported; the pool goes on without it."""
    begun, free = threading.Event(), threading.Event()

    @task
    def item(x: int) -> None:
        if x == 0:
            begun.wait(_LIMIT_S)
            raise ValueError("zero")
        while not free.is_set():
            try:
                begun.set()
                free.wait(_LIMIT_S)
            except BaseException:
                continue

    with session(observers=[recorder], settings=load_settings(max_backend_threads=2)):
        with pytest.raises(ValueError, match="zero"):
            map_tasks(item, range(2), backend="thread", chunksize=1)
        assert len(recorder.of(StragglerLeft)) == 1
        meeting = threading.Barrier(2)
        assert sorted(map_tasks(lambda _: meeting.wait(_LIMIT_S), range(2), backend="thread")) == [0, 1]
        free.set()
    recorder.check()


def test_cancelling_a_gather_from_outside(recorder: EventRecorder) -> None:
    """Cancelling the asyncio task that awaits a gather cancels and awaits all items."""
    cleaned: list[int] = []

    @task
    async def item(x: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(x)

    async def main() -> None:
        gathering = asyncio.create_task(gather_tasks(item, range(3)))
        while len(recorder.of(TaskStarted)) < 3:
            await asyncio.sleep(0)
        gathering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathering
        assert sorted(cleaned) == [0, 1, 2]

    with session(observers=[recorder]):
        asyncio.run(main())
    recorder.check()


def test_cancelling_a_stream_item(recorder: EventRecorder) -> None:
    """A stream that is cancelled from outside hands out no further item, and cleans up."""
    cleaned: list[int] = []

    @task
    def endless() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            cleaned.append(1)

    with session(observers=[recorder]) as context:
        found = endless()
        next(found)
        assert context.cancel(recorder.calls()[0])
        with pytest.raises(TaskCancelledError, match="panel"):
            next(found)
    assert cleaned == [1]
    recorder.check()


def test_cancelling_an_async_stream(recorder: EventRecorder) -> None:
    """The same while an async stream waits for its next item."""
    cleaned: list[int] = []

    @task
    async def endless() -> AsyncIterator[int]:
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            cleaned.append(1)

    with session(observers=[recorder]) as context:

        async def main() -> None:
            found = endless()
            await anext(found)
            asyncio.get_running_loop().call_soon(context.cancel, recorder.calls()[0])
            with pytest.raises(TaskCancelledError, match="panel"):
                await anext(found)

        asyncio.run(main())
    assert cleaned == [1]
    recorder.check()


def test_cancelling_an_async_call_spares_the_task_around_it(recorder: EventRecorder) -> None:
    """A call that is cancelled by us raises TaskCancelledError; the asyncio task that awaited it goes on."""

    @task(retries=3)
    async def item() -> None:
        await asyncio.Event().wait()

    with session(observers=[recorder]) as context:

        async def main() -> str:
            asyncio.get_running_loop().call_soon(lambda: context.cancel(recorder.calls()[0]))
            with pytest.raises(TaskCancelledError, match="panel"):
                await item()
            await asyncio.sleep(0)
            return "goes on"

        assert asyncio.run(main()) == "goes on"
    recorder.check()


def test_cancelling_while_waiting_for_a_retry(recorder: EventRecorder) -> None:
    """A cancellation ends the wait before the next attempt."""

    def body() -> None:
        raise OSError("down")

    @task(retries=1, retry_delay=_LIMIT_S)
    async def item_async() -> None:
        body()

    with session(observers=[recorder]) as context:

        def cancel(event: Any) -> None:
            if type(event).__name__ == "RetryScheduled":
                threading.Thread(target=context.cancel, args=(event.call_id,)).start()

        context.add_observer(cancel)
        with pytest.raises(TaskCancelledError, match="panel"):
            task(retries=1, retry_delay=_LIMIT_S)(body)()
        with pytest.raises(TaskCancelledError, match="panel"):
            asyncio.run(item_async())
    recorder.check()


# -- nesting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("quiet", [True, False])
def test_nested_thread_maps_never_deadlock(threads: int, quiet: bool, recorder: EventRecorder) -> None:
    """Maps on threads inside maps on threads, three deep, need no free worker."""

    @task
    def innermost(x: int) -> int:
        return x + 1

    @task
    def middle(x: int) -> int:
        return sum(map_tasks(innermost, range(x), backend="thread"))

    @task
    def outer(x: int) -> int:
        return sum(map_tasks(middle, range(x), backend="thread"))

    with session(observers=[] if quiet else [recorder], settings=load_settings(max_backend_threads=threads)):
        found = map_tasks(outer, range(6), backend="thread")
    assert found == [sum(sum(range(1, y + 1)) for y in range(x)) for x in range(6)]
    recorder.check()


def test_a_map_does_not_wait_for_workers_that_others_use() -> None:
    """A map whose items are all done returns, though a part of it still waits for a worker."""

    free, begun = threading.Event(), threading.Event()

    @task
    def blocker() -> bool:
        begun.set()
        return free.wait(_LIMIT_S)

    with session(settings=load_settings(max_backend_threads=2)):
        handle = submit(blocker)
        assert begun.wait(_LIMIT_S)
        assert map_tasks(double, range(10), backend="thread") == [2 * x for x in range(10)]
        assert not handle.done()
        free.set()
        assert handle.get(_LIMIT_S)


def test_failure_in_a_nested_map(recorder: EventRecorder) -> None:
    """A failure three deep arrives with its own type and the note of the item that failed."""

    @task
    def inner(x: int) -> None:
        if x == 1:
            raise KeyError("deep")

    @task
    def outer(_: int) -> None:
        map_tasks(inner, range(2), backend="thread")

    with session(observers=[recorder], settings=load_settings(max_backend_threads=2)):
        with pytest.raises(KeyError, match="deep") as caught:
            map_tasks(outer, range(2), backend="thread")
    assert caught.value.__notes__ == ["nbflow: in task 'inner[1]'"]
    recorder.check()


@pytest.mark.parametrize("told", [AttemptFailed, TaskFailed])
def test_what_a_call_tells_reaches_everybody_though_it_is_stopped_meanwhile(
    recorder: EventRecorder, told: type[Event]
) -> None:
    """A call is cancelled while an inner one tells of its end: each event is heard once, then the stop strikes."""

    @task
    def inner() -> None:
        raise KeyError("deep")

    submitted = threading.Event()

    @task
    def outer() -> None:
        assert submitted.wait(_LIMIT_S)
        inner()

    def saboteur(event: Event) -> None:
        if type(event) is told and event.name == "inner":
            thread = threading.Thread(target=handle.cancel)
            thread.start()
            thread.join(_LIMIT_S)

    with session(observers=[saboteur, recorder]):
        handle = submit(outer)
        submitted.set()
        with pytest.raises(TaskCancelledError):
            handle.get(_LIMIT_S)
    recorder.check()
    kinds = [type(event).__name__ for event in recorder.events if event.name == "inner"]
    assert told.__name__ in kinds


def test_cancelling_the_outer_map_stops_the_inner_ones(recorder: EventRecorder) -> None:
    """Cancellation reaches items of maps inside items."""
    begun, ended = threading.Event(), threading.Semaphore(0)

    @task
    def inner(_: int) -> None:
        begun.set()
        try:
            forever()
        finally:
            ended.release()

    @task
    def outer(_: int) -> None:
        map_tasks(inner, range(2))

    with session(observers=[recorder], settings=load_settings(max_backend_threads=2)) as context:

        def cancel() -> None:
            begun.wait(_LIMIT_S)
            outermost = next(state for state in context.live_maps() if state.name == "outer")
            outermost.cancel("panel")

        helper = threading.Thread(target=cancel)
        helper.start()
        with pytest.raises(TaskCancelledError, match="panel"):
            map_tasks(outer, range(1), backend="thread")
        helper.join(_LIMIT_S)
        assert ended.acquire(timeout=_LIMIT_S)
    recorder.check()


# -- gather -----------------------------------------------------------------------------------------------------------


def test_gather() -> None:
    """Coroutines run concurrently on the running loop, results are in order."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        @task
        async def item(x: int) -> bool:
            await asyncio.sleep(0)
            return asyncio.get_running_loop() is loop

        assert await gather_tasks(item, range(3)) == [True] * 3
        assert await gather_tasks(double_async, range(5)) == [0, 2, 4, 6, 8]
        assert await gather_tasks(async_items, range(3)) == [[], [0], [0, 1]]
        assert await gather_tasks(double_async, []) == []
        assert await gather_tasks(double_async.func, [1]) == [2]

    asyncio.run(main())


def test_gather_of_a_sync_task() -> None:
    """A sync task cannot be gathered; the message says what to do."""
    with pytest.raises(DefinitionError, match="gather_tasks needs an async task, and 'double' is not: use map_tasks"):
        asyncio.run(gather_tasks(double, [1]))


def test_gather_on_threads(recorder: EventRecorder) -> None:
    """With a backend each coroutine runs on a loop in one of its workers."""

    @task
    async def item(_: int) -> bool:
        await asyncio.sleep(0)
        return threading.current_thread() is threading.main_thread()

    with session(observers=[recorder]):
        assert asyncio.run(gather_tasks(item, range(3), backend="thread")) == [False] * 3
    recorder.check()


def test_cancelling_a_gather_on_threads(recorder: EventRecorder) -> None:
    """Cancelling the awaiting task stops what runs in the workers."""
    begun, ended = threading.Event(), threading.Event()

    @task
    async def item(_: int) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def main() -> None:
        gathering = asyncio.create_task(gather_tasks(item, range(1), backend="thread"))
        await asyncio.to_thread(begun.wait, _LIMIT_S)
        gathering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathering
        assert ended.wait(_LIMIT_S)

    with session(observers=[recorder]):
        asyncio.run(main())
    recorder.check()


def test_map_of_async_tasks_under_a_running_loop() -> None:
    """Where a loop runs already, a map of async tasks uses a loop thread if the settings say so."""

    async def main() -> list[int]:
        return map_tasks(double_async, range(3))

    with session(settings=load_settings(loop_bridge="thread")):
        assert asyncio.run(main()) == [0, 2, 4]


# -- context ----------------------------------------------------------------------------------------------------------


def test_interleaved_streams_leak_no_context() -> None:
    """Items of two streams taken in turns leave no current call behind."""
    with session() as context:
        for one, other in zip(items(3), items(3), strict=True):
            assert one == other
            assert current.frame() is context
        assert current.frame() is context
        assert map_tasks(double, [1], backend="thread") == [2]


def test_broken_off_streams_leak_no_context() -> None:
    """Streams that are not taken to their end leave no current call behind."""
    with session() as context:
        found = items(3)
        next(found)
        assert current.frame() is context

        async def main() -> None:
            inside = current.frame()
            async for _ in async_items(3):
                assert current.frame() is inside
                break
            assert current.frame() is inside

        asyncio.run(main())
        found.close()  # type: ignore[attr-defined]
        assert current.frame() is context


def test_a_stream_sees_its_own_call() -> None:
    """While it computes an item, the stream's call is the current one, for tasks that it calls."""

    @task
    def stream() -> Iterator[str]:
        for _ in range(2):
            call = current.current_call()
            assert call is not None
            yield call.name

    with session():
        assert list(stream()) == ["stream", "stream"]


# -- datasets ---------------------------------------------------------------------------------------------------------


def test_datasets(tmp_path: Path, recorder: EventRecorder) -> None:
    """A value that is saved can be loaded; both are told."""
    with session(dataset_store=tmp_path, observers=[recorder]):
        save_dataset("a.json", {"x": 1})
        assert load_dataset("a.json") == {"x": 1}
    assert [event.key for event in recorder.of(DatasetSaved)] == ["a.json"]
    assert [event.key for event in recorder.of(DatasetLoaded)] == ["a.json"]
    assert recorder.of(DatasetSaved)[0].format == "json"


def test_datasets_of_a_task(tmp_path: Path) -> None:
    """Inside a task keys are filled in from its arguments, and the task's own store counts."""

    @task(dataset="own_{x}.pkl", dataset_store=tmp_path / "own")
    def item(x: int) -> Any:
        save_dataset("side_{x}.txt", "text")
        return load_dataset("side_{x}.txt", str)

    with session(dataset_store=tmp_path / "session"):
        assert item(3) == "text"
    assert sorted(file.name for file in (tmp_path / "own").glob("[!.]*")) == ["own_3.pkl", "side_3.txt"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "key='' must be a non-empty string"),
        (3, "key=3 must be a non-empty string"),
        ("a_{x}.pkl", "uses {x}, but outside a task there are no arguments to fill it from; format the key yourself."),
    ],
)
def test_bad_keys(key: Any, said: str, tmp_path: Path) -> None:
    """A key that cannot be used is one clear line, for saving and for loading."""
    with session(dataset_store=tmp_path):
        for use in (lambda: save_dataset(key, 1), lambda: load_dataset(key)):
            with pytest.raises(DatasetError) as caught:
                use()
            assert said in str(caught.value)


def test_unknown_parameter_in_a_key(tmp_path: Path) -> None:
    """Inside a task a name that it does not have is an error that names the task."""

    @task
    def item(x: int) -> None:
        save_dataset("a_{y}.pkl", 1)

    with session(dataset_store=tmp_path), pytest.raises(DatasetError, match=r"uses \{y\}, but task 'item' has none"):
        item(1)


def test_missing_dataset(tmp_path: Path) -> None:
    """What is not there raises an error that is a KeyError, too."""
    with session(dataset_store=tmp_path), pytest.raises(DatasetNotFoundError):
        load_dataset("nope.pkl")


def test_failures_in_the_trace(recorder: EventRecorder) -> None:
    """Failed items are told with type and text of their error."""

    @task
    def item(x: int) -> None:
        raise ValueError(f"item {x}")

    with session(observers=[recorder]):
        map_tasks(item, range(2), on_error="collect")
    assert [(event.error_type, event.error) for event in recorder.of(TaskFailed)] == [
        ("ValueError", "ValueError: item 0"),
        ("ValueError", "ValueError: item 1"),
    ]
