"""Threads that a cell starts by itself, such as those of a `ThreadPoolExecutor`: nothing tells them for whom they work.

They know none of the starter's context. But a thread that was not there when a cell began, while no other cell runs,
was started by that cell or by what that cell started. `Newcomers` tells such threads from the others.
"""

from __future__ import annotations

import threading
from weakref import WeakSet

__all__ = ["Newcomers"]


class Newcomers:
    """The threads that began after this was made; safe from any thread."""

    __slots__ = ("_before",)

    def __init__(self) -> None:
        self._before = WeakSet(threading.enumerate())

    def here(self) -> bool:
        """Whether the current thread is one of them."""
        return threading.current_thread() not in self._before
