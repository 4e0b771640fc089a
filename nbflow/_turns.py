"""Calls that lead to each other, in a chain of any length."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from nbflow._typing import Any

__all__ = ["Turns"]

_DEEPEST = 50


class Turns(threading.local):
    """Calls a function at once, unless too many such calls of this thread are under way: then once they are done."""

    def __init__(self) -> None:
        self._depth = 0
        self._waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def __call__(self, func: Callable[..., object], *args: Any) -> None:
        if self._depth >= _DEEPEST:
            self._waiting.append((func, args))
            return
        self._depth += 1
        try:
            func(*args)
        finally:
            try:
                while self._depth == 1 and self._waiting:
                    later, with_what = self._waiting.popleft()
                    later(*with_what)
            finally:
                self._depth -= 1
