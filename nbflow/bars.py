"""Bars of tqdm as progress of the task that makes them, where the `tqdm` setting asks for it.

While a session with that setting is open, a bar that is made inside one of its calls is not drawn: what it counts is
told as `nbflow.progress` tells it, also from worker processes. Bars outside of calls, and everything once the last such
session is closed, are as tqdm made them; without tqdm nothing happens.
"""

from __future__ import annotations

import threading
from importlib.util import find_spec
from typing import Any
from weakref import WeakValueDictionary

from nbflow.runtime.current import Call, current_call
from nbflow.runtime.emit import emit

__all__ = ["let_go", "pick_up"]

_lock = threading.Lock()
_sessions = 0
_original: Any = None
_first: WeakValueDictionary[int, Any] = WeakValueDictionary()  # by call: the bar that stands for it


class _Nowhere:
    """A file that takes everything and keeps nothing."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        """Nothing."""

    def isatty(self) -> bool:
        return False


def pick_up() -> bool:
    """Pick up bars until `let_go` was called as often; returns False where there is no tqdm."""
    global _sessions, _original
    if find_spec("tqdm") is None:
        return False
    from tqdm import asyncio, std

    with _lock:
        _sessions += 1
        if _sessions == 1:
            _original = std.tqdm.__dict__["__new__"]
            std.tqdm.__new__ = staticmethod(_maker(_original.__func__, _bar_class(asyncio.tqdm_asyncio)))
    return True


def let_go() -> None:
    """Undo one `pick_up`."""
    global _sessions
    from tqdm import std

    with _lock:
        _sessions -= 1
        if _sessions == 0:
            std.tqdm.__new__ = _original


def _maker(original: Any, bar_class: type) -> Any:
    def make(cls: type, *args: Any, **options: Any) -> Any:
        call = current_call()
        if call is None or issubclass(cls, bar_class) or not call.session.settings.tqdm:
            return original(cls, *args, **options)
        bar = original(bar_class)
        bar.nbflow_call = call
        if not isinstance(bar, cls):  # else Python itself goes on with `__init__`
            bar.__init__(*args, **options)
        return bar

    return make


def _bar_class(base: type) -> type:
    """Return the class of bars that tell what they count; here, since its base is only there with tqdm."""

    class Bar(base):  # type: ignore[misc]
        nbflow_call: Call

        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("display", None)  # an option of notebook bars
            if len(args) > 4:
                args = (*args[:4], _Nowhere(), *args[5:])
            else:
                options["file"] = _Nowhere()
            super().__init__(*args, **(options | {"gui": False}))

        def display(self, *args: Any, **options: Any) -> bool:
            call = self.nbflow_call
            first = _first.get(call.id)
            if first is None or first.disable:  # bars inside of others do not stand for the call
                _first[call.id] = first = self
            if first is self and (call.session.listening or call.progress is not None):
                label = str(self.desc).rstrip(": ") or None if self.desc else None
                emit(call, "ProgressMade", {"done": self.n, "total": self.total, "label": label})
            return True

    return Bar
