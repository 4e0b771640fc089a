"""A worker's look at itself: what it tells of work that lasts, while that goes on.

One thread of a worker looks at its jobs a few times a second, as long as there are any, so that quick work pays nothing
for being watched. Of a range of items it tells how far it is, together with the results that there are; of maps inside
a call how many of their items have ended.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable
from time import perf_counter, sleep
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from nbflow.core import events

__all__ = ["Lookout", "Progress", "RangeAnswer", "watch"]

LOOK_S = 0.1
"""How long work lasts at least before it is told of."""

_IDLE_LOOKS = 20  # after so many without any job the thread ends
_TOLD_BYTES = 1 << 18


class RangeAnswer(NamedTuple):
    """What came of some items of a range, since it was last told.

    Args:
        results: Packed results, or a `Failure`; fewer than there were items where time was up.
        stamps: Clock before the first of them, and after each (seconds, this process's clock).
        reads: Files that the items have read.
        opened: Files that they have just opened, where these count.
        now: Clock when this was told.
        ahead: Items that have ended beyond these, whose results are too large to be told of before the end.
    """

    results: list[Any]
    stamps: array[float]
    reads: dict[str, Any]
    opened: dict[str, Any]
    now: float
    ahead: int = 0


class Progress:
    """How far a range is: the thread that runs it appends, the lookout reads.

    Attributes:
        results, stamps, reads, opened: As in `RangeAnswer`, of the whole range.
    """

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.stamps = array("d", (perf_counter(),))
        self.reads: dict[str, Any] = {}
        self.opened: dict[str, Any] = {}
        self._told = 0
        self._seen = -1

    def news(self) -> RangeAnswer | None:
        """Return what has come since it was last told; None where nothing has."""
        done = len(self.stamps) - 1  # a result is there before its stamp
        if done == self._seen:
            return None
        self._seen = done
        results = self.results[self._told : done]
        if sum(map(_weight, results)) > _TOLD_BYTES:
            return RangeAnswer([], self.stamps[done : done + 1], {}, {}, perf_counter(), done - self._told)
        return self._answer(done)

    def rest(self) -> RangeAnswer:
        """Return what has not been told, at the end."""
        return self._answer(len(self.results))

    def _answer(self, done: int) -> RangeAnswer:
        first, self._told = self._told, done
        results, stamps = self.results[first:done], self.stamps[first : done + 1]
        return RangeAnswer(results, stamps, dict(self.reads), dict(self.opened), perf_counter())


def _weight(result: Any) -> int:
    """Return about how many bytes a packed result has."""
    if type(result) is str:
        return len(result)
    head, buffers = getattr(result, "head", b""), getattr(result, "buffers", ())
    return len(head) + sum(memoryview(buffer).nbytes for buffer in buffers)


class Lookout:
    """What is told of one job while it lasts.

    Args:
        tell: Sends a message to the coordinator; safe from any thread.
        session: The session whose maps are told of; None for none.
        progress: How far the job is, if it is a range.
    """

    def __init__(self, tell: Callable[[Any], object], session: Any = None, progress: Progress | None = None) -> None:
        self._tell = tell
        self._session = session
        self._progress = progress
        self._counts: dict[int, tuple[int, ...]] = {}

    def look(self) -> None:
        """Tell what is new."""
        if self._progress is not None and (news := self._progress.news()) is not None:
            self._tell(news)
        for state in () if self._session is None else self._session.live_maps():
            counts = (state.completed, state.cached, state.failed, state.cancelled, state.running)
            if self._counts.get(state.id) != counts:
                self._counts[state.id] = counts
                self._tell(_sample(state))


def _sample(state: Any) -> events.MapProgressed:
    return events.MapProgressed(
        call_id=state.id,
        name=state.name,
        time=state.session.clock.wall(),
        total=state.total,
        completed=state.completed,
        cached=state.cached,
        failed=state.failed,
        cancelled=state.cancelled,
        running=state.running,
        saved_s=state.saved_s,
    )


_lock = threading.Lock()  # held while a lookout looks, so that none does once its job is over
_lookouts: WeakValueDictionary[int, Lookout] = WeakValueDictionary()
_watching = False


class watch:  # noqa: N801 - used as a function; a class is quicker to enter than a generator
    """Let a lookout look while the block runs."""

    __slots__ = ("_lookout",)

    def __init__(self, lookout: Lookout) -> None:
        self._lookout = lookout

    def __enter__(self) -> None:
        global _watching
        with _lock:
            _lookouts[id(self._lookout)] = self._lookout
            if not _watching:
                _watching = True
                threading.Thread(target=_look_around, name="nbflow-watch", daemon=True).start()

    def __exit__(self, *exc: object) -> None:
        with _lock:
            _lookouts.pop(id(self._lookout), None)


def _look_around() -> None:
    """Look at all jobs from time to time, until there have been none for a while."""
    global _watching
    idle = 0
    while True:
        sleep(LOOK_S)
        with _lock:
            idle = 0 if _lookouts else idle + 1
            if idle >= _IDLE_LOOKS:
                _watching = False
                return
            for number, lookout in list(_lookouts.items()):
                try:
                    lookout.look()
                except Exception:  # it only tells; what it would have told comes at the end
                    _lookouts.pop(number, None)
