"""From the steps of a call to its record, its hooks and its events.

`emit` is the one place where a fact of `core.attempts` becomes visible: it brings the call's record up to date, calls
the hooks that the seed's names promise for it, and fans the event out. Without plugins and observers only the record
is touched.
"""

from __future__ import annotations

import threading

from nbflow._shield import shielded
from nbflow._typing import TYPE_CHECKING, Any
from nbflow._util import lazy, one_line, report, trim_traceback
from nbflow.runtime import current
from nbflow.runtime.current import Call

if TYPE_CHECKING:
    from nbflow.core import events
else:
    events = lazy("nbflow.core.events")  # most programs have no listener, and never need the classes

__all__ = ["Reporter", "emit", "emit_session", "queued"]

_ENDINGS: dict[str, str] = {
    "TaskCompleted": current.COMPLETED,
    "TaskFailed": current.FAILED,
    "TaskCancelled": current.CANCELLED,
    "TaskTimedOut": current.TIMED_OUT,
}


class Reporter:
    """What hooks get as `reporter`: a way to send an event of their own to the session's observers."""

    __slots__ = ("_session",)

    def __init__(self, session: Any) -> None:
        self._session = session

    def report(self, event: events.Event) -> None:
        """Hand `event` to the observers; safe from any thread."""
        self._session.fanout.emit(event)


def emit(call: Call, fact: str, data: dict[str, Any], value: Any = None) -> bool:
    """Make a fact of `call` known.

    Args:
        call: The call that it is about.
        fact: Name of the event's class.
        data: The event's own fields; `error` may be the exception itself.
        value: The result, for hooks that get to see it.

    Returns:
        False if the call had ended before, so that nothing was told.
    """
    if call.state != current.RUNNING:
        return False
    session = call.session
    ending = _ENDINGS.get(fact)
    hooks = session.hooks
    if ending is not None:
        return _end(call, ending, fact, data, value)
    if fact == "TaskStarted":
        call.started = session.clock.monotonic()
        if call.remote is None and call.worker is None:  # else it is known, or will be when a worker begins
            call.worker = threading.current_thread().name
        session.active[call.id] = call  # so that it can be cancelled
    if hooks is not None:
        _call_hooks(call, hooks.call, fact, data, value)
    if fact == "AttemptStarted":
        call.attempts = data["number"]  # not before: a wrapper may have refused it
    if fact == "ProgressMade" and call.progress is not None:
        call.progress = (data["done"], data["total"], session.clock.monotonic())
    if session.fanout.wants(fact, call.map is not None):
        shielded(_tell, call, fact, data)
    return True


def _tell(call: Call, fact: str, data: dict[str, Any]) -> None:
    call.session.fanout.emit(_event(call, fact, data))


def _end(call: Call, state: str, fact: str, data: dict[str, Any], value: Any) -> bool:
    """Bring `call` to its end: hooks first, since a wrapper may turn a completion into a failure.

    Then the one event.
    """
    session = call.session
    failed: BaseException | None = None
    if session.hooks is not None:
        try:
            _call_hooks(call, session.hooks.call, fact, data, value)
        except Exception as raised:
            if fact == "TaskCancelled":  # an interrupt must stay one
                report(f"A hook for the end of {call.name!r} raised {one_line(raised)}.")
            else:
                failed = raised
                state, fact, data = current.FAILED, "TaskFailed", {"error": raised}
    told = session.fanout.wants(fact, call.map is not None)
    if told:
        _ = call.name  # needs the arguments, which the end lets go
    if session.keep_failed is not None and state in (current.FAILED, current.TIMED_OUT):
        session.keep_failed(call)
    closed: bool = shielded(_close, call, state, fact, data, told) if told else _close(call, state, fact, data, told)
    if closed and failed is not None:
        raise failed
    return closed


def _close(call: Call, state: str, fact: str, data: dict[str, Any], told: bool) -> bool:
    """Let a call end, keep what became of it and tell it; False if it had ended before."""
    session = call.session
    ended = session.clock.monotonic()
    closed = False
    try:
        if closed := call.close(state, ended):
            _record(call, data)
    except BaseException:  # an interrupt that strikes here must keep the end neither from being recorded nor told
        closed = call.state == state and call.ended == ended
        if closed and not any(found is call for found in session.records):
            _record(call, data)
        raise
    finally:
        if closed and told:
            _tell(call, fact, data)
    return closed


def _record(call: Call, data: dict[str, Any]) -> None:
    """Keep what became of a call that has ended."""
    session = call.session
    error = data.get("error")
    call.cached = bool(data.get("cached", False))
    call.saved_s = data.get("saved_s", 0.0)
    call.error = error if isinstance(error, BaseException) else None
    session.active.pop(call.id, None)
    session.records.append(call)
    if call.map is not None:
        call.map.count(call)


def queued(call: Call, needs: tuple[int, ...] = ()) -> None:
    """Tell that a call waits for a worker; its arguments may not be known yet, `needs` are the calls they wait for."""
    session = call.session
    if session.hooks is not None:
        session.hooks.call.on_node_queued(metadata=call.metadata, reporter=Reporter(session))
    if session.fanout.listening:
        session.fanout.emit(
            events.TaskQueued(
                call_id=call.id,
                name=call.name,
                time=session.clock.wall(),
                backend=call.backend,
                index=call.index,
                needs=needs,
            )
        )


def emit_session(session: Any, fact: str, call_id: int, name: str, **data: Any) -> None:
    """Fan out a fact that belongs to no single call."""
    if session.fanout.listening:
        session.fanout.emit(getattr(events, fact)(call_id=call_id, name=name, time=session.clock.wall(), **data))


def _event(call: Call, fact: str, data: dict[str, Any]) -> events.Event:
    session = call.session
    about = {
        "call_id": call.id,
        "name": call.name,
        "time": session.clock.wall(),
        "map_id": None if call.map is None else call.map.id,
    }
    event: events.Event
    if fact == "TaskStarted":
        event = events.TaskStarted(
            **about,
            task=call.spec.name,
            kind=call.spec.kind.value,
            backend=call.backend,
            parent_id=call.parent_id,
            index=call.index,
            worker=call.worker,
            cell=session.label(),
        )
        return event
    if fact in _ENDINGS:
        about["duration_s"] = call.duration_s
        about["attempts"] = call.attempts
    about |= data
    error = data.get("error")
    if isinstance(error, BaseException):
        about["error"] = one_line(error)
        if fact == "TaskFailed":
            about |= {"error_type": type(error).__name__, "traceback": trim_traceback(error)}
        elif fact == "TaskCancelled":
            del about["error"]
            about["reason"] = call.own_cancel_reason or cancel_words(error)
    event = getattr(events, fact)(**about)
    return event


def cancel_words(error: BaseException) -> str:
    """Return in a word why a call ended as cancelled."""
    words = {"KeyboardInterrupt": "interrupt", "GeneratorExit": "closed early", "CancelledError": "cancelled"}
    return str(getattr(error, "reason", None) or words.get(type(error).__name__, type(error).__name__))


def _call_hooks(call: Call, hook: Any, fact: str, data: dict[str, Any], value: Any) -> None:
    common = {"metadata": call.metadata, "reporter": Reporter(call.session)}
    duration = call.duration_s
    retry = call.attempts - 1
    if fact == "AttemptStarted":
        if data["number"] == 1:
            hook.before_node_execute(**common)
        else:
            hook.before_node_retry(**common, attempt=data["number"] - 1, error=call.error)
    elif fact == "AttemptFailed":
        call.error = data["error"]
        if retry:
            hook.after_node_retry(**common, attempt=retry, succeeded=False)
    elif fact == "TaskCompleted" and data.get("cached"):
        hook.on_cache_hit(**common, key=data["key"], value=value)
    elif fact == "TaskCompleted":
        hook.after_node_execute(**common, result=value, duration=duration)
        if retry > 0:
            hook.after_node_retry(**common, attempt=retry, succeeded=True)
    elif fact == "TaskFailed":
        hook.on_node_error(**common, error=data["error"], duration=duration)
    elif fact == "TaskTimedOut":
        hook.on_node_error(**common, error=data.get("error"), duration=duration)
        hook.on_node_timeout(**common, timeout=data["timeout_s"], duration=duration)
    elif fact == "TaskCancelled":
        reason = call.own_cancel_reason or cancel_words(data["error"])
        hook.on_node_cancelled(**common, reason=reason, duration=duration)
    elif fact == "ItemYielded":
        hook.node_iteration(**common, index=data["index"])
    elif fact == "CacheMiss":
        hook.on_cache_miss(**common, key=data["key"], reason=data["reason"])
    elif fact == "CacheWritten":
        hook.on_cache_write(**common, key=data["key"], size=data["size_bytes"])
