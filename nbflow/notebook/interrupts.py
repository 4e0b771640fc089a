"""SIGINT while a cell awaits, and where Python would drop it.

ipykernel turns the signal into a cancellation of the cell, which cannot reach code that does not await; the default
handler would break out of the event loop. So a handler of our own decides by what is running at that moment.
`keep_interrupts` sees to it that an interrupt which strikes in a destructor is not lost.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import types
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Interrupts", "interruptible", "keep_interrupts"]

_AGAIN_S = 0.02
"""After how long a lost interrupt is raised again: once the code is left in which it was lost."""


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


def keep_interrupts() -> Callable[[], None]:
    """Raise an interrupt again that struck in a destructor or in the callback of a weak reference.

    Python prints and drops what is raised there, and a signal that comes while the garbage collector works is noticed
    in just such code: the cell would go on as if nobody had pressed the button.

    Returns:
        What puts back the hook that was there before.
    """
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            again = threading.Timer(_AGAIN_S, _interrupt)
            again.daemon = True
            again.start()
        else:
            before(lost)

    def restore() -> None:
        if sys.unraisablehook is hook:
            sys.unraisablehook = before

    sys.unraisablehook = hook
    return restore


def _interrupt() -> None:
    """Send SIGINT to the main thread, unless it is for nobody by now; it ends a blocking call, too."""
    if not callable(signal.getsignal(signal.SIGINT)):
        return
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()
