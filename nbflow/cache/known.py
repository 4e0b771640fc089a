"""What an index surely lacks: the numbers of its entries, kept in memory while that saves more than it costs.

A call that has to be computed would ask the index, although nothing is there. So after some misses the numbers of all
entries are read once, and a key whose number is not among them is not asked for. Other processes say through `seats`
that they changed the index, which ends this; what this process writes is added. Should a process be unable to say so,
ten seconds pass before it is noticed, which costs at most a result that is computed twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from nbflow._typing import TYPE_CHECKING
from nbflow.cache.database import watch_forks
from nbflow.cache.index import number_of

if TYPE_CHECKING:
    from nbflow.cache.index import Index
    from nbflow.cache.seats import Seats

__all__ = ["Known"]

_LASTS_S = 10.0  # seconds for which numbers are good
_PER_MISS = 50  # entries whose numbers are read in the time that one miss takes
_MOST = 200_000  # entries of which the numbers are kept


class Known:
    """The entries of the index of a folder, as far as they are known; safe from any thread and after a fork.

    Args:
        seats: Those of the folder.
    """

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self._lock = threading.Lock()
        self._known: tuple[set[int], bytes, float] | None = None  # numbers, the marks that they go with, until when
        self._misses = 0
        self._enough = 2  # misses from which to look whether reading the numbers would pay
        self._commits = 0
        watch_forks(self)

    def before_fork(self) -> None:
        """Do nothing."""

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        self._lock = threading.Lock()
        self._known = None

    def lacks(self, key: str) -> bool:
        """Whether there is surely no entry under `key`."""
        known = self._known
        if known is None:
            return False
        numbers, marks, until = known
        if self._seats.marks() != marks or time.monotonic() > until:
            self._known, self._misses = None, 0
            return False
        return number_of(key) not in numbers

    def missed(self, index: Index) -> None:
        """Take note that `index` was asked in vain, and read its numbers if that is worth it by now."""
        self._misses += 1
        if self._misses < self._enough:
            return
        marks, commits, now = self._seats.marks(), self._commits, time.monotonic()
        entries = index.totals()[0]
        self._enough = 2 + entries // _PER_MISS
        if not marks or entries > _MOST or self._misses < self._enough:
            return
        numbers = index.numbers()
        with self._lock:
            if self._commits == commits:
                self._known = (numbers, marks, now + _LASTS_S)

    def added(self, keys: Iterable[str]) -> None:
        """Take note that entries were committed by this process."""
        with self._lock:
            self._commits += 1
            if self._known is not None:
                self._known[0].update(map(number_of, keys))
