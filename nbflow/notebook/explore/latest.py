"""Which setting runs next: at most one runs, at most one waits, and the latest wins.

Quick calls follow every movement of a slider. Where a call takes its time, a new one only starts once the hand rests
for a moment, or has been moving for a second; and one that runs for nobody any more is cancelled by the same rule. No
clock is asked and nothing is done here: the caller says what time it is, and does what it is told.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

__all__ = ["PATIENCE_S", "QUICK_S", "REST_S", "Latest", "Step"]

REST_S = 0.15
PATIENCE_S = 1.0
QUICK_S = 0.1


class Step(NamedTuple):
    """What to do now.

    Args:
        do: "start", "cancel" (what runs), or "wait".
        setting: What to start.
        seconds: How long to wait, unless something happens before.
    """

    do: str
    setting: Hashable = None
    seconds: float = 0.0


class Latest:
    """The one call that runs, the one that waits, and how long calls take. Not thread-safe; times are seconds."""

    def __init__(self) -> None:
        self.running: Hashable | None = None
        self.wanted: Hashable | None = None
        self.ahead = False  # what runs was not asked for yet
        self._wanted_since = 0.0
        self._moved = 0.0
        self._began = 0.0
        self._took_s = 0.0
        self._cancelled = False

    def want(self, setting: Hashable, now: float) -> None:
        """Somebody asks for a setting."""
        if setting == self.running and not self._cancelled:
            self.wanted, self.ahead = None, False
            return
        if self.wanted is None:
            self._wanted_since = now
        if self.wanted != setting:
            self._moved = now
        self.wanted = setting

    def started(self, setting: Hashable, now: float, *, ahead: bool = False) -> None:
        """A call has begun; `ahead` if nobody has asked for it yet."""
        self.running, self._began, self.ahead, self._cancelled = setting, now, ahead, False
        if not ahead:
            self.wanted = None

    def ended(self, now: float, *, cached: bool = False, stopped: bool = False) -> None:
        """The call that ran is over.

        What came from the cache says nothing of how long others take; what was stopped only that it takes longer.
        """
        took_s = now - self._began
        if not cached and not self.ahead:
            self._took_s = max(self._took_s, took_s) if stopped else took_s
        self.running, self.ahead = None, False

    def next(self, now: float, *, cached: bool = False) -> Step | None:
        """Return what to do; None for nothing until something happens.

        Args:
            now: The time.
            cached: Whether the setting that waits is in the cache, so that it costs nothing to start.
        """
        if self.wanted is None:
            return None
        rest = min(self._moved + REST_S, self._wanted_since + PATIENCE_S) - now
        if self.running is not None:
            if self._cancelled:
                return None
            if self.ahead or rest <= 0 or cached:
                self._cancelled = True
                return Step("cancel")
            return Step("wait", seconds=rest)
        if cached or self._took_s < QUICK_S or rest <= 0:
            return Step("start", self.wanted)
        return Step("wait", seconds=rest)
