"""The short lanes leave what the drivers leave: values, records, errors and notes, with far less work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nbflow
from nbflow import map_tasks, session, task
from nbflow.cache import FunctionKeyer
from nbflow.runtime import drivers

Trace = list[tuple[Any, ...]]


@task(cache=True)
def _double(n: int) -> list[int]:
    return [2 * n]


@task(cache=True)
def _total(numbers: list[int]) -> int:
    return sum(numbers)


@task(cache=True)
def _fails(n: int) -> int:
    raise ValueError(n)


@task(cache=True)
def _stopped(n: int) -> int:
    raise KeyboardInterrupt


@task(cache=True)
def _read(path: str) -> str:
    return Path(nbflow.File(path)).read_text()


@task(cache="session")
def _here(n: int) -> int:
    return -n


@task(cache=True)
def _around(path: str) -> str:
    return _read(path) * 2 + str(_double(7))


def _traced(work: Callable[[], Any], context: Any) -> Trace:
    """Do something; return what came of it and of all its calls."""
    known = len(context.records)
    try:
        out: Any = work()
    except BaseException as error:
        out = (type(error), str(error), getattr(error, "__notes__", []))
    calls = [
        (call.name, call.state, call.cached, call.attempts, call.notes, call.key and call.key.digest, str(call.error))
        for call in list(context.records)[known:]
    ]
    return [(out,), *calls]


def _story(place: Path, path: str, **options: Any) -> Trace:
    """Run all kinds of cached calls, in a new store and in a store that has their results."""
    items = [5, 6, 5]
    works: list[Callable[[], Any]] = [
        lambda: _double(1),
        lambda: _total([1, 2]),
        lambda: _fails(1),
        lambda: _stopped(1),
        lambda: _around(path),
        lambda: _here(1),
        lambda: _double(1, 2),  # type: ignore[call-arg]
        lambda: map_tasks(_double, items, backend="inline"),
    ]
    found: Trace = []
    for _ in range(2):
        for each in (_double, _total, _fails, _stopped, _read, _here, _around):
            spec = each.spec  # as in a new process: no call is recognised by its arguments
            spec.__dict__["keyer"] = FunctionKeyer(spec.func, name=spec.name, bind=spec.bind)
        with session(cache_store=place, **options) as context:
            for work in works:
                found += _traced(work, context)
    return found


def test_a_short_lane_leaves_what_the_drivers_leave(tmp_path: Path) -> None:
    """Cached calls that nobody listens to end as others do: when found, computed, failed, interrupted or mistaken."""
    path = tmp_path / "text"
    path.write_text("words")
    short = _story(tmp_path / "short", str(path))
    full = _story(tmp_path / "full", str(path), observers=[lambda event: None])
    assert short == full
    assert ("wordswords[14]",) in short
    kinds = {call[1:3] for call in short[1:]}
    assert kinds >= {("completed", True), ("completed", False), ("failed", False), ("cancelled", False)}


def test_a_hit_of_a_new_process_needs_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first hit of a call that is not recognised takes the short lane to its end, and counts as one hit."""
    with session(cache_store=tmp_path):
        assert _double(3) == [6]
    spec = _double.spec
    spec.__dict__["keyer"] = FunctionKeyer(spec.func, name=spec.name, bind=spec.bind)
    monkeypatch.setattr(drivers, "run_sync", None)
    monkeypatch.setattr(drivers, "attempt", None)
    with session(cache_store=tmp_path) as context:
        assert _double(3) == [6]
        assert context.records[-1].cached
        assert (context.cache_store.stats()["hits"], context.cache_store.stats()["misses"]) == (1, 0)
