"""Maps of plain tasks on a remote backend: items travel in ranges, results come back in one message a range.

The thread that asked for the map does all of it: it sends ranges, two for each worker, hears what they tell, and makes
a record for each item. The rules:

* A range should last a few milliseconds: long enough to hide its way, short enough to stop and to share out. A worker
  that finds its range lasting longer hands the rest back.
* A range that lasts longer than a look of its worker's lookout (see `watch`) tells which item runs, and the results
  that there are. They are taken out of it, so that what is left is what has not been done.
* Items of a range whose worker died, and ranges that cannot travel, are run one by one, so that the guilty item is
  named and the others succeed. An item may thus run twice, but only if a worker died.
* An item that is cancelled while it runs is stopped with its worker, and what waited behind it goes to another one.
* The first failure stops the map: what has not begun is withdrawn, what runs may end within a short grace.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from concurrent.futures import CancelledError
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

from nbflow.backends.remote import RemoteJob
from nbflow.backends.travel import Failure
from nbflow.errors import ParameterError, TransferError, WorkerLostError
from nbflow.runtime import current, worker
from nbflow.runtime.current import Call, new_ids
from nbflow.runtime.emit import emit, emit_session
from nbflow.runtime.maps import PENDING, MapState, stopped_while_waiting
from nbflow.runtime.remote import Route
from nbflow.runtime.replies import hear, lost_words, note_files, rename_path, unreadable
from nbflow.runtime.steps import check_arguments, failed
from nbflow.runtime.stopping import WAKE_S
from nbflow.runtime.watch import RangeAnswer

__all__ = ["run_ranges"]

BUDGET_S = 0.04
"""How long a range may last before its worker hands the rest back, or four times what its backend finds right."""

_ODD = {Failure, worker.Packed}
_GROWTH = 32
_TAIL = 0.2  # near the end ranges become shorter so that workers end together, but not shorter than this part
_OUTSTANDING = 2  # for each worker


def run_ranges(state: MapState, route: Route, *, concurrency: int | None, chunksize: int | None) -> None:
    """Run the items of a map of a plain task on a remote backend, until all are done or the map is stopped.

    Args:
        state: The map.
        route: The way to the backend.
        concurrency: At most so many items at a time; None for what the backend allows.
        chunksize: Items of a range; None to let it follow their measured duration.
    """
    engine = _Ranges(state, route, concurrency, chunksize)
    try:
        engine.run()
    except BaseException as error:
        stopped_while_waiting(state, error)
    engine.end()


def _records(
    state: MapState,
    first: int,
    stamps: Sequence[float],
    offset: float,
    name: str | None,
    ids: Sequence[int],
    names: list[str] | None,
) -> list[Call]:
    """Return the records of items that were computed and have ended well."""
    kept: list[Call] = []
    for place, id in enumerate(ids):
        call = Call.item(state.spec, state.session, None, None, first + place, state, id, state.parent_id)
        call.worker = name
        call.started = stamps[place] + offset
        call.ended = stamps[place + 1] + offset
        call.attempts = 1
        call.state = current.COMPLETED
        if names is not None:
            call._name = names[place]
        kept.append(call)
    return kept


class _Range:
    """Items on their way.

    Attributes:
        first, count: The items whose results are not here yet.
        runs: The one that runs, where that is known.
        victim: The one that was cancelled, and because of which the job was stopped.
        slot: What the live state of the map shows of it, while it runs.
    """

    __slots__ = ("count", "first", "job", "runs", "slot", "victim")

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.count = count
        self.runs = first if count == 1 else None
        self.victim: int | None = None
        self.job: RemoteJob | None = None
        self.slot: list[Any] | None = None


class _Ranges:
    def __init__(self, state: MapState, route: Route, concurrency: int | None, chunksize: int | None) -> None:
        self._state = state
        self._route = route
        self._concurrency = concurrency
        self._chunk = chunksize
        self._todo: deque[tuple[int, int]] = deque([(0, state.total)])  # positions and counts
        self._left = state.total
        self._ids = new_ids(state.total)
        self._out: dict[_Range, None] = {}  # in the order in which they were sent
        self._inbox: SimpleQueue[tuple[_Range | None, Any]] = SimpleQueue()
        self._size = 1
        self._pack_s = 0.0  # for an item
        self._losses: dict[int, int] = {}
        self._calls: dict[int, Call] = {}  # of items that were made known before their end
        self._of_item = state.session.fanout.wants_items
        self._numbers: dict[int, int] = {}  # which shared argument, by identity
        self._common: list[Any] = []
        state.on_stop = lambda: self._inbox.put((None, None))
        state.on_drop = lambda _: self._inbox.put((None, None))
        state.index_of = self._index_of

    def _index_of(self, call_id: int) -> int | None:
        place = bisect_left(self._ids, call_id)
        return place if place < len(self._ids) and self._ids[place] == call_id else None

    # -- sending

    def run(self) -> None:
        """Send ranges and take in what comes, until all is done or the map is stopped."""
        state = self._state
        common = self._route.common()
        self._numbers = {identity: number for number, identity in enumerate(common)}
        self._common = list(common.values())
        while state.cancel_reason is None and (self._todo or self._out):
            workers = self._route.backend.workers()
            limit = min(workers * _OUTSTANDING, self._concurrency or state.total)
            while self._todo and len(self._out) < limit and state.cancel_reason is None:
                self._send(workers)
            self._show(workers)
            self._take(WAKE_S)
            if state.dropped and state.cancel_reason is None:
                self._drop()

    def _send(self, workers: int) -> None:
        first, count = self._todo.popleft()
        share = max(self._left // (_OUTSTANDING * workers), int(self._size * _TAIL))
        size = self._chunk or max(1, min(self._size, share))
        if count > size:
            self._todo.appendleft((first + size, count - size))
            count = size
        self._left -= count
        sent = _Range(first, count)
        self._out[sent] = None
        state = self._state
        items = state.items[first : first + count]
        if self._numbers:
            items = [tuple(self._placed(arg) for arg in item) for item in items]
        began = time.perf_counter()
        sent.job = self._route.backend.dispatch(
            worker.run_range,
            (
                self._route.plan(),
                first,
                self._ids[first : first + count],
                items,
                None if self._chunk else max(BUDGET_S, 4 * self._route.backend.range_s),
                *self._common,
            ),
            self._route.kwargs(state.kwargs),
            listen=lambda message: self._inbox.put((sent, message)),
            label=f"Task {state.name!r}" if count > 1 else f"Task '{state.name}[{first}]'",
        )
        sent.job.add_done_callback(lambda _: self._inbox.put((sent, None)))
        self._pack_s = (time.perf_counter() - began) / count

    def _placed(self, value: Any) -> Any:
        number = self._numbers.get(id(value))
        return value if number is None else worker.Common(number)

    def _measure(self, seconds: float, count: int) -> None:
        """Let the next range last as it should, by what an item of this one took."""
        item_s = seconds / count + self._pack_s
        self._size = max(1, min(int(self._route.backend.range_s / max(item_s, 1e-9)), count * _GROWTH))

    def _show(self, workers: int) -> None:
        """Show the ranges that run as running: those whose workers have begun; where nobody says so, the oldest."""
        state, backend = self._state, self._route.backend
        relays = backend.abilities.relay
        for sent in self._out if relays else islice(self._out, workers):
            if sent.slot is None and sent.job is not None and (sent.job.worker or not relays):
                name = sent.job.worker or state.backend
                sent.slot = state.slots[id(sent)] = [sent.first, state.session.clock.monotonic(), name]

    def _drop(self) -> None:
        """See to the items that were cancelled: those that wait never begin, those that run are stopped."""
        state = self._state
        for index in [index for index in state.dropped if state.results[index] is PENDING]:
            for first, count in self._todo:
                if first <= index < first + count:
                    place = self._todo.index((first, count))
                    self._todo[place] = (first, index - first)
                    self._todo.insert(place + 1, (index + 1, first + count - index - 1))
                    self._left -= 1
                    state.drop(index)
                    break
            for sent in self._out:
                if sent.victim is None and sent.job is not None and sent.first <= index < sent.first + sent.count:
                    if sent.job.cancel() or (sent.runs == index and sent.job.stop()):
                        sent.victim = index
        self._todo = deque(part for part in self._todo if part[1])

    # -- taking in

    def _take(self, patience_s: float) -> None:
        """Take in one message, or what came of one range."""
        try:
            sent, message = self._inbox.get(timeout=patience_s)
        except Empty:
            return
        if sent is None:
            return
        if message is not None:
            for entry in message:
                if type(entry) is RangeAnswer:
                    self._part(sent, entry)
                else:
                    self._hear(entry, sent)
            return
        if sent not in self._out:
            return
        del self._out[sent]
        if sent.slot is not None:
            self._state.slots.pop(id(sent), None)
        self._ended(sent)

    def _hear(self, entry: Any, sent: _Range) -> None:
        """Make known what a worker told; before the first word of an item, that it has begun."""
        if self._of_item:
            own = entry[2] if isinstance(entry, tuple) else getattr(entry, "call_id", None)
            for number in (own, getattr(entry, "parent_id", None)):
                if number is not None and (index := self._index_of(number)) is not None:
                    self._begin(index, sent.job.worker if sent.job is not None else None)
        hear(self._state.session, entry)

    def _ended(self, sent: _Range) -> None:
        job = sent.job
        assert job is not None
        error = CancelledError() if job.cancelled() else job.exception()
        if error is None:
            self._all(sent, job.result())
        elif isinstance(error, CancelledError) and sent.victim is not None:
            self._cancelled(sent, sent.victim)
        elif isinstance(error, CancelledError):
            self._state.stop("the backend stopped it")
        elif isinstance(error, WorkerLostError):
            self._lost(sent, error)
        elif isinstance(error, TransferError) and sent.count > 1:
            self._one_by_one(sent)
        elif isinstance(error, TransferError):
            self._fail(sent.first, rename_path(error, "args[3][0]", "args"), job.worker)
        else:
            self._state.stop(type(error).__name__, error)

    def _one_by_one(self, sent: _Range) -> None:
        self._todo.extendleft((index, 1) for index in reversed(range(sent.first, sent.first + sent.count)))
        self._left += sent.count

    def _lost(self, sent: _Range, error: WorkerLostError) -> None:
        """Run the items of a lost worker again, one by one; one that has lost too many fails."""
        state = self._state
        named = lost_words(state.name if sent.count > 1 else f"{state.name}[{sent.first}]", error)
        emit_session(state.session, "WorkerLost", state.id, state.name, worker=str(named.worker), reason=str(named))
        if sent.count == 1:
            losses = self._losses[sent.first] = self._losses.get(sent.first, 0) + 1
            if losses > state.session.settings.max_worker_losses:
                self._fail(sent.first, named, named.worker)
                return
        self._one_by_one(sent)

    def _cancelled(self, sent: _Range, victim: int) -> None:
        """End an item that was cancelled, and let those go elsewhere that were on their way with it."""
        begun = sent.runs == victim
        parts = [(sent.first, victim - sent.first), (victim + 1, sent.first + sent.count - victim - 1)]
        self._todo.extendleft(part for part in reversed(parts) if part[1])
        self._left += sent.count - 1
        state = self._state
        error = state.drop_error(victim)
        if begun:
            name = sent.job.worker if sent.job is not None else None
            call = self._told(victim, name, sent.slot[1] if sent.slot is not None else state.session.clock.monotonic())
            call._cancel_reason = state.dropped[victim]
            emit(call, "TaskCancelled", {"error": error})
        state.keep(victim, error)

    def _part(self, sent: _Range, answer: RangeAnswer) -> None:
        """Take in what a range that lasts has told of itself."""
        count = len(answer.results)
        if sent not in self._out or sent.job is None:
            return
        offset = self._results(sent, answer)
        sent.first += count
        sent.count -= count
        sent.runs = min(sent.first + answer.ahead, sent.first + sent.count - 1)
        if sent.slot is not None:
            sent.slot[:] = [sent.runs, answer.stamps[-1] + offset, sent.job.worker or self._state.backend]
        if self._of_item:
            self._begin(sent.runs, sent.job.worker)

    def _all(self, sent: _Range, answer: RangeAnswer) -> None:
        """Take in what came of a range at its end."""
        count = len(answer.results)
        if count < sent.count:
            self._todo.appendleft((sent.first + count, sent.count - count))
            self._left += sent.count - count
        if not self._chunk and count:
            self._measure(answer.stamps[-1] - answer.stamps[0], count)
        self._results(sent, answer)

    def _results(self, sent: _Range, answer: RangeAnswer) -> float:
        """Take in results; returns what our clock is ahead of the worker's."""
        state, stamps, count = self._state, answer.stamps, len(answer.results)
        name = sent.job.worker if sent.job is not None else None
        if state.parent is not None:
            note_files(state.parent, answer.reads, answer.opened)
        offset: float = state.session.clock.monotonic() - answer.now
        results = state.results
        if not self._of_item and _ODD.isdisjoint(map(type, answer.results)):
            results[sent.first : sent.first + count] = answer.results
            self._keep(sent.first, stamps, offset, name)
            return offset
        for place, value in enumerate(answer.results):
            index = sent.first + place
            if type(value) is worker.Packed:
                try:
                    value = worker.unpack(value, home=True)
                except Exception as error:
                    wrong = unreadable(f"{state.name}[{index}]", error)
                    self._fail(index, wrong, name, stamps[place] + offset)
                    continue
            elif type(value) is Failure:
                self._fail(index, value.open(name or state.backend), name, stamps[place] + offset)
                continue
            results[index] = value
            if self._of_item:
                self._complete(index, name, stamps[place] + offset)
            else:
                self._keep(index, stamps[place : place + 2], offset, name)
        return offset

    # -- records

    def _keep(self, first: int, stamps: Sequence[float], offset: float, name: str | None) -> None:
        """Keep the records of items that nobody was told of, as they came; see `Records`."""
        count = len(stamps) - 1
        if not count:
            return
        state, ids, names = self._state, self._ids[first : first + count], None
        if state.spec.template_names:  # of the arguments, which records do not keep
            names = [self._name(index) for index in range(first, first + count)]
        state.session.records.add_batch(count, partial(_records, state, first, stamps, offset, name, ids, names))
        state.count_completed(count)

    def _name(self, index: int) -> str:
        state = self._state
        return state.spec.call_name(lambda: state.spec.bind(*state.items[index], **state.kwargs), index)

    def _call(self, index: int, name: str | None, started: float) -> Call:
        state = self._state
        call = self._calls.pop(index, None)
        if call is None:
            about = (state.spec, state.session, state.parent, state.items[index], state.kwargs)
            call = Call(*about, index, state, self._ids[index])
            call.worker = name
            call.started = started
        call.attempts = 1
        return call

    def _begin(self, index: int, name: str | None) -> None:
        """Make known that an item has begun."""
        if index in self._calls or self._state.results[index] is not PENDING:
            return
        state = self._state
        call = self._call(index, name, state.session.clock.monotonic())
        emit(call, "TaskStarted", {})
        emit(call, "AttemptStarted", {"number": 1})
        self._calls[index] = call

    def _complete(self, index: int, name: str | None, started: float) -> None:
        """Make known that an item has begun, and ended well."""
        call = self._told(index, name, started)
        emit(call, "TaskCompleted", {}, self._state.results[index])

    def _told(self, index: int, name: str | None, started: float) -> Call:
        if index in self._calls:
            call = self._calls.pop(index)
            call.worker = name
            return call
        call = self._call(index, name, started)
        emit(call, "TaskStarted", {})
        call.worker, call.started = name, started
        emit(call, "AttemptStarted", {"number": 1})
        return call

    def _fail(self, index: int, error: BaseException, name: str | None, started: float | None = None) -> None:
        """Let an item fail."""
        state = self._state
        began = state.session.clock.monotonic() if started is None else started
        if type(error) is TypeError:  # of the function, or of the call itself
            call = Call(state.spec, state.session, state.parent, state.items[index], state.kwargs, index, state)
            try:
                check_arguments(call)
            except ParameterError as wrong:
                state.keep(index, wrong)
                return
        call = self._told(index, name, began) if self._of_item else self._call(index, name, began)
        state.keep(index, failed(call, error))

    # -- the end

    def end(self) -> None:
        """Leave nothing running: withdraw what has not begun, let the rest end within a short grace, then stop it."""
        for sent in list(self._out):
            if sent.job is not None and sent.job.cancel():
                self._out.pop(sent, None)
        deadline = time.monotonic() + 1.5 * BUDGET_S
        try:
            while self._out and (left_s := deadline - time.monotonic()) > 0:
                self._take(min(left_s, WAKE_S))
        finally:
            for sent in list(self._out):
                self._out.pop(sent, None)
                if sent.job is not None:
                    sent.job.stop()
                    if sent.job.left is not None:
                        emit_session(
                            self._state.session,
                            "StragglerLeft",
                            self._state.id,
                            self._state.name,
                            worker=sent.job.left,
                        )
            self._state.slots.clear()
            reason = self._state.cancel_reason or "cancelled"
            for call in list(self._calls.values()):
                emit(call, "TaskCancelled", {"error": CancelledError(reason)})
