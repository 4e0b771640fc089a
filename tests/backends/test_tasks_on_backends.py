"""Tasks on backends outside this process behave as inline: same results, same errors, same records and events."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import nbflow
from nbflow import as_completed, gather_tasks, load_dataset, map_tasks, save_dataset, session, submit, task
from nbflow.backends.remote import inside_worker
from nbflow.core import events
from nbflow.errors import (
    BackendError,
    ParameterError,
    TaskCancelledError,
    TaskTimeoutError,
    TransferError,
    WorkerLostError,
)
from nbflow.runtime import current, ranges
from nbflow.sessions import SessionContext, current_session
from nbflow.settings import load_settings
from nbflow.testing import EventRecorder
from tests.processes import is_running


@pytest.fixture
def around(tmp_path: Path, recorder: EventRecorder) -> Iterator[SessionContext]:
    """Return a session of the process backend, with two workers."""
    settings = load_settings(max_parallel_processes=2, dataset_store=str(tmp_path / "data"))
    with session(backend="process", settings=settings) as context:
        yield context


@task
def double(n: int) -> int:
    """Return twice the number."""
    return 2 * n


@task
def fails_at(n: int, *, at: int) -> int:
    """Fail at one number."""
    if n == at:
        raise KeyError(n)
    return n


@task(retries=2)
def marked(folder: str, n: int) -> int:
    """Fail once for each number."""
    mark = Path(folder, str(n))
    if not mark.exists():
        mark.touch()
        raise OSError(f"first time for {n}")
    return n


# -- maps of plain tasks: ranges


@pytest.mark.parametrize("options", [{}, {"chunksize": 7}, {"concurrency": 1}, {"concurrency": 3, "chunksize": 1}])
def test_results_in_order(around: SessionContext, options: dict[str, Any]) -> None:
    """A map gives the results in order, one record for each item, however it is cut up."""
    assert map_tasks(double, range(300), **options) == [2 * n for n in range(300)]
    records = list(around.records)
    assert sorted(record.index for record in records if record.index is not None) == list(range(300))
    assert {record.state for record in records} == {current.COMPLETED}
    assert {record.backend for record in records} == {"process"}
    assert all(record.worker and record.worker.startswith("process") for record in records)
    assert all((record.ended or 0.0) >= (record.started or 0.0) > 0.0 for record in records)
    assert records[0].name == f"double[{records[0].index}]"


def test_work_is_shared_out(around: SessionContext) -> None:
    """Items that take a while are run by all workers, side by side."""

    @task
    def where(n: int) -> int:
        time.sleep(0.02)
        return os.getpid()

    found = map_tasks(where, range(20))
    assert len(set(found)) == 2
    assert os.getpid() not in found


def test_slow_items_behind_quick_ones_are_shared_out(around: SessionContext) -> None:
    """A range that lasts longer than its like is handed back, so that slow items do not queue behind each other."""

    @task
    def where(n: int) -> int:
        if n >= 900:
            time.sleep(0.01)
        return os.getpid()

    found = map_tasks(where, range(960))
    slow = [found[900:].count(pid) for pid in set(found)]
    assert min(slow) >= 10


def test_first_failure_stops_the_map(around: SessionContext) -> None:
    """The failure arrives with its own type, the worker's traceback and a note; what has not begun never does."""
    with pytest.raises(KeyError) as caught:
        map_tasks(fails_at, range(10_000), kwargs={"at": 3}, chunksize=2)
    notes = "\n".join(caught.value.__notes__)
    assert "raise KeyError(n)" in notes
    assert "nbflow: in task 'fails_at[3]'" in notes
    assert "nbflow/" not in notes
    assert len(around.records) < 5_000
    assert map_tasks(double, range(3)) == [0, 2, 4]


def test_failures_are_collected(around: SessionContext) -> None:
    """`on_error="collect"` runs all items, and puts exceptions into the results."""
    found = map_tasks(fails_at, range(50), kwargs={"at": 20}, on_error="collect")
    assert isinstance(found.pop(20), KeyError)
    assert found == [n for n in range(50) if n != 20]
    states = [record.state for record in around.records]
    assert states.count(current.FAILED) == 1
    assert len(states) == 50


def test_wrong_arguments(around: SessionContext) -> None:
    """Arguments that do not fit the signature are said to be so; a TypeError of the function stays one."""
    with pytest.raises(ParameterError, match="signature"):
        map_tasks(double, [1], [2])

    @task
    def wrong(n: int) -> int:
        return n + "x"  # type: ignore[operator]

    with pytest.raises(TypeError) as caught:
        map_tasks(wrong, [1])
    assert not isinstance(caught.value, ParameterError)


def test_an_argument_that_cannot_travel_fails_its_item_only(around: SessionContext) -> None:
    """The error names the item and the attribute; the other items of its range have their results."""

    @task
    def second(pair: Any) -> Any:
        return pair[1]

    items: list[Any] = [("a", n) for n in range(20)]
    items[7] = ("a", {"lock": threading.Lock()})
    found = map_tasks(second, items, chunksize=10, on_error="collect")
    error = found.pop(7)
    assert isinstance(error, TransferError)
    assert error.path == "args[0][1]['lock']"  # type: ignore[attr-defined]
    assert "second[7]" in str(error)
    assert "args[0][1]['lock']" in str(error)
    assert found == [n for n in range(20) if n != 7]


def test_a_result_that_cannot_travel_fails_its_item_only(around: SessionContext, tmp_path: Path) -> None:
    """The error names the attribute of the result; no item runs twice for it."""

    @task
    def locked(n: int) -> Any:
        with Path(tmp_path, "ran").open("a") as file:
            file.write("x")
        return {"lock": threading.Lock()} if n == 4 else [n]

    found = map_tasks(locked, range(10), chunksize=5, on_error="collect")
    error = found.pop(4)
    assert isinstance(error, TransferError)
    assert "result['lock']" in str(error)
    assert found == [[n] for n in range(10) if n != 4]
    assert len(Path(tmp_path, "ran").read_text()) == 10


def test_a_function_that_cannot_travel(around: SessionContext) -> None:
    """It is said before anything is sent, with the variable that is to blame."""
    lock = threading.Lock()

    @task
    def holds(n: int) -> bool:
        return lock.locked()

    with pytest.raises(TransferError, match=r"Task 'holds'.*variable lock"):
        map_tasks(holds, range(3))


def test_large_arguments_travel_once(around: SessionContext) -> None:
    """An array that many items have is one file for all; a worker may change its own view of it."""
    numpy = pytest.importorskip("numpy")
    big = numpy.arange(400_000, dtype=float)

    @task
    def total(array: Any, n: int, *, more: Any) -> float:
        array[n] += 0.5
        return float(array[:3].sum() + more.sum()) + n

    found = map_tasks(total, [big] * 5, range(5), kwargs={"more": big}, chunksize=1)
    base = float(big.sum()) + 3.0
    assert found == [base + (0.5 if n < 3 else 0.0) + n for n in range(5)]
    assert big[0] == 0.0


def test_classes_of_results(around: SessionContext) -> None:
    """A class that went by value comes back as the class that it was."""

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    Point.__module__ = "__main__"

    @task
    def moved(point: Any) -> Any:
        return type(point)(point.x + 1)

    found: list[Any] = map_tasks(moved, [Point(1), Point(2)])
    assert [type(point) for point in found] == [Point, Point]
    assert [point.x for point in found] == [2, 3]


def test_async_tasks_and_streams(around: SessionContext) -> None:
    """Coroutines run on a loop in the worker; streams are collected."""

    @task
    async def later(n: int) -> int:
        await asyncio.sleep(0)
        return -n

    @task
    def up_to(n: int) -> Iterator[int]:
        yield from range(n)

    @task
    async def down_from(n: int) -> AsyncIterator[int]:
        for i in range(n, 0, -1):
            yield i

    assert map_tasks(later, range(4), backend="process") == [0, -1, -2, -3]
    assert map_tasks(up_to, range(3)) == [[], [0], [0, 1]]
    assert map_tasks(down_from, range(3), backend="process") == [[], [1], [2, 1]]
    assert asyncio.run(gather_tasks(later, range(3), backend="process")) == [0, -1, -2]


# -- policy stays with the coordinator


def test_retries(around: SessionContext, tmp_path: Path) -> None:
    """Attempts are made by the coordinator, each on a worker; the record counts them."""
    assert map_tasks(marked, [str(tmp_path)] * 4, range(4)) == [0, 1, 2, 3]
    assert [record.attempts for record in around.records] == [2, 2, 2, 2]


def test_cache(around: SessionContext, tmp_path: Path) -> None:
    """Results are looked up and saved by the coordinator; a hit needs no worker."""

    @task(cache=True)
    def square(n: int) -> int:
        with Path(tmp_path, "ran").open("a") as file:
            file.write("x")
        return n * n

    assert map_tasks(square, range(5)) == [0, 1, 4, 9, 16]
    assert map_tasks(square, range(5)) == [0, 1, 4, 9, 16]
    assert square(3) == 9
    told = [(call.index, call.cached, call.reason, call.notes) for call in around.records]
    assert len(Path(tmp_path, "ran").read_text()) == 5, told


def test_files_that_a_worker_reads_count_for_the_key(around: SessionContext, tmp_path: Path) -> None:
    """A cached task whose function opens a `File` in a worker runs again when that file has changed."""
    file = tmp_path / "in.txt"
    file.write_text("one")

    @task(cache=True)
    def read(folder: str) -> str:
        return Path(nbflow.File(Path(folder, "in.txt"))).read_text()

    assert map_tasks(read, [str(tmp_path)]) == ["one"]
    file.write_text("three")
    assert map_tasks(read, [str(tmp_path)]) == ["three"]


def test_timeout_ends_the_work(around: SessionContext, tmp_path: Path) -> None:
    """A call that passes its timeout is killed where it runs; the pool goes on."""

    @task(timeout=0.3)
    def stuck(n: int) -> int:
        Path(tmp_path, str(n)).write_text(str(os.getpid()))
        if n == 1:
            time.sleep(600)
        return n

    found = map_tasks(stuck, range(4), on_error="collect")
    error = found.pop(1)
    assert isinstance(error, TaskTimeoutError)
    assert error.stopped is True  # type: ignore[attr-defined]
    assert found == [0, 2, 3]
    assert not _alive(int(Path(tmp_path, "1").read_text()))


def test_time_in_the_queue_does_not_count(around: SessionContext) -> None:
    """The timeout of a call begins when its function does, not while it waits for a worker."""

    @task(timeout=2.0)
    def slow(n: int) -> int:
        time.sleep(0.4)
        return n

    assert map_tasks(slow, range(12)) == list(range(12))


def test_options_that_a_backend_cannot_honour() -> None:
    """A timeout on an executor is refused when the task is submitted, with what to do instead."""
    from concurrent.futures import ProcessPoolExecutor

    limited: Any = double.with_options(timeout=3)
    with ProcessPoolExecutor(1) as pool, session():
        with pytest.raises(BackendError, match=r"Task 'double' has timeout=3.*'executor'.*Use backend="):
            map_tasks(limited, [1], backend=pool)
        with pytest.raises(BackendError, match="timeout=3"):
            submit(limited.with_options(backend=pool), 1)


def test_hooks_see_the_calls(around: SessionContext) -> None:
    """Plugins run at the coordinator, for each call."""
    from nbflow.hooks import hook_impl

    seen: list[str] = []

    class Plugin:
        @hook_impl
        def after_node_execute(self, metadata: Any, result: Any) -> None:
            seen.append(f"{metadata.name}={result}")

    with session(plugins=Plugin()):
        map_tasks(double, range(3))
    assert sorted(seen) == ["double[0]=0", "double[1]=2", "double[2]=4"]


# -- what happens inside is known outside


def test_events_of_items(around: SessionContext, recorder: EventRecorder) -> None:
    """Whoever listens to items gets begin, attempt and end of each, with the worker's name and its times."""
    around.add_observer(recorder)
    map_tasks(double, range(40))
    for index in range(40):
        own = [event for event in recorder.events if event.name == f"double[{index}]"]
        assert [type(event).__name__ for event in own] == ["TaskStarted", "AttemptStarted", "TaskCompleted"]
        assert isinstance(own[0], events.TaskStarted)
        assert str(own[0].worker).startswith("process")


@task
def inner(n: int) -> int:
    """Return the number."""
    return n


@task
def outer(n: int) -> int:
    """Call another task, twice, and tell progress."""
    return sum(inner(i) for i in nbflow.progress(range(2), label="parts")) + n


@pytest.mark.parametrize("retries", [0, 1])
def test_nested_calls_and_progress_are_told(around: SessionContext, recorder: EventRecorder, retries: int) -> None:
    """Calls inside a worker are seen as children of their item, with ids of their own; progress names the item."""
    around.add_observer(recorder)
    told_task: Any = outer.with_options(retries=retries)
    map_tasks(told_task, range(4))
    starts = {event.call_id: event for event in recorder.events if isinstance(event, events.TaskStarted)}
    items = [event for event in starts.values() if event.task == "outer"]
    nested = [event for event in starts.values() if event.task == "inner"]
    assert len(items) == 4
    assert len(nested) == 8
    assert {event.parent_id for event in nested} == {event.call_id for event in items}
    order = [event.call_id for event in recorder.events]
    assert all(order.index(event.parent_id or 0) < order.index(event.call_id) for event in nested)
    told = [event for event in recorder.events if isinstance(event, events.ProgressMade)]
    assert {event.call_id for event in told} == {event.call_id for event in items}
    assert {event.label for event in told} == {"parts"}
    ends = [event.call_id for event in recorder.events if isinstance(event, events.Terminal)]
    assert sorted(ends) == sorted(starts)


def test_prints_arrive_here_while_the_call_runs(
    around: SessionContext, recorder: EventRecorder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What a worker prints is written here at once, to the same stream, and told as lines of its call."""
    around.add_observer(recorder)
    go = tmp_path / "go"

    @task
    def chatty(n: int) -> int:
        print(f"item {n} begins")
        print(f"item {n} complains", file=sys.stderr)
        while not go.exists():
            time.sleep(0.01)
        print("and ends", end="")
        return n

    around.add_observer(lambda event: go.touch() if isinstance(event, events.LogLine) else None)
    assert map_tasks(chatty, [5], chunksize=1) == [5]  # it ends only because its line was heard
    said = capsys.readouterr()
    assert said.out == "item 5 begins\nand ends"
    assert said.err == "item 5 complains\n"
    lines = [event for event in recorder.events if isinstance(event, events.LogLine)]
    assert [(line.name, line.text, line.stream) for line in lines][:2] == [
        ("chatty[5]".replace("5", "0"), "item 5 begins", "stdout"),
        ("chatty[0]", "item 5 complains", "stderr"),
    ]


def test_too_much_print_is_cut(around: SessionContext, capsys: pytest.CaptureFixture[str]) -> None:
    """A flood of text is cut, and says how many lines are missing; the rest of the output arrives."""

    @task
    def flood(n: int) -> int:
        for _ in range(200):
            print("x" * 9_999)
        time.sleep(0.1)
        print("the end")
        return n

    map_tasks(flood, [1])
    said = capsys.readouterr().out
    assert "lines dropped" in said
    assert said.endswith("the end\n")
    assert len(said) < 1_500_000


def test_warnings_and_log_records(
    around: SessionContext, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Warnings are printed to stderr; log records reach the handlers here, from the levels that are set here."""
    caplog.set_level(logging.INFO, logger="worker.test")

    @task
    def speaks(n: int) -> int:
        warnings.warn("careful", UserWarning, stacklevel=1)
        logging.getLogger("worker.test").info("number %d", n)
        logging.getLogger("worker.test").debug("unheard")
        try:
            raise ValueError("inside")
        except ValueError:
            logging.getLogger("worker.test").exception("caught")
        return n

    map_tasks(speaks, [3])
    assert "UserWarning: careful" in capsys.readouterr().err
    assert [record.getMessage() for record in caplog.records] == ["number 3", "caught"]
    assert "ValueError: inside" in caplog.text


def test_session_and_datasets_inside(around: SessionContext) -> None:
    """Inside a call are its session's settings, label and dataset store, and the arguments for templates."""
    around.label = lambda: "cell 7"

    @task
    def saves(depth: int) -> Any:
        save_dataset("fits/{depth}_{map_index}.json", [depth])
        found = current_session()
        assert found is not None
        return found.label(), found.settings.max_parallel_processes, inside_worker()

    found = map_tasks(saves, [3, 4])
    assert [each[:2] for each in found] == [("cell 7", 2)] * 2
    assert all(each[2].startswith("process") for each in found)
    assert load_dataset("fits/3_0.json") == [3]
    assert load_dataset("fits/4_1.json") == [4]


def test_nested_cached_calls_use_the_same_store(around: SessionContext) -> None:
    """What a cached task inside a worker has saved is a hit for others."""

    @task(cache=True)
    def once(n: int) -> int:
        return os.getpid()

    @task
    def through(n: int) -> int:
        found = once(n)
        assert around_store_is_on_disk()
        return found

    def around_store_is_on_disk() -> bool:
        found = current_session()
        return found is not None and found.cache_store.location is not None

    pid = map_tasks(through, [1])[0]
    assert pid != os.getpid()


_DEPTH = 3


@task
def nest(n: int, *, backends: tuple[str, ...]) -> int:
    """Map itself on the next of these backends."""
    if not backends:
        return n
    return sum(map_tasks(nest, [n, n + 1], backend=backends[0], kwargs={"backends": backends[1:]}))


@pytest.mark.parametrize("first", ["inline", "thread", "process"])
@pytest.mark.parametrize("second", ["inline", "thread", "process"])
def test_nested_maps(around: SessionContext, first: str, second: str) -> None:
    """Maps inside maps inside maps give the right results on every pair of backends, and never wait for each other."""
    found = map_tasks(nest, range(4), backend=first, kwargs={"backends": (second, first, second)[: _DEPTH - 1]})
    assert found == [4 * n + 4 for n in range(4)]


def test_a_worker_that_names_a_pool_runs_inline(around: SessionContext) -> None:
    """Inside a worker, backends of other processes mean inline, and threads are threads."""

    @task
    def who(n: int) -> tuple[int, str]:
        return os.getpid(), threading.current_thread().name

    @task
    def ask(n: int) -> Any:
        return os.getpid(), map_tasks(who, [1], backend="process"), map_tasks(who, [1, 2], backend="thread")

    mine, pooled, threaded = map_tasks(ask, [1])[0]
    assert [pid for pid, _ in pooled] == [mine]
    assert {pid for pid, _ in threaded} == {mine}
    assert all(name.startswith("nbflow-thread") for _, name in threaded)


# -- workers that die


@task
def dies_at(n: int, *, at: int) -> int:
    """Kill the worker at one number."""
    if n == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("retries", [0, 1])
def test_a_lost_worker_costs_only_the_guilty_item(
    around: SessionContext, recorder: EventRecorder, retries: int
) -> None:
    """All other items have their results; the guilty one names task, item, worker and how it ended."""
    around.add_observer(recorder)
    dies: Any = dies_at.with_options(retries=retries)
    found = map_tasks(dies, range(30), kwargs={"at": 11}, chunksize=None if retries else 10, on_error="collect")
    error = found.pop(11)
    assert isinstance(error, WorkerLostError)
    assert "'dies_at[11]'" in str(error)
    assert "killed by signal 9 (out of memory?)" in str(error)
    assert error.exitcode == -signal.SIGKILL  # type: ignore[attr-defined]
    assert found == [n for n in range(30) if n != 11]
    lost = [event for event in recorder.events if isinstance(event, events.WorkerLost)]
    assert len(lost) >= 3
    assert all("signal 9" in event.reason for event in lost)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("retries", [0, 1])
def test_a_worker_lost_once_is_made_up_for(around: SessionContext, tmp_path: Path, retries: int) -> None:
    """An item whose worker died is run again, on another one."""

    @task(retries=retries)
    def dies_once(n: int) -> int:
        mark = Path(tmp_path, "mark")
        if n == 2 and not mark.exists():
            mark.touch()
            os._exit(3)
        return n

    assert map_tasks(dies_once, range(5)) == list(range(5))


def test_losses_can_be_final(tmp_path: Path) -> None:
    """`max_worker_losses=0` makes the first loss the last."""

    @task
    def leaves(n: int) -> int:
        with Path(tmp_path, "ran").open("a") as file:
            file.write("x")
        os._exit(3)

    settings = load_settings(max_parallel_processes=1, max_worker_losses=0)
    with session(backend="process", settings=settings):
        with pytest.raises(WorkerLostError, match=r"'leaves\[0\]'.*ended itself with exit code 3"):
            map_tasks(leaves, [1])
        assert Path(tmp_path, "ran").read_text() == "x"
        with pytest.raises(WorkerLostError, match="'leaves'"):
            submit(leaves, 1).get()


# -- submit


def test_submit(around: SessionContext) -> None:
    """Handles run on workers; they can be arguments of others, be waited for and be awaited."""
    first, second = submit(double, 2), submit(double, 5)

    @task
    def total(parts: list[int]) -> int:
        return sum(parts)

    assert submit(total, [first, second]).get() == 14
    assert sorted(handle.get() for handle in as_completed([first, second])) == [4, 10]

    async def awaits() -> int:
        return await submit(double, 4)

    assert asyncio.run(awaits()) == 8
    with pytest.raises(KeyError):
        submit(fails_at, 1, at=1).get()


def test_cancelled_handle_ends_its_work(around: SessionContext, tmp_path: Path) -> None:
    """`cancel` kills the job; a handle that waits for it is cancelled or fails, and the pool goes on."""

    @task
    def sleeps() -> None:
        Path(tmp_path, "draft").write_text(str(os.getpid()))
        Path(tmp_path, "draft").rename(Path(tmp_path, "pid"))
        time.sleep(600)

    handle = submit(sleeps)
    _until(Path(tmp_path, "pid").exists)
    assert handle.cancel()
    with pytest.raises(TaskCancelledError):
        handle.get(5)
    assert not _alive(int(Path(tmp_path, "pid").read_text()))
    assert submit(double, 1).get() == 2


def test_handles_that_wait_take_no_worker(around: SessionContext, tmp_path: Path) -> None:
    """A chain of handles longer than there are workers and threads ends, since none waits on a worker."""
    handle: Any = submit(double, 1)
    for _ in range(30):
        handle = submit(double, handle)
    assert handle.get() == 2**31


def test_many_handles_share_few_threads(around: SessionContext) -> None:
    """Hundreds of submitted calls are driven by a handful of threads."""
    handles = [submit(double, n) for n in range(200)]
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("nbflow-remote")]
    assert len(threads) <= 3
    assert [handle.get() for handle in handles] == [2 * n for n in range(200)]


def test_cancelled_map_ends_its_work(around: SessionContext, tmp_path: Path) -> None:
    """A map that is cancelled from another thread stops what runs on workers."""

    @task
    def sleeps(n: int) -> None:
        Path(tmp_path, f"draft{n}").write_text(str(os.getpid()))
        Path(tmp_path, f"draft{n}").rename(Path(tmp_path, str(n)))
        time.sleep(600)

    def stop() -> None:
        _until(Path(tmp_path, "0").exists)
        around.cancel_all("test")

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(TaskCancelledError, match="test"):
        map_tasks(sleeps, range(4))
    stopper.join()
    assert not _alive(int(Path(tmp_path, "0").read_text()))
    assert map_tasks(double, [1]) == [2]


# -- dry runs


def test_dry_run(tmp_path: Path) -> None:
    """On the noop backend nothing runs; what is cached is found, and the records say what would run."""

    @task(cache=True)
    def square(n: int) -> int:
        return n * n

    @task
    def never(n: int) -> None:
        Path(tmp_path, "ran").touch()

    with session(backend="noop") as context:
        map_tasks(square, [2], backend="inline")
        assert map_tasks(square, [2, 3]) == [4, None]
        assert map_tasks(never, [1, 2]) == [None, None]
        assert submit(never, 1).get() is None
        states = [(record.name, record.state, record.cached) for record in context.records][1:]
        assert states[:2] == [("square[0]", "completed", True), ("square[1]", "cancelled", False)]
        assert {state for _, state, _ in states[2:]} == {"cancelled"}
        assert getattr(context.records[-1].error, "reason", None) == "dry run"
    assert not Path(tmp_path, "ran").exists()


# -- sizes of ranges


def test_ranges_grow(around: SessionContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick items travel in few messages."""
    sent: list[int] = []
    send = ranges._Ranges._send

    def note(self: Any, workers: int) -> None:
        before = self._left
        send(self, workers)
        sent.append(before - self._left)

    monkeypatch.setattr(ranges._Ranges, "_send", note)
    map_tasks(double, range(5_000))
    assert sum(sent) >= 5_000
    assert len(sent) < 500
    assert sent[0] == 1
    assert max(sent) > 50


def _alive(pid: int) -> bool:
    """Whether a process is still there after it has had a moment to end."""
    for _ in range(200):
        if not is_running(pid):
            return False
        threading.Event().wait(0.01)
    return True


def _until(condition: Any) -> None:
    """Wait until something is so."""
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen")
