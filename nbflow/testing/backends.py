"""The promises of a backend, as tests to inherit, and a backend that breaks some of them on purpose.

Whoever writes a backend subclasses `BackendContract` in a test module and overrides the fixture `backend_class`; pytest
then runs every promise on it. What is submitted here are plain functions of this module, so that a backend may send
them to other processes. Promises that need shared memory are only asked of backends that say they are local.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Container, Iterator
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from nbflow.backends import Abilities, Backend, SubmitContext
from nbflow.backends.remote import RemoteBackend, inside_worker, tell
from nbflow.errors import BackendError, TransferError
from nbflow.sessions import SessionContext, session

__all__ = ["BackendContract", "FaultyBackend", "RemoteBackendContract"]

_LIMIT_S = 60.0


class BackendContract:
    """The promises; a subclass overrides the fixture `backend_class`."""

    @pytest.fixture
    def backend_class(self) -> type[Backend]:
        """Return the class to test."""
        raise NotImplementedError("Override the fixture `backend_class` in your subclass of BackendContract.")

    @pytest.fixture
    def around(self) -> Iterator[SessionContext]:
        """Return the session that the backend is started for."""
        with session() as context:
            yield context

    @pytest.fixture
    def backend(self, backend_class: type[Backend], around: SessionContext) -> Iterator[Backend]:
        """Return a started backend, which is stopped after the test."""
        backend = backend_class()
        backend.start(around)
        yield backend
        backend.stop()

    def test_describes_itself(self, backend: Backend) -> None:
        """Name, abilities and number of workers are of the promised types."""
        assert isinstance(backend.name, str)
        assert backend.name
        assert isinstance(backend.abilities, Abilities)
        assert backend.workers() >= 1
        assert backend.abilities.parallel or backend.workers() == 1
        assert isinstance(backend.inside(), bool)

    def test_returns_results(self, backend: Backend) -> None:
        """The future gives what the function returned, also if that is None or an exception object."""
        assert backend.submit(_echo, (1, 2), {"c": 3}).result(_LIMIT_S) == ((1, 2), {"c": 3})
        assert backend.submit(_echo).result(_LIMIT_S) == ((), {})
        assert backend.submit(_nothing, map_index=4).result(_LIMIT_S) is None
        assert isinstance(backend.submit(_give, (ValueError("a value"),)).result(_LIMIT_S), ValueError)

    def test_raises_what_was_raised(self, backend: Backend) -> None:
        """A failure travels in the future, with its own type and message, and breaks nothing."""
        failing = backend.submit(_fail, ("no such thing",))
        assert isinstance(failing.exception(_LIMIT_S), KeyError)
        with pytest.raises(KeyError, match="no such thing"):
            failing.result(_LIMIT_S)
        assert backend.submit(_give, (5,)).result(_LIMIT_S) == 5

    def test_takes_many(self, backend: Backend) -> None:
        """Many more submissions than workers all end, each with its own result."""
        futures = [backend.submit(_give, (number,)) for number in range(200)]
        assert [future.result(_LIMIT_S) for future in futures] == list(range(200))

    def test_submits_from_any_thread(self, backend: Backend) -> None:
        """Threads may submit at the same time."""
        found: list[int] = []

        def work(first: int) -> None:
            futures = [backend.submit(_give, (first + number,)) for number in range(20)]
            found.extend(future.result(_LIMIT_S) for future in futures)

        threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_LIMIT_S)
        assert sorted(found) == sorted(100 * first + number for first in range(5) for number in range(20))

    def test_calls_back(self, backend: Backend) -> None:
        """Callbacks of the future are called once, whether it fails or not."""
        over = threading.Semaphore(0)
        ended: list[Future[Any]] = []

        def keep(future: Future[Any]) -> None:
            ended.append(future)
            over.release()

        futures = [backend.submit(_give, (1,)), backend.submit(_fail, ("x",))]
        for future in futures:
            future.add_done_callback(keep)
        assert all(over.acquire(timeout=_LIMIT_S) for _ in futures)
        assert set(ended) == set(futures)
        assert len(ended) == 2

    def test_starts_once(self, backend: Backend, around: SessionContext) -> None:
        """Starting a second time is refused."""
        with pytest.raises(BackendError, match="was started before"):
            backend.start(around)

    def test_needs_starting(self, backend_class: type[Backend]) -> None:
        """Nothing can be submitted before the start, and stopping then is harmless."""
        backend = backend_class()
        with pytest.raises(BackendError, match="is not started"):
            backend.submit(_nothing)
        backend.stop()

    def test_starts_without_a_session(self, backend_class: type[Backend]) -> None:
        """Without a session the global settings hold."""
        backend = backend_class()
        backend.start()
        try:
            assert backend.submit(_give, (5,)).result(_LIMIT_S) == 5
        finally:
            backend.stop()

    def test_stops(self, backend: Backend) -> None:
        """After `stop`, which may be repeated, nothing can be submitted and every future has ended."""
        futures = [backend.submit(_give, (number,)) for number in range(20)]
        backend.stop()
        backend.stop()
        with pytest.raises(BackendError, match="was stopped"):
            backend.submit(_nothing)
        ended = [None if future.cancelled() else future.exception(_LIMIT_S) for future in futures]
        assert all(error is None or isinstance(error, CancelledError) for error in ended)

    def test_leaves_no_thread(self, backend_class: type[Backend], around: SessionContext) -> None:
        """A backend that was stopped has ended the threads that it started."""
        before = set(threading.enumerate())
        backend = backend_class()
        backend.start(around)
        wait([backend.submit(_give, (number,)) for number in range(5)], _LIMIT_S)
        backend.stop()
        for thread in set(threading.enumerate()) - before:
            thread.join(_LIMIT_S)
            assert not thread.is_alive()

    def test_runs_side_by_side(self, backend: Backend) -> None:
        """Local backends that call themselves parallel run two calls at the same time."""
        if not (backend.abilities.parallel and backend.abilities.local and backend.workers() > 1):
            pytest.skip("runs one call at a time, or elsewhere")
        meeting = threading.Barrier(2)
        futures = [backend.submit(meeting.wait, (_LIMIT_S,)) for _ in range(2)]
        assert sorted(future.result(_LIMIT_S) for future in futures) == [0, 1]

    def test_withdraws_what_waits(self, backend: Backend) -> None:
        """A submission that waits for a worker can be cancelled, and is never run then."""
        if not (backend.abilities.parallel and backend.abilities.local):
            pytest.skip("nothing ever waits here, or elsewhere")
        free = threading.Event()
        ran: list[int] = []
        try:
            blockers = [backend.submit(free.wait, (_LIMIT_S,)) for _ in range(backend.workers())]
            waiting = backend.submit(ran.append, (1,))
            assert waiting.cancel()
        finally:
            free.set()
        assert not wait(blockers, _LIMIT_S).not_done
        assert backend.submit(_give, (5,)).result(_LIMIT_S) == 5
        assert ran == []


class RemoteBackendContract(BackendContract):
    """The further promises of a `RemoteBackend`; those that a backend says it cannot honour are skipped."""

    @pytest.fixture
    def backend(self, backend_class: type[RemoteBackend], around: SessionContext) -> Iterator[RemoteBackend]:
        """Return a started backend, which is stopped after the test."""
        backend = backend_class()
        backend.start(around)
        yield backend
        backend.stop()

    def test_is_not_local(self, backend: RemoteBackend) -> None:
        """It says that it shares no memory with this process, and names the worker of each job."""
        assert not backend.abilities.local
        job = backend.dispatch(inside_worker)
        name = job.result(_LIMIT_S)
        assert isinstance(name, str)
        assert job.worker is not None
        assert inside_worker() is None

    def test_takes_functions_by_value(self, backend: RemoteBackend) -> None:
        """Functions and classes that no module holds reach the workers, and instances come home to their class."""

        class Point:
            seen = 0

            def __init__(self, x: int) -> None:
                self.x = x

            def moved(self) -> Point:
                type(self).seen += 1
                return Point(self.x + offset)

        offset = 5
        moved = backend.dispatch(lambda point: point.moved(), (Point(1),)).result(_LIMIT_S)
        assert type(moved) is Point
        assert moved.x == 6
        assert Point.seen == 0, "what a call does to a class there is not done here"
        offset = 7
        assert backend.dispatch(Point.moved, (Point(1),)).result(_LIMIT_S).x == 8, "functions are as they are now"

    def test_relays_messages_in_order(self, backend: RemoteBackend) -> None:
        """Messages arrive in order, and all of them before the job is done; without a listener they are dropped."""
        heard: list[Any] = []
        job = backend.dispatch(_tell_all, (200,), listen=heard.append)
        done_with: SimpleQueue[int] = SimpleQueue()
        job.add_done_callback(lambda _: done_with.put(len(heard)))
        assert job.result(_LIMIT_S) == 200
        assert heard == [("said", number) for number in range(200)]
        assert done_with.get(timeout=_LIMIT_S) == 200
        assert backend.dispatch(_tell_all, (3,)).result(_LIMIT_S) == 3
        assert tell("nobody hears this") is False

    def test_relays_while_it_runs(self, backend: RemoteBackend, tmp_path: Path) -> None:
        """A message arrives while the call that sent it still runs."""
        if not backend.abilities.relay:
            pytest.skip("relays at the end")
        heard = threading.Event()
        go_on = tmp_path / "go on"
        job = backend.dispatch(_tell_and_wait, (str(go_on),), listen=lambda _: heard.set())
        assert heard.wait(_LIMIT_S)
        assert not job.done()
        go_on.touch()
        assert job.result(_LIMIT_S) == "went on"

    def test_a_listener_that_raises_fails_its_job_only(self, backend: RemoteBackend) -> None:
        """Whatever a listener does, the backend goes on."""

        def listen(message: Any) -> None:
            raise LookupError("no such listener")

        wait([backend.dispatch(_tell_all, (3,), listen=listen)], _LIMIT_S)
        assert backend.dispatch(_give, (5,)).result(_LIMIT_S) == 5

    def test_shares_values(self, backend: RemoteBackend) -> None:
        """A shared value arrives as what it stands for, by position or name, in any number of calls, until released."""
        shared = backend.share({"a": [1, 2]}, "the table")
        jobs = [backend.dispatch(_echo, (1, shared, number), {"named": shared}) for number in range(10)]
        assert [job.result(_LIMIT_S) for job in jobs] == [
            ((1, {"a": [1, 2]}, number), {"named": {"a": [1, 2]}}) for number in range(10)
        ]
        shared.release()
        shared.release()
        late = backend.dispatch(_echo, (shared,))
        assert isinstance(late.exception(_LIMIT_S), BackendError)
        assert backend.dispatch(_give, (5,)).result(_LIMIT_S) == 5

    def test_calls_do_not_see_each_others_changes(self, backend: RemoteBackend) -> None:
        """Large arrays arrive writable, with the same bits; what a call changes there nobody else sees."""
        numpy = pytest.importorskip("numpy")
        array = numpy.random.default_rng(1).random(400_000)
        total = array.sum()
        shared = backend.share(array)
        jobs = [backend.dispatch(_sum_and_clear, (each,)) for each in [shared, array, shared, array]]
        assert [job.result(_LIMIT_S) for job in jobs] == [total] * 4
        assert array.sum() == total
        back = backend.dispatch(_give, (array,)).result(_LIMIT_S)
        assert (back == array).all()
        back[:] = 0
        assert array.sum() == total
        shared.release()

    def test_refuses_what_cannot_travel(self, backend: RemoteBackend) -> None:
        """An argument, shared value or result that cannot travel is an error that says which; others go on."""
        lock = threading.Lock()
        error = backend.dispatch(_give, ({"model": [lock]},), label="fit[3]").exception(_LIMIT_S)
        assert isinstance(error, TransferError)
        assert "fit[3]" in str(error)
        assert "lock" in error.reason
        assert error.path.startswith("args[0]")
        error = backend.dispatch(lambda: [threading.Lock()]).exception(_LIMIT_S)
        assert isinstance(error, TransferError)
        assert "lock" in error.reason
        with pytest.raises(TransferError, match="the table"):
            backend.share(lock, "the table")
        assert backend.dispatch(_give, (5,)).result(_LIMIT_S) == 5

    def test_errors_arrive_whole(self, backend: RemoteBackend) -> None:
        """Type, arguments, notes and cause survive, and the traceback of the worker is a note."""
        error = backend.dispatch(_fail_with_cause).exception(_LIMIT_S)
        assert type(error) is ValueError
        assert error.args == ("bad", 3)
        assert isinstance(error.__cause__, KeyError)
        assert error.__notes__[0] == "said by hand"
        assert "_fail_with_cause" in error.__notes__[-1]

    def test_errors_that_cannot_travel_have_a_stand_in(self, backend: RemoteBackend) -> None:
        """What arrives for such an error is of the nearest kind that can travel, and says the same."""
        error = backend.dispatch(_fail_badly).exception(_LIMIT_S)
        assert isinstance(error, LookupError)
        assert "cannot be pickled" in str(error)

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
    def test_any_exception_is_an_error_of_its_job(self, backend: RemoteBackend, kind: type[BaseException]) -> None:
        """A call that wants to end the program ends itself only."""
        assert type(backend.dispatch(_raise, (kind,)).exception(_LIMIT_S)) is kind
        assert backend.dispatch(_give, (5,)).result(_LIMIT_S) == 5

    def test_stops_what_waits(self, backend: RemoteBackend, tmp_path: Path) -> None:
        """A job that waits for a worker can be stopped, and is never run then."""
        go_on, ran = tmp_path / "go on", tmp_path / "ran"
        running = [backend.dispatch(_wait_for, (str(go_on),)) for _ in range(backend.workers())]
        waiting = [backend.dispatch(_touch, (str(ran),)) for _ in range(3 * backend.workers())]
        if backend.abilities.cancel:
            assert all(job.stop() for job in waiting)
        else:
            waiting = [job for job in waiting if job.cancel()]
            assert waiting
        assert all(job.cancelled() for job in waiting)
        assert not wait(waiting, _LIMIT_S).not_done, "whoever waits for them is told at once"
        with pytest.raises(CancelledError):
            waiting[0].result(_LIMIT_S)
        go_on.touch()
        assert {job.result(_LIMIT_S) for job in running} == {"went on"}
        assert backend.dispatch(_give, (5,)).result(_LIMIT_S) == 5
        if backend.abilities.cancel:
            assert not ran.exists()

    def test_stops_what_runs(self, backend: RemoteBackend, tmp_path: Path) -> None:
        """A running job can be stopped; the others neither notice nor suffer."""
        if not backend.abilities.cancel:
            pytest.skip("cannot stop what runs")
        go_on = tmp_path / "go on"
        others = [backend.dispatch(_wait_for, (str(go_on),)) for _ in range(backend.workers() - 1)]
        heard = threading.Event()
        job = backend.dispatch(_tell_and_wait, (str(tmp_path / "never"),), listen=lambda _: heard.set())
        if backend.abilities.relay:
            assert heard.wait(_LIMIT_S)
        assert job.stop()
        assert isinstance(job.exception(_LIMIT_S) if not job.cancelled() else CancelledError(), CancelledError)
        assert job.cancelled()
        assert not job.stop()
        assert backend.dispatch(_give, (5,)).result(_LIMIT_S) == 5
        go_on.touch()
        assert {other.result(_LIMIT_S) for other in others} <= {"went on"}


class FaultyBackend(Backend):
    """A backend whose submissions go wrong where they are told to; the others run at once, in the submitting thread.

    Submissions are counted from 1, over the life of the backend, never drawn at random. Set the attributes on a
    subclass: a manager makes its backends itself.

    Attributes:
        refuse: Numbers of the submissions that raise `BackendError` instead of being taken.
        lose: Numbers of the submissions whose worker "dies": the function never runs, the future fails.
    """

    name = "faulty"
    abilities = Abilities(parallel=True, local=True)
    refuse: Container[int] = ()
    lose: Container[int] = ()

    def __init__(self) -> None:
        self._submissions = 0

    def _submit(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, context: SubmitContext
    ) -> Future[Any]:
        self._submissions += 1
        number = self._submissions
        if number in self.refuse:
            raise BackendError(f"submission {number} was told to be refused")
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        if number in self.lose:
            future.set_exception(BackendError(f"the worker of submission {number} was told to die"))
            return future
        try:
            future.set_result(func(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def _echo(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def _give(value: Any) -> Any:
    return value


def _nothing() -> None:
    pass


def _fail(message: str) -> None:
    raise KeyError(message)


def _tell_all(count: int) -> int:
    for number in range(count):
        tell(("said", number))
    return count


def _tell_and_wait(path: str) -> str:
    tell("running")
    return _wait_for(path)


def _wait_for(path: str) -> str:
    pause = threading.Event()
    while not os.path.exists(path):
        pause.wait(0.005)
    return "went on"


def _touch(path: str) -> None:
    Path(path).touch()


def _sum_and_clear(array: Any) -> Any:
    total = array.sum()
    array[:] = 0
    return total


def _fail_with_cause() -> None:
    error = ValueError("bad", 3)
    error.add_note("said by hand")
    raise error from KeyError("why")


class _Unpicklable(LookupError):
    def __reduce__(self) -> Any:
        raise TypeError("never")


def _fail_badly() -> None:
    raise _Unpicklable("cannot be pickled")


def _raise(kind: type[BaseException]) -> None:
    raise kind(3)
