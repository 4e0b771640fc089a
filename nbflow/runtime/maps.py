"""One map of a task over items: its state, its beginning and its end, whatever runs its items.

A `MapState` holds the items, the results and the live counters; `pulling` runs items in this process, `ranges` and
`remote` elsewhere. The rules for all of them:

* The first failure (or an interrupt, or a cancel) stops the map: no further item starts, running ones are told to end.
* An item that is cancelled by itself stops nothing; its error is raised when the others have ended.
* Nobody waits longer than a short grace for code that will not end; it is left behind and reported.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nbflow.core.spec import TaskSpec
from nbflow.errors import TaskCancelledError
from nbflow.runtime import current
from nbflow.runtime.current import Call, new_id
from nbflow.runtime.emit import Reporter, emit_session

__all__ = ["PENDING", "MapState", "conduct", "stopped_while_waiting"]

_TAKEN = 5000

PENDING = object()
"""What stands in `results` for an item that has none."""


class MapState:
    """One map: its items, results and live counters; counters may be read from any thread.

    Args:
        spec: The task.
        session: The session to run in.
        parent: The call that makes the map, if any.
        items: Argument tuples, one for each item.
        kwargs: Keyword arguments for every item.
        backend: Name of the backend.
        collect: Put exceptions into the results instead of stopping at the first.
    """

    def __init__(
        self,
        spec: TaskSpec,
        session: Any,
        parent: Call | None,
        items: list[tuple[Any, ...]],
        kwargs: dict[str, Any],
        *,
        backend: str,
        collect: bool,
    ) -> None:
        self.id = new_id()
        self.spec = spec
        self.name = spec.name
        self.session = session
        self.parent = parent
        self.parent_id = None if parent is None else parent.id
        self.items = items
        self.kwargs = kwargs
        self.backend = backend
        self.collect = collect
        self.total = len(items)
        self.results: list[Any] = [PENDING] * self.total
        self.completed = self.cached = self.failed = self.cancelled = 0
        self.saved_s = 0.0
        self.started = session.clock.monotonic()
        self.cancel_reason: str | None = None
        self.error: BaseException | None = None
        self.over = False
        self.on_stop: Callable[[], object] | None = None
        self.index_of: Callable[[int], int | None] | None = None  # by the ids of calls, where these are known before
        self.dropped: dict[int, str] = {}  # items that were cancelled one by one, and by whom
        self.on_drop: Callable[[int], object] | None = None
        self.away = False  # whether items run outside this process, which threads of it only wait for
        self.untracked = False  # whether items take the short lane, where no call can be found while it runs
        self.slots: dict[int, list[Any]] = {}
        self.taken: deque[tuple[int, int, str]] = deque(maxlen=_TAKEN)  # first, end and worker of pulled ranges
        self._busy = 0
        self._shared_s = 0.0
        self._shared_at = self.started
        self._lock = threading.Lock()

    # -- live state ---------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """How many items run now."""
        return sum(1 for slot in list(self.slots.values()) if slot[0] is not None)

    def running_items(self) -> list[tuple[int, str, float, str]]:
        """Return index, name, start (monotonic seconds) and worker of each item that runs now."""
        found = []
        for slot in list(self.slots.values()):
            index, since, worker = slot
            if index is not None:
                found.append((index, f"{self.name}[{index}]", since, worker))
        return sorted(found)

    @contextmanager
    def tracked(self, index: int, worker: str) -> Iterator[None]:
        """Show item `index` as running on `worker` while the block runs."""
        slot = [index, self.session.clock.monotonic(), worker]
        self.slots[id(slot)] = slot
        try:
            yield
        finally:
            del self.slots[id(slot)]

    def share(self, change: int = 0) -> float:
        """Return the map's shared seconds: time that passes at 1/n of its pace while n items run.

        What they advance by during an item is its fair share of the map's duration, so that the costs of items which
        overlapped add up to the time that a cached map really saves.

        Args:
            change: 1 where an item begins, -1 where it ends.
        """
        with self._lock:
            now = self.session.clock.monotonic()
            if self._busy:
                self._shared_s += (now - self._shared_at) / self._busy
            self._shared_at = now
            self._busy += change
            return self._shared_s

    def count(self, call: Call) -> None:
        """Add an ended call to the counters; one that was left behind and ends after the map is in them already."""
        with self._lock:
            if self.over:
                return
            if call.state == current.COMPLETED:
                self.completed += 1
                if call.cached:
                    self.cached += 1
                    self.saved_s += call.saved_s
            elif call.state == current.CANCELLED:
                self.cancelled += 1
            else:
                self.failed += 1

    def count_completed(self, number: int) -> None:
        """Add calls that were computed and have completed."""
        with self._lock:
            if not self.over:
                self.completed += number

    def cancel(self, reason: str = "cancelled") -> bool:
        """Stop the map: no further item starts, running ones are told to end; False if it is over."""
        if self.over:
            return False
        self.stop(reason)
        return True

    def cancel_item(self, index: int, reason: str = "cancelled") -> bool:
        """Cancel one item; the others run on, and its error is raised (or is its result) when they have ended.

        Safe from any thread.

        Args:
            index: Its position; an item that has not begun never will.
            reason: Who asked for it.

        Returns:
            False if it has ended, or was cancelled before.
        """
        with self._lock:
            if self.over or index in self.dropped or self.results[index] is not PENDING:
                return False
            self.dropped[index] = reason
        for call in list(self.session.active.values()):
            if isinstance(call, Call) and call.map is self and call.index == index:
                call.cancel(reason)
        if (on_drop := self.on_drop) is not None:
            on_drop(index)
        return True

    def cancel_call(self, call_id: int, reason: str = "cancelled") -> bool:
        """Cancel the item whose call has that id, where ids are known before items begin; see `cancel_item`."""
        index_of = self.index_of
        index = None if index_of is None else index_of(call_id)
        return index is not None and self.cancel_item(index, reason)

    def reason_for(self, index: int | None) -> str | None:
        """Return by whom an item was cancelled, alone or with the map; None if it was not."""
        return self.cancel_reason if index is None else self.dropped.get(index, self.cancel_reason)

    def drop(self, index: int) -> None:
        """Let a cancelled item end that never began."""
        self.keep(index, self.drop_error(index))

    def drop_error(self, index: int) -> TaskCancelledError:
        """Return the error of an item that was cancelled."""
        name, reason = f"{self.name}[{index}]", self.dropped[index]
        return TaskCancelledError(f"Task {name!r} was cancelled ({reason}).", task=name, reason=reason)

    def stop(self, reason: str, error: BaseException | None = None) -> None:
        """Let no further item start; the first reason and error win."""
        with self._lock:
            if self.cancel_reason is None:
                self.cancel_reason = reason
                self.error = error
        if (on_stop := self.on_stop) is not None:
            on_stop()

    def keep(self, index: int, error: BaseException) -> None:
        """Note the failure of an item: into its result where failures are collected, else as the end of the map."""
        alone = index in self.dropped and isinstance(error, TaskCancelledError)
        if (alone or (self.collect and isinstance(error, Exception))) and self.cancel_reason is None:
            self.results[index] = error
        else:
            self.stop("another item failed", error)

    # -- begin and end ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the map known."""
        session = self.session
        session.active[self.id] = self
        emit_session(
            session,
            "MapStarted",
            self.id,
            self.name,
            total=self.total,
            backend=self.backend,
            parent_id=self.parent_id,
            cell=session.label(),
        )
        if session.hooks is not None:
            session.hooks.call.before_map(
                map_id=self.id, name=self.name, total=self.total, backend=self.backend, reporter=Reporter(session)
            )

    def end(self) -> None:
        """Make the end of the map known; no item starts any more."""
        session = self.session
        session.active.pop(self.id, None)
        with self._lock:
            self.over = True
            self.cancelled = self.total - self.completed - self.failed
        duration = session.clock.monotonic() - self.started
        tallies = {"completed": self.completed, "failed": self.failed, "cancelled": self.cancelled}
        emit_session(
            session,
            "MapEnded",
            self.id,
            self.name,
            total=self.total,
            cached=self.cached,
            duration_s=duration,
            saved_s=self.saved_s,
            **tallies,
        )
        if session.hooks is not None:
            session.hooks.call.after_map(
                map_id=self.id,
                name=self.name,
                total=self.total,
                duration=duration,
                reporter=Reporter(session),
                **tallies,
            )
        self.parent = None

    def outcome(self) -> list[Any]:
        """Return the results, or raise what stopped the map."""
        __tracebackhide__ = True
        if self.error is not None:
            raise self.error
        if self.dropped and not self.collect and self.cancel_reason is None:
            for index in sorted(self.dropped):
                if isinstance(error := self.results[index], TaskCancelledError):
                    raise error
        if self.cancel_reason is not None:
            raise TaskCancelledError(
                f"The map of {self.name!r} was cancelled ({self.cancel_reason}) after "
                f"{self.completed} of {self.total} items.",
                task=self.name,
                reason=self.cancel_reason,
            )
        return self.results

    def forget(self) -> None:
        """Let go of items and results once they were handed out: records that refer to the map keep nothing alive."""
        self.items, self.kwargs, self.results = [], {}, []
        self.on_stop = self.on_drop = self.index_of = None


def conduct(state: MapState, work: Callable[[], object]) -> list[Any]:
    """Do what runs the items of a map, between its begin and its end, and return the results.

    Raises:
        BaseException: The first failure, or the interrupt, that stopped the map.
    """
    __tracebackhide__ = True
    try:
        state.begin()
        work()
    except BaseException as error:
        state.stop("interrupt" if isinstance(error, KeyboardInterrupt) else type(error).__name__, error)
    finally:
        state.end()
    try:
        return state.outcome()
    finally:
        state.forget()


def stopped_while_waiting(state: MapState, error: BaseException) -> None:
    """End the map because its coordinator was interrupted; where it waited says nothing to the user."""
    if isinstance(error, KeyboardInterrupt):
        state.stop("interrupt", error.with_traceback(None))
    else:
        state.stop(type(error).__name__, error)
