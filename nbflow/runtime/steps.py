"""The steps of a call that do not depend on the world it runs in, and what errors become on their way to the user.

`Steps` couples one call with the generator of `core.attempts` and performs looking up, saving, publishing and telling.
A failing cache is noted and never fails a call; a failing dataset fails the call and never re-runs it. The user's
exception keeps its type and gets a note.
"""

from __future__ import annotations

import os
from collections.abc import Generator

from nbflow._typing import TYPE_CHECKING, Any
from nbflow._util import add_note, lazy, one_line, refusal
from nbflow.core.attempts import Emit, Hit, Lookup, Outcome, Publish, Raised, Returned, Save, attempts, ending
from nbflow.core.reads import Reads
from nbflow.core.spec import render_template
from nbflow.errors import DatasetError, ParameterError, TaskCancelledError, TaskError, TaskTimeoutError
from nbflow.runtime import looking
from nbflow.runtime.current import FAILED, Call
from nbflow.runtime.emit import emit
from nbflow.runtime.stopping import DeadlineReached, Stopped

if TYPE_CHECKING:
    from nbflow.cache import guard, state, trace
    from nbflow.cache.flight import Flight, Flights
    from nbflow.runtime import waiting
    from nbflow.runtime.looking import Look
    from nbflow.runtime.waiting import Pause
else:
    guard = lazy("nbflow.cache.guard")
    state = lazy("nbflow.cache.state")
    trace = lazy("nbflow.cache.trace")  # whoever caches nothing needs no cache
    waiting = lazy("nbflow.runtime.waiting")

__all__ = ["Steps", "as_failure", "cancelled_error", "check_arguments", "failed", "for_user", "timed_out"]


def failed(call: Call, error: BaseException) -> BaseException:
    """End a call of the short lane that raised `error`, and return what its caller should see."""
    if type(error) is TypeError and error.__traceback__ is not None and error.__traceback__.tb_next is None:
        check_arguments(call)  # raised by the call itself, not inside the function
    call.attempts = 1
    failure = as_failure(call, error)
    step = ending(failure, call.spec.policy)
    emit(call, step.fact, step.data)
    return for_user(call, failure)


def check_arguments(call: Call) -> dict[str, Any]:
    """Return the arguments by name, or raise `ParameterError` where they do not fit the signature."""
    try:
        return call.spec.bind(*call.args, **call.kwargs)
    except TypeError as error:
        spec = call.spec
        text = str(error).replace("<lambda>", getattr(spec.func, "__name__", spec.name))
        call.forget()
        if call.map is not None:  # no event tells of it, but the map's counters do
            call.state = FAILED
            call.map.count(call)
        raise ParameterError(f"{text} (signature: {spec.name}{spec.signature})", task=spec.name) from None


class Steps:
    """One call's way through `attempts`, and the steps that do not depend on the driver's world.

    Args:
        call: The call.
        short: Whether a short lane has looked for a quick hit already, and nobody listens to routine events.
        looked: What the lane's first look came to, if it had one.
    """

    __slots__ = (
        "_base_key",
        "_flights",
        "_generator",
        "_inputs",
        "_looked",
        "_run",
        "_share",
        "_short",
        "_store",
        "call",
        "outcome",
    )

    def __init__(self, call: Call, *, short: bool = False, looked: Look | None = None) -> None:
        self.call = call
        self._short = short
        self._looked = looked
        self.outcome: Outcome | None = None
        self._share: float | None = None
        self._inputs: dict[str, Any] = {}
        self._run: state.Watch | None = None  # while the body runs
        self._store: Any = None
        self._flights: Flights | None = None  # of the store; stores of other make have none
        self._base_key: Any = None  # the key without the files that the body reads
        self._generator: Generator[Any, Any, Outcome] | None = None

    def begin(self) -> Any:
        """Check the arguments and return the first step."""
        self.prepare()
        spec = self.call.spec
        self._generator = attempts(
            spec.policy,
            cached=bool(spec.cache),
            published=spec.dataset is not None,
            random=self.call.session.random,
        )
        return self.send(None)

    def prepare(self, store: Any = None, inputs: dict[str, Any] | None = None) -> None:
        """Check the arguments, and find the store; whatever of this is known already is given."""
        call = self.call
        self._inputs = check_arguments(call) if inputs is None else inputs
        if call.spec.cache:
            self._store = call.session.cache_store_for(call.spec) if store is None else store
            self._flights = getattr(self._store, "flights", None)
            call.reads = {}
            if call.map is not None:
                self._share = call.map.share(1)

    def send(self, reply: Any) -> Any:
        """Give the reply to the last step and return the next one, or None at the end."""
        assert self._generator is not None
        try:
            return self._generator.send(reply)
        except StopIteration as stop:
            self.outcome = stop.value
            self.over()
            return None

    def over(self) -> None:
        """Note that the call no longer takes a share of its map's time, and that nobody need wait for it."""
        self._land("failed")
        if self._run is not None:
            self._run.end()
        if self._share is not None:
            self.call.map.share(-1)
            self._share = None

    def blocks(self, step: Any) -> bool:
        """Whether performing `step` may take long, so that an event loop should not do it itself."""
        if type(step) is Lookup:
            spec = self.call.spec
            digest = spec.keyer.quick(self.call.args, self.call.kwargs)
            suffix = spec.key_suffix(self.call.session.settings.cache_readonly)
            found = None if not digest or self._store is None else self._store.peek(digest + suffix)
            return found is None or type(found.value) is Reads
        return True

    def perform(self, step: Any) -> Any:
        """Perform a step other than `Call` and `Wait`."""
        kind = type(step)
        if kind is Emit:
            emit(self.call, step.fact, step.data, step.value)
            return None
        if kind is Lookup:
            lookup = self._lookup()
            what, found = _advance(lookup)
            while what is not None:
                what, found = _advance(lookup, waiting.wait(what, self.call))
            return found
        if kind is Save:
            return self.save(step.value)
        return self._publish(step)

    async def perform_async(self, step: Any, asyncio: Any) -> Any:
        """Perform a step that blocks, without blocking the running loop."""
        if type(step) is not Lookup:
            return await asyncio.to_thread(self.perform, step)
        lookup = self._lookup()
        what, found = await asyncio.to_thread(_advance, lookup)
        while what is not None:
            landed = await waiting.wait_async(what, self.call, asyncio)
            what, found = await asyncio.to_thread(_advance, lookup, landed)
        return found

    def is_first(self) -> bool:
        """Whether the lane's first look tells that this call is to compute: nobody else does, and nothing came since.

        It leads the flight of its key then. Otherwise, or where a store fails, all is to be looked at again.
        """
        look, call, store, flights = self._looked, self.call, self._store, self._flights
        if look is None or look.found is not None or look.before is None or flights is None:
            return False
        if call.session.settings.force:
            return False
        self._base_key = look.key
        try:
            flight = flights.join(look.key.digest, call)
            if flight.leader is not call or not store.take_seat(flight, look.key) or flights.moment() != look.before:
                return False
            call.why_missed = store.explain_later(call.key)
        except Exception:
            return False
        self._run = state.Watch()
        return True

    # -- looking up: generators that yield what is to be waited for, and are sent whether that is over

    def _lookup(self) -> Generator[Flight | Pause, bool, Hit | None]:
        call = self.call
        if self._store is None:
            return None
        try:
            found = yield from self._look(self._store)
            self._compare_inputs()
            if found is not None:
                looking.watch(call, found.value)
        except Exception as error:
            self._cache_failed("read", error)
            return None
        if found is None:
            self._run = state.Watch()
        if found is None and self._heard("CacheMiss") and call.reason is not looking.FORCED:
            emit(call, "CacheMiss", {"key": call.key.digest, "reason": call.reason})
        return found

    def _look(self, store: Any) -> Generator[Flight | Pause, bool, Hit | None]:
        call, spec = self.call, self.call.spec
        ttl = spec.cache_ttl if spec.cache_ttl is not None else call.session.settings.cache_ttl
        forced = call.session.settings.force
        digest = None if self._short or forced else spec.keyer.quick(call.args, call.kwargs)
        if digest:
            digest += spec.key_suffix(call.session.settings.cache_readonly)
            looks_deep = spec.cache != "session" and self._flights is not None
            found = store.refetch(digest, ttl=ttl) if looks_deep else store.peek(digest, ttl)
            if found is not None and type(found.value) is not Reads:
                return Hit(found.value, digest, found.saved_s)
        look = self._looked
        self._base_key = looking.make_key(call, store, self._inputs) if look is None else look.key
        if forced:
            call.reason = looking.FORCED
            return None
        look = look or looking.look(call, store, self._base_key)
        found = look.found
        if found is None and self._flights is not None:
            found = yield from self._board(self._flights, look.key, ttl, look.before)
            if found is not None:
                call.note_reads(trace.states(call.key))
        if found is None:
            if hasattr(store, "explain_later"):  # stores of other make need not have it
                call.why_missed = store.explain_later(call.key)
            else:
                call.reason = store.explain(call.key)
            return None
        return Hit(found.value, call.key.digest, found.saved_s)

    def _board(
        self, flights: Flights, key: Any, ttl: float | None, before: Any
    ) -> Generator[Flight | Pause, bool, Any]:
        """Lead the flight of this key, or wait for whoever does; returns what was found, or None to compute.

        `before` is the moment before the first look; as long as it is the same, there is nothing new to find.
        """
        call, store = self.call, self._store
        while True:
            flight = flights.join(key.digest, call)
            leads = flight.leader is call
            if leads:
                if not store.take_seat(flight, key) and not (yield from self._sit(store, flight, key)):
                    return None
                if before is not None and flights.moment() == before:
                    return None
            elif (yield flight):
                call.notes += (f"waited for the same call in process {os.getpid()}",)
            else:
                return None
            # Whoever led before may have ended between the first look and now.
            call.key, found = trace.fetch(store.again, key, ttl=ttl)
            if found is not None:
                self._land("stored")
                return found
            if leads or flight.ending == "unstored":
                return None

    def _sit(self, store: Any, flight: Flight, key: Any) -> Generator[Pause, bool, bool]:
        """Wait for the seat that another process has; returns False where that is not to be waited for any more."""
        pause = waiting.Pause()
        while not store.take_seat(flight, key):
            if not (yield pause) or pause.too_long_for(self.call):
                return False
        self.call.notes += ("waited for the same call in another process",)
        return True

    def _land(self, ending: str) -> None:
        """End the flight that this call leads, if it leads one; once it has, it leads no other."""
        flights, self._flights = self._flights, None
        if flights is not None and self._base_key is not None:
            flights.leave(self._base_key.digest, self.call, ending, self._store.when_written)

    def save(self, value: Any) -> Returned | None:
        """Store the result, if there is where; returns what `Save` is replied."""
        call, store = self.call, self._store
        if store is None or self._base_key is None:
            return None
        spec = call.spec
        looking.watch(call, value)
        began = call.session.clock.monotonic()
        readonly = {"readonly": True} if spec.key_suffix(call.session.settings.cache_readonly) else {}
        try:
            reads = call.reads and {path: state for path, state in call.reads.items() if state is not None}
            call.key, saved = trace.save(
                store,
                state.settle(spec.keyer, self._base_key, store, self._run),
                reads or {},
                value,
                ttl=spec.cache_ttl if spec.cache_ttl is not None else call.session.settings.cache_ttl,
                cost_s=self._cost_s(began),
                cell=call.session.label(),
                **readonly,
            )
            trouble = None if self._flights is None else store.trouble()
            self._land("stored")
            if trouble is not None:
                self._cache_failed("write", trouble)
        except Exception as error:
            self._land("unstored")
            self._cache_failed("write", error)
            return None
        if self._heard("CacheWritten"):
            took = call.session.clock.monotonic() - began
            emit(call, "CacheWritten", {"key": call.key.digest, "size_bytes": saved.size_bytes, "duration_s": took})
        return Returned(saved.value) if readonly else None

    def _heard(self, fact: str) -> bool:
        """Whether anybody listens to this fact."""
        if self._short:
            return False
        session = self.call.session
        return session.hooks is not None or session.fanout.wants(fact, self.call.map is not None)

    def _compare_inputs(self) -> None:
        """Note which inputs are no longer what they were when nbflow handed them out."""
        call, key = self.call, self._base_key
        if key is None or not call.session.settings.mutation_guard:
            return
        inputs = {name: value for name, value in self._inputs.items() if type(value) not in looking.UNCHANGING}
        if not inputs:
            return
        for part in key.parts:
            if part.kind in ("argument", "input") and part.name in inputs:
                change = guard.look(inputs[part.name], part.digest, part.name, call.session.label())
                if change is not None:
                    call.remarks += (f"{part.kind} `{part.name}` was changed in place since {change.since}",)
                    if change.fresh:
                        about = {"holder": part.name, "origin": change.since, "cell": change.seen_in}
                        emit(call, "ValueChanged", about)

    def _cost_s(self, now: float) -> float:
        """Return the seconds that a hit will save: the call's duration, or its share of that of its map."""
        call = self.call
        if call.map is not None and self._share is not None:
            return float(call.map.share() - self._share)
        return now - call.started if call.started is not None else 0.0

    def _cache_failed(self, stage: str, error: Exception | str) -> None:
        text = error if isinstance(error, str) else refusal(error)
        self.call.notes += (f"not cached: {stage} failed: {text}",)
        emit(self.call, "CacheFailed", {"stage": stage, "error": text})

    def _publish(self, step: Publish) -> Raised | None:
        """Save the result as a dataset; on a hit only where there is none yet."""
        call = self.call
        spec = call.spec
        try:
            store = call.session.dataset_store_for(spec.dataset_store)
            values = {**call.inputs, "map_index": "" if call.index is None else call.index}
            key = render_template(str(spec.dataset), values)
            if not (step.cached and store.exists(key)):
                call.session.save_dataset(key, step.value, format=spec.dataset_format, store=store, call=call)
        except Exception as error:
            if isinstance(error, DatasetError):
                return Raised(error)
            wrong = DatasetError(
                f"The result of {call.name!r} was computed but not saved as dataset: {one_line(error)}"
            )
            wrong.__cause__ = error
            return Raised(wrong)
        return None

    def abort(self, error: BaseException) -> BaseException:
        """End a call whose driver itself was interrupted (a wrapper hook raised, an interrupt between two steps)."""
        call = self.call
        if isinstance(error, ParameterError) and call.started is None:
            return error
        failure = as_failure(call, error)
        step = ending(failure, call.spec.policy)
        emit(call, step.fact, step.data)
        if self._generator is not None:
            self._generator.close()
        self.over()
        return for_user(call, failure)

    def finish(self) -> Any:
        """Return the result, or raise what the call ended with."""
        __tracebackhide__ = True
        out = self.outcome
        if isinstance(out, Returned):
            return out.value
        assert isinstance(out, Raised)
        raise for_user(self.call, out.error)


def _advance(lookup: Generator[Any, bool, Any], reply: Any = None) -> tuple[Any, Any]:
    """Go on until something is to be waited for; return that, or None and the result."""
    try:
        return lookup.send(reply), None
    except StopIteration as stop:
        return None, stop.value


_STOPS = (DeadlineReached, KeyboardInterrupt, Stopped)
_UNLOCKED = frozenset({"release unlocked lock", "cannot release un-acquired lock"})


def as_failure(call: Call, error: BaseException) -> BaseException:
    """Translate what reached the driver into what the call failed with."""
    reason = call.cancel_reason
    if isinstance(error, RuntimeError) and str(error) in _UNLOCKED and isinstance(error.__context__, _STOPS):
        error = error.__context__  # it struck where a condition takes its lock back: there was nothing to release
    if isinstance(error, DeadlineReached):
        own = error.alarm is not None and error.alarm is call.alarm
        return timed_out(call, stopped=True) if own else error
    if isinstance(error, (KeyboardInterrupt, Stopped)) and reason is not None:
        return cancelled_error(call, reason)
    if isinstance(error, Stopped):
        return cancelled_error(call, "stopped")
    if type(error).__name__ == "CancelledError" and call.own_cancel_reason is not None:
        return cancelled_error(call, call.own_cancel_reason)
    return error


def cancelled_error(call: Call, reason: str) -> TaskCancelledError:
    """Return the error of a call that was cancelled."""
    return TaskCancelledError(f"Task {call.name!r} was cancelled ({reason}).", task=call.name, reason=reason)


def timed_out(call: Call, *, stopped: bool) -> TaskTimeoutError:
    """Return the error of an attempt that passed its timeout."""
    limit = call.spec.policy.timeout_s
    return TaskTimeoutError(
        f"Task {call.name!r} passed its timeout of {limit:g} s."
        + ("" if stopped else " Its code could not be stopped and still runs in the background."),
        task=call.name,
        timeout_s=limit,
        stopped=stopped,
    )


_NOTE = "nbflow: "


def for_user(call: Call, error: BaseException) -> BaseException:
    """Return the error as its caller should see it: the user's own, with a note; or wrapped, where settings say so."""
    if isinstance(error, Exception):
        tries = call.attempts
        detail = f" after {tries} attempts" if tries > 1 else ""
        if call.session.settings.wrap_errors and not isinstance(error, TaskCancelledError):
            if isinstance(error, TaskError):
                return error
            wrapped = TaskError(
                f"Task {call.name!r} failed{detail} with error: {error}", task=call.name, attempts=tries
            )
            wrapped.__cause__ = error
            return wrapped
        if not any(note.startswith(_NOTE) for note in getattr(error, "__notes__", ())):
            where = call.session.label()
            add_note(error, f"{_NOTE}in task {call.name!r}{detail}" + (f", {where}" if where else ""))
    return error
