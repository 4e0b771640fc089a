"""Locks for waiting that an interrupt cannot leave locked.

Those of `threading` take their lock in Python code: an interrupt or a stop that strikes just then leaves it locked, and
whoever tells that something is over waits for ever. Here `with` calls the lock's own methods, in which nothing strikes.
"""

from __future__ import annotations

import threading
from operator import attrgetter

from nbflow._typing import Any

__all__ = ["SteadyCondition", "SteadyEvent", "SteadySemaphore"]


class SteadyCondition(threading.Condition):
    """A condition whose lock is never left behind."""

    __enter__: Any = property(attrgetter("_lock.__enter__"))
    __exit__: Any = property(attrgetter("_lock.__exit__"))


class SteadyEvent(threading.Event):
    """An event whose lock is never left behind."""

    def __init__(self) -> None:
        super().__init__()
        self._cond = SteadyCondition(threading.Lock())


class SteadySemaphore(threading.Semaphore):
    """A semaphore whose lock is never left behind."""

    def __init__(self, value: int = 1) -> None:
        super().__init__(value)
        self._cond = SteadyCondition(threading.Lock())
