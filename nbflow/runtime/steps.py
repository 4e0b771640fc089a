"""The steps of a call that do not depend on the world it runs in, and what errors become on their way to the user.

`Steps` couples one call with the generator of `core.attempts` and performs looking up, saving, publishing and telling.
A failing cache is noted and never fails a call; a failing dataset fails the call and never re-runs it. The user's
exception keeps its type and gets a note.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from nbflow._util import one_line
from nbflow.core.attempts import Emit, Hit, Lookup, Outcome, Publish, Raised, Returned, Save, attempts, ending
from nbflow.core.spec import render_template
from nbflow.errors import DatasetError, ParameterError, TaskCancelledError, TaskError, TaskTimeoutError
from nbflow.runtime.current import FAILED, Call
from nbflow.runtime.emit import emit
from nbflow.runtime.stopping import DeadlineReached, Stopped

__all__ = ["Steps", "as_failure", "cancelled_error", "failed", "for_user", "timed_out"]


def failed(call: Call, error: BaseException) -> BaseException:
    """End a call of the short lane that raised `error`, and return what its caller should see."""
    if type(error) is TypeError and error.__traceback__ is not None and error.__traceback__.tb_next is None:
        _check_arguments(call)  # raised by the call itself, not inside the function
    call.attempts = 1
    failure = as_failure(call, error)
    step = ending(failure, call.spec.policy)
    emit(call, step.fact, step.data)
    return for_user(call, failure)


def _check_arguments(call: Call) -> None:
    """Raise `ParameterError` unless the arguments fit the signature."""
    try:
        call.spec.bind(*call.args, **call.kwargs)
    except TypeError as error:
        spec = call.spec
        text = str(error).replace("<lambda>", getattr(spec.func, "__name__", spec.name))
        call.forget()
        if call.map is not None:  # no event tells of it, but the map's counters do
            call.state = FAILED
            call.map.count(call)
        raise ParameterError(f"{text} (signature: {spec.name}{spec.signature})", task=spec.name) from None


class Steps:
    """One call's way through `attempts`, and the steps that do not depend on the driver's world."""

    __slots__ = ("_generator", "_share", "_store", "call", "outcome")

    def __init__(self, call: Call) -> None:
        spec = call.spec
        self.call = call
        self.outcome: Outcome | None = None
        self._share: float | None = None
        self._store: Any = None
        self._generator: Generator[Any, Any, Outcome] = attempts(
            spec.policy,
            cached=bool(spec.cache),
            published=spec.dataset is not None,
            random=call.session.random,
        )

    def begin(self) -> Any:
        """Check the arguments and return the first step."""
        call = self.call
        _check_arguments(call)
        if call.spec.cache:
            self._store = call.session.cache_store_for(call.spec)
            if call.map is not None:
                self._share = call.map.share(1)
        return self.send(None)

    def send(self, reply: Any) -> Any:
        """Give the reply to the last step and return the next one, or None at the end."""
        try:
            return self._generator.send(reply)
        except StopIteration as stop:
            self.outcome = stop.value
            self._over()
            return None

    def _over(self) -> None:
        """Note that the call no longer takes a share of its map's time."""
        if self._share is not None:
            self.call.map.share(-1)
            self._share = None

    def blocks(self, step: Any) -> bool:
        """Whether performing `step` may take long, so that an event loop should not do it itself."""
        if type(step) is Lookup:
            digest = self.call.spec.keyer.quick(self.call.args, self.call.kwargs)
            return digest is None or self._store is None or self._store.peek(digest) is None
        return True

    def perform(self, step: Any) -> Any:
        """Perform a step other than `Call` and `Wait`."""
        kind = type(step)
        if kind is Emit:
            emit(self.call, step.fact, step.data, step.value)
            return None
        if kind is Lookup:
            return self._lookup()
        if kind is Save:
            return self._save(step.value)
        return self._publish(step)

    def _lookup(self) -> Hit | None:
        call, store = self.call, self._store
        spec = call.spec
        if store is None:
            return None
        ttl = spec.cache_ttl if spec.cache_ttl is not None else call.session.settings.cache_ttl
        try:
            digest = spec.keyer.quick(call.args, call.kwargs)
            if digest is not None and not call.session.settings.force:
                found = store.peek(digest, ttl)
                if found is not None:
                    return Hit(found.value, digest, found.saved_s)
            key = call.key = spec.keyer.key(call.inputs, call.args, call.kwargs)
            if spec.cache == "session" and key.scope != "session":
                key = call.key = replace(key, scope="session")
            call.notes += key.notes
            if call.session.settings.force:
                call.reason = "recomputing was forced"
                return None
            found = store.fetch(key, ttl=ttl)
            if found is not None:
                return Hit(found.value, key.digest, found.saved_s)
            call.reason = store.explain(key)
        except Exception as error:
            self._cache_failed("read", error)
            return None
        emit(call, "CacheMiss", {"key": call.key.digest, "reason": call.reason})
        return None

    def _save(self, value: Any) -> None:
        call, store = self.call, self._store
        if store is None or call.key is None:
            return
        spec = call.spec
        began = call.session.clock.monotonic()
        try:
            saved = store.save(
                call.key,
                value,
                ttl=spec.cache_ttl if spec.cache_ttl is not None else call.session.settings.cache_ttl,
                cost_s=self._cost_s(began),
                cell=call.session.label(),
            )
        except Exception as error:
            self._cache_failed("write", error)
            return
        took = call.session.clock.monotonic() - began
        emit(call, "CacheWritten", {"key": call.key.digest, "size_bytes": saved.size_bytes, "duration_s": took})

    def _cost_s(self, now: float) -> float:
        """Return the seconds that a hit will save: the call's duration, or its share of that of its map."""
        call = self.call
        if call.map is not None and self._share is not None:
            return float(call.map.share() - self._share)
        return now - call.started if call.started is not None else 0.0

    def _cache_failed(self, stage: str, error: Exception) -> None:
        self.call.notes += (f"not cached: {stage} failed: {one_line(error)}",)
        emit(self.call, "CacheFailed", {"stage": stage, "error": one_line(error)})

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
        self._generator.close()
        self._over()
        return for_user(call, failure)

    def finish(self) -> Any:
        """Return the result, or raise what the call ended with."""
        __tracebackhide__ = True
        out = self.outcome
        if isinstance(out, Returned):
            return out.value
        assert isinstance(out, Raised)
        raise for_user(self.call, out.error)


def as_failure(call: Call, error: BaseException) -> BaseException:
    """Translate what reached the driver into what the call failed with."""
    reason = call.cancel_reason
    if isinstance(error, DeadlineReached):
        own = error.alarm is not None and error.alarm is call.alarm
        return timed_out(call, stopped=True) if own else error
    if isinstance(error, (KeyboardInterrupt, Stopped)) and reason is not None:
        return cancelled_error(call, reason)
    if isinstance(error, Stopped):
        return cancelled_error(call, "stopped")
    if type(error).__name__ == "CancelledError" and call._cancel_reason is not None:
        return cancelled_error(call, call._cancel_reason)
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
            error.add_note(f"{_NOTE}in task {call.name!r}{detail}" + (f", {where}" if where else ""))
    return error
