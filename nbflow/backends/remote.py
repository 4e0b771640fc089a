"""What backends outside this process have in common: jobs that can be stopped, values that travel once, messages back.

A `RemoteBackend` hands out `RemoteJob`s, futures that know their worker and can end what runs there. `share` makes a
value travel once for any number of jobs; `tell` lets running code send messages to whoever submitted it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, final

from nbflow._steady import SteadyCondition
from nbflow.backends.base import Abilities, Backend

__all__ = ["RemoteBackend", "RemoteJob", "Shared", "enter_worker", "inside_worker", "owns_process", "tell", "working"]


class RemoteJob(Future[Any]):
    """The future of a call that runs somewhere else; safe from any thread.

    Attributes:
        worker: Name of the worker that runs it or ran it; None while it waits.
        left: Name of the worker where its code goes on although it was stopped; None where it ended.
    """

    def __init__(self, end: Callable[[RemoteJob], object]) -> None:
        """Make a job; `end(job)` ends it on its worker and settles it, it is called at most once and while it runs."""
        super().__init__()
        self._condition = SteadyCondition()
        self.worker: str | None = None
        self.left: str | None = None
        self._end: Callable[[RemoteJob], object] | None = end

    def cancelled(self) -> bool:
        """Whether the job was withdrawn or stopped."""
        return super().cancelled() or (self.done() and isinstance(self._exception, CancelledError))

    def stop(self) -> bool:
        """End the job wherever it is: withdrawn while it waits, ended on its worker while it runs.

        A stopped job ends with `concurrent.futures.CancelledError` promptly, whatever becomes of its worker.

        Returns:
            False if it had ended already.
        """
        if self.cancel():
            return True
        if self.done():
            return False
        end, self._end = self._end, None
        if end is not None:
            end(self)
        return True

    def settle(self, value: Any = None, error: BaseException | None = None) -> bool:
        """Give the job its outcome; False if it has one (the first wins). For backends."""
        try:
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(value)
        except Exception:  # InvalidStateError: somebody was first
            return False
        return True

    def settle_stopped(self) -> bool:
        """Let the job end as stopped. For backends."""
        return self.settle(error=CancelledError())


class Shared(abc.ABC):
    """A value that travels once to each worker; stands among the arguments of jobs, where the value will be.

    Only at the top level of `args` and `kwargs`. Release it when no further job will need it.
    """

    @abc.abstractmethod
    def release(self) -> None:
        """Let workers forget the value; idempotent."""


class RemoteBackend(Backend):
    """Base class of backends whose workers are other processes or machines.

    Functions and classes travel by value where they were defined in a notebook, large buffers without copies where
    the backend can. A call that cannot travel fails with `TransferError` in its future, a call whose worker died with
    `WorkerLostError`; neither does harm to other calls.
    """

    abilities: ClassVar[Abilities] = Abilities(local=False, cancel=True)

    range_s: ClassVar[float] = 0.02
    """How long a job of many small items should last, in seconds: long enough to hide its way there and back."""

    @final
    def dispatch(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        listen: Callable[[Any], object] | None = None,
        label: str = "",
    ) -> RemoteJob:
        """Hand one call to the workers; like `submit`, with more to say.

        Args:
            func: What to call there.
            args: Positional arguments; `Shared` values among them arrive as what they stand for.
            kwargs: Keyword arguments, likewise.
            listen: Called with each message that the call sends with `tell`, in order, in some thread of the backend,
                all of them before the job is done. It must be quick and must not raise.
            label: What to call the job in messages for people.

        Returns:
            Its job.

        Raises:
            BackendError: The backend is not started, or stopped.
        """
        self._check_started()
        return self._dispatch(func, args, kwargs or {}, listen, label)

    @abc.abstractmethod
    def _dispatch(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        listen: Callable[[Any], object] | None,
        label: str,
    ) -> RemoteJob:
        """Send one call to a worker, or let it wait for one; never blocks for long, never raises for bad arguments."""

    @abc.abstractmethod
    def share(self, value: Any, label: str = "") -> Shared:
        """Make a value that many jobs need travel once to each worker.

        Args:
            value: Anything that can travel.
            label: What to call it in messages for people.

        Raises:
            TransferError: It cannot travel.
        """

    def _submit(self, func: Any, args: Any, kwargs: Any, *, context: Any) -> Future[Any]:
        return self._dispatch(func, args, kwargs, None, getattr(func, "__qualname__", repr(func)))


# --- on the worker's side -----------------------------------------------------------------------------------------

_Channel = tuple[str, Callable[[Any], object]]
_process: _Channel | None = None  # of a process that is a worker as a whole, so that any thread of it is heard
_local: ContextVar[_Channel | None] = ContextVar("nbflow_worker", default=None)


def enter_worker(name: str, sender: Callable[[Any], object]) -> None:
    """Make this whole process one of a remote backend's workers.

    Args:
        name: Name of the worker, for people.
        sender: Takes the messages of the running call; safe from any thread.
    """
    global _process
    _process = (name, sender)


@contextmanager
def working(name: str, sender: Callable[[Any], object]) -> Iterator[None]:
    """Make this context (a job's thread in a process that runs several jobs) a worker while the block runs."""
    token = _local.set((name, sender))
    try:
        yield
    finally:
        _local.reset(token)


def inside_worker() -> str | None:
    """Return the worker's name where this code runs in a worker of a remote backend, else None."""
    channel = _local.get() or _process
    return channel[0] if channel is not None else None


def owns_process() -> bool:
    """Whether this process is a worker as a whole, so that each thread of it belongs to the job that runs."""
    return _process is not None


def tell(message: Any) -> bool:
    """Send a message from running code to whoever submitted it; False where nobody can hear it.

    Args:
        message: Something small that plain pickle can take; lists of messages are cheaper than many messages.
    """
    channel = _local.get() or _process
    if channel is None:
        return False
    channel[1](message)
    return True
