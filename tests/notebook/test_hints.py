"""Hints for who forgot to await."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nbflow import gather_tasks, session, submit, task
from nbflow.notebook.hints import after_cell


@task
async def fetch(n: int) -> int:
    return n


async def own(n: int) -> int:
    return n


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that ends a cell and returns what was said."""
    told: set[str] = set()

    def end(result: Any = None, error: BaseException | None = None, **names: Any) -> str:
        after_cell(SimpleNamespace(result=result, error_in_exec=error), names, told)
        return capsys.readouterr().err

    return end


def test_a_coroutine_as_the_value_of_a_cell(say: Any) -> None:
    """Those of tasks and gathers; somebody's own are their own affair, and so are values."""
    waiting = [fetch(1), gather_tasks(fetch, [1]), own(1)]
    try:
        assert [bool(say(each)) for each in waiting] == [True, True, False]
        assert "put `await` before the call" in say(waiting[0])
        assert say(3) == ""
    finally:
        for each in waiting:
            each.close()


def test_a_variable_is_spoken_of_once(say: Any) -> None:
    """It may be on purpose; one that has been awaited is none any more."""
    rows = fetch(1)
    try:
        assert (
            say(rows=rows, _=rows)
            == "nbflow: `rows` is a coroutine, nothing has run yet; `await rows` gives its result.\n"
        )
        assert say(rows=rows) == ""
    finally:
        rows.close()
    assert say(other=rows) == ""


@pytest.mark.parametrize("operation", [len, iter, lambda each: each.shape, lambda each: each + 1])
def test_errors_of_whoever_takes_it_for_a_result(say: Any, operation: Any) -> None:
    """Python's own words for it are recognised in the version that runs."""
    rows = fetch(1)
    try:
        with pytest.raises((TypeError, AttributeError)) as caught:
            operation(rows)
    finally:
        rows.close()
    assert "put `await` before" in say(error=caught.value)
    assert say(error=TypeError("something else")) == ""


@task
def plain(n: int) -> int:
    return n


@pytest.mark.parametrize("operation", [len, iter, lambda each: each.shape, lambda each: each + 1])
def test_a_handle_is_not_its_result(say: Any, operation: Any) -> None:
    """Whoever takes a handle for the result is told how to ask for it."""
    with session():
        handle = submit(plain, 1)
        with pytest.raises((TypeError, AttributeError)) as caught:
            operation(handle)
        assert handle.get() == 1
    assert "`.get()` waits for the result" in say(error=caught.value)
