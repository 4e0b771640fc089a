"""The contract of a backend: start, submit, stop, and what it is able to do.

`start`, `submit` and `stop` are final and keep the life cycle in order; a subclass implements `_submit` and, where it
owns resources, `_start` and `_stop`. `Abilities` are what callers check before they ask for something: what a backend
cannot honour is refused.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, final

from nbflow._steady import SteadyCondition
from nbflow.errors import BackendError
from nbflow.settings import Settings, get_global_settings

__all__ = ["Abilities", "Backend", "BackendContext", "SubmitContext"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a backend can honour.

    Args:
        parallel: More than one call runs at a time.
        local: Calls run in this process and share its memory; else the backend is a `RemoteBackend`.
        pulls: A submitted callable may pull many items, one after the other, and be stopped between them.
        cancel: A running call can be stopped (or left behind and reported).
        timeout: A running call can be ended at a deadline.
        by_value: Functions and classes that were defined in a notebook reach it.
        relay: What a running call tells (events, prints, progress) arrives while it runs, not only at its end.
        dry: Nothing runs; calls only say what would run.
    """

    parallel: bool = True
    local: bool = True
    pulls: bool = False
    cancel: bool = False
    timeout: bool = True
    by_value: bool = True
    relay: bool = True
    dry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendContext:
    """What a backend is started with."""

    name: str
    settings: Settings
    session_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitContext:
    """What is known of one submission besides the callable."""

    map_index: int | None = None


class Backend(abc.ABC):
    """Base class of backends; a subclass must implement `_submit` and set `name`.

    `submit` is safe from any thread; `start` and `stop` are called by the manager that owns the backend.
    """

    name: ClassVar[str]
    abilities: ClassVar[Abilities] = Abilities()

    _state: str = "new"
    _at_stop: tuple[Callable[[], object], ...] = ()

    @final
    def start(self, session: Any = None) -> None:
        """Make the backend ready.

        Args:
            session: The session it belongs to (with `settings` and `session_id`), or None for the global settings.

        Raises:
            BackendError: It was started before.
        """
        if self._state != "new":
            raise BackendError(f"Backend {self.name!r} was started before; make a new one.")
        settings = session.settings if session is not None else get_global_settings()
        session_id = None if session is None else session.session_id
        self._start(context=BackendContext(name=self.name, settings=settings, session_id=session_id))
        self._state = "started"

    @property
    def started(self) -> bool:
        """Whether it takes submissions: it was started, and not stopped."""
        return self._state == "started"

    def _start(self, *, context: BackendContext) -> None:
        """Create resources; called once, before the first submission."""

    @final
    def stop(self) -> None:
        """Release resources; what still runs is told to end, nobody waits for it long. Idempotent."""
        if self._state == "started":
            self._state = "stopped"
            self._stop()
            for call in self._at_stop:
                call()

    def at_stop(self, call: Callable[[], object]) -> None:
        """Have something called when the backend has stopped; for whoever owns resources on its behalf."""
        self._at_stop = (*self._at_stop, call)

    def _stop(self) -> None:
        """Release resources; called once."""

    @final
    def submit(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        map_index: int | None = None,
    ) -> Future[Any]:
        """Hand one call to the backend.

        Args:
            func: What to call.
            args: Positional arguments.
            kwargs: Keyword arguments.
            map_index: Position of the call in a map, if it is part of one.

        Returns:
            A future of what `func` returns.

        Raises:
            BackendError: The backend is not started, or stopped.
        """
        self._check_started()
        return self._submit(func, args, kwargs or {}, context=SubmitContext(map_index=map_index))

    def take(self, job: Work) -> None:
        """Have a job run that was made elsewhere: by a worker, or by whoever is quicker.

        Raises:
            BackendError: The backend is not started, or stopped.
        """

        def ended(future: Future[Any]) -> None:
            if job.withdraw():  # nobody has run it, so nobody will
                job.settle(error=CancelledError() if future.cancelled() else future.exception())

        self.submit(job.run).add_done_callback(ended)

    def _check_started(self) -> None:
        if self._state != "started":
            state = "was stopped" if self._state == "stopped" else "is not started"
            raise BackendError(f"Backend {self.name!r} {state}; nothing can be submitted to it.")

    @abc.abstractmethod
    def _submit(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, context: SubmitContext
    ) -> Future[Any]:
        """Run one call and return its future."""

    def workers(self) -> int:
        """Return how many calls can run at a time."""
        return 1

    def inside(self) -> bool:
        """Whether the current thread is one of this backend's workers."""
        return False


class Runnable(Protocol):
    """What waits for a thread of a pool."""

    def run(self) -> object:
        """Do what is to be done; called once at most."""

    def cancel(self) -> object:
        """Take note that it will never be run."""


class Work(abc.ABC):
    """A call to be made once, by whoever comes first: a worker, or somebody who waits for it.

    Subclasses say what becomes of its outcome.
    """

    def __init__(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._work: Any = (func, args, kwargs)
        self._claim = threading.Lock()

    def waits(self) -> bool:
        """Whether nobody has begun to make the call, or withdrawn it."""
        return not self._claim.locked()

    def withdraw(self) -> bool:
        """Let nobody make the call; False if somebody does, or has, or it was withdrawn before.

        Nobody is told, so whoever withdraws it has to settle it.
        """
        if not self._claim.acquire(blocking=False):
            return False
        self._work = None
        return True

    def run(self) -> bool:
        """Make the call in this thread; False if somebody else has, or it was cancelled."""
        if not self._claim.acquire(blocking=False):
            return False
        (func, args, kwargs), self._work = self._work, None
        if not self._begins():
            return False
        try:
            value = func(*args, **kwargs)
        except BaseException as error:
            self.settle(error=error)
        else:
            self.settle(value)
        return True

    def _begins(self) -> bool:
        """Whether the call is still wanted, now that somebody is about to make it."""
        return True

    @abc.abstractmethod
    def cancel(self) -> bool:
        """Withdraw the call, unless somebody makes it; whoever waits for its outcome is told at once."""

    @abc.abstractmethod
    def settle(self, value: Any = None, error: BaseException | None = None) -> None:
        """Take in what came of the call."""


class Job(Work, Future[Any]):
    """A future that carries its own work."""

    def __init__(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        Future.__init__(self)
        self._condition = SteadyCondition()
        Work.__init__(self, func, args, kwargs)

    def cancel(self) -> bool:
        """Withdraw the work, unless somebody runs it; whoever waits for the future is told at once."""
        if not Future.cancel(self):
            return False
        if self.withdraw():
            self.set_running_or_notify_cancel()
        return True

    def _begins(self) -> bool:
        return self.set_running_or_notify_cancel()

    def settle(self, value: Any = None, error: BaseException | None = None) -> None:
        """End the future."""
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(value)
