"""Frozen descriptions of a task.

`TaskSpec` is what `@task` found out once, when it decorated a function: kind, signature, names and options. Everything
that a call needs again and again (a compiled binder, whether the task is *plain*) is worked out here, so that a call
does no introspection. `TaskMetadata` is what hooks and plugins get to see of one call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property, partial
from types import FunctionType, MethodType

from nbflow._frozen import Frozen
from nbflow._typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from nbflow.core.policy import NO_RETRY, Policy
from nbflow.errors import DefinitionError

if TYPE_CHECKING:
    from inspect import Signature  # of tasks that somebody looks at: importing it takes longer than a hit

__all__ = [
    "Parameter",
    "TaskKind",
    "TaskMetadata",
    "TaskSpec",
    "compile_binder",
    "kind_of",
    "parameters_of",
    "parse_template",
    "render_template",
    "signature_of",
]

TEMPLATE_BUILTINS = frozenset({"map_index"})
_MAX_NAME = 200


class TaskKind:
    """What calling the function gives: a value, a coroutine, an iterator or an async iterator.

    There are four of them, which are compared by identity (an `Enum` would cost every process a millisecond or two).

    Attributes:
        value: The kind in words.
        is_async: Whether the caller has to `await` (or `async for`).
        is_stream: Whether the task yields items.
    """

    __slots__ = ("is_async", "is_stream", "value")

    SYNC: ClassVar[TaskKind]
    ASYNC: ClassVar[TaskKind]
    STREAM: ClassVar[TaskKind]
    ASYNC_STREAM: ClassVar[TaskKind]

    def __init__(self, value: str) -> None:
        self.value = value
        self.is_async = value.startswith("async")
        self.is_stream = value.endswith("stream")

    def __repr__(self) -> str:
        return f"TaskKind.{self.value.upper().replace(' ', '_')}"

    __reduce__ = __repr__  # pickled by name


TaskKind.SYNC, TaskKind.ASYNC = TaskKind("sync"), TaskKind("async")
TaskKind.STREAM, TaskKind.ASYNC_STREAM = TaskKind("stream"), TaskKind("async stream")


class TaskSpec(Frozen):
    """Everything about a task that does not change from call to call.

    `bind` takes a call's arguments and returns them by parameter name with defaults filled in, or raises `TypeError`;
    `plain` is true when a call needs no retry, timeout, cache or dataset, so that it may take the short lane.
    """

    func: Callable[..., Any]
    name: str
    about: str | None = ""
    kind: TaskKind = TaskKind.SYNC
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

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @cached_property
    def description(self) -> str:
        """What the task is for: what it was given as `about`, or where that is None, the function's docstring."""
        if self.about is not None:
            return self.about
        import inspect

        return inspect.getdoc(self.func) or ""

    @cached_property
    def signature(self) -> Signature:
        """Signature of the function."""
        return signature_of(self.func)

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


class TaskMetadata(Frozen):
    """What hooks and plugins see of one call."""

    id: int
    name: str
    backend: str
    inputs: dict[str, Any]
    description: str | None = None
    map_index: int | None = None
    parent_id: int | None = None
    is_async: bool = False
    is_generator: bool = False


def kind_of(func: Callable[..., Any]) -> TaskKind:
    """Return the kind of `func`, looking through `functools.partial` and callable objects."""
    target: Any = func
    while isinstance(target, (partial, MethodType)):
        target = target.func if isinstance(target, partial) else target.__func__
    if _is_bare(target):
        return _KINDS.get(target.__code__.co_flags & _ANY_KIND, TaskKind.SYNC)
    import inspect

    if not inspect.isroutine(target):
        target = getattr(type(target), "__call__", target)  # noqa: B004 - its kind is wanted, not whether
    if inspect.isasyncgenfunction(target):
        return TaskKind.ASYNC_STREAM
    if inspect.iscoroutinefunction(target):
        return TaskKind.ASYNC
    if inspect.isgeneratorfunction(target):
        return TaskKind.STREAM
    return TaskKind.SYNC


# Flags of code objects, as the module `inspect` names them (CO_GENERATOR and so on).
_VAR_POSITIONAL, _VAR_KEYWORD, _GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x4, 0x8, 0x20, 0x80, 0x200
_ANY_KIND = _GENERATOR | _COROUTINE | _ASYNC_GENERATOR
_KINDS = {_GENERATOR: TaskKind.STREAM, _COROUTINE: TaskKind.ASYNC, _ASYNC_GENERATOR: TaskKind.ASYNC_STREAM}


def _is_bare(func: Any) -> bool:
    """Whether `func` is a function that nothing was attached to, so that its code says all that `inspect` would."""
    return type(func) is FunctionType and not vars(func)


class Parameter(NamedTuple):
    """One parameter of a function; `kind` counts as that of `inspect.Parameter`, `default` is `NO_DEFAULT` for none."""

    name: str
    kind: int
    default: Any


NO_DEFAULT: Any = object()
_POSITIONAL_ONLY, _POSITIONAL, _STAR, _KEYWORD_ONLY, _DOUBLE_STAR = range(5)


def signature_of(func: Callable[..., Any]) -> Signature:
    """Return the signature of `func`; `(*args, **kwargs)` where it has none."""
    import inspect

    try:
        return inspect.signature(func)
    except (TypeError, ValueError):
        kinds = {"args": inspect.Parameter.VAR_POSITIONAL, "kwargs": inspect.Parameter.VAR_KEYWORD}
        return inspect.Signature([inspect.Parameter(name, kind) for name, kind in kinds.items()])


def parameters_of(func: Callable[..., Any] | Signature) -> tuple[Parameter, ...]:
    """Return the parameters of a function or signature, in order; those of a bare function without `inspect`."""
    if _is_bare(func):
        return tuple(_declared(func))
    signature: Any = func if type(func).__name__ == "Signature" else signature_of(func)  # type: ignore[arg-type]
    return tuple(
        Parameter(found.name, int(found.kind), NO_DEFAULT if found.default is found.empty else found.default)
        for found in signature.parameters.values()
    )


def _declared(func: Any) -> Iterator[Parameter]:
    code = func.__code__
    names, flags = iter(code.co_varnames), code.co_flags
    defaults, by_name = func.__defaults__ or (), func.__kwdefaults__ or {}
    first_default = code.co_argcount - len(defaults)
    for place in range(code.co_argcount):
        kind = _POSITIONAL_ONLY if place < code.co_posonlyargcount else _POSITIONAL
        yield Parameter(next(names), kind, defaults[place - first_default] if place >= first_default else NO_DEFAULT)
    keywords = [next(names) for _ in range(code.co_kwonlyargcount)]
    if flags & _VAR_POSITIONAL:
        yield Parameter(next(names), _STAR, NO_DEFAULT)
    yield from (Parameter(name, _KEYWORD_ONLY, by_name.get(name, NO_DEFAULT)) for name in keywords)
    if flags & _VAR_KEYWORD:
        yield Parameter(next(names), _DOUBLE_STAR, NO_DEFAULT)


def compile_binder(func: Callable[..., Any] | Signature) -> Callable[..., dict[str, Any]]:
    """Build a function with the same parameters as `func` (or a signature) that returns them as a dict.

    Binding through it costs a plain call (about 0.2 µs) where `Signature.bind` costs several; wrong arguments raise
    the interpreter's own `TypeError`.
    """
    parts: list[str] = []
    scope: dict[str, Any] = {}
    parameters = parameters_of(func)
    star = False
    previous: int | None = None
    for position, (name, kind, default) in enumerate(parameters):
        if previous == _POSITIONAL_ONLY != kind:
            parts.append("/")
        if kind == _KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        text = name
        if kind == _STAR:
            text, star = f"*{name}", True
        elif kind == _DOUBLE_STAR:
            text = f"**{name}"
        elif default is not NO_DEFAULT:
            scope[f"_default{position}"] = default
            text = f"{name}=_default{position}"
        parts.append(text)
        previous = kind
    if previous == _POSITIONAL_ONLY:
        parts.append("/")
    body = ", ".join(f"{name!r}: {name}" for name, *_ in parameters)
    binder: Callable[..., dict[str, Any]] = eval(f"lambda {', '.join(parts)}: {{{body}}}", scope)
    return binder


def parse_template(option: str, template: str, parameters: Collection[str] | None = None) -> frozenset[str]:
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
