"""`submit` and its handle: start a call now, wait for it later.

A handle can be waited for from synchronous code (`get`), awaited, cancelled, asked, and given to another `submit` as
an argument, which then starts when all its handles are done. Whoever waits inside a pool runs waiting work itself, so
waiting never deadlocks.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from nbflow._clock import SYSTEM_CLOCK
from nbflow._inside import stand_in
from nbflow._turns import Turns
from nbflow._util import lazy, one_line, report
from nbflow.backends.base import Work
from nbflow.backends.remote import inside_worker
from nbflow.core.attempts import ending
from nbflow.errors import DefinitionError, TaskCancelledError, TaskTimeoutError
from nbflow.runtime import current, drivers, lanes, loop
from nbflow.runtime.current import Call
from nbflow.runtime.emit import emit, queued
from nbflow.runtime.stopping import GRACE_S, wake_s
from nbflow.sessions import SessionContext, session_or_default
from nbflow.tasks import Task, as_task

if TYPE_CHECKING:
    from nbflow.runtime import remote
else:
    remote = lazy("nbflow.runtime.remote")  # only calls that leave this process need it

__all__ = ["TaskHandle", "submit"]

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

    def __init__(self, name: str = "", task_id: int = -1) -> None:
        self.name = name
        self.task_id = task_id
        self._work = _Work(self)
        self._settled = False  # whether somebody has taken it on to end the handle
        self._over = False  # whether that is done
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiters: list[Any] = []  # locks that whoever waits wants
        self._callbacks: list[Callable[[TaskHandle[T]], object]] = []
        self._ready = False  # whether the work may be run: what it needs is there
        self._needs: tuple[TaskHandle[Any], ...] = ()
        self._wanted = 0  # by so many calls that have not ended
        self._backend: Any = None
        self._call: Call | None = None
        self._reason: str | None = None
        self._books: Any = None  # of the runtime that counts it
        self._instead: BaseException | None = None  # what a cancelled call failed with, where that says more
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
        try:
            self._help()
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
        if not self._work.cancel() and call is not None:
            call.cancel(reason)
            late = threading.Timer(GRACE_S, self._leave_behind)
            late.daemon = True
            late.start()
        return True

    def add_done_callback(self, callback: Callable[[TaskHandle[T]], object]) -> None:
        """Call `callback(handle)` when the call has ended, in the thread where it ended; at once if it has."""
        with self._lock:
            if not self._over:
                self._callbacks.append(callback)
                return
        self._tell(callback)

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        here = asyncio.get_running_loop()
        over = asyncio.Event()

        def ended(_: Any) -> None:
            if not here.is_closed():  # else nobody waits any more
                here.call_soon_threadsafe(over.set)

        if not self.done():
            self.add_done_callback(ended)
            try:
                with self._lent():
                    if self._must_help():
                        yield from asyncio.to_thread(stand_in(self._help)).__await__()
                    yield from over.wait().__await__()
            except asyncio.CancelledError:
                self._give_up("its awaiting task was cancelled")
                raise
        return self._outcome()

    def __repr__(self) -> str:
        state = "running" if not self.done() else "failed" if self.exception is not None else "done"
        return f"<TaskHandle {self.task_id} {self.name!r} {state}>"

    # -- for submit -----------------------------------------------------------------------------------------------

    def _help(self) -> bool:
        """Run the call here, and before it those that it needs, if it waits for a worker and this thread is one.

        Returns:
            Whether a call was run.
        """
        if self._backend is None or not self._backend.inside():
            return False
        helped = False
        for needed in self._needs:
            helped = needed._help() or helped
        return (self._ready and self._work.run()) or helped

    def _must_help(self) -> bool:
        """Whether the pool that this thread is a worker of cannot replace it while it awaits."""
        return self._backend is not None and not hasattr(self._backend, "lend") and self._backend.inside()

    def _lent(self) -> AbstractContextManager[Any]:
        """Let the pool replace this thread while it awaits, if it is a worker; an event loop cannot help."""
        if self._backend is None or self.done() or not self._backend.inside():
            return nullcontext()
        lend: Callable[[], AbstractContextManager[Any]] = getattr(self._backend, "lend", nullcontext)
        return lend()

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
        for callback in callbacks:
            self._tell(callback)

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
        if hasattr(self._backend, "detach"):
            self._backend.detach(call.worker)
        emit(call, "StragglerLeft", {"worker": str(call.worker)})
        if isinstance(self._instead, TaskTimeoutError):
            self._instead.stopped = False  # type: ignore[attr-defined]
        self._fail(self._cancelled_error())

    def _cancelled_error(self) -> TaskCancelledError:
        reason = self._reason or "cancelled"
        return TaskCancelledError(f"Task {self.name!r} was cancelled ({reason}).", task=self.name, reason=reason)


@overload
def submit(
    task: Callable[..., AsyncIterator[T]] | Callable[..., Iterator[T]], /, *args: Any, **kwargs: Any
) -> TaskHandle[list[T]]: ...
@overload
def submit(task: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> TaskHandle[T]: ...
@overload
def submit(task: Callable[..., T], /, *args: Any, **kwargs: Any) -> TaskHandle[T]: ...
def submit(task: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
    """Start a call on a backend and return its handle at once.

    The backend is the task's own, else the session's; where that is inline, threads are used, since a call that runs
    before `submit` returns could not be waited for later; so they are in a worker of another process. Handles among the
    arguments, also inside lists, tuples and dicts, are replaced by their results, and the call starts when all of them
    are done.

    Args:
        task: A task, or a function that is made one.
        *args: Positional arguments.
        **kwargs: Keyword arguments.

    Returns:
        The handle.

    Raises:
        DefinitionError: `task` is a stream, or cannot be called.
        BackendError: There is no such backend, or it cannot honour an option of the task.
    """
    wanted = as_task(task)
    if wanted.is_generator:
        raise DefinitionError(f"submit({wanted.name!r}): a stream hands out items; iterate over it, or map it.")
    session = session_or_default()
    backends = session.backends
    name = backends.resolve(wanted.spec.backend if wanted.spec.backend is not None else session.backend)
    if name == "inline" or (name != "thread" and inside_worker() is not None and not backends.abilities(name).local):
        name = "thread"
    backend = backends.get(name)
    return launch(prepare(wanted, session, backend), wanted, args, kwargs)


def prepare(wanted: Task[..., Any], session: SessionContext, backend: Any, label: str | None = None) -> TaskHandle[Any]:
    """Return the handle of a call that does not run yet; `label` is the call's name instead of the task's."""
    call = Call(wanted.spec, session, current.current_call(), cast("Any", None), {})  # arguments may still be handles
    call._pool = backend.name
    call._name = label
    able = backend.abilities
    if able.dry or not able.local or wanted.spec.policy.timeout_s is not None:
        call.remote = remote.route_for(wanted.spec, session, backend, call.parent)
    handle: TaskHandle[Any] = TaskHandle(label or wanted.name, call.id)
    handle._call, handle._backend = call, backend if call.remote is None else remote.crew(backend)
    return handle


def launch(
    handle: TaskHandle[Any], wanted: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> TaskHandle[Any]:
    """Queue the call of a handle from `prepare`, or let it wait for the handles among its arguments."""
    call, backend = cast("Call", handle._call), handle._backend
    call.session.submitted(handle)
    nested = any(isinstance(value, _MAY_HOLD) for value in (*args, *kwargs.values()))
    queued(call, tuple(found.task_id for found in _handles((args, kwargs))) if nested else ())

    def run() -> Any:
        __tracebackhide__ = True
        if call.remote is not None:
            return _drive_away(call)
        if wanted.is_async:
            return loop.run(drivers.drive_async(call), bridge="thread")
        timely = call.progress is None or call.session.clock is SYSTEM_CLOCK  # what a plain call goes by
        if wanted.spec.plain and timely and call.session.hooks is None:
            samplers = call.session.fanout.samplers()
            if samplers is not None:
                return lanes.drive_plain(call, samplers)
        return drivers.drive_sync(call)

    def start() -> None:
        if handle._settled:  # cancelled while it waited
            return
        try:
            call.kwargs, call.args = (_resolve(kwargs), _resolve(args)) if nested else (kwargs, args)
            handle._work.load(run)
            handle._ready = True
            backend.take(handle._work)
        except Exception as error:
            _failing(handle._fail, error)  # and with it those that need it, however many there are in a row
        except BaseException:  # an interrupt in the middle: perhaps it is queued, perhaps not
            handle.cancel("interrupt")
            raise

    waiting = [found for found in _handles((args, kwargs)) if not found.done()] if nested else []
    if not waiting:
        start()
        return handle
    handle._want(tuple(waiting))
    left = [len(waiting)]
    lock = threading.Lock()
    context = copy_context()  # so that it starts in the cell that submitted it, not in that of whoever ends last

    def one_done(_: Any) -> None:
        with lock:
            left[0] -= 1
            if left[0]:
                return
        context.run(start)

    for found in waiting:
        found.add_done_callback(one_done)
    return handle


def _nothing() -> None:
    """Stand in for work that is not known yet."""


def _drive_away(call: Call) -> Any:
    """Run a call whose attempts are made elsewhere, or not at all."""
    __tracebackhide__ = True
    try:
        return drivers.drive_sync(call)
    except TaskCancelledError as error:
        if remote.is_dry_run(error):
            return None
        raise


def _handles(value: Any) -> Iterator[TaskHandle[Any]]:
    if isinstance(value, TaskHandle):
        yield value
    elif type(value) in (list, tuple):
        for item in value:
            yield from _handles(item)
    elif type(value) is dict:
        for item in value.values():
            yield from _handles(item)


_failing = Turns()
_MAY_HOLD = (TaskHandle, list, tuple, dict)


def _resolve(value: Any) -> Any:
    if isinstance(value, TaskHandle):
        return value.get()
    if type(value) is list:
        return [_resolve(item) for item in value]
    if type(value) is tuple:
        return tuple(_resolve(item) for item in value)
    if type(value) is dict:
        return {key: _resolve(item) for key, item in value.items()}
    return value
