"""The backend `paced`: threads that begin so many calls a second and no more, for services that count requests."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from nbflow.backends import Abilities, Backend, BackendContext, SubmitContext

__all__ = ["PacedBackend"]


class PacedBackend(Backend):
    """Runs calls on threads, and lets `PACED_PER_SECOND` of them begin each second (environment; default 200)."""

    name = "paced"
    # What it can honour. A running call cannot be stopped from outside, so `cancel` stays False, and nbflow tells
    # users who ask for that; timeouts and prints need nothing from a backend in this process.
    abilities = Abilities(parallel=True, local=True)

    def _start(self, *, context: BackendContext) -> None:
        self._interval_s = 1.0 / float(os.environ.get("PACED_PER_SECOND", "200"))
        self._workers = context.settings.max_backend_threads
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="paced")
        self._lock = threading.Lock()
        self._next_start = 0.0
        self._stopping = threading.Event()
        self._local = threading.local()

    def _submit(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, context: SubmitContext
    ) -> Future[Any]:
        # Each call sees the submitter's context variables: that is how nbflow finds session and cell in a thread.
        return self._pool.submit(copy_context().run, self._in_turn, func, args, kwargs)

    def _in_turn(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._lock:
            begin = self._next_start = max(time.monotonic(), self._next_start + self._interval_s)
        self._stopping.wait(begin - time.monotonic())
        self._local.worker = True
        return func(*args, **kwargs)

    def _stop(self) -> None:
        # What waits is cancelled, what runs is not waited for.
        self._stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def workers(self) -> int:
        """Return how many calls can run at a time."""
        return self._workers

    def inside(self) -> bool:
        """Whether this thread is one of ours; nbflow asks so that maps inside maps cannot wait for each other."""
        return getattr(self._local, "worker", False)
