"""Executors of others as a backend: by value, messages with the result, clear words where they cannot do something."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy
import pytest

from nbflow.backends import Backend, ExecutorBackend, RemoteJob
from nbflow.backends.parcels import OnDisk
from nbflow.backends.remote import inside_worker, tell
from nbflow.errors import BackendError, DefinitionError, TransferError, WorkerLostError
from nbflow.testing.backends import BackendContract, RemoteBackendContract

_LIMIT_S = 60.0


class ByHand(Executor):
    """An executor with nothing but the interface, whose calls run when told to, in the thread that tells."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self.ended = False

    def submit(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, func, args))
        return future

    def run(self) -> None:
        while self.waiting:
            future, func, args = self.waiting.pop(0)
            if future.set_running_or_notify_cancel():
                future.set_result(func(*args))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.ended = True


def over(executor: Executor) -> type[Backend]:
    """Return a backend class that has its executor already."""

    class OnExecutor(ExecutorBackend):
        def __init__(self) -> None:
            super().__init__(executor)

    return OnExecutor


def warm(executor: Executor) -> Executor:
    """Return the executor once all its workers and threads are there."""
    for future in [executor.submit(time.sleep, 0.05) for _ in range(4)]:
        future.result(_LIMIT_S)
    return executor


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    """Return an executor of threads."""
    with ThreadPoolExecutor(3) as executor:
        yield warm(executor)


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    """Return an executor of one process that was started anew."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield warm(executor)


@pytest.fixture(scope="module")
def forked() -> Iterator[Executor]:
    """Return an executor of processes that a server forks."""
    if sys.platform == "win32":
        pytest.skip("Windows has no forkserver")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")) as executor:
        yield warm(executor)


@pytest.fixture(scope="module")
def loky_pool() -> Iterator[Executor]:
    """Return an executor of loky's, whose helper process stays for the life of this one."""
    loky = pytest.importorskip("loky")
    executor: Executor = loky.ProcessPoolExecutor(2)
    yield warm(executor)
    executor.shutdown()


class TestThreads(BackendContract):
    """An executor of threads."""

    @pytest.fixture
    def backend_class(self, threads: Executor) -> type[Backend]:
        return over(threads)


class TestSpawned(RemoteBackendContract):
    """One process that was started anew."""

    @pytest.fixture
    def backend_class(self, pool: Executor) -> type[Backend]:
        return over(pool)


class TestForkserver(RemoteBackendContract):
    """Two processes that a server forked."""

    @pytest.fixture
    def backend_class(self, forked: Executor) -> type[Backend]:
        return over(forked)


class TestLoky(RemoteBackendContract):
    """Processes of loky, which would replace them."""

    @pytest.fixture
    def backend_class(self, loky_pool: Executor) -> type[Backend]:
        return over(loky_pool)


@pytest.fixture
def remote(pool: Executor) -> Iterator[ExecutorBackend]:
    """Return a started backend over that pool."""
    backend = ExecutorBackend(pool)
    backend.start()
    yield backend
    backend.stop()


@pytest.fixture
def by_hand() -> Iterator[tuple[ExecutorBackend, ByHand]]:
    """Return a started backend over an executor that runs calls when told to."""
    executor = ByHand()
    backend = ExecutorBackend(executor, max_workers=2)
    backend.start()
    yield backend, executor
    backend.stop()


def test_functions_and_classes_travel_by_value(remote: ExecutorBackend) -> None:
    """A closure over a local class runs in a process that never saw either, and gives an object of that class."""

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    Point.__module__ = "__main__"
    factor = 3
    found = remote.dispatch(lambda point: (os.getpid(), Point(point.x * factor)), (Point(2),)).result(_LIMIT_S)
    assert found[0] != os.getpid()
    assert type(found[1]) is Point
    assert found[1].x == 6


def test_says_which_argument_cannot_travel(remote: ExecutorBackend) -> None:
    """Nothing is sent, the job fails, and the next one runs."""
    job = remote.dispatch(print, (1, threading.Lock()), label="send")
    error = job.exception(_LIMIT_S)
    assert isinstance(error, TransferError)
    assert "send: args[1]" in str(error)
    assert error.path == "args[1]"  # type: ignore[attr-defined]
    assert remote.dispatch(abs, (-1,)).result(_LIMIT_S) == 1


def test_says_that_a_result_cannot_travel(remote: ExecutorBackend) -> None:
    """A lock cannot come back."""
    with pytest.raises(TransferError, match=r"result cannot travel from a worker"):
        remote.dispatch(lambda: __import__("threading").Lock()).result(_LIMIT_S)


def test_errors_come_with_causes_and_the_workers_lines(remote: ExecutorBackend) -> None:
    """The type, the arguments, the cause and where it happened arrive."""

    def fail() -> None:
        try:
            {}["key"]
        except KeyError as error:
            raise ValueError("outer", 5) from error

    error = remote.dispatch(fail).exception(_LIMIT_S)
    assert isinstance(error, ValueError)
    assert error.args == ("outer", 5)
    assert isinstance(error.__cause__, KeyError)
    assert "in fail" in error.__notes__[-1]
    assert "run_call" not in error.__notes__[-1]


def test_errors_that_cannot_travel_have_a_stand_in(remote: ExecutorBackend) -> None:
    """An error that cannot be rebuilt comes as the builtin it derives from, with its words."""

    def fail() -> None:
        class Fussy(OSError):
            def __init__(self, one: int, two: int) -> None:
                super().__init__(f"{one} and {two}")
                self.lock = __import__("threading").Lock()

        raise Fussy(1, 2)

    error = remote.dispatch(fail).exception(_LIMIT_S)
    assert type(error) is OSError
    assert "Fussy: 1 and 2" in str(error)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_is_a_failure_of_the_job(remote: ExecutorBackend, kind: type[BaseException]) -> None:
    """Code that wants to end the process ends its job only."""

    def leave() -> None:
        raise kind(3)

    assert isinstance(remote.dispatch(leave).exception(_LIMIT_S), kind)
    assert remote.dispatch(abs, (-1,)).result(_LIMIT_S) == 1


def test_messages_arrive_before_the_result(remote: ExecutorBackend) -> None:
    """All that a call tells is heard, in order, by whoever dispatched it."""
    heard: list[Any] = []
    done_after: SimpleQueue[int] = SimpleQueue()

    def talk(count: int) -> str | None:
        for number in range(count):
            tell(number)
        return inside_worker()

    job = remote.dispatch(talk, (20,), listen=heard.append)
    job.add_done_callback(lambda job: done_after.put(len(heard)))
    worker = job.result(_LIMIT_S)
    assert worker is not None
    assert worker.startswith("pid ")
    assert job.worker == worker
    assert heard == list(range(20))
    assert done_after.get(timeout=_LIMIT_S) == 20
    assert remote.dispatch(talk, (3,)).result(_LIMIT_S) == worker  # nobody listens


@pytest.mark.parametrize("size", [10, 100_000])
def test_shared_values_arrive(remote: ExecutorBackend, size: int) -> None:
    """A shared array is the same for each call, may be changed by it, and another call does not see that."""
    array = numpy.arange(size, dtype=float)
    shared = remote.share(array, "array")

    def change(values: Any, *, again: Any) -> float:
        before = float(values.sum()) + float(again[1])
        values[:] = 0
        return before

    results = [remote.dispatch(change, (shared,), {"again": shared}).result(_LIMIT_S) for _ in range(3)]
    assert results == [array.sum() + 1] * 3
    shared.release()
    shared.release()


def test_large_shared_values_go_through_one_file(by_hand: tuple[ExecutorBackend, ByHand]) -> None:
    """A large value is written once, and its file goes when it is released."""
    backend, executor = by_hand
    shared = backend.share(numpy.zeros(100_000))
    jobs = [backend.dispatch(len, (shared,)) for _ in range(2)]
    files = {value._file for _, _, args in executor.waiting for value in args[1] if isinstance(value, OnDisk)}
    assert len(files) == 1
    executor.run()
    assert [job.result(0) for job in jobs] == [100_000] * 2
    path = Path(str(files.pop()))
    assert path.exists()
    shared.release()
    assert not path.exists()


def test_workers_that_see_no_files_get_the_value(by_hand: tuple[ExecutorBackend, ByHand]) -> None:
    """On another host the value comes with the call, without anybody noticing."""
    backend, executor = by_hand
    shared = backend.share(numpy.zeros(100_000))
    job = backend.dispatch(len, (shared,))
    (carrier,) = executor.waiting[0][2][1]
    Path(carrier._file).unlink()
    executor.run()
    assert job.result(0) == 100_000


def test_waiting_jobs_are_withdrawn(by_hand: tuple[ExecutorBackend, ByHand]) -> None:
    """A job that the executor has not begun never runs, whichever way it is ended."""
    backend, executor = by_hand
    ran: list[int] = []
    jobs = [backend.dispatch(ran.append, (number,)) for number in range(3)]
    assert jobs[0].cancel()
    assert jobs[1].stop()
    assert jobs[0].cancel()
    executor.run()
    assert ran == []  # by value: the list here never changes, so look at the states
    assert [job.cancelled() for job in jobs] == [True, True, False]
    assert jobs[2].result(0) is None
    assert not jobs[2].stop()


def test_a_running_job_is_left_behind() -> None:
    """Nobody can stop it, so stopping settles the job at once and says in the abilities that it is so."""

    class Slow(ByHand):
        def submit(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future = super().submit(func, *args)
            future.set_running_or_notify_cancel()
            return future

    backend = ExecutorBackend(Slow(), max_workers=2)
    assert not backend.abilities.cancel
    assert not backend.abilities.timeout
    assert not backend.abilities.relay
    backend.start()
    job = backend.dispatch(abs, (-1,))
    assert not job.cancel()
    assert job.stop()
    with pytest.raises(CancelledError):
        job.result(0)
    backend.stop()


def test_a_dead_worker_is_said() -> None:
    """A broken pool fails its jobs with advice, those that come later too."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        backend = ExecutorBackend(executor)
        backend.start()
        for _ in range(2):
            error = backend.dispatch(os._exit, (3,), label="bad").exception(_LIMIT_S)
            assert isinstance(error, WorkerLostError)
            assert "broken for good" in str(error)
            assert 'backend="process"' in str(error)
        backend.stop()


def test_an_ended_executor_is_said(remote: ExecutorBackend) -> None:
    """An executor that takes no more calls is an error in the job."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    backend = ExecutorBackend(executor)
    backend.start()
    with pytest.raises(BackendError, match="ThreadPoolExecutor took no call"):
        backend.submit(abs, (-1,))
    backend.stop()


def test_missing_package_is_said(by_hand: tuple[ExecutorBackend, ByHand]) -> None:
    """Workers without nbflow are told apart from other failures."""
    backend, executor = by_hand
    job = backend.dispatch(abs, (-1,))
    executor.waiting[0][0].set_exception(ModuleNotFoundError("No module named 'nbflow'", name="nbflow"))
    with pytest.raises(BackendError, match="have no nbflow"):
        job.result(0)


def test_the_executor_is_its_owners(by_hand: tuple[ExecutorBackend, ByHand]) -> None:
    """Stopping the backend ends its jobs, not the executor."""
    backend, executor = by_hand
    job = backend.dispatch(abs, (-1,))
    backend.stop()
    assert job.cancelled()
    assert not executor.ended


def test_threads_share_memory() -> None:
    """An executor of threads runs the very function, and knows its own threads."""
    with ThreadPoolExecutor(1) as executor:
        backend = ExecutorBackend(executor)
        assert backend.abilities.local
        assert not backend.abilities.parallel
        backend.start()
        found: list[bool] = []
        backend.submit(lambda: found.append(backend.inside())).result(_LIMIT_S)
        assert found == [True]
        assert not backend.inside()
        backend.stop()


@pytest.mark.parametrize("executor", [None, 3, ThreadPoolExecutor, object()])
def test_needs_an_executor(executor: Any) -> None:
    """Anything else is refused at once."""
    with pytest.raises(DefinitionError, match="is no executor"):
        ExecutorBackend(executor)


def test_checks_the_number_of_workers() -> None:
    """Zero workers are an error; without a number the executor is asked."""
    with pytest.raises(DefinitionError, match="max_workers=0"):
        ExecutorBackend(ByHand(), max_workers=0)
    assert ExecutorBackend(ByHand(), max_workers=5).workers() == 5
    assert ExecutorBackend(ByHand()).workers() >= 1


def test_jobs_are_remote_jobs(remote: ExecutorBackend) -> None:
    """Whoever drives jobs finds the same kind everywhere."""
    job = remote.dispatch(abs, (-1,))
    assert isinstance(job, RemoteJob)
    assert job.result(_LIMIT_S) == 1
