"""The pools of a `Runtime`: one each for functions, coroutines and blocking calls, or one backend for everything.

A pool is made when its first call is submitted. A worker of any of the three counts as inside all of them, so that
whoever waits there gets help with what it waits for, in whatever pool that is queued.
"""

from __future__ import annotations

import re
import threading
from types import SimpleNamespace

from nbflow._inside import inside
from nbflow._tally import Entry
from nbflow._typing import Any, ClassVar
from nbflow.backends.base import Backend, BackendContext
from nbflow.backends.manager import BackendManager
from nbflow.backends.thread import ThreadBackend
from nbflow.errors import DefinitionError
from nbflow.settings import get_global_settings, with_overrides

__all__ = ["Pools"]


class _Pool(ThreadBackend):
    def __init__(self, crew: object) -> None:
        self._all = crew

    def _start(self, *, context: BackendContext) -> None:
        super()._start(context=context)
        self._crew = self._all


class _Functions(_Pool):
    name: ClassVar[str] = "python"


class _Coroutines(_Pool):
    name: ClassVar[str] = "coroutine"


class _Blocking(_Pool):
    name: ClassVar[str] = "io"


_KINDS: dict[str, type[_Pool]] = {kind.name: kind for kind in (_Functions, _Coroutines, _Blocking)}


class Pools:
    """Makes pools, finds them, describes and stops them; safe from any thread.

    Args:
        sizes: Workers by kind of pool: python, coroutine, io.
        backend: Takes the place of all of them; whatever a session takes for a backend. One that is not running yet is
            started, owned and stopped here.
    """

    def __init__(self, sizes: dict[str, int], backend: Any = None) -> None:
        self.sizes = sizes
        self._lock = threading.Lock()
        self._crew = object()
        self._made: dict[str, Backend] = {}
        self._manager: BackendManager | None = None
        self._only: Backend | None = None
        if backend is not None:
            self._manager = BackendManager(_with_workers(sizes["coroutine"]))
            if self._manager.resolve(backend) == "inline":
                raise DefinitionError(
                    f"backend={backend!r} runs a call before submit returns, so there would be nothing to wait for; "
                    "use backend='thread', or call the function."
                )
            self._only = self._manager.get(backend)
        if self._only is not None:
            self.sizes = {self._only.name: self._only.workers()}
            self._made = {self._only.name: self._only}

    @property
    def foreign(self) -> bool:
        """Whether one backend takes the place of the three pools."""
        return self._only is not None

    @property
    def local(self) -> bool:
        """Whether calls run in this process."""
        return self._only is None or self._only.abilities.local

    @property
    def inside(self) -> bool:
        """Whether the current thread is a worker of one of these pools."""
        return inside(self._crew) or (self._only is not None and self._only.inside())

    def get(self, kind: str) -> Backend:
        """Return the pool of that kind, started."""
        if self._only is not None:
            return self._only
        with self._lock:
            if kind not in self._made:
                pool = _KINDS[kind](self._crew)
                pool.start(_with_workers(self.sizes[kind]))
                self._made[kind] = pool
            return self._made[kind]

    def made(self) -> dict[str, int]:
        """Return the workers of each pool that there is."""
        with self._lock:
            return {kind: self.sizes[kind] for kind in self._made}

    def workers(self, running: list[Entry], queued: dict[str, int]) -> list[dict[str, Any]]:
        """Describe each worker: its id, whether it is idle, its task, and how many calls wait for its pool."""
        rows: list[dict[str, Any]] = []
        for kind, size in self.made().items():
            for task in _places([entry for entry in running if entry.pool == kind], size):
                depth = queued.get(kind, 0)
                rows.append({"id": len(rows), "idle": not task, "task": task, "queue_depth": depth})
        return rows

    def stop(self) -> None:
        """Stop the pools, but for a backend that was started by somebody else; idempotent."""
        with self._lock:
            own = [] if self._only is not None else list(self._made.values())
            manager, self._manager = self._manager, None
        for pool in own:
            pool.stop()
        if manager is not None:
            manager.stop()


def _places(running: list[Entry], size: int) -> list[str]:
    """Return what each of a pool's workers runs; "" for nothing."""
    tasks = [""] * size
    elsewhere: list[str] = []  # in a thread that took the place of one that was left behind, or that only helps
    for entry in running:
        worker = (entry.call.worker if entry.call is not None else None) or ""
        found = re.fullmatch(r"nbflow-(?!helper-)\D+-(\d+)", worker)
        place = int(found[1]) - 1 if found else size
        if place < size:
            tasks[place] = entry.handle.name  # of those that wait for each other the innermost began last
        else:
            elsewhere.append(entry.handle.name)
    for name in elsewhere:
        if "" in tasks:
            tasks[tasks.index("")] = name
    return tasks


def _with_workers(count: int) -> Any:
    """Return what a backend takes for a session, with so many workers."""
    settings = with_overrides(get_global_settings(), max_backend_threads=count, max_parallel_processes=count)
    return SimpleNamespace(settings=settings, session_id=None)
