"""The promises of a backend, as tests to inherit, and a backend that breaks some of them on purpose.

Whoever writes a backend subclasses `BackendContract` in a test module and overrides the fixture `backend_class`; pytest
then runs every promise on it. What is submitted here are plain functions of this module, so that a backend may send
them to other processes. Promises that need shared memory are only asked of backends that say they are local.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Future, wait
from typing import Any

import pytest

from nbflow.backends import Abilities, Backend, SubmitContext
from nbflow.errors import BackendError
from nbflow.sessions import SessionContext, session

__all__ = ["BackendContract", "FaultyBackend"]

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
        assert all(future.cancelled() or future.exception(_LIMIT_S) is None for future in futures)

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
