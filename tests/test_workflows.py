"""Workflows: what may be one, what a call does, and how one is found by name."""

from __future__ import annotations

import asyncio
import inspect
import sys
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from nbflow import session, task, workflow
from nbflow.errors import DefinitionError, ParameterError
from nbflow.sessions import current_session
from nbflow.testing import EventRecorder
from nbflow.workflows import AsyncWorkflow, SyncWorkflow, load_workflow


@task
def double(x: int) -> int:
    return 2 * x


@workflow
def report(year: int, *, depth: int = 2) -> int:
    """Write the report."""
    return double(year) + depth


@workflow(name="nightly", description="Runs at night.")
async def nightly(x: Any) -> Any:
    return x


def test_calls() -> None:
    """A sync workflow returns its value, an async one a coroutine."""
    assert report(2013) == 4028
    assert report(2013, depth=0) == 4026
    assert asyncio.run(nightly(3)) == 3


def test_looks_like_its_function() -> None:
    """Name, documentation and signature are the function's, or what was given."""
    assert isinstance(report, SyncWorkflow)
    assert isinstance(nightly, AsyncWorkflow)
    assert (report.name, report.description, report.is_async) == ("report", "Write the report.", False)
    assert (nightly.name, nightly.description, nightly.is_async) == ("nightly", "Runs at night.", True)
    assert report.__name__ == "report"
    assert inspect.unwrap(report) is report.func
    assert str(report.signature) == str(inspect.signature(report.func)) == "(year: 'int', *, depth: 'int' = 2) -> 'int'"
    assert repr(report) == "<workflow 'report'(year: 'int', *, depth: 'int' = 2) -> 'int'>"


def test_typed_parameters() -> None:
    """Annotations come back as types; whether all have one can be asked."""
    assert report.get_typed_params() == {"year": int, "depth": int}
    assert report.has_typed_params()

    @workflow
    def untyped(x, y: int) -> None:  # type: ignore[no-untyped-def]
        ...

    assert untyped.get_typed_params() == {"x": None, "y": int}
    assert not untyped.has_typed_params()


def test_annotations_that_cannot_be_found() -> None:
    """An annotation that names nothing counts as none."""

    @workflow
    def odd(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        ...

    assert odd.get_typed_params() == {"x": None}


def test_opens_a_session_that_inherits(recorder: EventRecorder) -> None:
    """Each call has a session of its own, which has all that is around it."""

    @workflow
    def inner() -> Any:
        return current_session()

    @workflow
    async def inner_async() -> Any:
        return current_session()

    with session(backend="thread", observers=[recorder]) as outer:
        for made in (inner(), asyncio.run(inner_async())):
            assert made.parent is outer
            assert made.backend == "thread"
            assert made.closed
        assert current_session() is outer
    assert [event.name for event in recorder.events].count(outer.session_id) == 2
    assert inner().parent is None


def test_wrong_arguments(recorder: EventRecorder) -> None:
    """A call that does not fit fails before any session opens."""
    with session(observers=[recorder]):
        recorder.clear()
        with pytest.raises(
            ParameterError, match=r"report\(\) missing 1 required positional argument: 'year' \(signature: report"
        ):
            report()  # type: ignore[call-arg]
        with pytest.raises(ParameterError, match="nightly"):
            asyncio.run(nightly())  # type: ignore[call-arg]
        assert recorder.events == []


def test_errors_arrive_as_they_are() -> None:
    """A workflow adds nothing to an exception and closes its session."""
    seen: list[Any] = []

    @workflow
    def failing() -> None:
        seen.append(current_session())
        raise ValueError("oops")

    with pytest.raises(ValueError, match="^oops$"):
        failing()
    assert seen[0].closed


def stream() -> Iterator[int]:
    yield 1


async def async_stream() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("func", "said"),
    [
        (dict, "@workflow needs a function, not <class 'dict'>."),
        (3, "@workflow needs a function, not 3."),
        (stream, "@workflow cannot wrap a generator; make that a @task"),
        (async_stream, "@workflow cannot wrap a generator"),
    ],
)
def test_what_cannot_be_one(func: Any, said: str) -> None:
    """Classes, values and generators are refused."""
    for decorate in (workflow, workflow(name="x")):
        with pytest.raises(DefinitionError) as caught:
            decorate(func)
        assert said in str(caught.value)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module with workflows in it."""
    made = types.ModuleType("some_flows")
    made.report = report  # type: ignore[attr-defined]
    made.group = types.SimpleNamespace(nightly=nightly)  # type: ignore[attr-defined]
    made.plain = double  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_flows", made)
    return "some_flows"


def test_loading(module: str) -> None:
    """A workflow is found by module and attribute, with a colon or a dot."""
    assert load_workflow(f"{module}:report") is report
    assert load_workflow(f"{module}.report") is report
    assert load_workflow(f"{module}:group.nightly") is nightly


@pytest.mark.parametrize(
    ("target", "error", "said"),
    [
        ("report", ValueError, "'report' is not of the form 'package.module:workflow'."),
        ("some_flows:", ValueError, "is not of the form"),
        (":report", ValueError, "is not of the form"),
        ("", ValueError, "is not of the form"),
        ("no_such_module:report", ModuleNotFoundError, "no_such_module"),
        ("some_flows:nope", AttributeError, "nope"),
        ("some_flows:plain", TypeError, "'some_flows:plain' is SyncTask, not a workflow; decorate it with @workflow."),
    ],
)
def test_loading_what_is_not_there(module: str, target: str, error: type[Exception], said: str) -> None:
    """Each way to be wrong has its own builtin error."""
    with pytest.raises(error) as caught:
        load_workflow(target)
    assert said in str(caught.value)
