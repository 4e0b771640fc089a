"""Help for a worker that waits for calls of its own pool: another thread runs them, as long as it waits.

Such a worker could wait for ever, as it may be the one that is to run them. It does not run them itself, since who is
told to stop while it waits must not take along what others need, and is to leave at its own deadline. The thread that
helps counts as the worker in whose place it works, so that help is found however deep calls wait for each other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from nbflow._inside import is_worker, stand_in
from nbflow._shield import shielded
from nbflow.backends.thread import ThreadBackend
from nbflow.runtime.current import current_call

if TYPE_CHECKING:
    from nbflow.backends.base import Backend
    from nbflow.handles import TaskHandle

__all__ = ["Helper"]

_MANY = 1 << 30


class _Helpers(ThreadBackend):
    """The threads that help the workers of one pool: as many as there are workers that wait."""

    name: ClassVar[str] = "helper"


_pools: WeakKeyDictionary[Backend, _Helpers] = WeakKeyDictionary()
_pools_lock = threading.Lock()


def _helpers_of(backend: Backend) -> _Helpers:
    """Return the threads that help those of a pool; they end when it stops. Safe from any thread."""
    with _pools_lock:
        found = _pools.get(backend)
        if found is None:
            found = _pools[backend] = _Helpers()
            found.start(SimpleNamespace(settings=SimpleNamespace(max_backend_threads=_MANY), session_id=None))
            backend.at_stop(found.stop)
        return found


class Helper:
    """Runs what the current thread waits for, one call after the other, once it can run; safe from any thread.

    Args:
        wanted: What is waited for. Of what these need it runs all that is for a pool in which this thread works.

    Attributes:
        waiter: The call that waits, if it is one.
    """

    __slots__ = ("_busy", "_lock", "_needed", "_wanted", "run", "waiter")

    def __init__(self, wanted: Iterable[TaskHandle[Any]]) -> None:
        self.waiter = current_call()
        self._lock = threading.Lock()
        self._busy = self._wanted = False
        self._needed = deque(_in_order(wanted))
        self.run = stand_in(self._work_off)
        for handle in self._needed:
            vars(handle).setdefault("_helpers", set()).add(self)

    def begin(self) -> None:
        """Help from now on."""
        self._wanted = True
        self.look()

    def pause(self) -> None:
        """Begin nothing for now; what runs goes on."""
        self._wanted = False

    def end(self) -> None:
        """Begin nothing any more; what runs goes on."""
        self._wanted = False
        for handle in list(self._needed):
            vars(handle).get("_helpers", set()).discard(self)

    def cancel(self) -> None:
        """Take note that no thread helps any more: the pool has stopped."""

    def look(self) -> None:
        """Take note that a call may have become ready."""
        shielded(self._look)  # the thread that waits may be stopped, and others may need the helper

    def _look(self) -> None:
        with self._lock:
            if self._busy or (first := self._next()) is None:
                return
            self._busy = True
        _helpers_of(first._backend).take(self)

    def _work_off(self) -> None:
        while True:
            with self._lock:
                found = self._next()
                if found is None:
                    self._busy = False
                    return
            found._work.run()

    def _next(self) -> TaskHandle[Any] | None:
        """Return the first call that is ready and that nobody runs; None if there is none, or while nobody waits."""
        while self._needed and self._needed[0].done():
            self._needed.popleft()
        ready = (handle for handle in self._needed if handle._ready and handle._work.waits())
        return next(ready, None) if self._wanted else None


def _in_order(wanted: Iterable[TaskHandle[Any]]) -> Iterable[TaskHandle[Any]]:
    """Yield calls of this thread's pools that have not ended, each behind those that it needs."""
    seen: set[TaskHandle[Any]] = set()
    for handle in wanted if is_worker() else ():
        if handle in seen or handle.done():
            continue
        seen.add(handle)
        around = [(handle, iter(handle._needs))]  # not by calls of itself, as chains may be long
        while around:
            inner, needs = around[-1]
            found = next((each for each in needs if each not in seen and not each.done()), None)
            if found is None:
                around.pop()
                if inner._is_ours():
                    yield inner
            else:
                seen.add(found)
                around.append((found, iter(found._needs)))
