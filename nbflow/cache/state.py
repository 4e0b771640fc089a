"""State that only a run can show: captured values that a function changes through an alias or from C.

The static rule (see `source`) finds what a function visibly changes. The rest is found by looking at captured values
again after a run: what differs was the function's doing, hence its state and no input. Such a finding is remembered
by the *frame* of the function (its reached code without any captured value), in this process and as a small entry of
the store, so that a restarted kernel decides in the same way from its first call on.

A wrong finding would make a real input count for nothing, so there is none in doubt: only a plain function on the
main thread, while no other cached call runs elsewhere, is held responsible. Arrays and frames are data, never state.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from itertools import count

from xxhash import xxh3_128_hexdigest

from nbflow._typing import Any
from nbflow.cache.parts import CacheKey

__all__ = ["Watch", "learn", "learned", "recall", "record", "settle"]

_KEPT = 1024  # frames whose findings are remembered
_findings: OrderedDict[str, frozenset[str]] = OrderedDict()
_numbers = count()
_running: dict[int, weakref.ref[Watch]] = {}  # by number; a run that is given up ends with its watch
_lock = threading.Lock()


def learned(frame: str) -> frozenset[str]:
    """Return the names of captured values that were found to be state of the function of this frame."""
    return _findings.get(frame, frozenset())


def learn(frame: str, names: frozenset[str]) -> None:
    """Remember for this process that these captured values are state."""
    with _lock:
        _findings[frame] = _findings.get(frame, frozenset()) | names
        _findings.move_to_end(frame)
        if len(_findings) > _KEPT:
            _findings.popitem(last=False)


def _entry(frame: str, task: str) -> CacheKey:
    return CacheKey(xxh3_128_hexdigest(b"state " + frame.encode()), f"{task} (state)")


def record(store: Any, frame: str, task: str) -> None:
    """Write the findings about a frame into the store."""
    store.save(_entry(frame, task), tuple(sorted(learned(frame))))


def recall(store: Any, frame: str, task: str) -> bool:
    """Read the findings about a frame from the store; return whether they are news."""
    if frame in _findings:
        return False
    found = store.fetch(_entry(frame, task))
    names = frozenset(found.value) if found is not None else frozenset()
    learn(frame, names)
    return bool(names)


def settle(keyer: Any, key: CacheKey, store: Any, run: Watch | None) -> CacheKey:
    """Return the key to save a result under, after looking at what the run has changed; see `FunctionKeyer.settle`."""
    if run is None or not getattr(keyer, "captures", False) or not run.alone:
        return key
    settled: CacheKey = keyer.settle(key, store)
    return settled


class Watch:
    """A run that is under way; `alone` says whether no other cached call ran on another thread meanwhile."""

    __slots__ = ("__weakref__", "_alone", "_number", "_thread")

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._alone = True
        self._number = next(_numbers)
        _running[self._number] = weakref.ref(self)  # and only then look: of two that begin at once, one sees the other
        if len(_running) > 1:
            for number, ref in list(_running.items()):
                other = ref()
                if other is None:
                    _running.pop(number, None)
                elif other._thread != self._thread:
                    other._alone = self._alone = False

    @property
    def alone(self) -> bool:
        """Whether what changed since the beginning can be no other call's doing."""
        return self._alone and self._thread == threading.get_ident() == threading.main_thread().ident

    def end(self) -> None:
        """The run is over; may be said twice."""
        _running.pop(self._number, None)
