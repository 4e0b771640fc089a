"""The thread backend: a pool of daemon threads that starts when needed and never blocks the end of a program.

Workers are started one by one, as long as work waits and the limit allows; an idle worker blocks and polls nothing.
A worker whose code could not be stopped is *detached*: it no longer counts, and ends itself when its code returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, cast

from nbflow.backends.base import Abilities, Backend, BackendContext, Job, SubmitContext, Work

__all__ = ["ThreadBackend"]

_JOIN_S = 0.5


class ThreadBackend(Backend):
    """Run calls on threads of this process; each call sees a copy of the submitter's context variables."""

    name = "thread"
    abilities = Abilities(parallel=True, local=True, pulls=True, cancel=True)

    def _start(self, *, context: BackendContext) -> None:
        self._limit = context.settings.max_backend_threads
        # Written in C, hence handed over to a waiting worker without a lock that both would want at once.
        self._jobs: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.Lock()  # guards what follows
        self._threads: dict[int, threading.Thread] = {}
        self._spare = 0  # workers without a job, less jobs without a worker: taking a job changes nothing
        self._number = 0
        self._local = threading.local()

    def _submit(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, context: SubmitContext
    ) -> Future[Any]:
        job = Job(copy_context().run, (func, *args), kwargs)
        self._put(job)
        return job

    def take(self, job: Work) -> None:
        """Queue a job that was made elsewhere; it sees the context variables that it was made with."""
        self._check_started()
        self._put(job)

    def _put(self, job: Work) -> None:
        with self._lock:
            self._spare -= 1
            self._jobs.put(job)
            if self._spare < 0:
                self._grow()

    def _grow(self) -> None:
        """Start workers for the jobs that no idle one will take."""
        while self._spare < 0 and len(self._threads) < self._limit:
            self._number += 1
            thread = threading.Thread(target=self._work, name=f"nbflow-{self.name}-{self._number}", daemon=True)
            thread.start()
            self._threads[cast("int", thread.ident)] = thread
            self._spare += 1

    def _work(self) -> None:
        """Run jobs until told to end, detached, or no longer needed."""
        me = threading.get_ident()
        self._local.worker = True
        while (job := self._jobs.get()) is not None:
            job.run()
            del job  # an idle worker must not keep a result alive
            with self._lock:
                if len(self._threads) > self._limit:  # it stood in for one that has come back
                    self._threads.pop(me, None)
                if me not in self._threads:
                    return
                self._spare += 1

    def detach(self, worker: str) -> None:
        """Stop counting the worker of that thread name; another may take its place."""
        with self._lock:
            for ident, thread in list(self._threads.items()):
                if thread.name == worker:
                    del self._threads[ident]
            self._grow()

    def limit(self, workers: int) -> None:
        """Allow so many threads from now on."""
        with self._lock:
            self._limit = workers
            self._grow()

    @contextmanager
    def lend(self) -> Iterator[None]:
        """Let another worker take the place of this one while it awaits, so that awaiting never deadlocks."""
        with self._lock:
            self._limit += 1
            self._grow()
        try:
            yield
        finally:
            with self._lock:
                self._limit -= 1

    def _stop(self) -> None:
        with self._lock:
            threads = list(self._threads.values())
            waiting = list(self._left())
            for _ in threads:
                self._jobs.put(None)
        for job in waiting:
            job.cancel()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S / len(threads))

    def _left(self) -> Iterator[Work]:
        """Take the jobs that no worker has taken."""
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            if job is not None:
                yield job

    def workers(self) -> int:
        """Return the limit of threads."""
        return self._limit

    def inside(self) -> bool:
        """Whether the current thread is one of this pool's workers."""
        return getattr(self._local, "worker", False)
