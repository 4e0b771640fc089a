"""What a cell prints and shows, told to whoever records that cell.

`sys.stdout` and `sys.stderr` are replaced once by a tap that passes everything on, live, and tells the *sink* of the
current context about it; the shell's display publisher is tapped in the same way. The sink is a context variable, so
two cells that run at the same time do not take each other's output, and the prints of a task on a thread land in the
cell that started it. Threads that a cell starts without nbflow have no context; while it is the only cell that is
recorded, they count as its own.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from nbflow.notebook.address import address_here
from nbflow.runtime.current import Call, frame
from nbflow.runtime.newcomers import Newcomers

__all__ = [
    "DisplayTap",
    "Mute",
    "Sink",
    "StreamTap",
    "Taps",
    "flush_figures",
    "recording",
    "refusing_input",
    "take_lines",
]

_MOST_LINES = 256
_lines: dict[int, str] = {}
"""What each running call (or the items of a map) printed last, until somebody takes it; of a bounded number."""


def take_lines() -> dict[int, str]:
    """Return what was printed last since this was called before, by the ids of calls and maps; safe from any thread."""
    return {number: _lines.pop(number, "") for number in list(_lines)}


class Sink(Protocol):
    """Whoever records what a cell puts out; called from any thread."""

    def stream(self, name: str, text: str) -> bool:
        """Something is about to be written to "stdout" or "stderr"; return False to keep it from being written."""
        ...

    def display(self, data: dict[str, Any], metadata: dict[str, Any], transient: dict[str, Any], update: bool) -> bool:
        """Something is about to be shown; return False to keep it from being shown now."""
        ...

    def clear(self, wait: bool) -> None:
        """The cell's output is being cleared, now or (`wait`) with the next output."""
        ...


_sink: ContextVar[Sink | None] = ContextVar("nbflow_sink", default=None)
_recorded: dict[int, tuple[Sink, Newcomers]] = {}
"""The sinks that record now, inside no other, by their ids."""


def _sink_here() -> Sink | None:
    """Return the sink of this context, or of the cell that has started this thread."""
    sink = _sink.get()
    if sink is not None or len(_recorded) != 1:
        return sink
    for only, newcomers in list(_recorded.values()):
        return only if newcomers.here() else None
    return None


class Mute:
    """A sink that lets nothing through: for code that is run again only for the names it binds."""

    def stream(self, name: str, text: str) -> bool:
        """Swallow text."""
        return False

    def display(self, data: dict[str, Any], metadata: dict[str, Any], transient: dict[str, Any], update: bool) -> bool:
        """Swallow a display."""
        return False

    def clear(self, wait: bool) -> None:
        """Ignore it; the output belongs to others."""


class _Both:
    """A sink inside another: the outer one is told of what the inner one lets through."""

    def __init__(self, inner: Sink, outer: Sink) -> None:
        self._inner = inner
        self._outer = outer

    def stream(self, name: str, text: str) -> bool:
        """Tell both."""
        return self._inner.stream(name, text) and self._outer.stream(name, text)

    def display(self, data: dict[str, Any], metadata: dict[str, Any], transient: dict[str, Any], update: bool) -> bool:
        """Tell both."""
        shown = self._inner.display(data, metadata, transient, update)
        return shown and self._outer.display(data, metadata, transient, update)

    def clear(self, wait: bool) -> None:
        """Tell both."""
        self._inner.clear(wait)
        self._outer.clear(wait)


class StreamTap:
    """A text stream in front of another: passes everything on and tells the sink of the context what was written."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> Any:
        """Write `text`; safe from any thread, if the stream behind is."""
        found = frame()
        if isinstance(found, Call) and text and not text.isspace():
            number = found.id if found.map is None else found.map.id
            if number in _lines or len(_lines) < _MOST_LINES:
                _lines[number] = text
        sink = _sink_here()
        if sink is None or sink.stream(self._name, text):
            return self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write every line of `lines`."""
        for line in lines:
            self.write(line)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __repr__(self) -> str:
        return f"<tap on {self._stream!r}>"


class DisplayTap:
    """A tap on a display publisher.

    ipykernel has hooks for this, but keeps them per thread: what a task shows from a pool's thread would be missed.
    So the two methods are shadowed on the instance, and `remove` takes the shadows away. So is a third one, by which
    ipykernel has its other thread send what was printed before something is shown, and waits for that twice, also
    where nothing was printed: it took as long as all the rest of a display.
    """

    def __init__(self, publisher: Any) -> None:
        self.publisher = publisher
        self._publish: Callable[..., Any] = publisher.publish
        self._clear: Callable[..., Any] = publisher.clear_output
        publisher.publish = self.publish
        publisher.clear_output = self.clear_output
        if hasattr(publisher, "_flush_streams"):
            publisher._flush_streams = _flush_printed

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *args: Any,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **options: Any,
    ) -> None:
        """Tell the sink, then show as the publisher does, unless the sink keeps it."""
        sink = _sink_here()
        if sink is None or sink.display(data, metadata or {}, transient or {}, update):
            address = address_here()
            if address is not None:
                address.display(data, metadata, transient, update)
                return
            self._publish(data, metadata, *args, transient=transient, update=update, **options)

    def clear_output(self, wait: bool = False) -> None:
        """Tell the sink, then clear as the publisher does."""
        sink = _sink_here()
        if sink is not None:
            sink.clear(wait)
        self._clear(wait)

    def remove(self) -> None:
        """Take the tap away again; idempotent."""
        for name in ("publish", "clear_output", "_flush_streams"):
            self.publisher.__dict__.pop(name, None)


def _flush_printed() -> None:
    """Flush the streams on which something waits to be sent; one that does not say so is flushed."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "_flush_pending", True):
            stream.flush()


class Taps:
    """The taps of one shell, for as long as nbflow is loaded.

    Args:
        shell: The IPython shell.
    """

    def __init__(self, shell: Any) -> None:
        self.display = DisplayTap(shell.display_pub)
        self.streams = {name: StreamTap(getattr(sys, name), name) for name in ("stdout", "stderr")}
        for name, tap in self.streams.items():
            setattr(sys, name, tap)

    def remove(self) -> None:
        """Put everything back as it was found, except streams that somebody else has replaced since."""
        self.display.remove()
        for name, tap in self.streams.items():
            if getattr(sys, name) is tap:
                setattr(sys, name, tap._stream)


@contextmanager
def recording(sink: Sink, shell: Any) -> Iterator[None]:
    """Make `sink` the recorder of what this context puts out; one that is there already goes on hearing of it.

    Args:
        sink: Who is told.
        shell: The IPython shell; its publisher and streams may have been swapped since, as `%%capture` does.
    """
    with ExitStack() as stack:
        if "publish" not in shell.display_pub.__dict__:
            stack.callback(DisplayTap(shell.display_pub).remove)
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if not isinstance(stream, StreamTap):
                tap = StreamTap(stream, name)
                setattr(sys, name, tap)
                stack.callback(_put_back, name, tap)
        outer = _sink.get()
        if outer is None:
            _recorded[id(sink)] = sink, Newcomers()
            stack.callback(_recorded.pop, id(sink), None)
        token = _sink.set(sink if outer is None else _Both(sink, outer))
        try:
            yield
        finally:
            _sink.reset(token)


def _put_back(name: str, tap: StreamTap) -> None:
    if getattr(sys, name) is tap:
        setattr(sys, name, tap._stream)


@contextmanager
def refusing_input(message: str) -> Iterator[None]:
    """Let `input()` of this context raise a `UsageError` instead of asking; other contexts may still ask."""
    from IPython.core.error import UsageError

    before = builtins.input
    mine = object()
    token = _refused.set(mine)

    def refuse(prompt: object = "") -> str:
        if _refused.get() is mine:
            raise UsageError(message)
        return before(prompt)

    builtins.input = refuse
    try:
        yield
    finally:
        _refused.reset(token)
        if builtins.input is refuse:
            builtins.input = before


_refused: ContextVar[object] = ContextVar("nbflow_refused_input", default=None)


def flush_figures() -> None:
    """Let matplotlib's inline backend, if it is in use, show the open figures now rather than after the cell."""
    inline = sys.modules.get("matplotlib_inline.backend_inline")
    if inline is not None:
        inline.flush_figures()
