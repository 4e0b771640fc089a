"""From what users write as `telemetry=...` to observers."""

from __future__ import annotations

import os
from typing import Any

from nbflow.errors import DefinitionError
from nbflow.hooks import Fanout
from nbflow.telemetry.log import EventLog
from nbflow.telemetry.spans import OpenTelemetrySpans

__all__ = ["attach"]


def attach(telemetry: Any, fanout: Fanout) -> list[Any]:
    """Add telemetry to the observers of a session.

    Args:
        telemetry: A path for an `EventLog`, "opentelemetry", an observer, or a list of these.
        fanout: Where to add them.

    Returns:
        What the session has to close at its end: the observers that were made here.

    Raises:
        DefinitionError: Something is none of these.
    """
    made: list[Any] = []
    for wanted in telemetry if isinstance(telemetry, (list, tuple)) else [telemetry]:
        observer = wanted
        if wanted == "opentelemetry":
            observer = OpenTelemetrySpans()
        elif isinstance(wanted, (str, os.PathLike)) and os.fspath(wanted):
            observer = EventLog(wanted)
        elif not callable(wanted):
            raise DefinitionError(
                f'telemetry={wanted!r} is neither a path for an event log, nor "opentelemetry", nor an observer.'
            )
        fanout.add(observer, items=getattr(observer, "items", True))
        if observer is not wanted:
            made.append(observer)
    return made
