"""Tools for testing code that uses or extends nbflow.

`FakeClock` is a clock that tests move by hand; `EventRecorder` is an observer that keeps every event and can check that
the calls among them were told in the right order. Nothing inside nbflow imports this package.
"""

from __future__ import annotations

from nbflow.testing.clock import FakeClock
from nbflow.testing.recorder import EventRecorder

__all__ = ["EventRecorder", "FakeClock"]
