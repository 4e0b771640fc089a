"""What comes back from workers, made known and put into words: text, log records, events, and errors.

Whoever waits for a call hears what its worker told, in a context of the cell that submitted it. Errors of the way
there and back are told in terms of the user's function, item and worker.
"""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any

from nbflow._util import lazy
from nbflow.core import events
from nbflow.errors import TransferError, WorkerLostError
from nbflow.runtime.current import Call

opened: Any = lazy("nbflow.runtime.opened")  # only cells that are cached follow what is opened

__all__ = ["hear", "lost_words", "note_files", "rename_path", "unreadable"]

_EVENT_LINES = 20
"""Lines of one message that become events; people see all of them."""


def hear(session: Any, entry: Any, call: Call | None = None) -> None:
    """Make known what a worker told: text, a log record, the files of a call that failed, or an event.

    Args:
        session: The session of the calls.
        entry: What was told.
        call: The call that runs there, if it is a single one.
    """
    if isinstance(entry, tuple):
        stream, text, call_id, name, map_id = entry
        getattr(sys, stream).write(text)
        if call_id is not None and session.fanout.wants("LogLine", False):
            about = {"call_id": call_id, "name": name, "time": session.clock.wall(), "map_id": map_id}
            for line in text.splitlines()[-_EVENT_LINES:]:
                session.fanout.emit(events.LogLine(**about, text=line, stream=stream))
    elif isinstance(entry, dict) and "opened" in entry:
        if call is not None:
            note_files(call, entry["reads"], entry["opened"])
    elif isinstance(entry, dict):
        record = logging.makeLogRecord(entry["log"])
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    else:
        if call is not None and call.progress is not None and isinstance(entry, events.ProgressMade):
            if entry.call_id == call.id:
                call.progress = (entry.done, entry.total, session.clock.monotonic())
        session.fanout.emit(entry)


def note_files(call: Call, reads: dict[str, Any] | None, found: dict[str, Any]) -> None:
    """Note what was read for a call by a worker, and what was just opened there, where that counts."""
    if reads:
        call.note_reads(reads)
    if found and (watch := opened.nearest(call)) is not None:
        watch.heard(found)


def unreadable(name: str, error: Exception) -> TransferError:
    """Return the error of a call whose result came back and cannot be built here."""
    text = f"{type(error).__name__}: {error}".rstrip(".")
    return TransferError(
        f"Task {name!r}: its result came back from the worker, but cannot be rebuilt here: {text}.",
        path="result",
        reason=text,
    )


def rename_path(error: TransferError, job: str, name: str) -> TransferError:
    """Let an error that speaks of a job's arguments speak of the function's.

    Args:
        error: The error.
        job: How the path of the job's argument begins.
        name: How it should begin.
    """
    path = str(getattr(error, "path", "") or "")
    if path.startswith(job):
        better = name + path.removeprefix(job)
        error.args = (str(error).replace(path, better, 1),)
        error.__dict__["path"] = better
    return error


def lost_words(name: str, error: WorkerLostError) -> WorkerLostError:
    """Return the error of a call whose worker died, which names the call, the worker and the exit code."""
    code, who = getattr(error, "exitcode", None), getattr(error, "worker", None)
    if code is None:
        how = str(error).rstrip(".")
    elif code < 0:
        how = f"was killed by signal {-code}" + (" (out of memory?)" if -code == getattr(signal, "SIGKILL", 9) else "")
    else:
        how = f"ended itself with exit code {code}"
    text = f"Task {name!r}: its worker {how}." if who is None else f"Task {name!r}: its worker {who} {how}."
    if code is None:
        text = f"Task {name!r} lost its worker: {how}."
    named = WorkerLostError(text, worker=who, exitcode=code)
    named.__cause__ = error.__cause__
    return named
