"""What a worker tells its coordinator while it works: events, prints, warnings and log records, in batches.

A `Relay` belongs to one job. What comes within a twentieth of a second travels as one message; of very much text only
so much, and how much was left out. In a worker's process, `sys.stdout` and `sys.stderr` are replaced once by streams
that look for the relay of the job that runs, and the root logger gets a handler that does.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextvars import ContextVar, copy_context
from typing import Any

from nbflow._shield import shielded
from nbflow.backends.remote import owns_process, tell
from nbflow.runtime.current import Call, current_call

__all__ = ["Relay", "Spoken", "relay_of_context", "take_over_process"]

BATCH_S = 0.05
"""How long to wait for more before something is sent, since the last time."""

LINE_S = 0.5
"""How long a line waits for its end, so that `print`, which writes it in two parts, stays in one piece among others."""

BATCH_CHARS = 1 << 18
"""How much text is sent at a time; more than that within `BATCH_S` is left out."""

Spoken = tuple[str, str, int | None, str, int | None]
"""Text on its way: stream, text; id, name and map of the call that wrote it."""


class Relay:
    """The way out of one job, for as long as a `with` block runs it; safe from any thread.

    Args:
        label: The coordinator's cell, for the events of calls that are made here.
    """

    def __init__(self, label: str | None = None) -> None:
        self.label = label
        self._lock = threading.RLock()  # the garbage collector may run code that prints, at any moment
        self._context = copy_context()
        self._batch: list[Any] = []
        self._chars = 0
        self._left_out = {"stdout": 0, "stderr": 0}
        self._sent_at = self._open_at = float("-inf")  # the clock may have begun at zero just now
        self._timer: threading.Timer | None = None
        self._sending = self._closed = False

    def __enter__(self) -> Relay:
        global _latest
        self._token = _active.set(self)
        if owns_process():
            _latest = self
        return self

    def __exit__(self, *exc: object) -> None:
        global _latest
        if _latest is self:
            _latest = None
        _active.reset(self._token)
        self.close()

    def add(self, entry: Any) -> None:
        """Send an event or a log record, soon."""
        with self._lock:
            self._batch.append(entry)
            self._due()

    def now(self, entry: Any) -> None:
        """Send something at once, with all that waits."""
        with self._lock:
            self._batch.append(entry)
            self.flush()

    def write(self, stream: str, text: str) -> None:
        """Send text, soon; a line that has not ended waits a little longer for its end."""
        with self._lock:
            if self._chars + len(text) > BATCH_CHARS:
                self._left_out[stream] += max(1, text.count("\n"))
                self._due()
                return
            self._chars += len(text)
            call = current_call()
            last = self._batch[-1] if self._batch else None
            if "\n" in text or not _is_open(last):
                self._open_at = time.monotonic()
            if type(last) is tuple and last[0] == stream and last[2] == (None if call is None else call.id):
                self._batch[-1] = (stream, last[1] + text, *last[2:])
            else:
                self._batch.append((stream, text, *_writer(call)))
            if _is_open(self._batch[-1]):
                self._later()
            else:
                self._due()

    def soon(self) -> None:
        """Send what waits, soon, also a line that has not ended."""
        with self._lock:
            self._open_at = float("-inf")
            self._due()

    def _due(self) -> None:
        if time.monotonic() - self._sent_at >= BATCH_S:
            self.flush()
        else:
            self._later()

    def _later(self) -> None:
        if self._closed:
            self.flush()
        elif self._timer is None:
            self._timer = threading.Timer(BATCH_S, self._late)
            self._timer.daemon = True
            shielded(self._timer.start)

    def _late(self) -> None:
        with self._lock:
            self._timer = None
            last = self._batch[-1] if self._batch else None
            if not _is_open(last) or time.monotonic() - self._open_at >= LINE_S:
                self.flush()
                return
            stream, text, *writer = self._batch.pop()
            whole, end, begun = text.rpartition("\n")
            if end:
                self._batch.append((stream, whole + end, *writer))
            self.flush()
            self._batch.insert(0, (stream, begun, *writer))
            self._chars += len(begun)
            self._later()

    def flush(self) -> None:
        """Send what waits."""
        with self._lock:
            if self._sending:  # somebody printed while a message was made; it goes with the next one
                return
            for stream, lines in self._left_out.items():
                if lines:
                    self._batch.append((stream, f"… {lines:,} lines dropped: too much at a time\n", *_writer(None)))
                    self._left_out[stream] = 0
            if not self._batch:
                return
            batch, self._batch, self._chars = self._batch, [], 0
            self._sent_at = time.monotonic()
            self._sending = True
            try:
                self._context.run(tell, batch)
            finally:
                self._sending = False

    def close(self) -> None:
        """Send the rest; what is told later is sent without delay as long as somebody hears it."""
        with self._lock:
            self._closed = True
            timer, self._timer = self._timer, None
            self.flush()
        if timer is not None:
            timer.cancel()


def _is_open(entry: Any) -> bool:
    return type(entry) is tuple and not entry[1].endswith(("\n", "\r"))


def _writer(call: Call | None) -> tuple[int | None, str, int | None]:
    return (None, "", None) if call is None else (call.id, call.name, None if call.map is None else call.map.id)


_active: ContextVar[Relay | None] = ContextVar("nbflow_relay", default=None)
_latest: Relay | None = None  # of a process that runs one job at a time: for its threads without context
_taken_over = False


def relay_of_context() -> Relay | None:
    """Return the relay of the job that this code belongs to; None if it belongs to none."""
    return _active.get() or _latest


# --- streams and logging of a worker process ----------------------------------------------------------------------


class _Stream:
    """A text stream that gives what a job writes to its relay, and all else to the stream behind."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, behind: Any, name: str) -> None:
        self._behind = behind
        self._name = name
        self.name = f"<{name}>"

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            relay = relay_of_context()
            if relay is not None:
                relay.write(self._name, text)
            elif self._behind is not None:
                self._behind.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        relay = relay_of_context()
        if relay is not None:
            relay.soon()
        elif self._behind is not None:
            self._behind.flush()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)


class _Records(logging.Handler):
    """Gives log records of jobs to their relay, for the coordinator's own handlers."""

    def emit(self, record: logging.LogRecord) -> None:
        relay = relay_of_context()
        if relay is None:
            if logging.lastResort is not None and logging.root.handlers == [self]:
                logging.lastResort.handle(record)
            return
        try:
            kept = {
                name: value if type(value) in _ATOMS else repr(value)  # what `extra` brought may be anything
                for name, value in vars(record).items()
                if name not in _NOT_SENT
            }
            kept["msg"] = record.getMessage()
            if record.exc_info and not record.exc_text:
                kept["exc_text"] = logging.Formatter().formatException(record.exc_info)
            relay.add({"log": kept})
        except Exception:
            self.handleError(record)


_ATOMS = frozenset({bool, float, int, str, type(None)})
_NOT_SENT = frozenset({"args", "asctime", "exc_info", "message", "msg", "relativeCreated"})


def take_over_process() -> None:
    """Replace the streams of this process and have the root logger's records told, once; its handlers stay."""
    global _taken_over
    if _taken_over:
        return
    _taken_over = True
    for name in ("stdout", "stderr"):
        setattr(sys, name, _Stream(getattr(sys, name), name))
    logging.getLogger().addHandler(_Records())
