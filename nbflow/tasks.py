"""`@task`: functions that run at once, return real values, and are cached, retried, watched and cancelled.

The four task types are thin: they differ in what a call returns, and hand over to the drivers. A task behaves as the
function
that it wraps: signature, name, doc, methods, pickling; the user's module is never touched. Options are checked when
the task is defined.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from types import MethodType

from nbflow._options import RETRY_OPTIONS, make_spec
from nbflow._typing import TYPE_CHECKING, Any, CacheHash, Generic, P, R, cast, overload
from nbflow._util import lazy, perhaps
from nbflow.core.spec import TaskKind, TaskMetadata, TaskSpec
from nbflow.errors import DefinitionError
from nbflow.runtime import current, lanes
from nbflow.runtime.current import Call, ambient
from nbflow.sessions import session_or_default

if TYPE_CHECKING:
    from inspect import Signature
    from typing import Concatenate, ParamSpec, Self

    from nbflow.runtime import drivers

    Q = ParamSpec("Q")
else:
    drivers = lazy("nbflow.runtime.drivers")  # plain calls and hits in memory do without

__all__ = ["AsyncTask", "AsyncTaskStream", "SyncTask", "SyncTaskStream", "Task", "TaskMetadata", "task"]

_frame = current.frame


class Task(Generic[P, R]):
    """A decorated function; base of the four task types.

    Attributes:
        spec: What is known of the task.
        func: The function itself, also as `__wrapped__`.
        options: The keyword arguments that `task` was given.
    """

    def __init__(self, func: Callable[..., Any], spec: TaskSpec, options: dict[str, Any]) -> None:
        functools.update_wrapper(cast("Any", self), func)
        self.func = func
        self.spec = spec
        self.options = options

    @property
    def name(self) -> str:
        """Name of the task; may be a template."""
        return self.spec.name

    @property
    def description(self) -> str:
        """What the task is for."""
        return self.spec.description

    @property
    def signature(self) -> Signature:
        """Signature of the function."""
        return self.spec.signature

    __signature__ = signature

    @property
    def is_async(self) -> bool:
        """Whether a call has to be awaited or iterated with `async for`."""
        return self.spec.kind.is_async

    @property
    def is_generator(self) -> bool:
        """Whether the task yields items."""
        return self.spec.kind.is_stream

    def __getattr__(self, name: str) -> Any:
        # The seed's names for options: retries, timeout, cache, cache_ttl, backend, dataset, ...
        options = self.__dict__.get("options")
        if options is not None and name in options:
            return options[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def with_options(self, **options: Any) -> Task[P, R]:
        """Return a task of the same function with some options replaced; `retries=0` drops their delays too."""
        kept = self.options
        if options.get("retries") == 0:
            kept = {name: value for name, value in kept.items() if name not in RETRY_OPTIONS}
        return make_task(self.func, {**kept, **options})

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None or not hasattr(self.func, "__get__"):
            return self
        return type(self)(self.func.__get__(instance, owner), _bound_spec(self, instance, owner), self.options)

    def __reduce__(self) -> Any:
        if isinstance(self.func, MethodType):
            return getattr, (self.func.__self__, self.func.__name__)
        module = sys.modules.get(getattr(self.func, "__module__", None) or "")
        found: Any = module
        for part in getattr(self.func, "__qualname__", "<locals>").split("."):
            found = getattr(found, part, None)
        if isinstance(found, Task) and found.func is self.func and getattr(module, "__name__", "") != "__main__":
            return self.func.__qualname__ if found is self else (_variant, (found, self.options))
        return make_task, (self.func, self.options)

    def __repr__(self) -> str:
        return (
            f"<{self.spec.kind.value} task {self.spec.name!r} {getattr(self.func, '__qualname__', '')}{self.signature}>"
        )


class _BoundKeyer:
    """The keyer of a task that was bound to an instance, which thus counts as its first argument."""

    __slots__ = ("_instance", "_keyer")

    def __init__(self, keyer: Any, instance: Any) -> None:
        self._keyer = keyer
        self._instance = instance

    def quick(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        found: str | None = self._keyer.quick((self._instance, *args), kwargs)
        return found

    def key(
        self, inputs: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, *more: Any, **how: Any
    ) -> Any:
        return self._keyer.key(inputs, (self._instance, *args), kwargs or {}, *more, **how)

    def late_key(self, inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._keyer.late_key(inputs, (self._instance, *args), kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._keyer, name)


def _bound_spec(task: Task[Any, Any], instance: Any, owner: type | None) -> TaskSpec:
    """Return the spec of a method's task as seen on an instance, which is its first argument."""
    spec = task.spec
    return spec.replace(
        func=task.func.__get__(instance, owner),
        bind=functools.partial(spec.bind, instance),
        keyer=None if spec.keyer is None else _BoundKeyer(spec.keyer, instance),
    )


def _variant(task: Task[Any, Any], options: dict[str, Any]) -> Task[Any, Any]:
    """Rebuild what `with_options` made of a task that a module holds."""
    return make_task(task.func, options)


def _place() -> tuple[Any, Call | None]:
    """Return session and parent of a call made here."""
    frame = _frame()
    if frame is None:
        found = ambient.session
        return (session_or_default() if found is None else found), None
    session = frame.session
    parent = frame if type(frame) is Call else current.current_call()
    return (session_or_default() if session.closed else session), parent


class SyncTask(Task[P, R]):
    """A task whose calls return a value."""

    if TYPE_CHECKING:  # on an instance a method takes one argument less, for the checkers that can tell

        @overload
        def __get__(self, instance: None, owner: type | None = None) -> Self: ...
        @overload
        def __get__(
            self: SyncTask[Concatenate[Any, Q], R], instance: object, owner: type | None = None
        ) -> SyncTask[Q, R]: ...
        @overload
        def __get__(self, instance: object, owner: type | None = None) -> Any: ...
        def __get__(self, instance: Any, owner: type | None = None) -> Any: ...

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the task now and return its result."""
        __tracebackhide__ = True
        out: R
        frame = _frame()
        spec = self.spec
        if frame is None:
            session = ambient.session
            if session is None:
                if spec.plain:
                    try:
                        out = spec.func(*args, **kwargs)
                        return out
                    except Exception as error:
                        final = lanes.fail(spec, session_or_default(), args, kwargs, error)
                        if final is error:
                            raise
                        raise final from final.__cause__
                session = session_or_default()
            parent = None
        else:
            session = frame.session
            if session.closed:
                session = session_or_default()
            parent = frame if type(frame) is Call else current.current_call()
        if session.hooks is None and (samplers := session.fanout.samplers()) is not None:
            if spec.plain:
                if samplers:
                    out = lanes.run_sampled(spec, session, parent, args, kwargs, samplers)
                    return out
                out = lanes.run_plain(spec, session, parent, args, kwargs)
                return out
            if spec.cache and spec.dataset is None and not session.settings.force:
                out = lanes.run_hit(spec, session, parent, args, kwargs, None, None, None, samplers)
                return out
        out = drivers.run_sync(spec, session, parent, args, kwargs)
        return out


class AsyncTask(Task[P, R]):
    """A task whose calls return a coroutine."""

    if TYPE_CHECKING:  # on an instance a method takes one argument less, for the checkers that can tell

        @overload
        def __get__(self, instance: None, owner: type | None = None) -> Self: ...
        @overload
        def __get__(
            self: AsyncTask[Concatenate[Any, Q], R], instance: object, owner: type | None = None
        ) -> AsyncTask[Q, R]: ...
        @overload
        def __get__(self, instance: object, owner: type | None = None) -> Any: ...
        def __get__(self, instance: Any, owner: type | None = None) -> Any: ...

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the task on the running loop and return its result."""
        __tracebackhide__ = True
        spec = self.spec
        if spec.plain and _frame() is None and ambient.session is None:
            try:
                return cast("R", await spec.func(*args, **kwargs))
            except Exception as error:
                final = lanes.fail(spec, session_or_default(), args, kwargs, error)
                if final is error:
                    raise
                raise final from final.__cause__
        return cast("R", await drivers.run_async(spec, *_place(), args, kwargs))


class SyncTaskStream(Task[P, R]):
    """A task whose calls return an iterator; nothing runs before the first item is asked for."""

    if TYPE_CHECKING:  # on an instance a method takes one argument less, for the checkers that can tell

        @overload
        def __get__(self, instance: None, owner: type | None = None) -> Self: ...
        @overload
        def __get__(
            self: SyncTaskStream[Concatenate[Any, Q], R], instance: object, owner: type | None = None
        ) -> SyncTaskStream[Q, R]: ...
        @overload
        def __get__(self, instance: object, owner: type | None = None) -> Any: ...
        def __get__(self, instance: Any, owner: type | None = None) -> Any: ...

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        """Return an iterator over the items."""
        return cast("Iterator[R]", drivers.run_stream(self.spec, *_place(), args, kwargs))


class AsyncTaskStream(Task[P, R]):
    """A task whose calls return an async iterator; nothing runs before the first item is asked for."""

    if TYPE_CHECKING:  # on an instance a method takes one argument less, for the checkers that can tell

        @overload
        def __get__(self, instance: None, owner: type | None = None) -> Self: ...
        @overload
        def __get__(
            self: AsyncTaskStream[Concatenate[Any, Q], R], instance: object, owner: type | None = None
        ) -> AsyncTaskStream[Q, R]: ...
        @overload
        def __get__(self, instance: object, owner: type | None = None) -> Any: ...
        def __get__(self, instance: Any, owner: type | None = None) -> Any: ...

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]:
        """Return an async iterator over the items."""
        return cast("AsyncIterator[R]", drivers.run_async_stream(self.spec, *_place(), args, kwargs))


_TYPES: dict[TaskKind, type[Task[Any, Any]]] = {
    TaskKind.SYNC: SyncTask,
    TaskKind.ASYNC: AsyncTask,
    TaskKind.STREAM: SyncTaskStream,
    TaskKind.ASYNC_STREAM: AsyncTaskStream,
}


class _TaskDecorator:
    """What `task(...)` with options returns."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    @overload
    def __call__(self, func: Callable[P, AsyncIterator[R]]) -> AsyncTaskStream[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, func: Callable[P, Iterator[R]]) -> SyncTaskStream[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R]]) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, func: Callable[P, R]) -> SyncTask[P, R]: ...
    def __call__(self, func: Callable[..., Any]) -> Any:
        return make_task(func, self._options)


@overload
def task(func: Callable[P, AsyncIterator[R]], /) -> AsyncTaskStream[P, R]: ...  # type: ignore[overload-overlap]
@overload
def task(func: Callable[P, Iterator[R]], /) -> SyncTaskStream[P, R]: ...  # type: ignore[overload-overlap]
@overload
def task(func: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]
@overload
def task(func: Callable[P, R], /) -> SyncTask[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    description: str | None = None,
    backend: Any = None,
    retries: int = 0,
    timeout: float | None = None,
    cache: bool | str | Any = False,
    cache_store: Any = None,
    cache_ttl: float | None = None,
    cache_hash: CacheHash | None = None,
    dataset: str | None = None,
    dataset_store: Any = None,
    dataset_format: str | None = None,
    retry_delay: float = 0.0,
    backoff: float = 1.0,
    jitter: float = 0.0,
    retry_on: type[Exception] | tuple[type[Exception], ...] = (Exception,),
    version: str | int | None = None,
    ignore: Iterable[str] = (),
    depends: Iterable[Any] = (),
    readonly: bool | None = None,
) -> _TaskDecorator: ...
def task(
    func: Any = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    backend: Any = None,
    retries: int = 0,
    timeout: float | None = None,
    cache: bool | str | Any = False,
    cache_store: Any = None,
    cache_ttl: float | None = None,
    cache_hash: CacheHash | None = None,
    dataset: str | None = None,
    dataset_store: Any = None,
    dataset_format: str | None = None,
    retry_delay: float = 0.0,
    backoff: float = 1.0,
    jitter: float = 0.0,
    retry_on: type[Exception] | tuple[type[Exception], ...] = (Exception,),
    version: str | int | None = None,
    ignore: Iterable[str] = (),
    depends: Iterable[Any] = (),
    readonly: bool | None = None,
    **unknown: Any,
) -> Any:
    """Make a task of a function: sync, async, generator or async generator.

    Args:
        func: The function; left out where options are given: `@task(cache=True)`.
        name: Name of the task, without dots; `{parameter}` and `{map_index}` are filled in at each call.
        description: What it is for; default: the docstring.
        backend: Backend of maps and submits of this task, by name or as an object; default: the session's.
        retries: Further attempts after a failure.
        timeout: Seconds that one attempt may take.
        cache: False; True or "disk" for the session's store; "session" to keep results in memory only; a path or a
            `CacheStore` for a store of its own.
        cache_store: Store of this task, if not the session's.
        cache_ttl: Seconds after which a cached result expires.
        cache_hash: `(func, inputs) -> str` that makes the cache key instead of nbflow.
        dataset: Key (a template) under which the result is also saved as a dataset.
        dataset_store: Store of that dataset, if not the session's.
        dataset_format: Its format, if the key's extension does not say it.
        retry_delay: Seconds before the first retry.
        backoff: Factor by which that delay grows.
        jitter: Fraction of the delay that is added at random.
        retry_on: Exception types that may be retried.
        version: Part of the cache key; change it to recompute.
        ignore: Parameters that do not count for the cache key.
        depends: Further functions, values or files that count for the cache key.
        readonly: Hand out cached results read-only, so that large arrays and frames are shared instead of copied, and
            cost next to nothing as arguments of other cached tasks; default: the setting `cache_readonly`.
        **unknown: Anything else is an error.

    Returns:
        The task, or a decorator where options are given.

    Raises:
        DefinitionError: The function or an option cannot work; the message says what to do.
    """
    options = {option: value for option, value in locals().items() if option in _OPTIONS}
    _check_known(unknown)
    return _TaskDecorator(options) if func is None else make_task(func, options)


_OPTIONS: dict[str, Any] = dict(cast("Any", task).__kwdefaults__)


_MEANT = {"retry": "retries", "ttl": "cache_ttl"}
"""Names from elsewhere of options that are spelt more like another one, or like none."""


def _check_known(options: dict[str, Any]) -> None:
    if unknown := options.keys() - _OPTIONS.keys():
        first = min(unknown)
        meant = f"; did you mean {_MEANT[first]}?" if first in _MEANT else perhaps(first, _OPTIONS) or "."
        raise DefinitionError(
            f"@task has no option {', '.join(sorted(unknown))}{meant} Options: {', '.join(sorted(_OPTIONS))}."
        )


def as_task(func: Callable[..., Any]) -> Task[Any, Any]:
    """Return `func` itself if it is a task (also one bound as a class method), else make it one."""
    if isinstance(func, Task):
        return func
    if isinstance(func, MethodType) and isinstance(func.__func__, Task):
        bound: Task[Any, Any] = func.__func__.__get__(func.__self__, type(func.__self__))
        return bound
    return make_task(func, {})


def make_task(func: Callable[..., Any], options: dict[str, Any]) -> Task[Any, Any]:
    """Build the task of `func`; `options` as in `task`."""
    _check_known(options)
    if isinstance(func, Task):
        raise DefinitionError(f"{func!r} is a task already; use its with_options(...) to change options.")
    if isinstance(func, (classmethod, staticmethod)):
        kind = type(func).__name__
        raise DefinitionError(f"Put @{kind} above @task, not below: the task has to wrap the function itself.")
    if isinstance(func, type) or not callable(func):
        import reprlib  # only mistakes need it

        what = f"the class {func.__name__!r}" if isinstance(func, type) else reprlib.repr(func)
        raise DefinitionError(
            f"A task is made of a function, not of {what}. Give the function itself (`f`, not `f(…)`), or one that "
            "builds or uses the object."
        )
    chosen = {**_OPTIONS, **options}
    spec = make_spec(func, chosen, _OPTIONS)
    return _TYPES[spec.kind](func, spec, chosen)
