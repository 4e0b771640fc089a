"""Dry runs: nothing runs, nothing is saved, and the plan tells what would."""

from __future__ import annotations

import asyncio

import pytest

from nbflow import gather_tasks, map_tasks, session, submit, task
from nbflow.backends import NoopBackend
from nbflow.testing import EventRecorder

ran: list[object] = []


@task(cache=True)
def square(x: int) -> int:
    ran.append(x)
    return x * x


@task(retries=3, timeout=5)
def plain(x: int) -> int:
    ran.append(x)
    return x


@task
async def fetch(x: int) -> int:
    ran.append(x)
    return x


@task(dataset="never/{x}.json")
def saved(x: int) -> dict[str, int]:
    ran.append(x)
    return {"x": x}


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


def test_gives_none_at_once() -> None:
    """A submission does not call the function."""
    backend = NoopBackend()
    backend.start()
    assert backend.submit(ran.append, (1,)).result(0) is None
    backend.stop()
    assert ran == []
    assert backend.abilities.dry


def test_tells_what_would_run_and_what_is_cached(recorder: EventRecorder) -> None:
    """Cached results are given; the rest is None; each call ends once, and the plan has them in order."""
    with session():
        map_tasks(square, range(2))
    ran.clear()
    with session(backend="noop", observers=[recorder]) as context:
        assert map_tasks(square, range(3)) == [0, 1, None]
        assert map_tasks(plain, [5]) == [None]
        assert submit(plain, 6).get() is None
        assert asyncio.run(gather_tasks(fetch, [7], backend="noop")) == [None]
    assert ran == []
    plan = context.plan()
    assert [(call.name, call.cached) for call in plan] == [
        ("square[0]", True),
        ("square[1]", True),
        ("square[2]", False),
        ("plain[0]", False),
        ("plain", False),
        ("fetch[0]", False),
    ]
    assert plan.would_run == ["square[2]", "plain[0]", "plain", "fetch[0]"]
    assert plan.cached == ["square[0]", "square[1]"]
    assert str(plan).splitlines()[0] == "4 would run, 2 cached"
    assert "would run  square[2]  (argument `x`" in str(plan)
    recorder.check()


def test_saves_nothing() -> None:
    """Neither cache nor datasets change."""
    with session(backend="noop") as context:
        map_tasks(square, range(3))
        map_tasks(saved, range(2))
        assert not context.dataset_store.exists("never/0.json")
    with session():
        assert map_tasks(square, range(3)) == [0, 1, 4]
    assert ran == [0, 1, 2]


def test_a_session_without_dry_runs_has_no_plan() -> None:
    """What ran is no plan."""
    with session() as context:
        plain(3)
        assert context.plan() == ()
        assert str(context.plan()) == "0 would run, 0 cached"
