"""Running the items of a map in this process: on one thread, or on a pool whose workers pull them.

Workers *pull* ranges of items from one counter, so that submitting costs nothing per item; ranges grow while they are
quick and stay small where items are slow. A worker of the same pool that starts a map pulls items itself, so nested
maps never wait for a free worker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from nbflow._steady import SteadyEvent, SteadySemaphore
from nbflow.errors import TaskCancelledError
from nbflow.runtime.current import Call
from nbflow.runtime.emit import emit, emit_session
from nbflow.runtime.maps import MapState, conduct, stopped_while_waiting
from nbflow.runtime.stopping import GRACE_S, WAKE_S, Region, Stopped

__all__ = ["run_map"]

_RANGE_S = 0.005
_MAX_RANGE = 64


def run_map(
    state: MapState, backend: Any, run_item: Callable[[int], Any], *, concurrency: int | None, chunksize: int | None
) -> list[Any]:
    """Run every item of `state` and return the results in order.

    Args:
        state: The map.
        backend: The backend, started.
        run_item: Runs item `index` and returns its result.
        concurrency: At most so many items at a time; None for what the backend allows.
        chunksize: Items that a worker takes at a time; None to let it grow by measured duration.

    Raises:
        BaseException: The first failure, or the interrupt, that stopped the map.
    """
    __tracebackhide__ = True
    pulls = backend.abilities.pulls

    def work() -> None:
        if pulls and (state.total == 1 or not backend.abilities.parallel):
            _pull_here(state, run_item)
        elif pulls:
            _pull_together(state, backend, run_item, concurrency, chunksize)
        else:
            _submit_each(state, backend, run_item, concurrency)

    return conduct(state, work)


def _pull_here(state: MapState, run_item: Callable[[int], Any]) -> None:
    """Run all items in this thread; whoever cancels the map from another one stops the item that runs."""
    me = threading.get_ident()
    puller = _Puller(state, run_item, _Ranges(state.total, 1), None)

    def stop() -> None:
        if threading.get_ident() != me:
            _stop_item(state, puller.slot[0], puller.region)

    state.on_stop, state.on_drop = stop, puller.drop
    with puller.region:
        puller.pull()


class _Puller:
    """One worker's part in a map.

    Attributes:
        region: What it is stopped by.
        over: Set at its end.
        slot: The item that runs, since when, and on which thread.
        left: Whether it was left behind with an item that would not end.
    """

    __slots__ = ("_chunk", "_fixed", "_ident", "_ranges", "_run", "_state", "_taken", "left", "over", "region", "slot")

    def __init__(self, state: MapState, run: Callable[[int], Any], ranges: _Ranges, chunksize: int | None) -> None:
        self._state = state
        self._run = run
        self._ranges = ranges
        self._fixed = chunksize is not None
        self._chunk = chunksize or 1
        self.region = Region()
        self.over = SteadyEvent()
        self.slot: list[Any] = [None, 0.0, ""]
        self.left = False
        self._taken = range(0)
        self._ident = 0

    def leave(self, index: int) -> bool:
        """Leave the worker behind if it still runs that item; others take what it would have run after it."""
        with self._ranges.lock:
            if self.slot[0] != index or self.left:
                return False
            self.left = True
            self._ranges.give_back(range(index + 1, self._taken.stop))
        self._state.slots.pop(self._ident, None)
        self._state.drop(index)
        return True

    def drop(self, index: int) -> None:
        """Stop one item, if it runs here; from any thread. A call that somebody can find was told already."""
        state = self._state
        if state.untracked and self.slot[0] == index:
            self.region.strike(lambda: self.slot[0] == index)

    def pull(self) -> None:
        """Take items until there are none, or the map is stopped."""
        __tracebackhide__ = True
        state = self._state
        me = self._ident = threading.get_ident()
        self.slot[2] = threading.current_thread().name
        outer = state.slots.get(me)
        if not state.away:  # else whoever hears that a worker has begun shows it
            state.slots[me] = self.slot
        try:
            self._loop()
        finally:
            self.slot[0] = None
            if outer is None and state.slots.get(me) is self.slot:
                del state.slots[me]
            self.over.set()

    def pull_stoppable(self) -> None:
        """Like `pull`, but another thread may stop it; never raises."""
        try:
            with self.region:
                self.pull()
        except Stopped:
            pass
        except BaseException as error:
            self._state.stop(type(error).__name__, error)
        finally:
            self.over.set()

    def _loop(self) -> None:
        __tracebackhide__ = True
        state, run, slot, results, ranges = self._state, self._run, self.slot, self._state.results, self._ranges
        clock, dropped = time.perf_counter, self._state.dropped
        while True:
            taken = self._taken = ranges.take(self._chunk)
            if not taken:
                return
            state.taken.append((taken.start, taken.stop, slot[2]))
            began = clock()
            for index in taken:
                if state.cancel_reason is not None:
                    return
                if index in dropped:
                    state.drop(index)
                    continue
                slot[1] = clock()
                slot[0] = index
                try:
                    value = run(index)
                    if not self.left:
                        results[index] = value
                except Exception as error:
                    if not self.left:
                        state.keep(index, error)
                slot[0] = None
                if dropped:
                    with ranges.lock:
                        if self.left:
                            return
                    self.region.settle()
            if not self._fixed:
                took = clock() - began
                if took < _RANGE_S and self._chunk < _MAX_RANGE:
                    self._chunk *= 2
                elif took > 2 * _RANGE_S and self._chunk > 1:
                    self._chunk //= 2


class _Ranges:
    """The counter that pullers share."""

    __slots__ = ("_back", "_next", "_total", "_workers", "lock")

    def __init__(self, total: int, workers: int) -> None:
        self.lock = threading.Lock()
        self._back: list[range] = []
        self._next = 0
        self._total = total
        self._workers = workers

    def take(self, size: int) -> range:
        """Return the next `size` indices, fewer near the end so that workers finish together."""
        with self.lock:
            if self._back:
                return self._back.pop()
            begin = self._next
            left = self._total - begin
            self._next = end = begin + max(1, min(size, left // (2 * self._workers)))
        return range(begin, min(end, self._total))

    def give_back(self, taken: range) -> None:
        """Let somebody else take what was taken; whoever calls this holds the lock."""
        if taken:
            self._back.append(taken)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to take."""
        return self._next >= self._total and not self._back


def _pull_together(
    state: MapState, backend: Any, run_item: Callable[[int], Any], concurrency: int | None, chunksize: int | None
) -> None:
    """Let workers of an in-process pool pull items; return when all are done or the map is stopped."""

    def room() -> int:
        now: int = backend.workers()
        return min(state.total, concurrency or now, now)

    workers = room()
    ranges = _Ranges(state.total, workers)
    pullers = [_Puller(state, run_item, ranges, chunksize) for _ in range(workers)]
    changed = SteadyEvent()
    futures: dict[_Puller, Any] = {}
    drops: dict[int, float] = {}
    helping = backend.inside()
    me = threading.get_ident()

    def stop() -> None:
        changed.set()
        if helping and threading.get_ident() != me:
            _stop_item(state, pullers[0].slot[0], pullers[0].region)

    def drop(index: int) -> None:
        for puller in list(pullers):
            puller.drop(index)
        drops[index] = time.monotonic()
        changed.set()

    def send(puller: _Puller) -> None:
        futures[puller] = backend.submit(puller.pull_stoppable)
        futures[puller].add_done_callback(lambda _: changed.set())

    state.on_stop, state.on_drop = stop, drop
    try:
        for puller in pullers[1:] if helping else pullers:
            send(puller)
        if helping:
            with pullers[0].region:
                pullers[0].pull()
        while state.cancel_reason is None:
            changed.clear()
            if ranges.exhausted and _all_taken(futures):
                return
            changed.wait(GRACE_S if drops else WAKE_S)
            for _ in range(0 if ranges.exhausted else room() - len(pullers)):  # more workers than before
                pullers.append(_Puller(state, run_item, ranges, chunksize))
                send(pullers[-1])
            for puller in _leave_overdue(state, backend, list(futures), drops):
                del futures[puller]
                pullers.append(_Puller(state, run_item, ranges, chunksize))
                send(pullers[-1])
    except BaseException as error:
        stopped_while_waiting(state, error)
    for future in futures.values():
        future.cancel()
    _end_pullers(state, backend, pullers)


def _all_taken(futures: dict[_Puller, Any]) -> bool:
    """Withdraw pullers that no worker took up (there is nothing left to pull).

    True if none of the others still runs.
    """
    return all(future.cancel() or future.done() for future in futures.values())


def _leave_overdue(state: MapState, backend: Any, pullers: list[_Puller], drops: dict[int, float]) -> list[_Puller]:
    """Leave workers behind whose item was cancelled and does not end; returns them."""
    late = {index for index, since in list(drops.items()) if time.monotonic() - since >= GRACE_S}
    found = []
    for puller in pullers if hasattr(backend, "detach") else ():
        index = puller.slot[0]
        if index in late and puller.leave(index):
            _leave_behind(state, backend, index, puller.slot[2])
            found.append(puller)
    for index in late:
        drops.pop(index, None)
    return found


def _end_pullers(state: MapState, backend: Any, pullers: list[_Puller]) -> None:
    """Stop what runs, and leave behind what does not end in time; one that starts now finds the map stopped."""
    running = [puller for puller in pullers if puller.slot[2] and not puller.left and not puller.over.is_set()]
    for puller in running:
        _stop_item(state, puller.slot[0], puller.region)
    deadline = time.monotonic() + GRACE_S
    for puller in running:
        if not puller.over.wait(max(0.0, deadline - time.monotonic())):
            _leave_behind(state, backend, puller.slot[0], puller.slot[2])


def _call_of(state: MapState, index: int | None) -> Call | None:
    """Return the call that runs item `index`, unless it is a plain one that nobody listens to."""
    for call in list(state.session.active.values()):
        if isinstance(call, Call) and call.map is state and call.index == index:
            return call
    return None


def _stop_item(state: MapState, index: int | None, region: Region) -> None:
    """Tell a running item to end; from another thread than its own.

    A call that the drivers run is only stopped inside the user's function, never while its end is being told; one that
    is just starting finds the map stopped.
    """
    if state.untracked:
        region.stop(Stopped)
    elif (call := _call_of(state, index)) is not None:
        call.cancel(state.cancel_reason or "cancelled")


def _leave_behind(state: MapState, backend: Any, index: int | None, worker: str) -> None:
    """End the item of a worker that does not stop, and let the pool go on without that worker."""
    if hasattr(backend, "detach"):
        backend.detach(worker)
    emit_session(state.session, "StragglerLeft", state.id, state.name, worker=worker)
    call = _call_of(state, index)
    if call is not None:
        reason = state.cancel_reason or "cancelled"
        emit(call, "TaskCancelled", {"error": TaskCancelledError("left behind", task=state.name, reason=reason)})


def _submit_each(state: MapState, backend: Any, run_item: Callable[[int], Any], concurrency: int | None) -> None:
    """Submit items one by one to a backend that cannot pull, at most `concurrency` at a time."""

    def run(index: int) -> Any:
        workers[index] = threading.current_thread().name
        with regions[index], state.tracked(index, workers[index]):
            if state.reason_for(index) is not None:
                raise Stopped
            return run_item(index)

    room = SteadySemaphore(concurrency or state.total)
    changed = SteadyEvent()
    pending: dict[int, Any] = {}
    regions: dict[int, Region] = {}
    workers: dict[int, str] = {}

    def stop() -> None:
        changed.set()
        room.release()

    def done(index: int, future: Any) -> None:
        try:
            if not future.cancelled():
                error = future.exception()
                if error is None:
                    state.results[index] = future.result()
                elif isinstance(error, Stopped) and index in state.dropped:  # before it had begun
                    state.drop(index)
                else:
                    state.keep(index, error)
        finally:
            regions.pop(index, None)
            pending.pop(index, None)
            room.release()
            changed.set()

    def drop(index: int) -> None:
        if state.untracked and (region := regions.get(index)) is not None:
            region.stop(Stopped)

    state.on_stop, state.on_drop = stop, drop
    try:
        for index in range(state.total):
            room.acquire()
            if state.cancel_reason is not None:
                break
            if index in state.dropped:
                state.drop(index)
                room.release()
                continue
            regions[index] = Region()
            future = backend.submit(run, (index,), map_index=index)
            pending[index] = future
            future.add_done_callback(lambda ended, index=index: done(index, ended))
        while pending and state.cancel_reason is None:
            changed.clear()
            if pending and state.cancel_reason is None:
                changed.wait(WAKE_S)
    except BaseException as error:
        stopped_while_waiting(state, error)
    _end_submitted(state, backend, pending, regions, workers, changed)


def _end_submitted(
    state: MapState,
    backend: Any,
    pending: dict[int, Any],
    regions: dict[int, Region],
    workers: dict[int, str],
    changed: threading.Event,
) -> None:
    """Withdraw what waits, stop what runs, and leave behind what does not end in time."""
    running = [index for index, future in list(pending.items()) if not future.cancel() and not future.done()]
    for index in running:
        if (region := regions.get(index)) is not None:
            _stop_item(state, index, region)
    deadline = time.monotonic() + GRACE_S
    while (left := [index for index in running if index in pending]) and time.monotonic() < deadline:
        changed.clear()
        if any(index in pending for index in left):
            changed.wait(max(0.0, deadline - time.monotonic()))
    for index in left:
        _leave_behind(state, backend, index, workers.get(index) or str(backend.name))
