"""When to leave something alone that does not work.

After some faults in a row nobody asks any more for a while. Then one caller is let through to try; if that fails as
well, the pause doubles.
"""

from __future__ import annotations

from nbflow._clock import Clock

__all__ = ["Breaker"]

_FAULTS = 3  # in a row
_PAUSE_S = 30.0
_LONGEST_PAUSE_S = 600.0


class Breaker:
    """Counts faults in a row; safe from any thread as far as it matters: at worst two callers try instead of one.

    Args:
        clock: Where time comes from.

    Attributes:
        pause_s: Seconds that the present or next pause takes.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.pause_s = _PAUSE_S
        self._faults = 0
        self._until: float | None = None

    def is_closed(self) -> bool:
        """Whether all is well."""
        return self._until is None

    def lets_through(self) -> bool:
        """Whether it may be asked now."""
        if self._until is None:
            return True
        now = self._clock.monotonic()
        if now < self._until:
            return False
        self._until = now + self.pause_s  # others wait for what this one finds
        return True

    def worked(self) -> None:
        """Note an answer."""
        self._faults, self._until, self.pause_s = 0, None, _PAUSE_S

    def failed(self, *, at_once: bool = False) -> bool:
        """Note a fault; return whether it is left alone from now on."""
        self._faults = max(self._faults + 1, _FAULTS if at_once else 0)
        if self._faults < _FAULTS:
            return False
        if self._until is not None:
            self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S)
        self._until = self._clock.monotonic() + self.pause_s
        return True
