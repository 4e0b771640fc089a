"""Event fan-out: every observer gets every event, in the thread where the fact happened.

An observer is a plain function of one event. One that raises is dropped with one warning and the run goes on. Observers
added with `items=False` are spared the details of attempts and streams, and the routine events of single items of a map
(they sample its counters instead), so a map of a hundred thousand items costs them nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from nbflow._util import one_line, report
from nbflow.errors import DefinitionError

if TYPE_CHECKING:
    from nbflow.core import events

__all__ = ["Fanout", "Observer"]

Observer: TypeAlias = "Callable[[events.Event], None]"

_ROUTINE = frozenset(
    {
        "TaskQueued",
        "TaskStarted",
        "AttemptStarted",
        "CacheMiss",
        "CacheWritten",
        "ItemYielded",
        "TaskCompleted",
        "TaskCancelled",
    }
)


_DETAIL = frozenset({"AttemptStarted", "ItemYielded"})


class Fanout:
    """The observers of one session, chained to those of the session around it.

    Args:
        outer: Fan-out of the enclosing session, whose observers get these events too.

    Adding, removing and emitting are safe from any thread.
    """

    __slots__ = ("_lock", "_observers", "outer")

    def __init__(self, outer: Fanout | None = None) -> None:
        self.outer = outer
        self._lock = threading.Lock()
        self._observers: tuple[tuple[Observer, bool], ...] = ()

    def add(self, observer: Observer, *, items: bool = True) -> None:
        """Add an observer; adding it again only changes `items`."""
        if not callable(observer):
            raise DefinitionError(f"observer={observer!r} is not callable; give a function of one event.")
        with self._lock:
            self._observers = (*(pair for pair in self._observers if pair[0] != observer), (observer, items))

    def remove(self, observer: Observer) -> None:
        """Remove an observer; an unknown one is ignored."""
        with self._lock:
            self._observers = tuple(pair for pair in self._observers if pair[0] != observer)

    @property
    def listening(self) -> bool:
        """Whether anybody at all would get an event."""
        return bool(self._observers) or (self.outer is not None and self.outer.listening)

    @property
    def wants_items(self) -> bool:
        """Whether anybody would get the routine events of single items of a map."""
        return any(items for _, items in self._observers) or (self.outer is not None and self.outer.wants_items)

    def wants(self, fact: str, of_item: bool) -> bool:
        """Whether anybody would get an event of the class named `fact`, about an item of a map or not."""
        routine = fact in _DETAIL or (of_item and fact in _ROUTINE)
        fanout: Fanout | None = self
        while fanout is not None:
            for _, items in fanout._observers:
                if items or not routine:
                    return True
            fanout = fanout.outer
        return False

    def emit(self, event: events.Event) -> None:
        """Hand `event` to every observer, here and in the enclosing sessions."""
        fact = type(event).__name__
        routine = fact in _DETAIL or (event.map_id is not None and fact in _ROUTINE)
        fanout: Fanout | None = self
        while fanout is not None:
            for observer, items in fanout._observers:
                if items or not routine:
                    try:
                        observer(event)
                    except Exception as error:
                        fanout.remove(observer)
                        report(f"Observer {observer!r} raised {one_line(error)}. It gets no further events.")
            fanout = fanout.outer
