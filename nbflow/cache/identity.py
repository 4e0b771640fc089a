"""Names for things that have no content: good for this session only.

A lock, a connection or a window is itself and nothing else, so inside one session it is known by identity. An `id`
alone would be handed out again when the object is gone, hence a serial number that ends with the object. Things that
are used up by being read (iterators, files, sockets) get a new name each time: a result made from one is never found
again.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Iterator

from nbflow._typing import Any

__all__ = ["identity_token"]

_KEPT = 1024  # objects that cannot be referenced weakly and are therefore kept alive, newest first
_serials = itertools.count(1)
_named: dict[int, tuple[Any, bytes]] = {}
_strong: OrderedDict[int, Any] = OrderedDict()
_lock = threading.RLock()


def identity_token(value: Any) -> bytes:
    """Return bytes that mean this very object for as long as it lives, and no other object ever."""
    if _used_up_by_reading(value):
        return _fresh()
    key = id(value)
    with _lock:
        known = _named.get(key)
        if known is not None and (known[0]() if isinstance(known[0], weakref.ref) else known[0]) is value:
            return known[1]
        token = _fresh()
        try:
            _named[key] = (weakref.ref(value, lambda _: _named.pop(key, None)), token)
        except TypeError:
            _named[key] = (value, token)
            _strong[key] = value
            if len(_strong) > _KEPT:
                _named.pop(_strong.popitem(last=False)[0], None)
        return token


def _fresh() -> bytes:
    return b"%d.%d" % (os.getpid(), next(_serials))


def _used_up_by_reading(value: Any) -> bool:
    if isinstance(value, (Iterator, Awaitable)) or hasattr(value, "__anext__"):
        return True
    return any(
        f"{base.__module__}.{base.__qualname__}" in ("_io._IOBase", "_socket.socket") for base in type(value).__mro__
    )
