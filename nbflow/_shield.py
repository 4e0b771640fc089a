"""The shield of a thread: what is not to be struck by a stop while it does it.

Code is stopped by exceptions that strike its thread anywhere, also in the midst of keeping books, or of starting a
thread, whose lock would stay locked. What `shielded` runs is spared: whoever wants to stop its thread leaves the
exception with the shield, which raises it at the end. `nbflow.runtime.stopping` does the striking.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from nbflow._typing import Any

__all__ = ["CHECKS", "aim", "shielded", "shields", "struck"]

CHECKS = 100
"""Rounds of an empty loop, each of which delivers an exception that is pending."""

aim = threading.RLock()
"""Held while somebody is hit, so that no shield goes up meanwhile; reentrant, since a signal's handler may hit."""

shields: dict[int, list[BaseException]] = {}
"""By thread: what is to be raised when its shield comes down."""

struck: dict[int, Any] = {}
"""By thread: the region to whose code something may be on its way."""


def shielded(act: Callable[..., Any], *args: Any) -> Any:
    """Return `act(*args)`; whoever wants to stop this thread meanwhile does so at its end.

    An interrupt by the user is not put off, as that would take a signal handler.
    """
    ident = threading.get_ident()
    if ident in shields:
        return act(*args)
    late: list[BaseException] = []
    try:
        while not _raise_shield(ident, late):
            _let_arrive(ident)
        return act(*args)
    finally:
        with aim:
            shields.pop(ident, None)
        if late:
            raise late[0]


def _raise_shield(ident: int, late: list[BaseException]) -> bool:
    """Put up the shield of this thread, unless something may be on its way to it."""
    with aim:
        if ident in struck:
            struck.pop(ident)
            return False
        shields[ident] = late
        return True


def _let_arrive(ident: int) -> None:
    """Give what is on its way to this thread the time to strike here."""
    if ident == threading.main_thread().ident:
        time.sleep(0.01)
    for _ in range(CHECKS):
        pass
