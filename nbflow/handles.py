"""The handle of a call that was submitted: wait for it later, or cancel it.

A handle can be waited for from synchronous code (`get`), awaited, cancelled, asked, and given to another `submit` as
an argument, which then starts when all its handles are done. A worker that waits for its own pool gets help, so waiting
never deadlocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nbflow._clock import SYSTEM_CLOCK
from nbflow._helping import Helper
from nbflow._inside import is_worker
from nbflow._shield import shielded
from nbflow._util import one_line, report
from nbflow.backends.base import Work
from nbflow.core.attempts import ending
from nbflow.errors import TaskCancelledError, TaskTimeoutError
from nbflow.runtime.emit import emit
from nbflow.runtime.stopping import GRACE_S, Stopped, wake_s

if TYPE_CHECKING:
    from nbflow.runtime.current import Call

__all__ = ["TaskHandle"]

T = TypeVar("T")


class _Work(Work):
    """The work of a handle, which may end before its work does."""

    def __init__(self, handle: TaskHandle[Any]) -> None:
        super().__init__(_nothing, (), {})
        self._handle: TaskHandle[Any] | None = handle  # until it has ended

    def load(self, run: Callable[[], Any]) -> None:
        """Say what to run, in a copy of the current context."""
        self._work = (copy_context().run, (run,), {})

    def cancel(self) -> bool:
        """End the handle as cancelled, unless somebody runs the work."""
        handle = self._handle
        if handle is None or not self.withdraw():
            return False
        handle._fail(handle._cancelled_error())
        return True

    def _begins(self) -> bool:
        return self._handle is not None

    def settle(self, value: Any = None, error: BaseException | None = None) -> None:
        """Let the handle end, unless it has."""
        handle = self._handle
        if handle is None:
            return
        if error is None:
            handle._succeed(value)
        else:
            handle._fail(error)


class TaskHandle(Generic[T]):
    """A call that was submitted; safe from any thread.

    Attributes:
        name: Name of the task.
        task_id: Unique in this process.
    """

    _settled = False  # whether somebody has taken it on to end the handle
    _over = False  # whether that is done
    _value: Any = None
    _error: BaseException | None = None
    _ready = False  # whether the work may be run: what it needs is there
    _needs: tuple[TaskHandle[Any], ...] = ()
    _wanted = 0  # by so many calls that have not ended
    _helpers: Collection[Helper] = ()  # that run it once it is ready
    _backend: Any = None
    _call: Call | None = None
    _reason: str | None = None
    _books: Any = None  # of the runtime that counts it
    _instead: BaseException | None = None  # what a cancelled call failed with, where that says more

    def __init__(self, name: str = "", task_id: int = -1) -> None:
        self.name = name
        self.task_id = task_id
        self._work = _Work(self)
        self._waiters: list[Any] = []  # locks that whoever waits wants
        self._callbacks: list[Callable[[TaskHandle[T]], object]] = []
        self._lock = threading.Lock()
        if task_id < 0:
            self._succeed(None)

    def done(self) -> bool:
        """Whether the call has ended, in whatever way."""
        return self._over

    def cancelled(self) -> bool:
        """Whether the call ended as cancelled."""
        return self.done() and isinstance(self.exception, TaskCancelledError)

    def get(self, timeout: float | None = None) -> T:
        """Wait for the call and return its result.

        Args:
            timeout: Seconds to wait; None for as long as it takes. The call itself goes on after that.

        Raises:
            TaskTimeoutError: It has not ended within `timeout`.
            BaseException: What the call raised. An interrupt while waiting cancels the call, and those that only it
                waits for.
        """
        __tracebackhide__ = True
        deadline = None if timeout is None else SYSTEM_CLOCK.monotonic() + timeout
        helper = self._helper()
        try:
            if not self._over and not self._wait(deadline):
                raise TaskTimeoutError(
                    f"Task {self.name!r} has not ended within {timeout:g} s; it goes on. Wait longer, or cancel() it.",
                    task=self.name,
                    timeout_s=timeout,
                    stopped=False,
                )
            return self._outcome()
        except KeyboardInterrupt:
            self._give_up("interrupt")
            raise
        except Stopped:
            if (call := self._call) is not None and (reason := call.cancel_reason) is not None:  # inherited
                self._give_up(reason)
            raise
        finally:
            if helper is not None:
                helper.end()

    result = get

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the call; raises what it raised. See `get`."""
        __tracebackhide__ = True
        self.get(timeout)

    @property
    def exception(self) -> BaseException | None:
        """What the call raised; None if it succeeded or has not ended."""
        return self._error

    def cancel(self, reason: str = "handle") -> bool:
        """Cancel the call: it never starts, or is told to end; what does not end in time is left behind and reported.

        Returns:
            False if it had ended already.
        """
        with self._lock:
            if self._settled:
                return False
            self._reason = self._reason or reason
            call = self._call
        if not shielded(self._work.cancel) and call is not None:
            call.cancel(reason)
            late = threading.Timer(GRACE_S, self._leave_behind)
            late.daemon = True
            shielded(late.start)
        return True

    def add_done_callback(self, callback: Callable[[TaskHandle[T]], object]) -> None:
        """Call `callback(handle)` when the call has ended, in the thread where it ended; at once if it has."""
        with self._lock:
            if not self._over:
                self._callbacks.append(callback)
                return
        self._tell(callback)

    def _drop_callback(self, callback: Callable[[TaskHandle[T]], object]) -> None:
        """Call it no more, if the call has not ended."""
        with self._lock:
            self._callbacks = [each for each in self._callbacks if each is not callback]

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        here = asyncio.get_running_loop()
        over = asyncio.Event()

        def ended(_: Any) -> None:
            if not here.is_closed():  # else nobody waits any more
                here.call_soon_threadsafe(over.set)

        if not self.done():
            self.add_done_callback(ended)
            helper = self._helper()
            try:
                yield from over.wait().__await__()
            except asyncio.CancelledError:
                self._give_up("its awaiting task was cancelled")
                raise
            finally:
                self._drop_callback(ended)
                if helper is not None:
                    helper.end()
        return self._outcome()

    def __repr__(self) -> str:
        state = "running" if not self.done() else "failed" if self.exception is not None else "done"
        return f"<TaskHandle {self.task_id} {self.name!r} {state}>"

    # -- for submit -----------------------------------------------------------------------------------------------

    def _helper(self) -> Helper | None:
        """Return what helps while this thread waits, if it may be one that the call, or what this needs, waits for."""
        if self._over or not is_worker() or not (self._needs or self._is_ours()):
            return None
        helper = Helper((self,))
        helper.begin()
        return helper

    def _is_ours(self) -> bool:
        """Whether the call has not ended, and this thread is a worker of the pool that it is for."""
        return not self._over and self._backend is not None and bool(self._backend.inside())

    def _wait(self, deadline: float | None = None) -> bool:
        """Wait until the call has ended, or for the deadline; whether it has ended."""
        woken = threading.Lock()
        woken.acquire()
        with self._lock:
            if self._over:
                return True
            self._waiters.append(woken)
        try:
            while not woken.acquire(timeout=wake_s(deadline)):
                if self._over or (deadline is not None and SYSTEM_CLOCK.monotonic() >= deadline):
                    break
        finally:
            if not self._over:
                with self._lock:
                    if woken in self._waiters:
                        self._waiters.remove(woken)
        return self._over

    def _outcome(self) -> T:
        """Return what the call returned, or raise what it raised."""
        __tracebackhide__ = True
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    def _end(self, value: Any, error: BaseException | None = None) -> None:
        """Let everybody know how the call ended; whoever has claimed the handle does this."""
        with self._lock:
            self._value, self._error, self._over = value, error, True
            waiters, self._waiters = self._waiters, []
            callbacks, self._callbacks = self._callbacks, []
        for woken in waiters:
            woken.release()
        stop: BaseException | None = None
        for callback in callbacks:
            try:
                self._tell(callback)
            except BaseException as found:  # a stop of this thread: all are told before it goes on
                stop = found
        if stop is not None:
            raise stop

    def _tell(self, callback: Callable[[TaskHandle[T]], object]) -> None:
        try:
            callback(self)
        except Exception as error:
            report(f"A callback of {self!r} raised {one_line(error)}.")

    def _claim(self) -> bool:
        """Whether the caller may settle the handle: the first one may, and has to."""
        with self._lock:
            first, self._settled = not self._settled, True
            return first

    def _give_up(self, reason: str) -> None:
        """Cancel the call, and those it waits for, unless others wait for them as well."""
        found: list[TaskHandle[Any]] = [self]
        for handle in found:
            needs = handle._needs
            handle.cancel(reason)
            found += [needed for needed in needs if not needed._wanted]

    def _succeed(self, value: Any) -> None:
        """End well, unless it has ended."""
        if self._claim():
            self._let_go()
            self._end(value)

    def _fail(self, error: BaseException) -> None:
        """End as failed or cancelled; the first outcome wins. A call that never started is told about here."""
        if not self._claim():
            return
        if isinstance(error, TaskCancelledError) and self._instead is not None:
            error = self._instead
        call = self._call
        self._let_go()
        try:
            if call is not None:
                step = ending(error, call.spec.policy)
                emit(call, step.fact, step.data)
        finally:
            self._end(None, error)

    def _let_go(self) -> None:
        """Forget what only a call that has not ended needs; its work refers to its handle, too."""
        if self._call is not None:
            self._call.session.settled(self)
        self._call = None
        if self._needs:
            self._want(())
        if self._helpers:
            self.__dict__.pop("_helpers", None)
        self._work.withdraw()
        self._work._handle = None

    def _want(self, needs: tuple[TaskHandle[Any], ...]) -> None:
        """Wait for these calls, instead of those before."""
        before, self._needs = self._needs, needs
        for found, change in ((before, -1), (needs, 1)):
            for needed in found:
                with needed._lock:
                    needed._wanted += change

    def _leave_behind(self) -> None:
        """Give up on code that did not end when it was told to."""
        call = self._call
        if call is None or self._settled:
            return
        emit(call, "StragglerLeft", {"worker": str(call.worker)})
        if isinstance(self._instead, TaskTimeoutError):
            self._instead.stopped = False  # type: ignore[attr-defined]
        self._fail(self._cancelled_error())
        if hasattr(self._backend, "detach"):
            self._backend.detach(call.worker)

    def _cancelled_error(self) -> TaskCancelledError:
        reason = self._reason or "cancelled"
        return TaskCancelledError(f"Task {self.name!r} was cancelled ({reason}).", task=self.name, reason=reason)


def _nothing() -> None:
    """Stand in for work that is not known yet."""
