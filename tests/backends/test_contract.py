"""Every backend against the promises, and a faulty one through the maps that use it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from nbflow import map_tasks, session, task
from nbflow.backends import Abilities, Backend, BackendContext, InlineBackend, SubmitContext, ThreadBackend
from nbflow.errors import BackendError
from nbflow.settings import load_settings
from nbflow.testing import EventRecorder
from nbflow.testing.backends import BackendContract, FaultyBackend


class PoolBackend(Backend):
    """What a user might write: an executor behind the contract, with the least that it asks for."""

    name = "pool"
    abilities = Abilities(parallel=True, local=True)

    def _start(self, *, context: BackendContext) -> None:
        self._pool = ThreadPoolExecutor(context.settings.max_backend_threads)
        self._size = context.settings.max_backend_threads

    def _submit(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, context: SubmitContext
    ) -> Future[Any]:
        return self._pool.submit(func, *args, **kwargs)

    def _stop(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def workers(self) -> int:
        return self._size


class TestInline(BackendContract):
    """The inline backend."""

    @pytest.fixture
    def backend_class(self) -> type[Backend]:
        return InlineBackend


class TestThread(BackendContract):
    """The thread backend."""

    @pytest.fixture
    def backend_class(self) -> type[Backend]:
        return ThreadBackend


class TestPool(BackendContract):
    """A backend of somebody else."""

    @pytest.fixture
    def backend_class(self) -> type[Backend]:
        return PoolBackend


@task
def double(x: int) -> int:
    return 2 * x


def test_own_backend_maps(recorder: EventRecorder) -> None:
    """A registered backend that cannot pull gets the items one by one."""
    with session(observers=[recorder]) as context:
        context.backends.register("pool", PoolBackend)
        assert map_tasks(double, range(20), backend="pool") == [2 * x for x in range(20)]
    recorder.check()


def test_own_backend_keeps_to_the_concurrency() -> None:
    """No more items are submitted at a time than asked for."""
    running, most = [0], [0]
    lock = threading.Lock()

    @task
    def item(x: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        with lock:
            running[0] -= 1
        return x

    with session(settings=load_settings(max_backend_threads=8)) as context:
        context.backends.register("pool", PoolBackend)
        assert map_tasks(item, range(50), backend="pool", concurrency=2) == list(range(50))
    assert most[0] <= 2


def test_own_backend_stops_at_the_first_failure(recorder: EventRecorder) -> None:
    """When an item fails, what waits is withdrawn, what runs is told to end, and the failure is raised."""
    started = threading.Event()

    @task
    def item(x: int) -> int:
        if x == 0:
            started.wait(60)
            raise ValueError("item 0")
        started.set()
        while True:
            threading.Event().wait(0.005)

    with session(observers=[recorder], settings=load_settings(max_backend_threads=2)) as context:
        context.backends.register("pool", PoolBackend)
        with pytest.raises(ValueError, match="item 0"):
            map_tasks(item, range(10), backend="pool")
    recorder.check()


def test_nested_map_on_the_same_own_backend_does_not_deadlock() -> None:
    """A backend that cannot pull runs a map inside its own worker inline."""

    @task
    def outer(x: int) -> int:
        return sum(map_tasks(double, range(x), backend="pool"))

    with session(settings=load_settings(max_backend_threads=1)) as context:
        context.backends.register("pool", PoolBackend)
        assert map_tasks(outer, [3, 4], backend="pool") == [6, 12]


class Lossy(FaultyBackend):
    lose = (3,)


class Refusing(FaultyBackend):
    refuse = (3,)


@pytest.mark.parametrize(("kind", "said"), [(Lossy, "was told to die"), (Refusing, "was told to be refused")])
def test_faulty_backend_fails_the_map(kind: type[Backend], said: str, recorder: EventRecorder) -> None:
    """What the backend itself raises ends the map like the failure of an item."""
    with session(observers=[recorder]) as context:
        context.backends.register("faulty", kind)
        with pytest.raises(BackendError, match=said):
            map_tasks(double, range(10), backend="faulty")
    recorder.check()


def test_faulty_backend_with_collected_failures() -> None:
    """A lost item is one exception among the results."""
    with session() as context:
        context.backends.register("faulty", Lossy)
        results = map_tasks(double, range(4), backend="faulty", on_error="collect")
    assert [results[0], results[1], results[3]] == [0, 2, 6]
    assert isinstance(results[2], BackendError)


def test_single_item_runs_on_the_own_backend() -> None:
    """A map of one item is not taken away from a backend that was asked for."""
    with session() as context:
        context.backends.register("faulty", type("First", (FaultyBackend,), {"lose": (1,)}))
        with pytest.raises(BackendError, match="submission 1"):
            map_tasks(double, [1], backend="faulty")
