"""Fan-out and datasets: `map_tasks`, `gather_tasks`, `save_dataset`, `load_dataset`.

Every item of a map is a call of its own: cached, retried, recorded. The first failure stops the rest, unless failures
are collected. A map inside a task runs inline unless it names a backend; one that names the pool it runs in pulls its
items itself, so nesting never deadlocks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from nbflow._inside import stand_in
from nbflow._typing import OnError
from nbflow._util import lazy
from nbflow.backends.remote import inside_worker
from nbflow.core.spec import TaskKind, parse_template, render_template
from nbflow.errors import DatasetError, DefinitionError, TaskCancelledError
from nbflow.runtime import current, drivers, lanes, loop
from nbflow.runtime.maps import MapState, conduct
from nbflow.runtime.pulling import run_map
from nbflow.sessions import SessionContext, session_or_default
from nbflow.tasks import Task, as_task

if TYPE_CHECKING:
    from nbflow.runtime import gathering, ranges, remote
else:
    gathering = lazy("nbflow.runtime.gathering")  # it needs asyncio
    ranges, remote = lazy("nbflow.runtime.ranges"), lazy("nbflow.runtime.remote")  # only other processes need them

__all__ = ["gather_tasks", "load_dataset", "map_tasks", "save_dataset"]

R = TypeVar("R")


@overload
def map_tasks(
    task: Callable[..., AsyncIterator[R]] | Callable[..., Iterator[R]],
    *iterables: Iterable[Any],
    backend: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    chunksize: int | None = None,
    on_error: OnError = "raise",
) -> list[list[R]]: ...
@overload
def map_tasks(
    task: Callable[..., Coroutine[Any, Any, R]],
    *iterables: Iterable[Any],
    backend: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    chunksize: int | None = None,
    on_error: OnError = "raise",
) -> list[R]: ...
@overload
def map_tasks(
    task: Callable[..., R],
    *iterables: Iterable[Any],
    backend: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    chunksize: int | None = None,
    on_error: OnError = "raise",
) -> list[R]: ...
def map_tasks(
    task: Callable[..., Any],
    *iterables: Iterable[Any],
    backend: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    chunksize: int | None = None,
    on_error: OnError = "raise",
) -> list[Any]:
    """Call a task once for each tuple of items and return the results in order.

    Args:
        task: A task of any kind, or a function that is made one.
        *iterables: Zipped into positional arguments; the shortest ends the map.
        backend: Where to run: a name, a `Backend`, an executor or a Dask client; None: inline inside a task, else the
            task's backend, else the session's. In a worker of another process, such backends mean inline.
        kwargs: Keyword arguments for every call.
        concurrency: At most so many calls at a time.
        chunksize: Items a worker takes at a time; None to let it follow their measured duration.
        on_error: "raise" stops the map at the first failure; "collect" puts exceptions into the results.

    Returns:
        One result per item; a list per item for streams.

    Raises:
        DefinitionError: An option is wrong, or `task` cannot be called.
        BackendError: There is no such backend, or it cannot honour an option of the task.
        TransferError: The function, or what all items have, cannot travel to the backend's workers.
        BaseException: The first failure of an item; an interrupt. The rest was stopped then.
    """
    __tracebackhide__ = True
    plan = _Plan("map_tasks", task, iterables, kwargs, concurrency, chunksize, on_error)
    session = session_or_default()
    name = _backend_name(session, plan.task, backend)
    if not plan.items:
        return []
    pool = session.backends.get(name)
    able = pool.abilities
    if plan.task.is_async and able.local and not able.dry and not _names_pool(session, plan.task, backend):
        return loop.run(_gather(plan, session, name), bridge=session.settings.loop_bridge)
    return _run(plan, session, name, pool)


@overload
async def gather_tasks(
    task: Callable[..., AsyncIterator[R]],
    *iterables: Iterable[Any],
    backend: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    on_error: OnError = "raise",
) -> list[list[R]]: ...
@overload
async def gather_tasks(
    task: Callable[..., Coroutine[Any, Any, R]],
    *iterables: Iterable[Any],
    backend: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    on_error: OnError = "raise",
) -> list[R]: ...
async def gather_tasks(
    task: Callable[..., Any],
    *iterables: Iterable[Any],
    backend: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    on_error: OnError = "raise",
) -> list[Any]:
    """Await an async task once for each tuple of items, concurrently, and return the results in order.

    Args:
        task: An async task (or async stream), or an async function that is made one.
        *iterables: Zipped into positional arguments; the shortest ends the gathering.
        backend: None or "inline" for the running loop; another one, as for `map_tasks`, runs each coroutine on a loop
            in its workers.
        kwargs: Keyword arguments for every call.
        concurrency: At most so many calls at a time.
        on_error: "raise" cancels the rest at the first failure; "collect" puts exceptions into the results.

    Returns:
        One result per item; a list per item for streams.

    Raises:
        DefinitionError: `task` is not async, or an option is wrong.
        BaseException: The first failure of an item; the rest was cancelled and awaited then.
    """
    __tracebackhide__ = True
    plan = _Plan("gather_tasks", task, iterables, kwargs, concurrency, None, on_error)
    if not plan.task.is_async:
        raise DefinitionError(
            f"gather_tasks needs an async task, and {plan.task.name!r} is not: use map_tasks, or define it with "
            "`async def`."
        )
    session = session_or_default()
    name = _backend_name(session, plan.task, backend) if backend is not None else "inline"
    if not plan.items:
        return []
    if name == "inline":
        return await _gather(plan, session, name)
    import asyncio

    state = plan.state(session, name)
    work = asyncio.create_task(
        asyncio.to_thread(stand_in(_run), plan, session, name, session.backends.get(name), state)
    )
    try:
        async with loop.heartbeat():
            return await asyncio.shield(work)
    except asyncio.CancelledError:
        state.cancel("interrupt")
        await asyncio.wait([work])
        _ = work.exception()
        raise


class _Plan:
    """What a map or gather is to do, with every option checked."""

    __slots__ = ("chunksize", "collect", "concurrency", "items", "kwargs", "task")

    def __init__(
        self,
        caller: str,
        task: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        kwargs: Mapping[str, Any] | None,
        concurrency: int | None,
        chunksize: int | None,
        on_error: str,
    ) -> None:
        for option, value in (("concurrency", concurrency), ("chunksize", chunksize)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise DefinitionError(f"{option}={value!r} must be a whole number ≥ 1, or None.")
        if on_error not in ("raise", "collect"):
            raise DefinitionError(f"on_error={on_error!r} must be 'raise' or 'collect'.")
        self.task = as_task(task)
        if not iterables:
            raise DefinitionError(f"{caller}({self.task.name!r}): give one iterable per parameter, such as range(3).")
        for position, iterable in enumerate(iterables):
            if not isinstance(iterable, Iterable):
                raise DefinitionError(
                    f"{caller}({self.task.name!r}): argument {position + 1} is {iterable!r}, which cannot be iterated; "
                    "give one iterable per parameter, and values that are the same for all items in kwargs={...}."
                )
        self.items = list(zip(*iterables, strict=False))
        self.kwargs = dict(kwargs or {})
        self.concurrency = concurrency
        self.chunksize = chunksize
        self.collect = on_error == "collect"

    def state(self, session: SessionContext, backend: str) -> MapState:
        return MapState(
            self.task.spec,
            session,
            current.current_call(),
            self.items,
            self.kwargs,
            backend=backend,
            collect=self.collect,
        )


def _names_pool(session: SessionContext, task: Task[..., Any], backend: Any) -> bool:
    """Whether a pool was asked for by name, so that an async task should run in its workers."""
    chosen = backend if backend is not None else task.spec.backend
    return chosen is not None and session.backends.resolve(chosen) != "inline"


def _backend_name(session: SessionContext, task: Task[..., Any], backend: Any) -> str:
    """Return where a map runs; also checks names that are not used in the end."""
    backends = session.backends
    chosen = backend if backend is not None else task.spec.backend
    call = current.current_call()
    name: str = backends.resolve(chosen if chosen is not None else session.backend)
    if chosen is None and call is not None:
        return "inline"
    if name == "inline" or (able := backends.abilities(name)).pulls:
        return name
    if not able.local:
        return name if inside_worker() is None else "inline"
    while call is not None:
        if call.map is not None and call.map.backend == name:
            return "inline"  # already in a worker of that backend, which may have no other to spare
        call = call.parent
    return name


def _run(plan: _Plan, session: SessionContext, name: str, pool: Any, state: MapState | None = None) -> list[Any]:
    """Run a map on a backend."""
    __tracebackhide__ = True
    state = state or plan.state(session, name)
    spec, options = plan.task.spec, {"concurrency": plan.concurrency, "chunksize": plan.chunksize}
    if not pool.abilities.dry and pool.abilities.local:
        return run_map(state, pool, _item_runner(spec, state), **options)
    route = remote.route_for(spec, session, pool, state.parent, state)
    state.away = True
    try:
        if spec.plain and session.hooks is None and not pool.abilities.dry:
            return conduct(state, lambda: ranges.run_ranges(state, route, **options))
        return run_map(state, remote.crew(pool), _item_runner(spec, state, route), **options)
    finally:
        route.close()


def _item_runner(spec: Any, state: MapState, route: Any = None) -> Callable[[int], Any]:
    """Return a function that runs item `index` of the map in this thread, or from it by a route."""
    session, parent, items, kwargs = state.session, state.parent, state.items, state.kwargs
    quiet = session.hooks is None and not session.fanout.wants_items
    recall = quiet and spec.cache and spec.dataset is None and not session.settings.force
    if route is not None:
        drive_away: Any = lanes.run_hit if recall else drivers.run_sync

        def run_away(index: int) -> Any:
            __tracebackhide__ = True
            try:
                return drive_away(spec, session, parent, items[index], kwargs, index, state, route)
            except TaskCancelledError as error:
                if remote.is_dry_run(error):
                    return None
                raise

        return run_away
    if spec.kind is TaskKind.SYNC:
        drive: Any = drivers.run_sync
        if quiet and spec.plain:
            drive = lanes.run_plain
            state.untracked = True
        elif recall:
            drive = lanes.run_hit

        def run(index: int) -> Any:
            __tracebackhide__ = True
            return drive(spec, session, parent, items[index], kwargs, index, state)

        return run
    if spec.kind is TaskKind.STREAM:
        return lambda index: list(drivers.run_stream(spec, session, parent, items[index], kwargs, index, state))
    return lambda index: loop.run(_one(spec, state, index))


async def _one(spec: Any, state: MapState, index: int) -> Any:
    """Run one item of an async task or stream on the running loop."""
    __tracebackhide__ = True
    place = (spec, state.session, state.parent, state.items[index], state.kwargs, index, state)
    if spec.kind is TaskKind.ASYNC:
        return await drivers.run_async(*place)
    return [item async for item in drivers.run_async_stream(*place)]


async def _gather(plan: _Plan, session: SessionContext, backend: str) -> list[Any]:
    """Run all items on the running loop, at most `concurrency` at a time."""
    __tracebackhide__ = True
    state, spec = plan.state(session, backend), plan.task.spec
    items, kwargs = state.items, state.kwargs
    quiet = session.hooks is None and not session.fanout.wants_items
    state.untracked = spec.plain and spec.kind is TaskKind.ASYNC and quiet
    if state.untracked:

        def one(index: int) -> Any:
            return lanes.run_plain_async(spec, session, state.parent, items[index], kwargs, index, state)

    else:

        def one(index: int) -> Any:
            return _one(spec, state, index)

    return await gathering.gather(state, one, limit=plan.concurrency)


def save_dataset(
    key: str,
    value: Any,
    *,
    format: str | None = None,
    store: Any = None,
    options: dict[str, Any] | None = None,
) -> str:
    """Save a value under a key.

    Args:
        key: Storage key; `{parameter}` is filled in from the arguments of the current task.
        value: What to save.
        format: Format name; None for what the key's extension, else the value's type, says.
        store: `DatasetStore`, path or URL; None for the task's, else the session's.
        options: Options of the format.

    Returns:
        Where it was stored.

    Raises:
        DatasetError: It cannot be saved so; the message says why.
    """
    session = session_or_default()
    call = current.current_call()
    place = store if store is not None else (call.spec.dataset_store if call is not None else None)
    filled = _filled(key, call)
    return session.save_dataset(filled, value, format=format, options=options, store=place, call=call)


@overload
def load_dataset(
    key: str,
    return_type: type[R],
    *,
    format: str | None = None,
    store: Any = None,
    options: dict[str, Any] | None = None,
    version: str | int | None = None,
) -> R: ...
@overload
def load_dataset(
    key: str,
    return_type: None = None,
    *,
    format: str | None = None,
    store: Any = None,
    options: dict[str, Any] | None = None,
    version: str | int | None = None,
) -> Any: ...
def load_dataset(
    key: str,
    return_type: type[Any] | None = None,
    *,
    format: str | None = None,
    store: Any = None,
    options: dict[str, Any] | None = None,
    version: str | int | None = None,
) -> Any:
    """Load what is saved under a key.

    Args:
        key: Storage key; `{parameter}` is filled in from the arguments of the current task.
        return_type: Type to load it as; None for the natural type of its format.
        format: Format name; None for what the key's extension says.
        store: `DatasetStore`, path or URL; None for the task's, else the session's.
        options: Options of the format.
        version: A version of it: its name or the beginning of it, 0 for the last one saved, -1 for the one before; None
            for what is there now.

    Returns:
        The value.

    Raises:
        DatasetNotFoundError: Nothing is saved under the key.
        DatasetError: It cannot be loaded so; the message says why.
    """
    session = session_or_default()
    call = current.current_call()
    place = store if store is not None else (call.spec.dataset_store if call is not None else None)
    return session.load_dataset(
        _filled(key, call), return_type, format=format, options=options, store=place, version=version, call=call
    )


def _filled(key: str, call: current.Call | None) -> str:
    """Fill in the key's template from the arguments of the current call."""
    if not isinstance(key, str) or not key:
        raise DatasetError(f"key={key!r} must be a non-empty string, such as 'fits/depth_{{depth}}.pkl'.")
    names = parse_template("key", key)
    if not names:
        return key.format()
    values = {} if call is None else {**call.inputs, "map_index": "" if call.index is None else call.index}
    if missing := sorted(names - values.keys()):
        where = (
            "outside a task there are no arguments to fill it from" if call is None else f"task {call.name!r} has none"
        )
        raise DatasetError(f"key={key!r} uses {{{missing[0]}}}, but {where}; format the key yourself.")
    return render_template(key, values)
