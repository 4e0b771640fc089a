"""Any executor as a backend: whatever has the `submit` of `concurrent.futures.Executor`.

Calls, arguments and results travel by value, as bytes that any executor can carry; what a running call tells arrives
with its result. The executor stays its owner's: it is never shut down here, and what it cannot do (stop a running
call) is not promised. An executor of threads shares this process's memory, so calls go to it as they are.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

from nbflow._inside import inside, join
from nbflow.backends.base import Abilities
from nbflow.backends.parcels import OnDisk, Parcel, open_outcome, pack_call, pack_value, run_call
from nbflow.backends.remote import RemoteBackend, RemoteJob, Shared, working
from nbflow.errors import BackendError, DefinitionError, WorkerLostError

__all__ = ["ExecutorBackend"]

_EMBED_BYTES = 1 << 16
"""Shared values up to this size travel with each call; larger ones in a file, as long as workers can see it."""


_log = logging.getLogger("nbflow.backends")


class ExecutorBackend(RemoteBackend):
    """Run calls on an executor of somebody else's.

    Args:
        executor: Anything with `submit(func, *args)` that returns a future, such as `ProcessPoolExecutor`,
            `loky.get_reusable_executor()`, `ipyparallel.Client().executor()` or `mpi4py.futures.MPIPoolExecutor`.
        max_workers: How many calls it runs at a time; None to ask the executor.

    Raises:
        DefinitionError: `executor` has no `submit`, or `max_workers` is no number of workers.
    """

    name = "executor"
    abilities = Abilities(local=False, cancel=False, timeout=False, relay=False)

    def __init__(self, executor: Any, max_workers: int | None = None) -> None:
        if not callable(getattr(executor, "submit", None)) or isinstance(executor, type):
            raise DefinitionError(f"{executor!r} is no executor: it has no method `submit`.")
        if max_workers is not None and (not isinstance(max_workers, int) or max_workers < 1):
            raise DefinitionError(f"max_workers={max_workers!r} must be a whole number ≥ 1, or None.")
        self.executor = executor
        self._workers = max_workers or _count_workers(executor)
        self._local = isinstance(executor, ThreadPoolExecutor)
        if self._local:
            # Threads of this process: the runtime itself stops, times and hears what runs in them.
            self.abilities = Abilities(parallel=self._workers > 1, local=True, pulls=True, cancel=True)  # type: ignore[misc]
        elif self._workers == 1:
            self.abilities = Abilities(parallel=False, local=False, cancel=False, timeout=False, relay=False)  # type: ignore[misc]
        self._lock = threading.Lock()
        self._jobs: set[Future[Any]] = set()
        self._folder: str | None = None
        self._files = 0
        self._seen_files = True  # until a worker says that it cannot see them

    def workers(self) -> int:
        """Return how many calls the executor runs at a time, as far as it says so."""
        return self._workers

    def inside(self) -> bool:
        """Whether the current thread is one of an executor of threads."""
        return inside(self.executor)

    def _submit(self, func: Any, args: Any, kwargs: Any, *, context: Any) -> Future[Any]:
        if not self._local:
            return super()._submit(func, args, kwargs, context=context)
        try:
            future: Future[Any] = self.executor.submit(copy_context().run, self._run_here, func, args, kwargs)
        except RuntimeError as error:
            raise self._refusal(error) from error
        self._keep(future)
        return future

    def _run_here(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call in a thread of the executor."""
        __tracebackhide__ = True
        join(self.executor)
        return func(*args, **kwargs)

    def _dispatch(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        listen: Callable[[Any], object] | None,
        label: str,
    ) -> RemoteJob:
        job = _Job()
        self._keep(job)
        try:
            call, shared = pack_call(func, args, kwargs, label)
        except BackendError as error:
            job.settle(error=error)
            return job
        self._send(job, call, shared, listen, label)
        return job

    def _send(
        self,
        job: _Job,
        call: Parcel,
        shared: list[_InExecutor],
        listen: Callable[[Any], object] | None,
        label: str,
    ) -> None:
        """Submit a packed call."""
        try:
            values = [value.carrier(self._seen_files) for value in shared]
            future = self.executor.submit(_run, call, values, listen is not None)
        except Exception as error:
            job.settle(error=self._refusal(error))
            return
        if not job.follow(future):
            return
        future.add_done_callback(partial(self._ended, job, call, shared, listen, label))

    def _ended(
        self,
        job: _Job,
        call: Parcel,
        shared: list[_InExecutor],
        listen: Callable[[Any], object] | None,
        label: str,
        future: Future[Any],
    ) -> None:
        """Settle a job with what came of it."""
        if future.cancelled():
            if not job.done():
                job.withdrawn()
            return
        error = future.exception()
        if error is not None:
            job.settle(error=self._failure(error, label))
            return
        answer = future.result()
        if answer is None:  # the worker is on another host, which does not see our files
            self._seen_files = False
            self._send(job, call, shared, listen, label)
            return
        worker, messages, outcome = answer
        if job.done():
            return
        job.worker = worker
        if listen is not None:
            for message in messages:
                try:
                    listen(message)
                except Exception:
                    _log.exception("A message of %s could not be delivered.", label or "a call")
        value, error = open_outcome(outcome, worker)
        job.settle(value, error)

    def _refusal(self, error: BaseException) -> BackendError:
        """Return what to say when the executor did not take a call."""
        kind = type(self.executor).__name__
        if isinstance(error, BrokenExecutor):
            return self._failure(error, "The call")
        return BackendError(f"The {kind} took no call ({type(error).__name__}: {error}). Give the session another one.")

    def _failure(self, error: BaseException, label: str) -> BackendError:
        """Return what to say when the executor failed to run a call; the call's own failures are in its outcome."""
        kind = type(self.executor).__name__
        if isinstance(error, BrokenExecutor):
            return WorkerLostError(
                f"{label or 'The call'}: a worker of the {kind} died, and the executor is broken for good ({error}). "
                'Make a new one, or use backend="process", which replaces its workers.',
                worker=kind,
                exitcode=None,
            )
        if isinstance(error, ModuleNotFoundError) and error.name == "nbflow":
            return BackendError(f"The workers of the {kind} have no nbflow; install it there: pip install nbflow.")
        return BackendError(f"{label or 'The call'}: the {kind} failed to run it: {type(error).__name__}: {error}.")

    def share(self, value: Any, label: str = "") -> Shared:
        """Make a value travel once for many jobs: through a file where workers see this host's files.

        Args:
            value: Anything that can travel.
            label: What to call it in messages for people.

        Raises:
            TransferError: It cannot travel.
        """
        return _InExecutor(self, pack_value(value, label))

    def _path(self) -> str:
        """Return the path of a new file, in a folder that `stop` removes."""
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.mkdtemp(prefix="nbflow-")
            self._files += 1
            return os.path.join(self._folder, str(self._files))

    def _keep(self, job: Future[Any]) -> None:
        """Remember a job until it is done, for `stop`."""
        with self._lock:
            self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    def _stop(self) -> None:
        with self._lock:
            jobs, folder = list(self._jobs), self._folder
        for job in jobs:
            if isinstance(job, RemoteJob):
                job.stop()
            else:
                job.cancel()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


class _Job(RemoteJob):
    """A job that can be withdrawn while the executor has not begun it."""

    def __init__(self) -> None:
        super().__init__(_leave)
        self._future: Future[Any] | None = None

    def follow(self, future: Future[Any]) -> bool:
        """Go with that future of the executor; False if the job is over already."""
        self._future = future
        if self.done():
            future.cancel()
            return False
        return True

    def cancel(self) -> bool:
        """Withdraw the job, unless the executor has begun it."""
        future = self._future
        if future is not None and not future.cancel():
            return self.cancelled()
        return self.withdrawn()

    def withdrawn(self) -> bool:
        """Be cancelled; False if the job had ended."""
        if self.cancelled():
            return True
        if not super().cancel():
            return False
        try:
            self.set_running_or_notify_cancel()
        except Exception:  # another thread did it
            pass
        return True


def _leave(job: RemoteJob) -> None:
    """End a job that runs: nobody can stop it, so nobody waits for it."""
    job.settle_stopped()


class _InExecutor(Shared):
    """A value that calls on an executor share."""

    def __init__(self, backend: ExecutorBackend, parcel: Parcel) -> None:
        self._backend = backend
        self._parcel = parcel
        self.released = False
        self._file: OnDisk | None = None
        self._lock = threading.Lock()

    def carrier(self, files: bool) -> Parcel | OnDisk:
        """Return what travels: the value itself, or the name of a file that has it."""
        if not files or self._parcel.nbytes <= _EMBED_BYTES:
            return self._parcel
        with self._lock:
            if self._file is None:
                self._file = self._parcel.save(self._backend._path())
            return self._file

    def release(self) -> None:
        """Delete the file; whoever has it mapped keeps it."""
        with self._lock:
            self.released = True
            file, self._file = self._file, None
        if file is not None:
            file.remove()


def _run(call: Parcel, values: Sequence[Parcel | OnDisk], heard: bool) -> tuple[str, list[Any], Parcel] | None:
    """Run a call in a worker; None if a shared value's file cannot be seen from here."""
    if any(isinstance(value, OnDisk) and not value.exists() for value in values):
        return None
    messages: list[Any] = []
    worker = f"pid {os.getpid()}"
    with working(worker, messages.append if heard else _unheard):
        return worker, messages, run_call(call, values)


def _unheard(message: Any) -> None:
    """Drop a message that nobody listens to."""


def _count_workers(executor: Any) -> int:
    """Return how many workers an executor has, by the names that executors use for it."""
    for name in ("_max_workers", "max_workers", "num_workers"):
        found = getattr(executor, name, None)
        if isinstance(found, int) and found >= 1:
            return found
    view = getattr(executor, "view", None)  # ipyparallel
    targets = getattr(getattr(view, "client", None), "ids", None)
    return len(targets) if targets else os.cpu_count() or 1
