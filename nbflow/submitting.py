"""`submit`: start a call on a backend now, and give back its handle.

A call whose arguments hold handles, also inside lists, tuples and dicts, starts when all of these have ended well, in
the context in which it was submitted. `prepare` and `launch` are its two halves, for whoever keeps books on calls.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from nbflow._clock import SYSTEM_CLOCK
from nbflow._turns import Turns
from nbflow._util import lazy
from nbflow.backends.remote import inside_worker
from nbflow.errors import DefinitionError, TaskCancelledError
from nbflow.handles import TaskHandle
from nbflow.runtime import current, drivers, lanes, loop
from nbflow.runtime.current import Call
from nbflow.runtime.emit import queued
from nbflow.sessions import SessionContext, session_or_default
from nbflow.tasks import Task, as_task

if TYPE_CHECKING:
    from nbflow.runtime import remote
else:
    remote = lazy("nbflow.runtime.remote")  # only calls that leave this process need it

__all__ = ["launch", "prepare", "submit"]

T = TypeVar("T")


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
    wish = wanted.spec.backend if wanted.spec.backend is not None else session.backend
    name = wish if wish in _HERE else backends.resolve(wish)
    if name in _HERE or (inside_worker() is not None and not backends.abilities(name).local):
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
    held: list[TaskHandle[Any]] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, _MAY_HOLD):
            held = list(_handles((args, kwargs), set()))
            break
    queued(call, tuple(found.task_id for found in held))

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
            failed = next((found._error for found in held if found._error is not None), None)
            if failed is not None:
                _failing(handle._fail, failed)  # and with it those that need it, however many there are in a row
                return
            call.kwargs, call.args = (_resolve(kwargs), _resolve(args)) if held else (kwargs, args)
            handle._work.load(run)
            handle._ready = True
            backend.take(handle._work)
            for helper in tuple(handle._helpers):
                helper.look()
        except Exception as error:
            _failing(handle._fail, error)
        except BaseException:  # an interrupt in the middle: perhaps it is queued, perhaps not
            handle.cancel("interrupt")
            raise

    waiting = [found for found in held if not found.done()]
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


def _drive_away(call: Call) -> Any:
    """Run a call whose attempts are made elsewhere, or not at all."""
    __tracebackhide__ = True
    try:
        return drivers.drive_sync(call)
    except TaskCancelledError as error:
        if remote.is_dry_run(error):
            return None
        raise


def _handles(value: Any, seen: set[int]) -> Iterator[TaskHandle[Any]]:
    """Yield the handles in an argument, each as often as it is there; `seen` are ids of lists and dicts around it."""
    if isinstance(value, TaskHandle):
        yield value
    elif type(value) in (list, tuple, dict) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if type(value) is dict else value:
            yield from _handles(item, seen)


_failing = Turns()
_HERE = ("inline", "thread")
_MAY_HOLD = (TaskHandle, list, tuple, dict)


def _resolve(value: Any) -> Any:
    """Return an argument with results in the place of handles; what holds none stays the object that it is."""
    if isinstance(value, TaskHandle):
        return value.get()
    if type(value) in (list, tuple, dict) and next(_handles(value, set()), None) is not None:
        if type(value) is dict:
            return {key: _resolve(item) for key, item in value.items()}
        return type(value)(map(_resolve, value))
    return value
