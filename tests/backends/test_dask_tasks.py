"""Tasks on Dask and on executors: maps, nesting, prints, timeouts, losses."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("distributed")

from nbflow import as_completed, gather_tasks, map_tasks, progress, session, submit, task
from nbflow.backends import DaskBackend, ExecutorBackend
from nbflow.errors import BackendError, TaskTimeoutError, WorkerLostError
from nbflow.settings import Settings, load_settings
from nbflow.testing import EventRecorder

_LIMIT_S = 60.0


@pytest.fixture(scope="module")
def dask() -> Iterator[DaskBackend]:
    """Return a started backend with a cluster of this machine, which the tests of this module share."""
    backend = DaskBackend()
    backend.start(SimpleNamespace(settings=load_settings(max_parallel_processes=2), session_id="s"))
    with session(backend=backend):  # so that all the threads are there that drive calls as long as the backend lives
        for handle in [submit(time.sleep, 0.1) for _ in range(6)]:
            handle.get(_LIMIT_S)
    yield backend
    backend.stop()


@pytest.fixture(scope="module")
def pool() -> Iterator[ExecutorBackend]:
    """Return a started backend over two processes of somebody else's."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        for future in [executor.submit(time.sleep, 0.1) for _ in range(2)]:
            future.result(_LIMIT_S)
        backend = ExecutorBackend(executor)
        backend.start()
        yield backend
        backend.stop()


def _two() -> Settings:
    """Return settings for a cluster of two workers, which belongs to the session and may lose some of them."""
    return load_settings(max_parallel_processes=2)


@task
def square(x: int) -> int:
    return x * x


@task
def total(x: int, inner: list[str]) -> int:
    """Map further down, on the backends that are left."""
    if not inner:
        return x
    return sum(map_tasks(total, range(x), kwargs={"inner": inner[1:]}, backend=inner[0]))


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_maps(dask: DaskBackend, pool: ExecutorBackend, count: int) -> None:
    """Results are right and in order, and each call leaves a record."""
    for backend in (dask, pool):
        with session() as context:
            assert map_tasks(square, range(count), backend=backend) == [x * x for x in range(count)]
            assert len(context.records) == count
            assert {call.state for call in context.records} == {"completed"}


@pytest.mark.parametrize("second", ["inline", "thread", "process", "dask"])
@pytest.mark.parametrize("third", ["inline", "thread", "dask"])
@pytest.mark.parametrize("kind", ["dask", "pool"])
def test_nested_maps(request: pytest.FixtureRequest, kind: str, second: str, third: str) -> None:
    """Maps inside of maps inside of maps give what they should, whatever they name there, and never wait for ever."""
    backend = request.getfixturevalue(kind)
    if second == "process" and third != "inline":
        pytest.skip("one nested pool of processes is enough")
    want = [sum(sum(range(y)) for y in range(x)) for x in (3, 4, 5)]
    with session():
        assert map_tasks(total, [3, 4, 5], kwargs={"inner": [second, third]}, backend=backend) == want


@pytest.mark.parametrize("first", ["inline", "thread"])
def test_maps_on_dask_inside_of_local_ones(dask: DaskBackend, first: str) -> None:
    """A map on threads may fan out to Dask."""

    @task
    def outer(x: int) -> int:
        return sum(map_tasks(square, range(x), backend=dask))

    with session():
        assert map_tasks(outer, [3, 4], backend=first) == [5, 14]


def test_prints_and_progress_arrive_while_it_runs(
    dask: DaskBackend, recorder: EventRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker's prints come out here, and its progress is an event, before the call is over."""

    @task
    def talk(x: int) -> int:
        print(f"item {x} speaks")
        for _ in progress(range(3)):
            pass
        return x

    with session(observers=[recorder]):
        assert map_tasks(talk, range(4), backend=dask) == [0, 1, 2, 3]
    recorder.check()
    out = capsys.readouterr().out
    assert all(f"item {x} speaks\n" in out for x in range(4))
    kinds = [type(event).__name__ for event in recorder.events]
    assert "ProgressMade" in kinds
    assert kinds.index("ProgressMade") < max(i for i, kind in enumerate(kinds) if kind == "TaskCompleted")


def test_a_timeout_ends_the_code() -> None:
    """A call past its timeout fails then, and its code is gone, not only left behind."""

    @task(timeout=0.3)
    def sleep(x: int) -> None:
        time.sleep(600)

    begun = time.monotonic()
    with session(settings=_two()), pytest.raises(TaskTimeoutError) as caught:
        map_tasks(sleep, [1], backend="dask")
    assert caught.value.stopped  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 30


def test_handles_are_cancelled() -> None:
    """A handle on Dask gives its result, can be awaited with others, and its code can be ended."""
    with session(backend="dask", settings=_two()):
        handles = [submit(square, x) for x in range(5)]
        assert sorted(handle.get() for handle in as_completed(handles)) == [0, 1, 4, 9, 16]
        assert submit(square, handles[2]).get() == 16
        begun = submit(time.sleep, 600)
        begun.cancel()
        with pytest.raises(Exception, match="cancelled"):
            begun.get(_LIMIT_S)


def test_async_tasks_are_awaited_on_workers(dask: DaskBackend) -> None:
    """An async task runs on a loop in the worker, and the loop here goes on."""

    @task
    async def fetch(x: int) -> tuple[int, int]:
        await asyncio.sleep(0.01)
        return x, os.getpid()

    async def main() -> list[tuple[int, int]]:
        return await gather_tasks(fetch, range(5), backend=dask)

    with session():
        found = asyncio.run(main())
    assert [x for x, _ in found] == list(range(5))
    assert os.getpid() not in {pid for _, pid in found}


def test_what_an_executor_cannot_do_is_refused(pool: ExecutorBackend) -> None:
    """A timeout that nobody could keep is an error before anything runs."""

    @task(timeout=5)
    def quick(x: int) -> int:
        return x

    with session(), pytest.raises(BackendError, match="cannot end a call that runs"):
        map_tasks(quick, [1], backend=pool)


def test_a_lost_worker_costs_only_its_item(recorder: EventRecorder) -> None:
    """The item that ends its worker every time fails, named; the others are right."""

    @task
    def item(x: int) -> int:
        if x == 3:
            os._exit(7)
        return x

    backend = DaskBackend()
    settings = load_settings(max_parallel_processes=2, max_worker_losses=1)
    with session(observers=[recorder], settings=settings):
        results: list[Any] = map_tasks(item, range(6), backend=backend, on_error="collect")
    recorder.check()
    assert [results[x] for x in (0, 1, 2, 4, 5)] == [0, 1, 2, 4, 5]
    assert isinstance(results[3], WorkerLostError)
    assert "item[3]" in str(results[3])


def test_an_interrupted_map_leaves_nothing() -> None:
    """A map that is cancelled comes back at once, and the cluster takes the next one."""

    @task
    def sleep(x: int) -> None:
        time.sleep(600)

    with session(settings=_two()) as context:
        stopper = threading.Timer(0.5, lambda: context.cancel_all("test"))
        stopper.start()
        begun = time.monotonic()
        with pytest.raises(BaseException, match="cancelled"):
            map_tasks(sleep, range(10), backend="dask")
        assert time.monotonic() - begun < 30
        stopper.join()
        assert map_tasks(square, range(10), backend="dask") == [x * x for x in range(10)]
