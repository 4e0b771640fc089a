"""SIGINT while a cell awaits.

ipykernel turns the signal into a cancellation of the cell, which cannot reach code that does not await; the default
handler would break out of the event loop. So a handler of our own decides by what is running at that moment.
"""

from __future__ import annotations

import signal
import threading
import types
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Interrupts", "interruptible"]


class Interrupts:
    """SIGINT while an awaiting cell runs: at once where its synchronous code runs, as the kernel wants it elsewhere.

    ipykernel turns the signal into a cancellation of the cell, which cannot reach code that does not await. Used as a
    context manager on the main thread; on others it does nothing.
    """

    def __init__(self) -> None:
        self._stepping: Any = None
        self._before: Any = None
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interrupts:
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._main and self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, signum: int, frame: Any) -> Any:
        import greenlet

        if self._stepping is not None and greenlet.getcurrent() is self._stepping:
            return signal.default_int_handler(signum, frame)
        if callable(self._before):
            return self._before(signum, frame)
        return signal.default_int_handler(signum, frame)

    async def drive(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await `coroutine`, noting whenever its own code runs."""
        __tracebackhide__ = True
        return await self._steps(coroutine)

    @types.coroutine
    def _steps(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        __tracebackhide__ = True
        import greenlet

        mine = greenlet.getcurrent()
        sent: Any = None
        error: BaseException | None = None
        while True:
            self._stepping = mine
            try:
                wanted = coroutine.send(sent) if error is None else coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            finally:
                self._stepping = None
            try:
                sent, error = (yield wanted), None
            except BaseException as raised:
                sent, error = None, raised


async def interruptible(function: Callable[[], Any]) -> Any:
    """Call a function that does not await from a cell that does, such that an interrupt reaches it."""
    __tracebackhide__ = True

    async def call() -> Any:
        __tracebackhide__ = True
        return function()

    with Interrupts() as interrupts:
        return await interrupts.drive(call())
