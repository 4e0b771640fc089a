"""What happened, for later: event logs, summaries of sessions, spans for OpenTelemetry.

`EventLog` writes every event as a line of JSON, `OpenTelemetrySpans` makes spans of them; both are observers, given as
`session(telemetry=...)`. `summary` counts what ran in a session, without having had to listen.
"""

from __future__ import annotations

from nbflow.telemetry.log import EventLog, read_log
from nbflow.telemetry.spans import OpenTelemetrySpans
from nbflow.telemetry.summary import Summary, TaskSummary, WorkerSummary, summary

__all__ = [
    "EventLog",
    "OpenTelemetrySpans",
    "Summary",
    "TaskSummary",
    "WorkerSummary",
    "read_log",
    "summary",
]
