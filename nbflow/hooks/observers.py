"""Event fan-out: every observer gets every event, in the thread where the fact happened.

An observer is a plain function of one event. One that raises is dropped with one warning and the run goes on. Observers
added with `items=False` are spared the details of attempts and streams, and the routine events of single items of a map
(they sample its counters instead), so a map of a hundred thousand items costs them nothing. One that also gives a
*sampler* is spared the events of quick calls: it gets their records, which tell the same when somebody looks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from nbflow._typing import TYPE_CHECKING, Any, TypeAlias
from nbflow._util import one_line, report
from nbflow.errors import DefinitionError

if TYPE_CHECKING:
    from nbflow.core import events

__all__ = ["Fanout", "Observer", "Sampler"]

Observer: TypeAlias = "Callable[[events.Event], None]"
Sampler: TypeAlias = Callable[[Any], object]
"""Gets the live record of a quick call when it begins; must be as quick, never raises, safe from any thread."""

_ROUTINE = frozenset(
    {
        "TaskQueued",
        "TaskStarted",
        "AttemptPlaced",
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

    __slots__ = ("_lock", "_observers", "_samplers", "outer")

    def __init__(self, outer: Fanout | None = None) -> None:
        self.outer = outer
        self._lock = threading.Lock()
        self._observers: tuple[tuple[Observer, bool, Sampler | None], ...] = ()
        self._samplers: tuple[Sampler, ...] | None = ()

    def add(self, observer: Observer, *, items: bool = True, sampler: Sampler | None = None) -> None:
        """Add an observer; adding it again only changes `items` and `sampler`."""
        if not callable(observer):
            raise DefinitionError(f"observer={observer!r} is not callable; give a function of one event.")
        with self._lock:
            others = tuple(each for each in self._observers if each[0] != observer)
            self._set((*others, (observer, items, sampler)))

    def remove(self, observer: Observer) -> None:
        """Remove an observer; an unknown one is ignored."""
        with self._lock:
            self._set(tuple(each for each in self._observers if each[0] != observer))

    def _set(self, observers: tuple[tuple[Observer, bool, Sampler | None], ...]) -> None:
        self._observers = observers
        samplers = tuple(sampler for _, _, sampler in observers if sampler is not None)
        self._samplers = samplers if len(samplers) == len(observers) else None

    def samplers(self) -> tuple[Sampler, ...] | None:
        """Return what takes the records of quick calls: empty if nobody listens, None if somebody needs events."""
        own = self._samplers
        if own is None or self.outer is None:
            return own
        around = self.outer.samplers()
        return None if around is None else own + around

    @property
    def listening(self) -> bool:
        """Whether anybody at all would get an event."""
        return bool(self._observers) or (self.outer is not None and self.outer.listening)

    @property
    def wants_items(self) -> bool:
        """Whether anybody would get the routine events of single items of a map."""
        return any(items for _, items, _ in self._observers) or (self.outer is not None and self.outer.wants_items)

    def wants(self, fact: str, of_item: bool) -> bool:
        """Whether anybody would get an event of the class named `fact`, about an item of a map or not."""
        routine = fact in _DETAIL or (of_item and fact in _ROUTINE)
        fanout: Fanout | None = self
        while fanout is not None:
            for _, items, _ in fanout._observers:
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
            for observer, items, _ in fanout._observers:
                if items or not routine:
                    try:
                        observer(event)
                    except Exception as error:
                        fanout.remove(observer)
                        report(f"Observer {observer!r} raised {one_line(error)}. It gets no further events.")
            fanout = fanout.outer
