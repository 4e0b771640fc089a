"""The first look for a cached result: what the key of a call is, and whether there is something under it.

A process that starts cold and finds its results needs no more than this, so here is nothing of what computes: a short
lane looks first and only then loads `steps`, which goes on from where it ended.
"""

from __future__ import annotations

from nbflow._typing import TYPE_CHECKING, Any, NamedTuple
from nbflow._util import lazy
from nbflow.core.reads import Reads
from nbflow.runtime.current import enter, frame

if TYPE_CHECKING:
    from nbflow.cache import guard, trace
    from nbflow.runtime.current import Call
else:
    guard = lazy("nbflow.cache.guard")
    trace = lazy("nbflow.cache.trace")  # whoever caches nothing needs no cache

__all__ = ["FORCED", "UNCHANGING", "Look", "first_look", "look", "make_key", "watch"]

FORCED = "recomputing was forced"
UNCHANGING = frozenset({int, float, complex, bool, str, bytes, type(None)})
"""Types of values that are none for the mutation guard."""

_new = tuple.__new__  # of a named tuple in a third of the time


class Look(NamedTuple):
    """What a first look came to.

    Attributes:
        key: What was looked for; None of a hit whose key is not made yet.
        found: The hit, or None.
        before: The moment before the look, see `Flights.moment`; None where nobody knows it.
    """

    key: Any
    found: Any
    before: Any


def make_key(call: Call, store: Any, inputs: dict[str, Any], *, unchanged: bool = False) -> Any:
    """Return the key of a call, without the files that its body reads; the call's record gets key and notes.

    Args:
        call: The call.
        store: Where to read what earlier sessions found out about the task.
        inputs: The call's arguments by name.
        unchanged: Whether the task's code has just been found to be what it was.
    """
    spec = call.spec
    key = spec.keyer.key(inputs, call.args, call.kwargs, store, unchanged=unchanged)
    if spec.cache == "session" and key.scope != "session":
        key = key._replace(scope="session")
    if suffix := spec.key_suffix(call.session.settings.cache_readonly):
        key = key._replace(digest=key.digest + suffix)
    call.key = key
    call.notes += key.notes
    return key


def first_look(call: Call, store: Any, inputs: dict[str, Any], *, unchanged: bool) -> Look:
    """Make the key of a call with plain arguments and look for its result, writing down no more than a hit needs.

    Args:
        call: The call.
        store: Where to look.
        inputs: The call's arguments by name; all of types in `UNCHANGING`.
        unchanged: Whether the task's code has just been found to be what it was.
    """
    spec = call.spec
    flights = getattr(store, "flights", None)
    if unchanged and flights is not None and spec.cache != "session":
        settings = call.session.settings
        late = None if spec.key_suffix(settings.cache_readonly) else spec.keyer.late_key(inputs, call.args, call.kwargs)
        if late is not None:
            before = flights.moment()
            found = store.fetch(late.digest, ttl=settings.cache_ttl if spec.cache_ttl is None else spec.cache_ttl)
            if found is None:
                call.key = late()
                return _new(Look, (call.key, None, before))
            if type(found.value) is not Reads:
                call.key_later = late
                return _new(Look, (None, found, before))
    outer = frame()
    try:
        enter(call)
        return look(call, store, make_key(call, store, inputs, unchanged=unchanged))
    finally:
        enter(outer)


def look(call: Call, store: Any, key: Any) -> Look:
    """Look for the first time for the result of a call; its record gets the key with files.

    Args:
        call: The call.
        store: Where to look.
        key: What `make_key` returned.
    """
    spec, flights = call.spec, getattr(store, "flights", None)  # stores of other make have none
    before = None if flights is None else flights.moment()
    ttl = call.session.settings.cache_ttl if spec.cache_ttl is None else spec.cache_ttl
    call.key, found = trace.fetch(store, key, ttl=ttl)
    if found is not None and call.key is not key:  # it depends on files
        call.note_reads(trace.states(call.key))
    return Look(key, found, before)


def watch(call: Call, value: Any) -> None:
    """Let the mutation guard know what is handed out; items of maps are too many for that."""
    if type(value) not in UNCHANGING and call.map is None and call.session.settings.mutation_guard:
        guard.note(value, f"`{call.spec.name}`", call.session.label())
