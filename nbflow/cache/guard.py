"""The mutation guard: notices that a value which nbflow made, or handed out, was changed in place.

Such an edit never reaches the cache, which keeps its own copies. But whoever made it may not know that the value is no
longer what its task returned, and wonder why everything after it runs again. So the guard remembers what each such
value was when it was handed out, and compares: when the value is used as an input, where its digest is worked out
anyway, and after a cell, for small values and a bounded time. The rules:

* Only data are watched: arrays, tables, and lists, dicts and sets of such. Other objects may change for reasons of
  their own, such as a property that is worked out when first asked for.
* Values are held weakly. Lists and dicts, which cannot be, are held until nobody else does, and only small ones.
* Handing out costs next to nothing: what a value was is worked out after the cell that made it, or with the first key
  that has it as an input; of large values only then.
* A cell may finish what it began: what changes in the cell that made it is taken as made so.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import cache

from xxhash import xxh3_128_hexdigest

from nbflow._typing import Any, NamedTuple
from nbflow._util import package_of
from nbflow.cache.fingerprint import content_bytes
from nbflow.cache.parts import short_text

__all__ = ["Change", "changes", "forget", "look", "note", "sweep"]

LIGHT = 256 * 1024
"""Bytes, about, up to which a value is digested after each cell."""

_WATCHED = 512  # values in all
_HELD = 64  # of those that cannot be referenced weakly
_MEMBERS = 1000  # of a container
_DEPTH = 4  # containers inside containers
_SIMPLE = frozenset({int, float, complex, bool, str, bytes, type(None)})
_TEXT = frozenset({str, bytes})
_CONTAINERS = frozenset({list, dict, set, bytearray})


class Change(NamedTuple):
    """An edit that was noticed.

    `what` is the value as text, `origin` what made it ("`load`"), `made_in` and `seen_in` the cells of both, if any;
    `name` is the argument or input that it was given as, or ""; `fresh` is false where the same was noticed before.
    """

    value: Callable[[], Any]
    what: str
    origin: str
    made_in: str | None
    seen_in: str | None
    name: str = ""
    fresh: bool = True

    @property
    def since(self) -> str:
        """Say how the value came to be: "`load` produced it (cell 3)"."""
        return f"{self.origin} produced it" + (f" ({self.made_in})" if self.made_in else "")


class _Watched:
    __slots__ = ("cell", "cost_s", "large", "made", "origin", "seen", "strong", "value")

    def __init__(self, value: Callable[[], Any], strong: bool, origin: str, cell: str | None) -> None:
        self.value = value
        self.strong = strong
        self.origin = origin
        self.cell = cell
        self.made: str | None = None  # digest when it was handed out; None: not known yet
        self.seen: str | None = None  # the last that was reported
        self.cost_s = 0.0  # of digesting it again
        self.large: bool | None = None  # too large for a look after each cell; None: not known yet


_table: OrderedDict[int, _Watched] = OrderedDict()
_held: OrderedDict[int, _Watched] = OrderedDict()  # those that are not referenced weakly
_lock = threading.RLock()

changes: deque[Change] = deque(maxlen=32)
"""What was noticed and not yet told, oldest first; whoever tells takes it out."""


def note(value: Any, origin: str, cell: str | None = None) -> None:
    """Watch a value from now on; does nothing for one that cannot change or is no data. Safe from any thread.

    Args:
        value: What is about to be handed out.
        origin: What made it, in words: "`load`".
        cell: The cell that did so.
    """
    kind = type(value)
    if kind in _CONTAINERS:
        weight = _weight(value, LIGHT, _DEPTH) if len(value) <= _MEMBERS else None
        if weight is None or weight > LIGHT:
            return
    elif _data_name(kind) not in _DATA:
        return
    key = id(value)
    try:
        watched = _Watched(weakref.ref(value), False, origin, cell)
    except TypeError:
        watched = _Watched(_strongly(value), True, origin, cell)
    with _lock:
        _table.pop(key, None)
        _table[key] = watched
        if len(_table) > _WATCHED:
            _table.popitem(last=False)
        if watched.strong:
            _held.pop(key, None)
            _held[key] = watched
            if len(_held) > _HELD:
                oldest, dropped = _held.popitem(last=False)
                if _table.get(oldest) is dropped:
                    del _table[oldest]


def look(value: Any, digest: str, name: str = "", cell: str | None = None) -> Change | None:
    """Compare an input with what it was when it was handed out; safe from any thread.

    Args:
        value: The input.
        digest: Digest of its present content, as its part of the key has it.
        name: The argument or input that it is.
        cell: The cell that runs.

    Returns:
        What happened to it, each time as long as it differs; `changes` gets it once.
    """
    watched = _table.get(id(value))
    if watched is None or watched.value() is not value:
        return None
    if watched.made is None:
        watched.made = watched.seen = digest
    if watched.made == digest:
        watched.seen = digest
        return None
    fresh = watched.seen != digest and (cell is None or cell != watched.cell)
    change = Change(watched.value, short_text(value), watched.origin, watched.cell, cell, name, fresh)
    watched.seen = digest
    if fresh:
        changes.append(change)
    return change


def sweep(budget_s: float, cell: str | None = None, clock: Callable[[], float] = time.thread_time) -> list[Change]:
    """Compare small values with what they were, those first that have waited longest.

    Args:
        budget_s: Seconds of this thread that this may take, about; while others have the processor, none pass.
        cell: The cell that has just run.
        clock: Source of time.

    Returns:
        What changed since the last look; `changes` gets the same.
    """
    end = clock() + budget_s
    found: list[Change] = []
    with _lock:
        table = list(_table.items())
    for key, watched in table:
        unused = watched.strong and _references(watched) <= _references_of_ours()
        value = None if unused else watched.value()
        if value is None:
            with _lock:
                _table.pop(key, None)
                _held.pop(key, None)
            continue
        if watched.large is None:
            watched.large = (_weight(value, LIGHT, _DEPTH) or LIGHT) >= LIGHT
        if watched.large:
            continue
        if clock() + watched.cost_s > end:
            watched.cost_s /= 2  # what was slow once gets another chance
            continue
        digest = _digest(watched, value)
        with _lock:
            if _table.get(key) is watched:
                _table.move_to_end(key)
        if digest is None or digest == watched.seen:
            continue
        if watched.made is None or (cell is not None and cell == watched.cell):
            watched.made = digest
        elif digest != watched.made:
            found.append(Change(watched.value, short_text(value), watched.origin, watched.cell, cell))
        watched.seen = digest
    changes.extend(found)
    return found


def _strongly(value: Any) -> Callable[[], Any]:
    return lambda: value


def _references(watched: _Watched) -> int:
    value = watched.value()
    return sys.getrefcount(value)


@cache
def _references_of_ours() -> int:
    """Return how many references a value has that only the guard holds; versions of Python count differently."""
    return _references(_Watched(_strongly([]), True, "", None))


def forget() -> None:
    """Stop watching all values, and forget what was noticed."""
    with _lock:
        _table.clear()
        _held.clear()
        changes.clear()


def _digest(watched: _Watched, value: Any) -> str | None:
    began = time.thread_time()
    try:
        found = xxh3_128_hexdigest(content_bytes(value))
    except Exception:  # something without content is in it, or it changes in another thread right now
        return None
    if watched.seen is not None:  # the first time, modules may be imported for it
        watched.cost_s = time.thread_time() - began
    return found


def _data_name(kind: type) -> str:
    return f"{package_of(kind)}.{kind.__qualname__}"


def _weight(value: Any, left: int, depth: int) -> int | None:
    """Return about how many bytes a piece of data has, stopping above `left`; None for anything that is no data."""
    kind = type(value)
    if kind in _SIMPLE:
        return sys.getsizeof(value)
    if kind not in _CONTAINERS and kind is not tuple:
        name = _data_name(kind)
        return int(_DATA[name](value)) if name in _DATA else None
    if kind is bytearray:
        return len(value)
    weight = 64 + 64 * len(value)
    members = (*value.keys(), *value.values()) if kind is dict else tuple(value)
    kinds = set(map(type, members))
    if kinds <= _SIMPLE:
        return weight + (sum(map(sys.getsizeof, members)) if kinds & _TEXT else 0)
    for member in members:
        more = _weight(member, left - weight, depth - 1) if depth else None
        if more is None:
            return None
        weight += more
        if weight > left:
            break
    return weight


def _array(value: Any) -> int:
    return int(value.nbytes * (8 if value.dtype.hasobject else 1))


def _table_size(value: Any) -> int:
    return int(value.size) * 16


_DATA: dict[str, Callable[[Any], int]] = {
    "numpy.ndarray": _array,
    "pandas.DataFrame": _table_size,
    "pandas.Series": _table_size,
    "polars.DataFrame": lambda value: value.estimated_size(),
    "polars.Series": lambda value: value.estimated_size(),
}
