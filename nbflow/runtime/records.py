"""The records of calls that have ended; those of a range of items are only made when somebody looks.

A map of a hundred thousand items leaves a hundred thousand records, which mostly nobody reads. What a range leaves
therefore stays as it came, a column of times, until the records are iterated, counted or indexed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator

from nbflow._typing import Any, NamedTuple
from nbflow.runtime.current import Call

__all__ = ["Records"]


class _Batch(NamedTuple):
    size: int
    make: Callable[[], list[Call]]


class Records(deque[Call]):
    """The most recent calls that have ended, oldest first; a deque that also takes them by the batch.

    Args:
        limit: How many are kept.

    Appending is as quick as to a deque and safe from any thread; so is looking.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(maxlen=limit)
        self._limit = limit
        self._folded = 0  # records in batches; too many where an append has pushed a batch out, until somebody looks
        self._batches = 0
        self._lock = threading.Lock()

    def add_batch(self, count: int, make: Callable[[], list[Call]]) -> None:
        """Append `count` records that `make()` returns when somebody wants to see them."""
        places: Any = self
        with self._lock:
            places.append(_Batch(count, make))
            self._folded += count
            self._batches += 1
            while super().__len__() - self._batches + self._folded - self._limit >= self._limit:
                oldest = places.popleft()
                if type(oldest) is _Batch:
                    self._folded -= oldest.size
                    self._batches -= 1

    def clear(self) -> None:
        """Forget all records."""
        with self._lock:
            super().clear()
            self._folded = self._batches = 0

    def _unfold(self) -> None:
        if not self._batches:
            return
        with self._lock:
            folded: list[Any] = list(super().__iter__())
            calls: list[Call] = []
            for place in folded:
                if type(place) is _Batch:
                    calls += place.make()
                else:
                    calls.append(place)
            for _ in folded:
                super().popleft()
            room = self._limit - super().__len__()  # what was appended meanwhile is newer
            super().extendleft(reversed(calls[max(0, len(calls) - room) :]))
            self._folded = self._batches = 0

    def __iter__(self) -> Iterator[Call]:
        return iter(self._all())

    def __reversed__(self) -> Iterator[Call]:
        return reversed(self._all())

    def _all(self) -> list[Call]:
        """Return all that there are now; calls that end meanwhile may be among them or not."""
        while True:
            self._unfold()
            try:
                return list(super().__iter__())
            except RuntimeError:  # one has ended between two steps of this
                continue

    def __len__(self) -> int:
        self._unfold()
        return super().__len__()

    def __getitem__(self, index: Any) -> Any:
        self._unfold()
        return super().__getitem__(index)
