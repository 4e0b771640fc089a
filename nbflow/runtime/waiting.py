"""Waiting for an identical call that runs already, or for another process, in a blocking and in an awaiting world.

Both worlds wait for an event and look up from time to time: the wait must also end when the waiting call, or one
around it, is cancelled, and when the other call ended without a word. Nothing waits in a thread of an event loop's
pool, since the call that is waited for may need one to save its result.
"""

from __future__ import annotations

import time

from nbflow._steady import SteadyEvent
from nbflow._typing import Any
from nbflow.cache.flight import PATIENCE_S, Flight, is_pooled
from nbflow.runtime.current import Call, is_worker
from nbflow.runtime.stopping import WAKE_S

__all__ = ["Pause", "wait", "wait_async"]


class Pause:
    """A short wait before another process is asked again; it gets longer each time, up to `WAKE_S / 4` seconds."""

    __slots__ = ("_since", "delay_s")

    def __init__(self) -> None:
        self.delay_s = 0.001
        self._since = time.monotonic()

    def too_long_for(self, call: Call) -> bool:
        """Lengthen the next wait; return whether `call` has waited long enough."""
        self.delay_s = min(self.delay_s * 1.5, WAKE_S / 4)
        return time.monotonic() - self._since > PATIENCE_S and (is_worker() or is_pooled(call))


def wait(what: Flight | Pause, call: Call) -> bool:
    """Block until a flight is over, or a pause; return False where `call` should not, or no longer, wait for it."""
    woken = SteadyEvent()
    if isinstance(what, Pause):
        call.stop = woken.set
        try:
            if call.cancel_reason is None:
                woken.wait(what.delay_s)
        finally:
            call.stop = None
        return call.cancel_reason is None
    if not what.wait_with(call, woken.set):
        return False
    call.stop = woken.set
    try:
        patience = _Patience(what, call)
        while patience.lasts():
            woken.wait(WAKE_S)
    finally:
        call.stop = None
        what.wait_no_more(call, woken.set)
    return what.over


async def wait_async(what: Flight | Pause, call: Call, asyncio: Any) -> bool:
    """As `wait`, without blocking the running loop."""
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(woken.set)
        except RuntimeError:  # the loop is closed: nobody waits there any more
            pass

    async def a_while(seconds: float) -> None:
        try:
            await asyncio.wait_for(woken.wait(), seconds)
        except TimeoutError:
            pass

    if isinstance(what, Pause):
        call.stop = wake
        try:
            if call.cancel_reason is None:
                await a_while(what.delay_s)
        finally:
            call.stop = None
        return call.cancel_reason is None
    if not what.wait_with(call, wake):
        return False
    call.stop = wake
    try:
        patience = _Patience(what, call)
        while patience.lasts():
            await a_while(WAKE_S)
    finally:
        call.stop = None
        what.wait_no_more(call, wake)
    return what.over


class _Patience:
    """How long a call waits for a flight."""

    def __init__(self, flight: Flight, call: Call) -> None:
        self._flight = flight
        self._call = call
        limit = flight.patience_s(call)
        self._until = None if limit is None else time.monotonic() + limit

    def lasts(self) -> bool:
        """Whether to wait on."""
        if self._flight.over or self._call.cancel_reason is not None:
            return False
        return self._until is None or time.monotonic() < self._until
