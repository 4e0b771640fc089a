"""How code that should not go on is ended.

Python offers three ways, by where the code runs: the main thread takes signals (they break even a blocking sleep),
other threads take asynchronous exceptions (delivered at their next bytecode), tasks of an event loop take
cancellation. What cannot be stopped in time is left behind, *detached*, and reported; nobody waits for it. The rules:

* `Stopped` and `DeadlineReached` derive from `BaseException`: a user's `except Exception` must not swallow them.
* A region is only ever hit between its enter and its exit: both ends take the lock that `stop` holds.
* Nobody is hit while an event is told, or a thread is started: `shielded` puts that off until it is done.
* What Python drops (it struck in `__del__` or in a callback of the garbage collector) is sent again.
* Signal handlers, timers and hooks are put back as they were found.
"""

from __future__ import annotations

import _thread
import sys
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from types import FrameType

from nbflow._clock import SYSTEM_CLOCK
from nbflow._inside import stand_in
from nbflow._shield import CHECKS, aim, shielded, shields, struck
from nbflow._steady import SteadyEvent
from nbflow._typing import TYPE_CHECKING, Any
from nbflow._util import lazy

if TYPE_CHECKING:
    import signal
else:
    signal = lazy("signal")  # makes enumerations of all signals, and few programs stop anything

__all__ = ["Alarm", "DeadlineReached", "Region", "Stopped", "call_detached", "can_alarm", "wake_s"]

GRACE_S = 0.1
"""How long to wait for code to end after it was told to, before it is left behind."""

WAKE_S = 0.2
"""How long to wait for a lock at a time: a signal that arrives just before the wait is only noticed after it."""


def wake_s(deadline: float | None) -> float:
    """Return how long to wait for a lock now: until the deadline (by the system's clock), but not for too long.

    Other threads than the main one notice a stop only between two waits, and are to do so before they are left behind.
    """
    most = WAKE_S if threading.get_ident() == threading.main_thread().ident else GRACE_S / 2
    return most if deadline is None else max(0.0, min(most, deadline - SYSTEM_CLOCK.monotonic()))


class Stopped(BaseException):
    """Raised inside code that was cancelled from another thread."""


class DeadlineReached(BaseException):
    """Raised inside code whose timeout is over: that of `alarm`, or that of the detached call that raised it."""

    alarm: Any = None
    detached = False


def _raise_in(ident: int, error: type[BaseException]) -> None:
    import ctypes  # only stopping needs it

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error))


_AGAIN_S = 0.005  # it must come after the callback; an exception in the very hook would be dropped for good
_report: Callable[[Any], Any] = sys.unraisablehook  # the hook that was there before `_dropped`

# Where an exception strikes in `__del__`, or in a callback of the garbage collector or of a weak reference, Python
# drops it. While one is on its way we hear of that, and send it again.


def _listen() -> None:
    global _report
    if sys.unraisablehook is not _dropped:
        _report, sys.unraisablehook = sys.unraisablehook, _dropped


def _over() -> None:
    """Forget what was on its way to this thread: it has struck, or will not."""
    with aim:
        struck.pop(threading.get_ident(), None)
        _unlisten()


def _unlisten() -> None:
    with aim:
        if not struck and not any(alarm.rang for alarm in Alarm._stack) and sys.unraisablehook is _dropped:
            sys.unraisablehook = _report


def _dropped(unraisable: Any) -> None:
    region = struck.get(threading.get_ident())
    if (alarm := getattr(unraisable.exc_value, "alarm", None)) in Alarm._stack:
        alarm.ring_again()
    elif region is None or not region.sent(unraisable.exc_type):
        _report(unraisable)
    else:
        _thread.start_new_thread(_send_again, (region,))


def _send_again(region: Region) -> None:
    time.sleep(_AGAIN_S)
    region.again()


class Region:
    """A stretch of code in the current thread that other threads may stop.

    Use as a context manager around the user's function. On the main thread it is stopped by SIGINT (so it raises
    `KeyboardInterrupt`), elsewhere by an asynchronous `Stopped` (or whatever `stop` is given).
    """

    __slots__ = ("_error", "_fired", "_ident", "_lock", "_main", "_struck")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ident: int | None = None
        self._main = False
        self._fired = self._struck = False
        self._error: type[BaseException] = Stopped

    def __enter__(self) -> Region:
        self._ident = ident = threading.get_ident()
        self._main = ident == threading.main_thread().ident
        return self

    def __exit__(self, *exc: object) -> None:
        if self._main:
            with self._lock:
                self._ident = None
            if self._fired and not isinstance(exc[1], KeyboardInterrupt):
                time.sleep(0.01)  # a signal that was sent may still be on its way: it has to strike here, not later
            if self._fired:
                _over()
            return
        try:
            with self._lock:
                self._ident = None
            if self._fired:
                # Told to stop, but it ended by itself: let the exception come, and go. It cannot be taken back; to
                # replace it by NULL leaves the interpreter looking for it for ever, and hangs it where it is traced.
                for _ in range(CHECKS):
                    pass
        except BaseException as error:
            self._ident = None
            if not (self._fired and isinstance(error, self._error)):  # it was meant for a region around this one
                raise
        if self._fired:
            _over()

    def stop(self, error: type[BaseException] = Stopped) -> bool:
        """Stop the code if it is still in the region; safe from any thread, False if it is not."""
        with self._lock:
            if self._ident is None or self._fired:
                return False
            self._fired = True
            self._error = error
            self._hit(self._ident)
            return True

    def strike(self, wanted: Callable[[], bool]) -> bool:
        """Stop one of several pieces of work that the region does one after the other; safe from any thread.

        Whoever does them calls `settle` after a piece that may have been struck.

        Args:
            wanted: Whether it is that piece that runs now.
        """
        with self._lock:
            if self._ident is None or self._fired or not wanted():
                return False
            self._struck = True
            self._hit(self._ident)
            return True

    def settle(self) -> None:
        """Let a strike arrive here that comes too late for its piece of work."""
        with self._lock:  # whoever strikes now has done so
            struck, self._struck = self._struck, False
        if struck:
            try:
                if self._main:
                    time.sleep(0.01)
                for _ in range(CHECKS):
                    pass
            except (KeyboardInterrupt, self._error):
                pass
            _over()

    def _hit(self, ident: int) -> None:
        with aim:
            if (late := shields.get(ident)) is not None:
                late.append(KeyboardInterrupt() if self._main else self._error())
                return
            struck[ident] = self
            _listen()
            self._send(ident)

    def sent(self, error: type[BaseException]) -> bool:
        """Whether such an exception is what was sent."""
        return error is (KeyboardInterrupt if self._main else self._error)

    def again(self) -> None:
        """Send once more what was dropped on its way, if it is still to stop something."""
        with self._lock:
            if self._ident is not None and (self._fired or self._struck):
                self._hit(self._ident)

    def _send(self, ident: int) -> None:
        if not self._main:
            _raise_in(ident, self._error)
        elif ident == threading.get_ident():
            signal.raise_signal(signal.SIGINT)
        elif hasattr(signal, "pthread_kill"):
            signal.pthread_kill(ident, signal.SIGINT)
        else:
            import _thread

            _thread.interrupt_main()


def can_alarm() -> bool:
    """Whether this thread can be interrupted by a timer signal."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


class Alarm:
    """Raise `DeadlineReached` in the main thread's block when its time is over; alarms nest.

    Args:
        seconds: Time from entering the block.

    The handler and timer of SIGALRM that were there before are put back on exit, the timer with what is left of it.
    Since it may ring on its way out of the block, whoever uses it calls `silence` afterwards.
    """

    __slots__ = ("deadline", "rang", "seconds")
    _stack: list[Alarm] = []
    _before: tuple[Any, float, float, float] | None = None

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.deadline = 0.0
        self.rang = False

    def __enter__(self) -> Alarm:
        if not Alarm._stack:
            remaining, interval = signal.getitimer(signal.ITIMER_REAL)
            Alarm._before = (signal.getsignal(signal.SIGALRM), remaining, interval, time.monotonic())
            signal.signal(signal.SIGALRM, Alarm._ring)
        self.deadline = time.monotonic() + self.seconds
        Alarm._stack.append(self)
        Alarm._arm()
        return self

    def __exit__(self, *exc: object) -> None:
        self.silence()

    def silence(self) -> None:
        """Never ring again; idempotent."""
        if self not in Alarm._stack:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        Alarm._stack.remove(self)
        if self.rang:
            _unlisten()
        if Alarm._stack:
            Alarm._arm()
        elif Alarm._before is not None:
            handler, remaining, interval, since = Alarm._before
            Alarm._before = None
            signal.signal(signal.SIGALRM, handler if handler is not None else signal.SIG_DFL)
            if remaining:
                signal.setitimer(signal.ITIMER_REAL, max(remaining - (time.monotonic() - since), 1e-3), interval)

    def ring_again(self) -> None:
        """Ring once more: what was raised has been dropped."""
        self.rang = False
        self.deadline = time.monotonic() + _AGAIN_S
        Alarm._arm()

    @classmethod
    def _arm(cls) -> None:
        waiting = [alarm.deadline for alarm in cls._stack if not alarm.rang]
        if waiting:
            signal.setitimer(signal.ITIMER_REAL, max(min(waiting) - time.monotonic(), 1e-4))

    @staticmethod
    def _ring(signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        for alarm in Alarm._stack:  # outermost first: it ends the inner ones with it
            if alarm.deadline <= now and not alarm.rang:
                alarm.rang = True
                reached = DeadlineReached()
                reached.alarm = alarm
                if (late := shields.get(threading.get_ident())) is None:
                    _listen()
                    raise reached
                late.append(reached)
                break
        Alarm._arm()


class Detached:
    """A function run in a helper thread, so that its caller can leave at a deadline."""

    __slots__ = ("abandoned", "error", "over", "region", "thread", "value")

    def __init__(self, func: Callable[[], Any]) -> None:
        self.abandoned = False
        self.over = SteadyEvent()
        self.region = Region()
        self.value: Any = None
        self.error: BaseException | None = None
        context, func = copy_context(), stand_in(func)
        self.thread = threading.Thread(target=lambda: context.run(self._run, func), daemon=True, name="nbflow-timed")

    def _run(self, func: Callable[[], Any]) -> None:
        try:
            with self.region:
                if self.abandoned:  # before there was anything to stop
                    raise Stopped
                self.value = func()
        except BaseException as error:
            self.error = error
        finally:
            self.over.set()


def call_detached(
    func: Callable[[], Any],
    timeout_s: float,
    *,
    cancelled: threading.Event,
    left: Callable[[str], None],
) -> Any:
    """Call `func` in a helper thread and wait for it at most `timeout_s` seconds.

    Args:
        func: What to call, in a copy of the current context.
        timeout_s: How long to wait.
        cancelled: Ends the wait early when set.
        left: Called with the thread's name if the code could not be stopped in time and was left behind.

    Returns:
        What `func` returned.

    Raises:
        DeadlineReached: The time is over.
        Stopped: `cancelled` was set.
        BaseException: Whatever `func` raised.
    """
    job = Detached(func)
    deadline = time.monotonic() + timeout_s
    stop: type[BaseException] | None = None
    try:
        shielded(job.thread.start)
        # Short waits, because an asynchronous exception for this thread is only delivered between them.
        while not job.over.wait(min(0.02, max(deadline - time.monotonic(), 0))):
            if cancelled.is_set():
                stop = Stopped
                break
            if time.monotonic() >= deadline:
                stop = DeadlineReached
                break
    except BaseException:
        _end_detached(job, Stopped, left, GRACE_S / 2)  # whoever waits for this thread has the other half
        raise
    if stop is not None and not job.over.is_set():
        _end_detached(job, stop, left, GRACE_S)
        raise _own(stop)
    if job.error is not None:
        raise job.error
    return job.value


def _own(stop: type[BaseException]) -> BaseException:
    """Return what ends a detached call itself: not the deadline of one around it, which goes further."""
    error = stop()
    if isinstance(error, DeadlineReached):
        error.detached = True
    return error


def _end_detached(job: Detached, error: type[BaseException], left: Callable[[str], None], grace_s: float) -> None:
    """Tell the code to end, and leave it behind if it does not within `grace_s` seconds."""
    job.abandoned = True
    job.region.stop(error)
    if not job.over.wait(grace_s):
        left(job.thread.name)
