"""`@workflow`: named entry points that call tasks, found and run by the command line.

Calling a workflow opens a session (inheriting the one around it) for as long as it runs. A sync workflow returns its
value, an async one a coroutine. `load_workflow` finds one by the name of its module and attribute.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Coroutine

from nbflow._typing import Any, Generic, P, R, cast, overload
from nbflow.core.spec import TaskKind, compile_binder, kind_of
from nbflow.errors import DefinitionError, ParameterError
from nbflow.sessions import async_session, session

__all__ = ["AsyncWorkflow", "SyncWorkflow", "Workflow", "load_workflow", "workflow"]


class Workflow(Generic[P, R]):
    """A named entry point; base of the two workflow types.

    Attributes:
        func: The function itself, also as `__wrapped__`.
        name: Name of the workflow.
        description: What it is for.
        signature: Signature of the function.
    """

    is_async = False

    def __init__(self, func: Callable[..., Any], name: str, description: str) -> None:
        functools.update_wrapper(cast("Any", self), func)
        self.func = func
        self.name = name
        self.description = description
        self.signature = inspect.signature(func)
        self._bind = compile_binder(self.signature)

    def get_typed_params(self) -> dict[str, Any]:
        """Return the parameters' annotations by name, as types; None where there is none."""
        try:
            hints = typing.get_type_hints(self.func)
        except Exception:
            hints = {}
        return {name: hints.get(name) for name in self.signature.parameters}

    def has_typed_params(self) -> bool:
        """Whether every parameter has an annotation."""
        return all(hint is not None for hint in self.get_typed_params().values())

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self._bind(*args, **kwargs)
        except TypeError as error:
            text = str(error).replace("<lambda>", self.name)
            raise ParameterError(f"{text} (signature: {self.name}{self.signature})", task=self.name) from None

    def __repr__(self) -> str:
        return f"<workflow {self.name!r}{self.signature}>"


class SyncWorkflow(Workflow[P, R]):
    """A workflow whose calls return a value."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the workflow in a session of its own."""
        __tracebackhide__ = True
        self._check(args, kwargs)
        with session():
            return cast("R", self.func(*args, **kwargs))


class AsyncWorkflow(Workflow[P, R]):
    """A workflow whose calls return a coroutine."""

    is_async = True

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the workflow in a session of its own, on the running loop."""
        __tracebackhide__ = True
        self._check(args, kwargs)
        async with async_session():
            return cast("R", await self.func(*args, **kwargs))


class _WorkflowDecorator:
    """What `workflow(...)` with options returns."""

    def __init__(self, name: str | None, description: str | None) -> None:
        self._name = name
        self._description = description

    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R]]) -> AsyncWorkflow[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, func: Callable[P, R]) -> SyncWorkflow[P, R]: ...
    def __call__(self, func: Callable[..., Any]) -> Any:
        return _make(func, self._name, self._description)


@overload
def workflow(func: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncWorkflow[P, R]: ...  # type: ignore[overload-overlap]
@overload
def workflow(func: Callable[P, R], /) -> SyncWorkflow[P, R]: ...
@overload
def workflow(*, name: str | None = None, description: str | None = None) -> _WorkflowDecorator: ...
def workflow(func: Any = None, /, *, name: str | None = None, description: str | None = None) -> Any:
    """Make a workflow of a function that calls tasks.

    Args:
        func: The function; left out where options are given.
        name: Name of the workflow; default: the function's.
        description: What it is for; default: the docstring.

    Returns:
        The workflow, or a decorator where options are given.

    Raises:
        DefinitionError: The function is a class, a generator, or cannot be called.
    """
    return _WorkflowDecorator(name, description) if func is None else _make(func, name, description)


def _make(func: Any, name: str | None, description: str | None) -> Workflow[Any, Any]:
    if inspect.isclass(func) or not callable(func):
        raise DefinitionError(f"@workflow needs a function, not {func!r}.")
    kind = kind_of(func)
    if kind.is_stream:
        raise DefinitionError(
            "@workflow cannot wrap a generator; make that a @task and collect its items in the workflow."
        )
    chosen = name if name is not None else getattr(func, "__name__", "unnamed")
    about = description if description is not None else (inspect.getdoc(func) or "")
    return (AsyncWorkflow if kind is TaskKind.ASYNC else SyncWorkflow)(func, chosen, about)


def load_workflow(target: str) -> Workflow[Any, Any]:
    """Import a workflow by name.

    Args:
        target: `"package.module:attribute"` or `"package.module.attribute"`.

    Raises:
        ValueError: `target` has no module or no attribute.
        ModuleNotFoundError: There is no such module.
        AttributeError: The module has no such attribute.
        TypeError: The attribute is not a workflow.
    """
    module_name, sep, attribute = target.partition(":") if ":" in target else target.rpartition(".")
    if not sep or not module_name or not attribute:
        raise ValueError(f"{target!r} is not of the form 'package.module:workflow'.")
    found: Any = importlib.import_module(module_name)
    for part in attribute.split("."):
        found = getattr(found, part)
    if not isinstance(found, Workflow):
        raise TypeError(f"{target!r} is {type(found).__name__}, not a workflow; decorate it with @workflow.")
    return found
