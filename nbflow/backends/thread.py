"""The thread backend: a pool of daemon threads that starts when needed and never blocks the end of a program.

Workers are started one by one, as long as work waits and the limit allows; an idle worker blocks and polls nothing, and
of several the one is woken that has been idle for the shortest time. A worker whose code could not be stopped is
*detached*: it no longer counts, and ends itself when its code returns.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, cast

from nbflow._inside import inside, join
from nbflow._shield import shielded
from nbflow.backends.base import Abilities, Backend, BackendContext, Job, Runnable, SubmitContext

__all__ = ["ThreadBackend"]

_JOIN_S = 0.5

_release = type(threading.Lock()).release


class ThreadBackend(Backend):
    """Run calls on threads of this process; each call sees a copy of the submitter's context variables."""

    name = "thread"
    abilities = Abilities(parallel=True, local=True, pulls=True, cancel=True)

    def _start(self, *, context: BackendContext) -> None:
        self._limit = context.settings.max_backend_threads
        self._jobs: deque[Runnable] = deque()
        self._idle: list[threading.Lock] = []  # what idle workers wait for
        self._ending = False
        self._lock = threading.Lock()  # guards what follows
        self._threads: dict[int, threading.Thread] = {}
        self._number = 0
        self._crew: object = self  # what its workers count as inside of

    def _submit(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, context: SubmitContext
    ) -> Future[Any]:
        job = Job(copy_context().run, (func, *args), kwargs)
        self._put(job)
        return job

    def take(self, job: Runnable) -> None:
        """Queue a job that was made elsewhere; it sees the context variables that it was made with."""
        self._check_started()
        self._put(job)

    def _put(self, job: Runnable) -> None:
        self._jobs.append(job)
        if not self._wake() and len(self._threads) < self._limit:
            with self._lock:
                self._grow(1)

    def _wake(self) -> bool:
        """Wake an idle worker; False if there is none.

        To take what it waits for and to release it is one step in C, in which no interrupt strikes: a worker that is
        on the list no more, and was not woken, would wait for ever.
        """
        if not self._idle:
            return False
        try:
            next(map(_release, iter(self._idle.pop, None)))
        except IndexError:  # somebody else was quicker
            return False
        return True

    def _grow(self, most: int) -> None:
        """Start workers for jobs that wait, as far as the limit allows."""
        for _ in range(min(most, len(self._jobs), self._limit - len(self._threads))):
            shielded(self._add_worker)

    def _add_worker(self) -> None:
        self._number += 1
        thread = threading.Thread(target=self._work, name=f"nbflow-{self.name}-{self._number}", daemon=True)
        thread.start()
        self._threads[cast("int", thread.ident)] = thread

    def _work(self) -> None:
        """Run jobs until told to end, detached, or no longer needed."""
        me = threading.get_ident()
        join(self._crew)
        woken = threading.Lock()
        woken.acquire()
        while True:
            try:
                job = self._jobs.popleft()
            except IndexError:
                if self._sleep(woken):
                    continue
                return
            try:
                job.run()
            except BaseException:  # what was to stop the job struck behind it; nobody else waits for that
                pass
            del job  # an idle worker must not keep a result alive
            if len(self._threads) > self._limit or me not in self._threads:
                with self._lock:
                    if len(self._threads) > self._limit:  # it stood in for one that has come back
                        self._threads.pop(me, None)
                    if me not in self._threads:
                        return

    def _sleep(self, woken: threading.Lock) -> bool:
        """Wait for jobs; False if none will come.

        Whoever brings a job first puts it down, and then looks for idle workers; a worker first says that it is idle,
        and then looks for jobs. So one of them sees the other.
        """
        self._idle.append(woken)
        if self._jobs or self._ending:
            try:
                self._idle.remove(woken)
            except ValueError:  # it has been woken
                woken.acquire()
        else:
            woken.acquire()
        return not self._ending

    def detach(self, worker: str) -> None:
        """Stop counting the worker of that thread name; another may take its place."""
        with self._lock:
            for ident, thread in list(self._threads.items()):
                if thread.name == worker:
                    del self._threads[ident]
                    self._grow(1)

    def limit(self, workers: int) -> None:
        """Allow so many threads from now on."""
        with self._lock:
            self._limit = workers
            self._grow(workers)

    def _stop(self) -> None:
        self._ending = True
        with self._lock:
            threads = list(self._threads.values())
        waiting = list(self._left())
        while self._wake():
            pass
        for job in waiting:
            job.cancel()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S / len(threads))

    def _left(self) -> Iterator[Runnable]:
        """Take the jobs that no worker has taken."""
        while True:
            try:
                yield self._jobs.popleft()
            except IndexError:
                return

    def workers(self) -> int:
        """Return the limit of threads."""
        return self._limit

    def inside(self) -> bool:
        """Whether the current thread is one of this pool's workers."""
        return inside(self._crew)
