"""The thread backend: a pool of daemon threads that starts when needed and never blocks the end of a program.

Workers are started one by one, as long as work waits and the limit allows; an idle worker blocks on the queue and
polls nothing.
A worker whose code could not be stopped is *detached*: it no longer counts, and ends itself when its code returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any

from nbflow.backends.base import Abilities, Backend, BackendContext, Job, SubmitContext

__all__ = ["ThreadBackend"]

_JOIN_S = 0.5


class ThreadBackend(Backend):
    """Run calls on threads of this process; each call sees a copy of the submitter's context variables."""

    name = "thread"
    abilities = Abilities(parallel=True, local=True, pulls=True, cancel=True)

    def _start(self, *, context: BackendContext) -> None:
        self._limit = context.settings.max_backend_threads
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: dict[int, threading.Thread] = {}
        self._idle = 0
        self._number = 0
        self._local = threading.local()

    def _submit(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, context: SubmitContext
    ) -> Future[Any]:
        job = Job(copy_context().run, (func, *args), kwargs)
        with self._lock:
            if self._idle > self._queue.qsize() or len(self._threads) >= self._limit:
                grow = None
            else:
                self._number += 1
                grow = threading.Thread(target=self._work, name=f"nbflow-thread-{self._number}", daemon=True)
        self._queue.put(job)
        if grow is not None:
            grow.start()
            with self._lock:
                if grow.ident is not None and grow.is_alive():
                    self._threads.setdefault(grow.ident, grow)
        return job

    def _work(self) -> None:
        """Run jobs until told to end."""
        me = threading.get_ident()
        with self._lock:
            self._threads[me] = threading.current_thread()
        self._local.worker = True
        while True:
            try:
                job = self._next()
                if job is None:
                    break
                job.run()
                del job  # an idle worker must not keep a result alive
                with self._lock:
                    if me not in self._threads:
                        return  # detached meanwhile
            except BaseException:
                # A stop that arrived just after the code it was meant for had ended.
                continue
        with self._lock:
            self._threads.pop(me, None)

    def _next(self) -> Job | None:
        with self._lock:
            self._idle += 1
        try:
            return self._queue.get()
        finally:
            with self._lock:
                self._idle -= 1

    def detach(self, worker: str) -> None:
        """Stop counting the worker of that thread name; another may take its place."""
        with self._lock:
            for ident, thread in list(self._threads.items()):
                if thread.name == worker:
                    del self._threads[ident]

    def _stop(self) -> None:
        while True:
            try:
                job = self._queue.get_nowait()
            except Empty:
                break
            if job is not None:
                job.cancel()
        with self._lock:
            threads = list(self._threads.values())
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S / len(threads))

    def workers(self) -> int:
        """Return the limit of threads."""
        return self._limit

    def inside(self) -> bool:
        """Whether the current thread is one of this pool's workers."""
        return getattr(self._local, "worker", False)
