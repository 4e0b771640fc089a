"""Frozen descriptions of a task.

`TaskSpec` is what `@task` found out once, when it decorated a function: kind, signature, names and options. Everything
that a call needs again and again (a compiled binder, whether the task is *plain*) is worked out here, so that a call
does no introspection. `TaskMetadata` is what hooks and plugins get to see of one call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

from nbflow.core.policy import NO_RETRY, Policy
from nbflow.errors import DefinitionError

__all__ = ["TaskKind", "TaskMetadata", "TaskSpec", "compile_binder", "kind_of", "parse_template", "render_template"]

TEMPLATE_BUILTINS = frozenset({"map_index"})
_MAX_NAME = 200


class TaskKind(Enum):
    """What calling the function gives: a value, a coroutine, an iterator or an async iterator."""

    SYNC = "sync"
    ASYNC = "async"
    STREAM = "stream"
    ASYNC_STREAM = "async stream"

    @property
    def is_async(self) -> bool:
        """Whether the caller has to `await` (or `async for`)."""
        return self in (TaskKind.ASYNC, TaskKind.ASYNC_STREAM)

    @property
    def is_stream(self) -> bool:
        """Whether the task yields items."""
        return self in (TaskKind.STREAM, TaskKind.ASYNC_STREAM)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskSpec:
    """Everything about a task that does not change from call to call.

    `bind` takes a call's arguments and returns them by parameter name with defaults filled in, or raises `TypeError`;
    `plain` is true when a call needs no retry, timeout, cache or dataset, so that it may take the short lane.
    """

    func: Callable[..., Any]
    name: str
    description: str = ""
    kind: TaskKind = TaskKind.SYNC
    signature: inspect.Signature
    bind: Callable[..., dict[str, Any]]
    policy: Policy = NO_RETRY
    backend: Any = None
    cache: bool | str = False
    cache_store: Any = None
    cache_ttl: float | None = None
    readonly: bool | None = None
    keyer: Any = None
    dataset: str | None = None
    dataset_store: Any = None
    dataset_format: str | None = None
    template_names: frozenset[str] = frozenset()
    plain: bool = True

    def key_suffix(self, readonly: bool) -> str:
        """Return what the cache keys of this task end with, where `readonly` is the session's default.

        The same result to be handed out read-only, and to be written to, are two entries.
        """
        return ":readonly" if (readonly if self.readonly is None else self.readonly) else ""

    def call_name(self, inputs: Callable[[], Mapping[str, Any]], index: int | None) -> str:
        """Return the name of one call: the template filled in, with `[index]` for items of a map."""
        if not self.template_names:
            return self.name if index is None else f"{self.name}[{index}]"
        try:
            name = render_template(self.name, {**inputs(), "map_index": "" if index is None else index})
        except Exception:  # arguments that are not known, or whose text cannot be had, must not fail a call
            name = self.name
        if index is not None and "map_index" not in self.template_names:
            name = f"{name}[{index}]"
        return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"


@dataclass(frozen=True, slots=True)
class TaskMetadata:
    """What hooks and plugins see of one call."""

    id: int
    name: str
    backend: str
    inputs: dict[str, Any] = field(default_factory=dict, kw_only=True)
    description: str | None = field(default=None, kw_only=True)
    map_index: int | None = field(default=None, kw_only=True)
    parent_id: int | None = field(default=None, kw_only=True)
    is_async: bool = field(default=False, kw_only=True)
    is_generator: bool = field(default=False, kw_only=True)


def kind_of(func: Callable[..., Any]) -> TaskKind:
    """Return the kind of `func`, looking through `functools.partial` and callable objects."""
    target: Any = func
    while isinstance(target, partial):
        target = target.func
    if not inspect.isroutine(target):
        target = getattr(type(target), "__call__", target)  # noqa: B004 - its kind is wanted, not whether
    if inspect.isasyncgenfunction(target):
        return TaskKind.ASYNC_STREAM
    if inspect.iscoroutinefunction(target):
        return TaskKind.ASYNC
    if inspect.isgeneratorfunction(target):
        return TaskKind.STREAM
    return TaskKind.SYNC


def compile_binder(signature: inspect.Signature) -> Callable[..., dict[str, Any]]:
    """Build a function with the same parameters as `signature` that returns them as a dict.

    Binding through it costs a plain call (about 0.2 µs) where `Signature.bind` costs several; wrong arguments raise
    the interpreter's own `TypeError`.
    """
    parts: list[str] = []
    names: list[str] = []
    scope: dict[str, Any] = {}
    star = False
    previous: Any = None
    for position, parameter in enumerate(signature.parameters.values()):
        kind = parameter.kind
        if previous is parameter.POSITIONAL_ONLY and kind is not parameter.POSITIONAL_ONLY:
            parts.append("/")
        if kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        text = parameter.name
        if kind is parameter.VAR_POSITIONAL:
            text, star = f"*{text}", True
        elif kind is parameter.VAR_KEYWORD:
            text = f"**{text}"
        elif parameter.default is not parameter.empty:
            scope[f"_default{position}"] = parameter.default
            text = f"{text}=_default{position}"
        parts.append(text)
        names.append(parameter.name)
        previous = kind
    if previous is inspect.Parameter.POSITIONAL_ONLY:
        parts.append("/")
    body = ", ".join(f"{name!r}: {name}" for name in names)
    binder: Callable[..., dict[str, Any]] = eval(f"lambda {', '.join(parts)}: {{{body}}}", scope)
    return binder


def parse_template(option: str, template: str, parameters: Mapping[str, Any] | None = None) -> frozenset[str]:
    """Return the names in braces of `template`, checked against `parameters`.

    Args:
        option: What the template is for; used in messages.
        template: Text such as `"fit_{depth:02d}"`.
        parameters: The names that may appear, besides `map_index`; None to allow any.

    Raises:
        DefinitionError: Unbalanced or empty braces, attribute or item access, or an unknown name.
    """
    if "{" not in template and "}" not in template:
        return frozenset()
    from string import Formatter  # few names are templates

    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise DefinitionError(
            f"{option}={template!r} is not a valid template ({error}); write {{parameter}} for a value and "
            "{{ }} for literal braces."
        ) from None
    names = {name for _, name, _, _ in pieces if name is not None}
    for name in sorted(names):
        if not name.isidentifier():
            raise DefinitionError(
                f"{option}={template!r}: {{{name}}} is not a plain parameter name; only {{parameter}} or "
                "{parameter:format} can be used."
            )
    if parameters is not None and (unknown := names - set(parameters) - TEMPLATE_BUILTINS):
        allowed = ", ".join(sorted(set(parameters) | TEMPLATE_BUILTINS))
        raise DefinitionError(
            f"{option}={template!r} uses {', '.join(sorted(unknown))}, which is no parameter of the function. "
            f"Available: {allowed}."
        )
    return frozenset(names)


def render_template(template: str, values: Mapping[str, Any]) -> str:
    """Fill in `template` with `values`; a format that does not fit a value falls back to its plain text."""
    try:
        return template.format_map(values)
    except (ValueError, TypeError):
        from string import Formatter

        plain = Formatter().parse(template)
        return "".join(text + (str(values[name]) if name is not None else "") for text, name, _, _ in plain)
