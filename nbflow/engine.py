"""`Runtime`: pools of its own for functions and coroutines, with progress, timeouts, a watchdog and failure lists.

It is a facade over `submit`: its calls are calls like any other (cached, retried, seen in the panel, cancelled with
their session), only that they run in the runtime's own pools and that the runtime keeps books on them. What is waited
for inside one of its pools runs in the place of whoever waits, so nesting never deadlocks.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar, overload

from nbflow._pools import Pools
from nbflow._shield import shielded
from nbflow._tally import Entry, Tally
from nbflow._util import one_line, report
from nbflow.errors import BackendError, DefinitionError, TaskError, TaskTimeoutError
from nbflow.handles import TaskHandle
from nbflow.runtime import current
from nbflow.runtime.stopping import WAKE_S
from nbflow.sessions import session_or_default
from nbflow.submitting import launch, prepare
from nbflow.tasks import Task, as_task

__all__ = ["Runtime", "get_default_runtime", "peek_default_runtime", "set_default_runtime"]

T = TypeVar("T")

ErrorCallback = Callable[[TaskHandle[Any], BaseException], object]


class Runtime:
    """Pools for functions, coroutines and blocking calls, and books on everything that was submitted.

    Args:
        threads: Workers for coroutine functions; 0 for one per processor.
        io_threads: Workers for `submit_io`; 0 for one per processor.
        python_threads: Workers for plain functions; 0 for `min(32, threads)`.
        backend: Run everything on this backend instead: a name (it then has `threads` workers), a `Backend`, an
            executor or a Dask client. What was running already is left running at the end.
        stall_s: Seconds after which work that waits behind busy workers makes `is_responsive` false.

    Pools start their threads when there is work. All methods are safe from any thread. As a context manager it waits
    for its calls at the end of the block, or cancels them if the block was left by an exception.

    Raises:
        DefinitionError: A number is wrong, or an option has no effect together with `backend`.
        BackendError: There is no such backend.
    """

    def __init__(
        self,
        threads: int = 0,
        io_threads: int = 0,
        python_threads: int = 0,
        *,
        backend: Any = None,
        stall_s: float = 30.0,
    ) -> None:
        for option, value in (("threads", threads), ("io_threads", io_threads), ("python_threads", python_threads)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise DefinitionError(f"{option}={value!r} must be a whole number ≥ 0; 0 leaves it to the runtime.")
        if isinstance(stall_s, bool) or not isinstance(stall_s, (int, float)) or not stall_s > 0:
            raise DefinitionError(f"stall_s={stall_s!r} must be a number of seconds > 0.")
        idle = {"io_threads": io_threads, "python_threads": python_threads}
        if not isinstance(backend, str):
            idle["threads"] = threads
        if backend is not None and (given := [option for option, value in idle.items() if value]):
            raise DefinitionError(f"{', '.join(given)} has no effect with backend={backend!r}; leave it out.")
        processors = os.cpu_count() or 1
        threads = threads or processors
        sizes = {"python": python_threads or min(32, threads), "coroutine": threads, "io": io_threads or processors}
        self._pools = Pools(sizes, backend)
        self._stall_s = stall_s
        self._tally = Tally()
        self._lock = threading.Lock()
        self._closing = self._closed = False
        self._callback: ErrorCallback | None = None
        self._timeout_s: float | None = None
        self._task_timeout_s: float | None = None
        self._timer: threading.Timer | None = None
        self._last: tuple[Any, Any, str | None] = (None, None, None)

    # -- submitting -----------------------------------------------------------------------------------------------

    @overload
    def submit(self, task: TaskHandle[T], /) -> TaskHandle[T]: ...
    @overload
    def submit(
        self, task: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, name: str | None = None, **kwargs: Any
    ) -> TaskHandle[T]: ...
    @overload
    def submit(
        self, task: Callable[..., T], /, *args: Any, name: str | None = None, **kwargs: Any
    ) -> TaskHandle[T]: ...
    def submit(self, task: Any, /, *args: Any, name: str | None = None, **kwargs: Any) -> TaskHandle[Any]:
        """Start a call and return its handle at once.

        Handles among the arguments, also inside lists, tuples and dicts, are replaced by their results, and the call
        starts when all of them are done. A coroutine function is awaited on a loop of its own.

        Args:
            task: A function, a coroutine function, a task (which keeps its cache, retries and timeout), or a handle
                from elsewhere, which is then waited for and counted here too.
            *args: Positional arguments.
            name: Name of the call; None to derive it. To give an argument of that name to the function, submit
                `functools.partial(function, name=...)`.
            **kwargs: Keyword arguments.

        Returns:
            The handle.

        Raises:
            DefinitionError: `task` cannot be called, or is a stream. (It is a TypeError too.)
            BackendError: The runtime was shut down.
        """
        if isinstance(task, TaskHandle):
            return self._adopt(task, args, kwargs, name)
        return self._submit(None, task, args, kwargs, name)

    def submit_io(
        self, function: Callable[..., T], /, *args: Any, name: str | None = None, **kwargs: Any
    ) -> TaskHandle[T]:
        """Start a call that mostly waits (files, network) in the pool for such calls; else like `submit`."""
        return self._submit("io", function, args, kwargs, name)

    def _submit(
        self, kind: str | None, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None
    ) -> TaskHandle[Any]:
        task, label = self._task(function, name)
        self._check_open()
        handle = prepare(task, session_or_default(), self._pools.get(kind or _kind_of(task)), label)
        call = handle._call
        assert call is not None
        call.progress = (0, None, call.session.clock.monotonic())
        entry = Entry(handle, call, str(call._pool))
        try:
            self._enter(entry)
            return launch(handle, task, args, kwargs)
        except BaseException as error:  # an interrupt may strike anywhere here
            handle._fail(error)
            self._tally.drop(entry)
            raise

    def _task(self, function: Any, name: str | None) -> tuple[Task[..., Any], str | None]:
        """Return the task to run and the name of the call; None where the task knows it."""
        if name is not None and (not isinstance(name, str) or not name):
            raise DefinitionError(f"name={name!r} must be a non-empty string, or None to derive it.")
        if not callable(function):
            raise DefinitionError(f"submit({function!r}): this is neither a function nor a handle from submit.")
        last, task, derived = self._last  # many calls of one function are the rule, and to look into it takes a while
        if last is not function:
            task = as_task(functools.partial(function) if inspect.isclass(function) else function)
            derived = None if isinstance(function, Task) else _derived_name(function)
            self._last = (function, task, derived)
        if task.is_generator:
            raise DefinitionError(f"submit({task.name!r}): a stream hands out items; iterate over it, or map it.")
        label = name or derived
        if self._task_timeout_s is None or task.spec.policy.timeout_s is not None:
            return task, label
        policy = replace(task.spec.policy, timeout_s=self._task_timeout_s)
        return type(task)(task.func, replace(task.spec, policy=policy, plain=False), task.options), label

    def _adopt(
        self, handle: TaskHandle[Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None
    ) -> TaskHandle[Any]:
        if args or kwargs or name is not None:
            raise DefinitionError(
                f"submit({handle!r}) takes nothing more: the call was made with its arguments and its name."
            )
        self._check_open()
        if not self._tally.knows(handle):
            self._enter(Entry(handle, handle._call, "elsewhere"))
        return handle

    def _enter(self, entry: Entry) -> None:
        """Take a call into the books; the clock of `set_timeout` starts with the first one."""
        if self._tally.add(entry):
            self._set_timer()
        entry.handle.add_done_callback(self._ended)

    def _ended(self, handle: TaskHandle[Any]) -> None:
        """Note the end of a call, in the thread where it ended."""
        try:
            error = self._tally.end(handle)
            callback = self._callback
            if error is not None and callback is not None:
                try:
                    callback(handle, error)
                except Exception as raised:
                    report(f"The error callback of the runtime raised {one_line(raised)} for {handle.name!r}.")
        finally:
            if self._tally.release(handle):
                self._rest()

    # -- waiting --------------------------------------------------------------------------------------------------

    def wait(self, handle: TaskHandle[Any]) -> None:
        """Wait for a call; raises what it raised."""
        __tracebackhide__ = True
        handle.wait()

    def wait_all(self, raise_on_error: bool = False) -> None:
        """Wait for every call that was submitted, also those that are submitted meanwhile.

        Inside one of the runtime's own calls it waits for all but that one and those that wait for all likewise.
        Whatever a call raised, `SystemExit` included, is in its handle and never raised here as it is.

        Args:
            raise_on_error: Raise if any failed since this was last raised, or `clear_failed` was called.

        Raises:
            TaskError: Calls failed; it names them. (It is a RuntimeError too.)
            KeyboardInterrupt: While waiting; what was waited for has been cancelled then.
        """
        own: set[int] = set()
        try:
            own = self._tally.under(_calls_around())
            with self._tally.waiting(frozenset(own)):
                while (found := self._tally.next(own)) is not None:
                    entry, over = found
                    helper = entry.handle._helper()
                    try:
                        while not over.wait(WAKE_S) and not self._tally.waits_too(entry, own):
                            own |= self._tally.under(own)  # some may have begun to wait for this call meanwhile
                    finally:
                        if helper is not None:
                            helper.end()
        except KeyboardInterrupt:
            self._cancel_all("interrupt", but=own)
            raise
        if not raise_on_error:
            return
        count, failed = self._tally.take_untold()
        if count:
            lines = [f"{handle.name}: {one_line(_error_of(handle))}" for handle in failed]
            more = [f"… and {count - len(failed)} more"] if count > len(failed) else []
            raise TaskError(
                "\n".join((f"{count} task(s) failed:", *lines, *more)), tasks=[handle.name for handle in failed]
            ) from _error_of(failed[0])

    def get_failed(self) -> list[TaskHandle[Any]]:
        """Return the handles of calls that failed since `clear_failed`, oldest first (the last thousand)."""
        return self._tally.failed()

    def clear_failed(self) -> None:
        """Forget the handles of calls that failed."""
        self._tally.clear()

    def set_error_callback(self, callback: ErrorCallback | None) -> None:
        """Call `callback(handle, error)` when a call fails, in the thread where it ended; None for nobody.

        It must be safe from any thread and must not wait for the runtime. What it raises is reported as a warning.
        """
        if callback is not None and not callable(callback):
            raise DefinitionError(f"{callback!r} is not callable; give a function (handle, error), or None.")
        self._callback = callback

    # -- watching -------------------------------------------------------------------------------------------------

    def get_progress(self) -> dict[str, Any]:
        """Return counts, workers, calls and errors as a dict of plain values.

        `total`, `completed`, `running`, `queued` and `failed` count calls since the runtime was made; those that were
        cancelled no longer count. `workers` are dicts of `id`, `idle`, `task` and `queue_depth` (calls that wait for
        the worker's pool), `tasks` dicts of `name`, `state`, `execution_duration_ms`, `queued_duration_ms`,
        `progress_pct` (what `nbflow.progress` told) and more, for the last thousand calls and those that have not
        ended; `errors` are lines of text.
        """
        return self._tally.progress(self._pools.workers)

    def is_responsive(self) -> bool:
        """Whether the runtime makes progress.

        False once it was shut down, and while calls have waited for `stall_s` seconds behind workers that are all busy
        and of which none has ended a call, begun one, or told of progress in that time.
        """
        if self._closing:
            return False
        return all(self._tally.stalled_s(pool, size) <= self._stall_s for pool, size in self._pools.made().items())

    # -- timeouts -------------------------------------------------------------------------------------------------

    def set_timeout(self, global_ms: float | str = 0) -> None:
        """Limit how long the runtime may be busy at a stretch, from its first call until none is left.

        Args:
            global_ms: Milliseconds, or text such as "30s", "500ms", "2m", "1h"; 0 for no limit. What has not ended
                then is cancelled and fails with `TaskTimeoutError`. Set while calls run, the time begins now.

        Raises:
            DefinitionError: It is no time. (It is a ValueError and a TypeError too.)
        """
        self._timeout_s = _seconds("set_timeout", global_ms)
        self._set_timer()

    def set_default_task_timeout(self, ms: float | str = 0) -> None:
        """Limit how long each attempt of a call that is submitted from now on may run, if its task says nothing.

        Args:
            ms: Milliseconds, or text as for `set_timeout`; 0 for no limit.
        """
        self._task_timeout_s = _seconds("set_default_task_timeout", ms)

    def _set_timer(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._timeout_s is not None and self._tally.busy:
                self._timer = threading.Timer(self._timeout_s, self._time_out, (self._timeout_s,))
                self._timer.daemon = True
                shielded(self._timer.start)

    def _time_out(self, limit_s: float) -> None:
        for entry in self._tally.live():
            entry.handle._instead = TaskTimeoutError(
                f"Task {entry.handle.name!r} had not ended when the runtime's timeout of {limit_s:g} s was over.",
                task=entry.handle.name,
                timeout_s=limit_s,
                stopped=True,
            )
            entry.handle.cancel("the runtime's timeout")

    # -- life -----------------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True) -> None:
        """End the runtime; nothing can be submitted afterwards. Idempotent.

        Args:
            wait: Wait for all calls first (they may submit others until then). False: calls that wait for a worker
                are cancelled, and those that run end by themselves, unattended.
        """
        self._closing = True
        try:
            if wait:
                self.wait_all()
            else:
                for entry in self._tally.live():
                    if entry.started is None:
                        entry.handle.cancel("shutdown")
        finally:
            self._closed = True
            if not self._tally.busy:
                self._rest()

    def _rest(self) -> None:
        """Nothing is left to do: stop the clock of `set_timeout`, and the pools of a runtime that was shut down."""
        self._last = (None, None, None)  # it may hold on to data
        with self._lock:
            if self._timer is not None and not self._tally.busy:
                self._timer.cancel()
                self._timer = None
            closed = self._closed
        if closed:
            self._pools.stop()

    def _cancel_all(self, reason: str, but: set[int] | None = None) -> None:
        for entry in self._tally.live():
            if entry.handle.task_id not in (but or ()):
                entry.handle.cancel(reason)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        if exc_type is not None:
            self._cancel_all(f"the block was left by {exc_type.__name__}")
        self.shutdown()

    def __repr__(self) -> str:
        state = "shut down" if self._closing else "open"
        return f"<Runtime {state}, {self._tally.busy} live>"

    @property
    def threads(self) -> int:
        """Workers for coroutine functions, or those of the backend that was given."""
        sizes = self._pools.sizes
        return sizes["coroutine"] if not self._pools.foreign else sum(sizes.values())

    @property
    def local(self) -> bool:
        """Whether calls run in this process and share its memory."""
        return self._pools.local

    @property
    def io_threads(self) -> int:
        """Workers for `submit_io`; 0 where a backend was given, which runs these calls too."""
        return self._pools.sizes.get("io", 0)

    @property
    def python_threads(self) -> int:
        """Workers for plain functions; 0 before the first one was submitted, or where a backend was given."""
        return self._pools.made().get("python", 0)

    def _check_open(self) -> None:
        if self._closed or (self._closing and not self._pools.inside):
            raise BackendError("This runtime was shut down; make another one, or submit before shutdown().")


def _calls_around() -> set[int]:
    """Return the ids of the calls that this code runs in."""
    found: set[int] = set()
    call = current.current_call()
    while call is not None:
        found.add(call.id)
        call = call.parent
    return found


def _kind_of(task: Task[..., Any]) -> str:
    return "coroutine" if task.is_async else "python"


def _error_of(handle: TaskHandle[Any]) -> BaseException:
    error = handle.exception
    assert error is not None
    return error


def _derived_name(function: Any) -> str:
    """Return the name of a call of `function`: `module.function`, `Class.method`, `<lambda>`.

    Without the module for methods, for functions inside others, and for those of a script or notebook.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, Task):
        return str(function.name)
    target = function if hasattr(function, "__qualname__") else type(function)
    outer, _, name = str(target.__qualname__).rpartition("<locals>.")
    module = getattr(target, "__module__", None)
    if outer or "." in name or name == "<lambda>" or module in (None, "__main__"):
        return name
    return f"{module}.{name}"


_UNITS = {"": 0.001, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def _seconds(method: str, value: Any) -> float | None:
    """Return a time in seconds; None for no limit."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|)\s*", value)
        seconds = float(found[1]) * _UNITS[found[2]] if found else -1.0
    else:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        seconds = value / 1000 if fits else -1.0
    if not 0 <= seconds < threading.TIMEOUT_MAX:
        raise DefinitionError(f'{method}({value!r}): give milliseconds ≥ 0, or text such as "30s"; 0 for no limit.')
    return seconds or None


_default: Runtime | None = None
_default_lock = threading.Lock()


def get_default_runtime() -> Runtime:
    """Return the default runtime, made on first use, and again after it was shut down; safe from any thread."""
    global _default
    with _default_lock:
        if _default is None or _default._closing:
            _default = Runtime()
        return _default


def peek_default_runtime() -> Runtime | None:
    """Return the default runtime, or None if nobody has made or set one; safe from any thread."""
    with _default_lock:
        return None if _default is None or _default._closing else _default


def set_default_runtime(runtime: Runtime | None) -> None:
    """Replace the default runtime; None lets the next `get_default_runtime` make one. The old one goes on."""
    global _default
    if runtime is not None and not isinstance(runtime, Runtime):
        raise DefinitionError(f"{runtime!r} is no Runtime; give one, or None.")
    with _default_lock:
        _default = runtime
