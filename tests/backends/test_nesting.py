"""Calls inside of calls on pools of threads: nobody waits for a worker that waits for him."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nbflow import gather_tasks, map_tasks, session, submit, task
from nbflow.backends.process import ProcessBackend
from nbflow.errors import TaskTimeoutError
from nbflow.events import AttemptFailed, StragglerLeft, TaskTimedOut
from nbflow.settings import load_settings
from nbflow.testing import EventRecorder

_LIMIT_S = 30.0


@task
def same(n: int) -> int:
    return n


@task
async def same_async(n: int) -> int:
    return n


@pytest.fixture(params=["thread", "executor"])
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Two workers."""
    if request.param == "thread":
        with session(backend="thread", settings=load_settings(max_backend_threads=2, progress="off")):
            yield "thread"
    else:
        with ThreadPoolExecutor(2) as threads, session(backend=threads):
            yield threads


NESTED: dict[str, Callable[[Any, int], Any]] = {
    "map": lambda pool, n: sum(map_tasks(same, range(n), backend=pool)),
    "submit": lambda pool, n: submit(same, n).get(),
    "gather": lambda pool, n: asyncio.run(gather_tasks(same_async, range(n), backend=pool)),
    "coroutine": lambda pool, n: submit(same_async, n).get(),
}


@pytest.mark.parametrize("kind", NESTED)
def test_tasks_with_a_timeout_nest(pool: Any, kind: str) -> None:
    """The thread that the timeout watches counts as the worker that waits for it."""
    outer = task(timeout=_LIMIT_S)(NESTED[kind])
    assert len(map_tasks(outer, [pool] * 6, range(6))) == 6


@pytest.mark.parametrize("kind", ["gather", "submit"])
def test_async_tasks_nest(pool: Any, kind: str) -> None:
    """A loop in a worker can await the pool that it runs in."""

    @task
    async def outer(n: int) -> Any:
        if kind == "gather":
            return await gather_tasks(same_async, range(n), backend=pool)
        return await submit(same_async, n)

    work = threading.Thread(target=lambda: found.extend(map_tasks(outer, range(6), backend=pool)), daemon=True)
    found: list[Any] = []
    work.start()
    work.join(_LIMIT_S)
    assert found == [list(range(n)) if kind == "gather" else n for n in range(6)]


def test_the_timeout_of_a_call_is_not_that_of_one_inside_of_it() -> None:
    """It ends both; the inner one neither failed by its own timeout nor is tried again."""
    recorder, tries, gate = EventRecorder(), [], threading.Event()

    @task(timeout=_LIMIT_S, retries=2)
    def inner() -> None:
        tries.append(1)
        while not gate.wait(0.001):
            pass

    @task(timeout=0.2)
    def outer() -> None:
        inner()
        tries.append(2)

    with session(backend="thread", observers=[recorder]):
        with pytest.raises(TaskTimeoutError, match="'outer'") as caught:
            submit(outer).get(_LIMIT_S)
        gate.set()
    assert caught.value.stopped  # type: ignore[attr-defined]
    assert tries == [1]
    assert [event.name for event in recorder.of(TaskTimedOut)] == ["outer"]
    assert not recorder.of(StragglerLeft)
    assert not [event for event in recorder.of(AttemptFailed) if event.name == "inner"]


@pytest.mark.parametrize("backend", ["inline", "thread"])
def test_a_map_that_is_over_keeps_nothing_alive(backend: str) -> None:
    """Neither items nor what was handed to all of them."""

    class Big:
        pass

    @task
    def use(item: Big, *, common: Big) -> None: ...

    with session(settings=load_settings(max_backend_threads=2, progress="off")):
        items, common = [Big() for _ in range(5)], Big()
        seen = [weakref.ref(each) for each in (*items, common)]
        map_tasks(use, items, kwargs={"common": common}, backend=backend)
        del items, common
        gc.collect()
        assert [each() for each in seen] == [None] * 6


def test_a_map_uses_workers_that_come_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster that grows: three items wait for each other, and at first there is one worker."""

    @task(retries=1)
    def meet(n: int) -> int:
        (tmp_path / str(n)).touch()
        while len(list(tmp_path.iterdir())) < 3:
            time.sleep(0.01)
        return n

    monkeypatch.setattr(ProcessBackend, "workers", lambda self: 3 if (tmp_path / "1").exists() else 1)
    with session(backend="process", settings=load_settings(max_parallel_processes=3, progress="off")):
        assert map_tasks(meet, range(3)) == [0, 1, 2]
