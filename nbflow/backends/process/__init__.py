"""The process backend: calls run in other processes of this machine, each stopped on its own.

Workers are forks of a small process that has imported nothing but what they need; they start when calls wait, in a few
milliseconds. Functions and classes of notebooks travel by value, large buffers through files that are mapped, and
messages arrive while a call runs. A worker that dies takes its one call with it and is replaced.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from typing import Any

from nbflow.backends.base import BackendContext
from nbflow.backends.process import wire
from nbflow.backends.process.buffers import Ref
from nbflow.backends.process.mapped import find_file
from nbflow.backends.process.pool import Pool
from nbflow.backends.remote import RemoteBackend, RemoteJob, Shared, inside_worker
from nbflow.backends.travel import refusal
from nbflow.errors import BackendError, TransferError

__all__ = ["ProcessBackend"]

_STOP_S = 0.5


class ProcessBackend(RemoteBackend):
    """Run calls in worker processes of this machine."""

    name = "process"
    _alone = False  # whether each worker is started by itself, even where it could be forked

    def _start(self, *, context: BackendContext) -> None:
        self._size = context.settings.max_parallel_processes
        self._pool: Pool | None = None
        self._lock = threading.Lock()

    def _running(self) -> Pool:
        with self._lock:
            if self._pool is None:
                self._pool = Pool(self._size, alone=self._alone)
                _living.add(self._pool)
                atexit.unregister(_stop_at_exit)
                atexit.register(_stop_at_exit)
            self._pool.start()
            return self._pool

    def _dispatch(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        listen: Callable[[Any], object] | None,
        label: str,
    ) -> RemoteJob:
        pool = self._running()
        shares: dict[int | str, ProcessShared] = {}
        if any(isinstance(value, Shared) for value in (*args, *kwargs.values())):
            args, kwargs = _without_shares(args, kwargs, shares)
        try:
            call, refs = wire.pack((func, args, kwargs), pool.store.put, find_file)
        except Exception as error:
            parts = [("the function", func), *((f"args[{index}]", value) for index, value in enumerate(args))]
            parts += [(f"kwargs[{name!r}]", value) for name, value in kwargs.items()]
            return _refused(refusal(label or "The call", parts, error, "to a worker"))
        try:
            shared = {place: share.lend(refs) for place, share in shares.items()}
        except BackendError as error:
            pool.store.release(refs)
            return _refused(error)
        return pool.put(wire.close_call(pool.store.folder(), call, shared), refs, listen, label)

    def share(self, value: Any, label: str = "") -> Shared:
        """Pack a value once, its large buffers into files that all workers map."""
        self._check_started()
        store = self._running().store
        try:
            body, refs = wire.pack(value, store.put, find_file)
        except Exception as error:
            raise refusal(label or "The shared value", [("the value", value)], error, "to workers") from None
        return ProcessShared(self._running(), body, refs, label)

    def _stop(self) -> None:
        with self._lock:
            pool = self._pool
        if pool is not None:
            pool.stop(_STOP_S)

    def workers(self) -> int:
        """Return the limit of processes."""
        return self._size

    def inside(self) -> bool:
        """Whether this process is a worker."""
        return inside_worker() is not None


class ProcessShared(Shared):
    """A packed value; its files are held until it is released and no job needs them."""

    def __init__(self, pool: Pool, body: bytes, refs: list[Ref], label: str) -> None:
        self._pool = pool
        self._body: bytes | None = body
        self._refs = refs
        self._label = label

    def lend(self, refs: list[Ref]) -> bytes:
        """Return the packed value for one job, adding the files that the job holds from now on.

        Raises:
            BackendError: It was released.
        """
        body = self._body
        if body is None:
            raise BackendError(f"{self._label or 'A shared value'} was released; share it again.")
        self._pool.store.hold(self._refs)
        refs += self._refs
        return body

    def release(self) -> None:
        """Forget the value once no job needs it."""
        body, self._body = self._body, None
        if body is not None:
            self._pool.store.release(self._refs)

    def __reduce__(self) -> Any:
        raise TransferError(
            "A shared value travels only as an argument itself, not inside of one.", path="", reason="it is shared"
        )


def _without_shares(
    args: tuple[Any, ...], kwargs: dict[str, Any], shares: dict[int | str, ProcessShared]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments with None in the places of shared values, and put those into `shares`."""

    def kept(place: int | str, value: Any) -> Any:
        if not isinstance(value, ProcessShared):
            return value
        shares[place] = value
        return None

    rest = {name: kept(name, value) for name, value in kwargs.items()}
    return tuple(kept(index, value) for index, value in enumerate(args)), rest


def _refused(error: BackendError) -> RemoteJob:
    job = RemoteJob(lambda _: None)
    job.settle(error=error)
    return job


_living: weakref.WeakSet[Pool] = weakref.WeakSet()


def _stop_at_exit() -> None:
    for pool in list(_living):
        pool.stop(_STOP_S)
