"""What a `Runtime` knows of its calls: which are live, how many ended how, which failed, whether anything moves.

Calls that have ended are dropped; counters, the last few rows and the failed handles remain, all of them bounded.
Nothing here waits or calls user code while the lock is held.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nbflow._steady import SteadyEvent
from nbflow._util import one_line
from nbflow.errors import TaskCancelledError
from nbflow.handles import TaskHandle
from nbflow.runtime.current import Call

__all__ = ["Entry", "Tally"]

_KEPT = 1000
"""How many failed handles, and how many rows of calls that have ended, are kept."""


class Entry:
    """A call that has not ended."""

    __slots__ = ("call", "handle", "over", "pool", "submitted")

    def __init__(self, handle: TaskHandle[Any], call: Call | None, pool: str) -> None:
        self.handle = handle
        self.call = call
        self.pool = pool
        self.over: threading.Event | None = None
        self.submitted = self.now()

    def now(self) -> float:
        """The time by the clock that the call goes by."""
        return self.call.session.clock.monotonic() if self.call is not None else 0.0

    @property
    def started(self) -> float | None:
        """When the call began; None while it is queued."""
        return self.call.started if self.call is not None else self.submitted

    @property
    def blocked(self) -> bool:
        """Whether it waits for handles among its arguments, not for a worker."""
        return any(not needed.done() for needed in self.handle._needs)

    def moved(self) -> float:
        """When it last began or told of its progress."""
        told = self.call.progress if self.call is not None else None
        return max(self.started or self.submitted, told[2] if told is not None else 0.0)

    def row(self, state: str | None = None, error: BaseException | None = None) -> dict[str, Any]:
        """Describe the call as it is now, or as it ended."""
        call, started = self.call, self.started
        ended = call.ended if call is not None and call.ended is not None else self.now()
        begun = ended if started is None else started
        return {
            "id": self.handle.task_id,
            "name": self.handle.name if call is None else call.name,
            "state": state or ("queued" if started is None else "running"),
            "pool": self.pool,
            "worker": call.worker if call is not None else None,
            "execution_duration_ms": 1000 * max(0.0, ended - begun),
            "queued_duration_ms": 1000 * max(0.0, begun - self.submitted),
            "progress_pct": 100.0 if state == "completed" else self._percent(),
            "error": None if error is None else one_line(error),
        }

    def _percent(self) -> float:
        told = self.call.progress if self.call is not None else None
        if told is None or not told[1]:
            return 0.0
        return min(100.0, 100.0 * told[0] / told[1])


class Tally:
    """The books of one runtime; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: dict[int, Entry] = {}
        self._ending: dict[int, Entry] = {}  # they have ended, but not everybody who listens has been told
        self._completed = 0
        self._failures = 0
        self._moved: dict[str, float] = {}
        self._waiting: Counter[int] = Counter()
        self._recent: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._failed: deque[TaskHandle[Any]] = deque(maxlen=_KEPT)
        self._errors: deque[str] = deque(maxlen=_KEPT)
        self._untold: deque[TaskHandle[Any]] = deque(maxlen=_KEPT)
        self._untold_count = 0

    # -- begin and end --------------------------------------------------------------------------------------------

    def add(self, entry: Entry) -> bool:
        """Take a call into the books; whether there was none before."""
        with self._lock:
            first = not self._live
            self._live[entry.handle.task_id] = entry
            entry.handle._books = self
            return first

    def knows(self, handle: TaskHandle[Any]) -> bool:
        """Whether the call is in the books, or was until it ended."""
        return handle._books is self

    def drop(self, entry: Entry) -> None:
        """Forget a call that was never launched, if nobody has noted its end."""
        with self._lock:
            self._live.pop(entry.handle.task_id, None)

    def end(self, handle: TaskHandle[Any]) -> BaseException | None:
        """Note how a call ended, before anybody who waits is told; its failure, or None (also if it was cancelled)."""
        error = handle.exception
        cancelled = isinstance(error, TaskCancelledError)
        state = "completed" if error is None else "cancelled" if cancelled else "failed"
        with self._lock:
            entry = self._live.get(handle.task_id)
        if entry is None:  # somebody else has noted it
            return None
        row = entry.row(state, error)
        with self._lock:
            self._ending[handle.task_id] = self._live.pop(handle.task_id, entry)
            self._recent.append(row)
            self._moved[entry.pool] = entry.now()
            if error is None:
                self._completed += 1
            elif not cancelled:
                self._failures += 1
                self._failed.append(handle)
                self._errors.append(f"{handle.name}: {row['error']}")
                self._untold.append(handle)
                self._untold_count += 1
        return None if cancelled else error

    def release(self, handle: TaskHandle[Any]) -> bool:
        """Drop a call that has ended and wake who waits for it; whether nothing is left."""
        with self._lock:
            entry = self._ending.pop(handle.task_id, None)
            if entry is not None and entry.over is not None:
                entry.over.set()
            return not (self._live or self._ending)

    # -- asking ---------------------------------------------------------------------------------------------------

    def live(self) -> list[Entry]:
        """Return the calls that have not ended, oldest first."""
        with self._lock:
            return list(self._live.values())

    def under(self, around: set[int]) -> set[int]:
        """Return the ids of the live calls that cannot end before this code goes on.

        Those are the calls around it, those that need one of them, and those that wait for one of them.
        """
        with self._lock:
            live = dict(self._live)
        found = around & live.keys()
        needing: dict[int, list[int]] = {}
        for number, entry in live.items() if found else ():
            for needed in entry.handle._needs:
                needing.setdefault(needed.task_id, []).append(number)
        todo = list(found)
        while todo:
            number = todo.pop()
            waiting = [_live_around(helper.waiter, live) for helper in tuple(live[number].handle._helpers)]
            more = {*needing.get(number, ()), *(waiter for waiter in waiting if waiter is not None)} - found
            found |= more
            todo += more
        return found

    @contextmanager
    def waiting(self, own: frozenset[int]) -> Iterator[None]:
        """Let the calls `own` count as waiting for all others while the block runs."""
        with self._lock:
            self._waiting.update(own)
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= Counter(own)  # drops those that count nothing

    def waits_too(self, entry: Entry, own: set[int]) -> bool:
        """Whether `entry` waits for all others or is of `own`, which therefore must not wait for it."""
        number = entry.handle.task_id
        return number in own or (bool(own) and self._waiting[number] > 0)

    def next(self, own: set[int]) -> tuple[Entry, threading.Event] | None:
        """Return a live call for `own` to wait for, and what will be set when it has been released."""
        with self._lock:
            left_out = own | {number for number, times in self._waiting.items() if times > 0} if own else own
            for books in (self._live, self._ending):
                for number, entry in books.items():
                    if number not in left_out:
                        entry.over = entry.over or SteadyEvent()
                        return entry, entry.over
        return None

    def failed(self) -> list[TaskHandle[Any]]:
        """Return the handles that failed since `clear`."""
        with self._lock:
            return list(self._failed)

    def clear(self) -> None:
        """Forget the handles that failed."""
        with self._lock:
            self._failed.clear()
            self._errors.clear()
            self._untold.clear()
            self._untold_count = 0

    def take_untold(self) -> tuple[int, list[TaskHandle[Any]]]:
        """Return how many calls failed since this was last asked or cleared, and their handles (the latest ones)."""
        with self._lock:
            count, self._untold_count = self._untold_count, 0
            found = list(self._untold)
            self._untold.clear()
            return count, found

    @property
    def busy(self) -> int:
        """How many calls have not ended."""
        return len(self._live) + len(self._ending)

    def progress(self, workers: Callable[[list[Entry], dict[str, int]], list[dict[str, Any]]]) -> dict[str, Any]:
        """Return counts, workers (as `workers(running, queued by pool)` describes them), rows and errors."""
        with self._lock:
            live = list(self._live.values())
            running = [entry for entry in live if entry.started is not None]
            completed, failed = self._completed, self._failures
            recent, errors = list(self._recent), list(self._errors)
        return {
            "total": completed + failed + len(live),
            "completed": completed,
            "running": len(running),
            "queued": len(live) - len(running),
            "failed": failed,
            "workers": workers(running, Counter(entry.pool for entry in live if entry.started is None)),
            "tasks": [*recent, *(entry.row() for entry in live)],
            "errors": errors,
        }

    def stalled_s(self, pool: str, size: int) -> float:
        """Return for how many seconds work of a pool has waited while all `size` workers were busy and none moved."""
        live = [entry for entry in self.live() if entry.pool == pool]
        running = [entry for entry in live if entry.started is not None]
        waiting = [entry for entry in live if entry.started is None and not entry.blocked]
        if not waiting or len(running) < size:
            return 0.0
        moved = max(self._moved.get(pool, 0.0), *(entry.moved() for entry in running), waiting[0].submitted)
        return waiting[0].now() - moved


def _live_around(call: Call | None, live: Mapping[int, Entry]) -> int | None:
    """Return the id of the innermost call that is in the books, of this one and those around it."""
    while call is not None and call.id not in live:
        call = call.parent
    return None if call is None else call.id
