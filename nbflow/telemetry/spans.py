"""OpenTelemetry: sessions, maps, calls and attempts as spans, made from events.

The spans of a call lie inside that of its map or of the call that made it, those inside the session's. What happens in
between (cache misses, retries, lines of output, lost workers) are events of the span. Counts need no telling: a span
that began ends exactly once, at the latest with its session.
"""

from __future__ import annotations

import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nbflow._version import __version__
from nbflow.errors import DefinitionError

if TYPE_CHECKING:
    from nbflow.core.events import Event

__all__ = ["OpenTelemetrySpans"]

_ENDINGS = {
    "TaskCancelled": "cancelled",
    "TaskCompleted": "completed",
    "TaskFailed": "failed",
    "TaskTimedOut": "timed out",
}
_NOTES = frozenset(
    {"CacheFailed", "CacheMiss", "CacheWritten", "LogLine", "RetryScheduled", "StragglerLeft", "WorkerLost"}
)


class OpenTelemetrySpans:
    """An observer that makes spans; safe from any thread.

    Args:
        tracer_provider: Where the spans go; None for the global provider of the `opentelemetry` package.
        items: Whether items of maps get spans of their own.

    Raises:
        DefinitionError: The package `opentelemetry` is not installed.
    """

    def __init__(self, tracer_provider: Any = None, *, items: bool = True) -> None:
        if find_spec("opentelemetry") is None:
            raise DefinitionError("Spans need the package opentelemetry: pip install 'nbflow[telemetry]'.")
        from opentelemetry import trace

        self.items = items
        self._trace: Any = trace
        self._tracer: Any = trace.get_tracer("nbflow", __version__, tracer_provider)
        self._lock = threading.Lock()
        self._spans: dict[int, Any] = {}  # of maps and calls, by their ids
        self._attempts: dict[int, Any] = {}  # of the attempts that run, by the ids of their calls
        self._sessions: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        """Take an event."""
        fact = type(event).__name__
        with self._lock:
            if fact in _ENDINGS:
                self._end_call(event, _ENDINGS[fact])
            elif fact in _NOTES:
                span = self._spans.get(event.call_id)
                if span is not None:
                    span.add_event(fact, _attributes(event), _nanoseconds(event.time))
            elif (handle := getattr(self, f"_on_{fact}", None)) is not None:
                handle(event)

    def close(self) -> None:
        """End what has not ended; idempotent."""
        with self._lock:
            for span in (*self._attempts.values(), *self._spans.values(), *self._sessions.values()):
                span.end()
            self._attempts, self._spans, self._sessions = {}, {}, {}

    # -- one method per kind of event, called with the lock held ----------------------------------------------------

    def _on_SessionStarted(self, event: Any) -> None:
        self._sessions[event.name] = self._begin(f"session {event.name}", event, self._around(None))

    def _on_SessionEnded(self, event: Any) -> None:
        if (span := self._sessions.pop(event.name, None)) is not None:
            span.end(_nanoseconds(event.time))

    def _on_MapStarted(self, event: Any) -> None:
        facts = {"nbflow.total": event.total, "nbflow.backend": event.backend}
        self._spans[event.call_id] = self._begin(f"map {event.name}", event, self._around(event.parent_id), facts)

    def _on_MapEnded(self, event: Any) -> None:
        if (span := self._spans.pop(event.call_id, None)) is not None:
            for name in ("cached", "cancelled", "completed", "failed", "saved_s"):
                span.set_attribute(f"nbflow.{name}", getattr(event, name))
            if event.failed:
                span.set_status(self._trace.StatusCode.ERROR, f"{event.failed} of {event.total} items failed")
            span.end(_nanoseconds(event.time))

    def _on_TaskStarted(self, event: Any) -> None:
        facts = {"nbflow.task": event.task, "nbflow.kind": event.kind, "nbflow.backend": event.backend}
        for name in ("worker", "cell", "index"):
            if (value := getattr(event, name)) is not None:
                facts[f"nbflow.{name}"] = value
        around = self._around(event.map_id if event.map_id is not None else event.parent_id)
        self._spans[event.call_id] = self._begin(event.name, event, around, facts)

    def _on_AttemptStarted(self, event: Any) -> None:
        self._end_attempt(event)
        around = self._around(event.call_id)
        facts = {"nbflow.attempt": event.number}
        self._attempts[event.call_id] = self._begin(f"attempt {event.number}", event, around, facts)

    def _on_AttemptFailed(self, event: Any) -> None:
        self._end_attempt(event, event.error)

    def _end_attempt(self, event: Any, error: str | None = None) -> None:
        if (span := self._attempts.pop(event.call_id, None)) is not None:
            if error is not None:
                span.set_status(self._trace.StatusCode.ERROR, error)
            span.end(_nanoseconds(event.time))

    def _end_call(self, event: Any, state: str) -> None:
        error = getattr(event, "error", None)
        self._end_attempt(event, error)
        span = self._spans.pop(event.call_id, None)
        if span is None:  # it never started
            span = self._begin(event.name, event, self._around(event.map_id))
        span.set_attribute("nbflow.state", state)
        for name in ("attempts", "cached", "reason", "saved_s", "timeout_s"):
            if (value := getattr(event, name, None)) is not None:
                span.set_attribute(f"nbflow.{name}", value)
        if error is not None:
            facts = {"exception.message": error, "exception.stacktrace": getattr(event, "traceback", "")}
            facts["exception.type"] = getattr(event, "error_type", "TaskTimeoutError")
            span.add_event("exception", facts, _nanoseconds(event.time))
            span.set_status(self._trace.StatusCode.ERROR, error)
        span.end(_nanoseconds(event.time))

    # -- spans --------------------------------------------------------------------------------------------------------

    def _begin(self, name: str, event: Any, around: Any, facts: dict[str, Any] | None = None) -> Any:
        # A call without one around it, seen from a session that somebody traces, belongs to what is traced there.
        context = None if around is None else self._trace.set_span_in_context(around)
        attributes = {"nbflow.id": event.call_id, **(facts or {})}
        return self._tracer.start_span(name, context, attributes=attributes, start_time=_nanoseconds(event.time))

    def _around(self, parent_id: int | None) -> Any:
        """Return the span of a map or call; else that of the innermost session; None if there is none."""
        span = self._spans.get(parent_id) if parent_id is not None else None
        if span is None and self._sessions:
            span = next(reversed(self._sessions.values()))
        return span


def _nanoseconds(time: float) -> int:
    return int(time * 1e9)


def _attributes(event: Any) -> dict[str, Any]:
    """Return what an event says, but for what its span says already."""
    skipped = {"call_id", "map_id", "name", "time"}
    found = {name: getattr(event, name) for name in event.__dataclass_fields__ if name not in skipped}
    return {name: value for name, value in found.items() if value is not None}
