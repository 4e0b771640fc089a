"""Drivers that fail on purpose.

`FaultyDriver` wraps any driver and lets chosen saves fail, or arrive only in part, or take their time. Which save does
what is counted, never random, so that a failing test fails again.
"""

from __future__ import annotations

import threading
from collections.abc import Container
from typing import Any

from nbflow._clock import SYSTEM_CLOCK, Clock
from nbflow.storage import Driver, FileFacts

__all__ = ["FaultyDriver"]


class FaultyDriver(Driver):
    """A driver whose saves go wrong where they are told to.

    Args:
        inner: The driver that does the work.
        fail: Numbers of the saves, from 1, that raise `error` before anything is written.
        torn: Numbers of the saves of which only the first half of the bytes arrive, without an error; what a place
            that cannot replace in one step leaves after a power cut.
        delay_s: Seconds that every save and load takes longer.
        error: Class of the error to raise.
        clock: Clock to wait on.

    Attributes:
        saves: Number of saves so far.

    As safe from threads as `inner`. A pickled copy counts for itself.
    """

    def __init__(
        self,
        inner: Driver,
        *,
        fail: Container[int] = (),
        torn: Container[int] = (),
        delay_s: float = 0.0,
        error: type[Exception] = OSError,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.inner = inner
        self.fail = fail
        self.torn = torn
        self.delay_s = delay_s
        self.error = error
        self.clock = clock
        self.saves = 0
        self.allow_outside = inner.allow_outside
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"FaultyDriver({self.inner!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._lock = threading.Lock()

    @property
    def base_path(self) -> str:
        """That of the inner driver."""
        return self.inner.base_path

    @property
    def is_local(self) -> bool:
        """That of the inner driver."""
        return self.inner.is_local

    @property
    def in_process(self) -> bool:
        """That of the inner driver."""
        return self.inner.in_process

    def save(self, key: str, data: bytes) -> str:
        """Save, unless this save is one that fails."""
        with self._lock:
            self.saves += 1
            number = self.saves
        self._wait()
        if number in self.fail:
            raise self.error(f"save {number} was told to fail")
        return self.inner.save(key, data[: len(data) // 2] if number in self.torn else data)

    def load(self, key: str) -> bytes:
        """Load from the inner driver."""
        self._wait()
        return self.inner.load(key)

    def exists(self, key: str) -> bool:
        """Ask the inner driver."""
        return self.inner.exists(key)

    def delete(self, key: str) -> bool:
        """Delete from the inner driver."""
        return self.inner.delete(key)

    def facts(self, key: str) -> FileFacts:
        """Ask the inner driver."""
        return self.inner.facts(key)

    def list_keys(self) -> list[str]:
        """List the keys of the inner driver."""
        return self.inner.list_keys()

    def get_format_hint(self, key: str) -> str | None:
        """Ask the inner driver."""
        return self.inner.get_format_hint(key)

    def allowing_outside(self) -> Driver:
        """Return a wrapper with the same faults, counting anew, around the less strict inner driver."""
        return FaultyDriver(
            self.inner.allowing_outside(),
            fail=self.fail,
            torn=self.torn,
            delay_s=self.delay_s,
            error=self.error,
            clock=self.clock,
        )

    def _wait(self) -> None:
        if self.delay_s:
            self.clock.sleep(self.delay_s)
