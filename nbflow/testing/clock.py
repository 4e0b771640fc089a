"""A clock that stands still until it is told to move.

Give it to `session(clock=...)` or to a `CacheStore`: retries then wait no real time, and an entry expires when the test
says so. Sleeping moves the clock and is written down.
"""

from __future__ import annotations

import threading

__all__ = ["FakeClock"]


class FakeClock:
    """A `Clock` moved by hand; safe from any thread.

    Args:
        monotonic: What `monotonic()` starts at, in seconds.
        wall: What `wall()` starts at, in seconds since the epoch (default: 2020-01-01 00:00 UTC).
        tick: Seconds by which the clock moves each time that it is read; 0.0 for standing still.

    Attributes:
        sleeps: Every duration that was slept, in seconds, in order.
    """

    def __init__(self, monotonic: float = 0.0, wall: float = 1_577_836_800.0, *, tick: float = 0.0) -> None:
        self._monotonic = monotonic
        self._ahead = wall - monotonic
        self._tick = tick
        self._lock = threading.Lock()
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        """Return the seconds that this clock shows."""
        with self._lock:
            now = self._monotonic
            self._monotonic += self._tick
            return now

    def wall(self) -> float:
        """Return the seconds since the epoch that this clock shows."""
        return self.monotonic() + self._ahead

    def sleep(self, seconds: float) -> None:
        """Move the clock by `seconds` at once, and write that down in `sleeps`."""
        self.advance(seconds)
        with self._lock:
            self.sleeps.append(seconds)

    def advance(self, seconds: float) -> None:
        """Move the clock forward.

        Args:
            seconds: By how much; 0 or more.

        Raises:
            ValueError: `seconds` is negative: a monotonic clock never goes back.
        """
        if not seconds >= 0:
            raise ValueError(f"advance({seconds!r}): a clock only goes forward; use seconds ≥ 0.")
        with self._lock:
            self._monotonic += seconds

    def __repr__(self) -> str:
        return f"<FakeClock at {self._monotonic:g} s>"
