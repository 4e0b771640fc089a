"""The event log: one line of JSON per event, written by a thread of its own.

Telling an event costs putting it into a queue. Lines are written whole and flushed, so a log that ends with a crash
lacks at most the last moment; a torn last line is skipped when it is read, and never joined with what is written next.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import fields
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from nbflow._shield import shielded
from nbflow._util import one_line, report
from nbflow.errors import DefinitionError

if TYPE_CHECKING:
    from nbflow.core.events import Event

__all__ = ["EventLog", "read_log"]

_WAITING = 100_000
"""How many events may wait for a slow disk; further ones are counted, not kept."""

_BATCH = 1000
_CLOSE_S = 2.0


class EventLog:
    """An observer that writes events to a file, as lines of JSON; safe from any thread.

    Every line has `event` (the name of the event's class), `time` (seconds since the epoch) and the event's other
    fields; a new file begins with `LogStarted`. Nothing is created before the first event. When the file is
    `max_bytes` long it becomes `<path>.1`, the one before `<path>.2`, and so on.

    Args:
        path: The file; its folder is made. Several processes may write to it.
        max_bytes: Size at which it is put aside.
        keep: How many older files to keep.
        items: Whether to log every item of maps; False: only the maps and the items that failed, which is much less.

    Raises:
        DefinitionError: A number is wrong.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, max_bytes: int = 10_000_000, keep: int = 5, items: bool = True
    ) -> None:
        for option, value, low in (("max_bytes", max_bytes, 1), ("keep", keep, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise DefinitionError(f"{option}={value!r} must be a whole number ≥ {low}.")
        self.path = os.path.abspath(os.fspath(path))
        self.items = items
        self._max_bytes = max_bytes
        self._keep = keep
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._lock = threading.Lock()  # guards the three below
        self._writer: threading.Thread | None = None
        self._closed = False
        self._lost = 0
        self._file: IO[bytes] | None = None

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if self._queue.qsize() >= _WAITING:
            with self._lock:
                self._lost += 1
            return
        self._queue.put(event)
        if self._writer is None:
            self._begin()

    def _begin(self) -> None:
        with self._lock:
            if self._writer is None and not self._closed:
                self._writer = threading.Thread(target=self._write, name="nbflow-event-log", daemon=True)
                shielded(self._writer.start)
                atexit.register(self.close)  # the default session is never closed otherwise

    def close(self) -> None:
        """Write what is left, for at most two seconds, and close the file; idempotent."""
        with self._lock:
            self._closed = True
            writer, self._writer = self._writer, None
        if writer is not None:
            atexit.unregister(self.close)
            self._queue.put(None)
            writer.join(_CLOSE_S)

    # -- in the writer --------------------------------------------------------------------------------------------

    def _write(self) -> None:
        going_on = True
        try:
            while going_on:
                events = [self._queue.get()]
                try:
                    while len(events) < _BATCH:
                        events.append(self._queue.get_nowait())
                except Empty:
                    pass
                going_on = events[-1] is not None
                self._append([event for event in events if event is not None])
        except OSError as error:
            report(f"The event log {self.path} cannot be written any more: {one_line(error)}. The run goes on.")
            self._drain()
        finally:
            if self._file is not None:
                self._file.close()

    def _append(self, events: list[Event]) -> None:
        """Write events as lines, at once."""
        lines = [_line(event) for event in events]
        with self._lock:
            lost, self._lost = self._lost, 0
        if lost:
            lines.append(json.dumps({"event": "EventsLost", "count": lost}).encode() + b"\n")
        if lines:
            file = self._opened()
            file.write(b"".join(lines))
            file.flush()
            if file.tell() >= self._max_bytes:
                file.close()
                self._file = None
                self._rotate()

    def _opened(self) -> IO[bytes]:
        """Return the file, opened for appending; anew if another process has put it aside."""
        if self._file is not None:
            try:
                if os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno())):
                    return self._file
            except FileNotFoundError:
                pass
            self._file.close()
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        file = self._file = open(self.path, "ab")  # noqa: SIM115 - kept open
        if file.tell() and not _ends_with_line(self.path):
            file.write(b"\n")
        if not file.tell():
            file.write(json.dumps({"event": "LogStarted", "format": 1, "pid": os.getpid()}).encode() + b"\n")
        return file

    def _rotate(self) -> None:
        """Put the file aside, and the older ones further back."""
        for number in range(self._keep, 0, -1):
            older = self.path if number == 1 else f"{self.path}.{number - 1}"
            if os.path.exists(older):
                os.replace(older, f"{self.path}.{number}")
        if not self._keep:
            os.remove(self.path)

    def _drain(self) -> None:
        """Take events until the end, and drop them: the file cannot be written."""
        while self._queue.get() is not None:
            pass


_names: dict[type, tuple[str, ...]] = {}


def _line(event: Event) -> bytes:
    """Return an event as a line."""
    cls = type(event)
    names = _names.get(cls)
    if names is None:
        names = _names[cls] = tuple(spec.name for spec in fields(cls))
    facts = {"event": cls.__name__, **{name: getattr(event, name) for name in names}}
    return json.dumps(facts, default=repr).encode() + b"\n"


def _ends_with_line(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_log(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Read a log, with the files that were put aside, oldest first.

    Args:
        path: The path that the log was made with.

    Yields:
        Each event as a dict with the keys of its line. Lines that are torn are skipped.

    Raises:
        OSError: There is no such log, or it cannot be read.
    """
    place = os.fspath(path)
    older: list[str] = []
    while os.path.exists(f"{place}.{len(older) + 1}"):
        older.append(f"{place}.{len(older) + 1}")
    files = [*reversed(older), place] if os.path.exists(place) or not older else older[::-1]
    for name in files:
        with open(name, "rb") as file:
            for line in file:
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if isinstance(found, dict):
                    yield found
