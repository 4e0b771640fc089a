"""Where time comes from.

Everything that measures or waits takes a `Clock`, so that tests can move time by hand. `SystemClock` is the real one;
`nbflow.testing.clock.FakeClock` the other. Wall-clock time is only ever used for stamps that people or other
machines read.
"""

from __future__ import annotations

import time

from nbflow._typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]


class Clock(Protocol):
    """A source of time and of waiting."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never goes back."""
        ...

    def wall(self) -> float:
        """Return seconds since the epoch."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Block this thread for `seconds`."""
        ...


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.perf_counter)
    wall = staticmethod(time.time)
    sleep = staticmethod(time.sleep)


SYSTEM_CLOCK: Clock = SystemClock()
