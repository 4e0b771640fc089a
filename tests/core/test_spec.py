"""What is worked out once per task: kind, binder, templates."""

from __future__ import annotations

import functools
import inspect
import pickle
from typing import Any

import pytest

from nbflow.core.spec import (
    TaskKind,
    TaskSpec,
    compile_binder,
    kind_of,
    parse_template,
    render_template,
)
from nbflow.errors import DefinitionError


def sync() -> None: ...


async def asynchronous() -> None: ...


def stream() -> Any:
    yield


async def async_stream() -> Any:
    yield


class Callable_:  # noqa: N801
    def __init__(self) -> None: ...

    async def __call__(self) -> None: ...

    def method(self) -> Any:
        yield


@pytest.mark.parametrize(
    ("func", "kind"),
    [
        (sync, TaskKind.SYNC),
        (asynchronous, TaskKind.ASYNC),
        (stream, TaskKind.STREAM),
        (async_stream, TaskKind.ASYNC_STREAM),
        (functools.partial(functools.partial(asynchronous)), TaskKind.ASYNC),
        (Callable_(), TaskKind.ASYNC),
        (Callable_().method, TaskKind.STREAM),
        (len, TaskKind.SYNC),
        (lambda: 1, TaskKind.SYNC),
    ],
)
def test_kind(func: Any, kind: TaskKind) -> None:
    """The kind is found through partials, methods and callable objects."""
    assert kind_of(func) is kind


def test_kind_words() -> None:
    """A kind says whether it has to be awaited and whether it yields."""
    kinds = [TaskKind.SYNC, TaskKind.ASYNC, TaskKind.STREAM, TaskKind.ASYNC_STREAM]
    assert [kind.is_async for kind in kinds] == [False, True, False, True]
    assert [kind.is_stream for kind in kinds] == [False, False, True, True]
    assert all(pickle.loads(pickle.dumps(kind)) is kind for kind in kinds)


def everything(a, /, b, c=3, *args, d, e=5, **kwargs):  # type: ignore[no-untyped-def]
    ...


def only_keywords(*, a, b=2):  # type: ignore[no-untyped-def]
    ...


def only_positional(a, b=2, /):  # type: ignore[no-untyped-def]
    ...


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (everything, (1, 2), {"d": 4}),
        (everything, (1, 2, 3, 4, 5), {"d": 4, "x": 6}),
        (everything, (1,), {"b": 2, "d": 4, "a": 9}),
        (only_keywords, (), {"a": 1}),
        (only_positional, (1,), {}),
        (sync, (), {}),
    ],
)
def test_binder_agrees_with_inspect(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The compiled binder gives what `Signature.bind` with defaults gives."""
    signature = inspect.signature(func)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    assert compile_binder(signature)(*args, **kwargs) == dict(bound.arguments)


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [(everything, (), {}), (everything, (1, 2), {}), (only_keywords, (1,), {}), (only_positional, (), {"a": 1})],
)
def test_binder_refuses(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Arguments that do not fit raise `TypeError`, as the function itself would."""
    with pytest.raises(TypeError):
        compile_binder(inspect.signature(func))(*args, **kwargs)


def test_binder_keeps_the_very_default() -> None:
    """Defaults are the function's own objects, not copies."""
    marker = object()

    def func(a: Any = marker) -> None: ...

    assert compile_binder(inspect.signature(func))()["a"] is marker


def test_template_names() -> None:
    """Names in braces are found, also with a format; doubled braces are text."""
    assert parse_template("name", "a_{x}_{y:03d}_{{z}}", {"x": 0, "y": 0}) == {"x", "y"}
    assert parse_template("name", "plain") == frozenset()
    assert parse_template("name", "{map_index}", {}) == {"map_index"}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("a{", "is not a valid template"),
        ("a}", "is not a valid template"),
        ("{}", "{} is not a plain parameter name"),
        ("{0}", "{0} is not a plain parameter name"),
        ("{x.y}", "{x.y} is not a plain parameter name"),
        ("{x[0]}", "{x[0]} is not a plain parameter name"),
        ("{y}", "uses y, which is no parameter of the function. Available: map_index, x"),
    ],
)
def test_bad_templates(template: str, said: str) -> None:
    """A template that cannot be filled in says so, with what could be used."""
    with pytest.raises(DefinitionError) as caught:
        parse_template("name", template, {"x": 0})
    assert said in str(caught.value)
    assert repr(template) in str(caught.value)


def test_rendering() -> None:
    """Values are formatted; a format that does not fit falls back to plain text."""
    assert render_template("{x:03d}-{y}", {"x": 7, "y": "b"}) == "007-b"
    assert render_template("<{x:03d}>{{}}", {"x": "seven"}) == "<seven>{}"


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        raise RuntimeError("no text")


def make(name: str) -> TaskSpec:
    return TaskSpec(
        func=sync,
        name=name,
        bind=compile_binder(lambda x=1: None),
        template_names=parse_template("name", name, ["x"]),
    )


@pytest.mark.parametrize(
    ("name", "x", "index", "expected"),
    [
        ("fit", 1, None, "fit"),
        ("fit", 1, 4, "fit[4]"),
        ("fit_{x:02d}", 1, None, "fit_01"),
        ("fit_{x}", 1, 4, "fit_1[4]"),
        ("fit_{map_index}", 1, 4, "fit_4"),
        ("fit_{map_index}", 1, None, "fit_"),
        ("fit_{x}", Hostile(), None, "fit_{x}"),
    ],
)
def test_call_names(name: str, x: Any, index: int | None, expected: str) -> None:
    """A call's name is the template filled in, with `[index]` unless the template has it; it never raises."""
    assert make(name).call_name(lambda: {"x": x}, index) == expected


def test_long_names_are_cut() -> None:
    """A name made from a long argument stays readable."""
    name = make("{x}").call_name(lambda: {"x": list(range(1000))}, None)
    assert len(name) == 200
    assert name.endswith("…")


def test_name_of_unknown_arguments() -> None:
    """As long as the arguments are not known the template itself is the name."""
    assert make("fit_{x}").call_name(dict, None) == "fit_{x}"
