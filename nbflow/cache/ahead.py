"""Seals that are read before they are asked for, since what was stored in a row is found in a row.

A map that ran yesterday asks for its results in the order in which it stored them. To ask the index for each of them
costs as much as all the rest of a hit, most of it for locks that do not depend on how much is read; so after some
results in a row, those that were stored next are read together. What was read is good while nobody, this process
included, has changed the index, which `seats` tell; it is handed out once, and the memory tier has it from then on.
"""

from __future__ import annotations

import time

from nbflow._typing import TYPE_CHECKING
from nbflow.cache.index import number_of

if TYPE_CHECKING:
    from nbflow.cache.index import Index
    from nbflow.cache.seats import Seats

__all__ = ["Ahead"]

_IN_A_ROW = 4  # reads of neighbours before more is read than was asked for
_NEAR = 4  # places between neighbours at most: reading so many in vain costs less than asking once
_FIRST, _MOST = 8, 128  # places that are read at once
_LASTS_S = 1.0  # seconds for which seals are good, should somebody be unable to tell of a change


class Ahead:
    """What was read ahead of the index of a folder; safe from any thread and after a fork.

    Args:
        seats: Those of the folder.
    """

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self._read: tuple[dict[int, bytes], bytes, float] | None = None  # seals, marks they go with, until when
        # Threads may mix these up, after which less or more is read ahead, and never anything wrong.
        self._last = 0  # the last place that was read
        self._in_a_row = 0
        self._width = 0

    def take(self, key: str) -> bytes | None:
        """Return the seal of `key` if it was read, and is still what the index has."""
        read = self._read
        if read is None:
            return None
        seals, marks, until = read
        if self._seats.all_marks() != marks or time.monotonic() > until:
            self._read = None
            return None
        return seals.pop(number_of(key), None)

    def went_to(self, index: Index, place: int) -> None:
        """Take note that `index` was asked for what is at `place`, and read on if that seems to go on; never raises."""
        step = place - self._last
        if -_NEAR - (0 if self._read is None else self._width) <= step <= _NEAR:
            self._in_a_row += 1
            if step < 0:  # left over from what was read, or stored by several threads
                return
        else:
            self._in_a_row = self._width = 0
        self._last = place
        if self._in_a_row < _IN_A_ROW:
            return
        marks = self._seats.watch()
        if not marks:
            return
        self._width = min(max(2 * self._width, _FIRST), _MOST)
        try:
            seals = index.seals(place, self._width)
        except Exception:  # whoever needs one of them asks for it, and is told
            return
        self._last = place + self._width
        self._read = seals, marks, time.monotonic() + _LASTS_S
