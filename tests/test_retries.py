"""Failed calls that are run again, with the inputs that they had."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import nbflow
from nbflow.errors import DefinitionError
from nbflow.retries import Retries


@pytest.fixture
def retries() -> Iterator[Retries]:
    """Return what a session keeps its failed calls in."""
    kept = Retries(kept=3)
    with nbflow.session() as context:
        context.keep_failed = kept.keep
        yield kept


def test_failed_call_runs_again_with_its_inputs(retries: Retries) -> None:
    """What failed once succeeds the second time; the handle is found under the call's name."""
    broken = [True]

    @nbflow.task
    def fit(depth: int, *, scale: float) -> float:
        if broken[0]:
            raise ValueError("bad")
        return depth * scale

    with pytest.raises(ValueError, match="bad"):
        fit(3, scale=0.5)
    assert retries.failed == ("fit",)
    broken[0] = False
    assert retries.retry("fit").get() == 1.5
    assert retries.retried["fit"].get() == 1.5
    assert retries.rerun("fit") == 1.5


def test_item_of_a_map_runs_again_by_its_name(retries: Retries) -> None:
    """Items are kept one by one; those that succeeded are not."""
    broken = {2}

    @nbflow.task
    def fit(depth: int) -> int:
        if depth in broken:
            raise ValueError("bad")
        return depth * 10

    results = nbflow.map_tasks(fit, range(5), backend="thread", on_error="collect")
    assert isinstance(results[2], ValueError)
    broken.clear()
    assert retries.failed == ("fit[2]",)
    assert retries.retry("fit[2]").get() == 20


def test_rerun_raises_here_so_that_a_debugger_finds_the_frame(retries: Retries) -> None:
    """A call that fails again raises its own exception in this thread, also one that has to be awaited."""

    @nbflow.task
    async def fit(depth: int) -> int:
        raise ValueError(f"bad {depth}")

    with pytest.raises(ValueError, match="bad 3"):
        asyncio.run(fit(3))
    with pytest.raises(ValueError, match="bad 3") as caught:
        retries.rerun("fit")
    frames = [entry.name for entry in caught.traceback]
    assert "fit" in frames


def test_only_the_latest_failures_are_kept_and_streams_never(retries: Retries) -> None:
    """Memory is bounded; a stream hands out items and cannot be repeated."""

    @nbflow.task
    def fit(depth: int) -> int:
        raise ValueError("bad")

    @nbflow.task
    def rows() -> Iterator[int]:
        yield 1
        raise ValueError("bad")

    nbflow.map_tasks(fit, range(10), on_error="collect")
    with pytest.raises(ValueError, match="bad"):
        list(rows())
    assert retries.failed == ("fit[7]", "fit[8]", "fit[9]")
    retries.clear()
    assert retries.failed == ()


def test_unknown_name_says_which_there_are(retries: Retries) -> None:
    """The message lists what can be run again."""

    @nbflow.task
    def fit(depth: int) -> int:
        raise ValueError("bad")

    nbflow.map_tasks(fit, range(2), on_error="collect")
    with pytest.raises(DefinitionError, match=r"'nothing'.*fit\[0\], fit\[1\]"):
        retries.retry("nothing")


def test_display_of_it_is_silent(retries: Retries, capsys: Any) -> None:
    """As the last value of a cell it shows nothing: the panel is shown already."""
    assert retries._ipython_display_() is None
    assert capsys.readouterr().out == ""
