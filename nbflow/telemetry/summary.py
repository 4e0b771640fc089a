"""Summaries: what ran in a session, counted from the records that every session keeps anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nbflow._util import format_duration
from nbflow.runtime import current
from nbflow.runtime.current import Call

__all__ = ["Summary", "TaskSummary", "WorkerSummary", "summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSummary:
    """The calls of one task; times are seconds of calls that were not cached."""

    task: str
    completed: int = 0
    cached: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0
    running: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0
    saved_s: float = 0.0

    @property
    def calls(self) -> int:
        """All calls, those that run included; `completed` counts the cached ones too."""
        return self.completed + self.failed + self.timed_out + self.cancelled + self.running


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSummary:
    """What one worker did; calls of maps that nobody listened to have none."""

    worker: str
    calls: int
    busy_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What ran in a session; its text is a table.

    Attributes:
        session_id: The session.
        tasks: One row per task, in the order of their first endings.
        workers: One row per worker.
        complete: False if the session has forgotten its oldest calls (setting `max_records`).
    """

    session_id: str
    tasks: tuple[TaskSummary, ...]
    workers: tuple[WorkerSummary, ...]
    complete: bool

    @property
    def saved_s(self) -> float:
        """Seconds that cached results saved."""
        return sum(row.saved_s for row in self.tasks)

    def __str__(self) -> str:
        head = ("task", "calls", "cached", "failed", "cancelled", "running", "time", "longest", "saved")
        rows = [
            (
                row.task,
                *map(str, (row.calls, row.cached, row.failed + row.timed_out, row.cancelled, row.running)),
                *map(format_duration, (row.total_s, row.longest_s, row.saved_s)),
            )
            for row in self.tasks
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in (head, *rows)
        ]
        return "\n".join(lines if self.complete else [*lines, "(the oldest calls are forgotten)"])


def summary(session: Any = None) -> Summary:
    """Count what ran in a session.

    Args:
        session: A session, open or closed; None for the current one.

    Returns:
        The counts. Running calls are only known of while somebody listens to the session (the panel does).
    """
    from nbflow.sessions import session_or_default  # sessions use this package in turn

    context = session_or_default() if session is None else session
    records = list(context.records)
    live = [call for call in context.live_calls() if call.session is context and call.state == current.RUNNING]
    tasks: dict[str, dict[str, Any]] = {}
    workers: dict[str, list[float]] = {}
    for call in (*records, *live):
        _count(tasks.setdefault(call.spec.name, {"task": call.spec.name}), call)
        if call.worker is not None and not call.cached:
            found = workers.setdefault(call.worker, [0, 0.0])
            found[0] += 1
            found[1] += call.duration_s
    return Summary(
        session_id=context.session_id,
        tasks=tuple(TaskSummary(**row) for row in tasks.values()),
        workers=tuple(
            WorkerSummary(worker=name, calls=int(calls), busy_s=busy) for name, (calls, busy) in sorted(workers.items())
        ),
        complete=records == [] or len(records) < (context.records.maxlen or 0),
    )


_FIELDS = {
    current.COMPLETED: "completed",
    current.FAILED: "failed",
    current.TIMED_OUT: "timed_out",
    current.CANCELLED: "cancelled",
    current.RUNNING: "running",
}


def _count(row: dict[str, Any], call: Call) -> None:
    field = _FIELDS[call.state]
    row[field] = row.get(field, 0) + 1
    if call.cached:
        row["cached"] = row.get("cached", 0) + 1
        row["saved_s"] = row.get("saved_s", 0.0) + call.saved_s
    else:
        row["total_s"] = row.get("total_s", 0.0) + call.duration_s
        row["longest_s"] = max(row.get("longest_s", 0.0), call.duration_s)
