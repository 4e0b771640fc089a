"""What the tabs of the panel are given: calls by the page, timeline, graph and history."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

import nbflow
from nbflow.core import events
from nbflow.notebook.panel import look
from nbflow.notebook.panel import rows as r
from nbflow.notebook.panel.look import Entry
from nbflow.notebook.panel.model import Model


def entry(number: int, **fields: Any) -> Entry:
    """Return a call that took half a second on one of four workers."""
    about = {"name": f"fit[{number}]", "state": r.DONE, "began": 100.0 + number, "seconds": 0.5, "saved_s": 0.0}
    return Entry(**{**about, "worker": f"thread-{number % 4}", "owner": 1, "index": number, "task": "fit", **fields})


@pytest.fixture
def ran(tmp_path: Any) -> Any:
    """Return the model and the session of a run: a map of ten, of which two failed, and three single calls."""
    told: list[events.Event] = []

    @nbflow.task
    def fit(depth: int) -> int:
        if depth in (4, 7):
            raise ValueError("bad")
        return depth

    @nbflow.task
    def load(name: str) -> str:
        return name

    with nbflow.session(observers=[told.append]) as context:
        nbflow.map_tasks(fit, range(10), backend="thread", on_error="collect")
        for name in ("flights", "weather", "planes"):
            load(name)
        model = Model()
        for event in told:
            model.apply(event)
        offset = context.clock.wall() - context.clock.monotonic()
        yield SimpleNamespace(model=model, session=context, entries=look.entries(model, context, offset))


def names(page: dict[str, Any]) -> list[str]:
    """Return the names on a page."""
    return [row[0] for row in page["rows"]]


def test_calls_come_with_failures_first(ran: Any) -> None:
    """Every call of the run is there once, under its own name, on the worker that ran it."""
    page = look.page(ran.model, ran.entries, {})
    assert page["total"] == 13
    assert sorted(names(page)[:2]) == ["fit[4]", "fit[7]"]
    assert {row[1] for row in page["rows"]} == {r.FAILED, r.DONE}
    workers = {row[4] for row in page["rows"] if row[0].startswith("fit")}
    assert all(name.startswith("thread") for name in workers)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"query": "LOAD"}, {"load"}),
        ({"state": r.FAILED}, {"fit[4]", "fit[7]"}),
        ({"query": "[7"}, {"fit[7]"}),
        ({"query": "nothing"}, set()),
        ({"query": None, "offset": "x", "scope": "x"}, None),
    ],
)
def test_calls_are_found_by_name_and_state(ran: Any, asked: dict[str, Any], found: set[str] | None) -> None:
    """Part of a name in any case, a state, or both; whatever else a front end sends means everything."""
    page = look.page(ran.model, ran.entries, asked)
    assert page["total"] == 13 if found is None else set(names(page)) == found


def test_calls_of_one_map_are_found_by_its_row(ran: Any) -> None:
    """The scope is a row of the model; the answer says which."""
    number = next(row.id for row in ran.model.rows.values() if row.kind == r.MAP)
    page = look.page(ran.model, ran.entries, {"scope": number})
    assert (page["total"], page["scope"]) == (10, "fit")


def test_calls_of_an_earlier_run_are_not_of_this_one(ran: Any) -> None:
    """A model that has seen nothing of them has none of the session's calls."""
    assert look.entries(Model(), SimpleNamespace(records=(), live_maps=list, live_calls=list), 0.0) == []
    model = Model()
    model.apply(events.TaskStarted(call_id=10**6, name="x", time=1e12, task="x", kind="sync", backend="inline"))
    offset = ran.session.clock.wall() - ran.session.clock.monotonic()
    assert look.entries(model, ran.session, offset) == []


def test_page_is_small_wherever_it_is() -> None:
    """Of five thousand calls a page holds some sixty, at any offset, and says how many there are."""
    calls = [entry(number) for number in range(5000)]
    for offset in (0, 2500, 4990, 10**9, -5):
        page = look.page(Model(), calls, {"offset": offset})
        assert page["total"] == 5000
        assert 1 <= len(page["rows"]) <= look.PAGE
        assert len(json.dumps(page)) < 8000
    assert names(look.page(Model(), calls, {"offset": 2500}))[0] == "fit[2500]"


def test_timeline_has_a_lane_for_each_worker_and_stays_small() -> None:
    """Few calls have a bar each, with a name; many are merged until they are few."""
    few = look.timeline([entry(number) for number in range(8)], now=108.0)
    assert few["lanes"] == ["thread-0", "thread-1", "thread-2", "thread-3"]
    assert [bar[0] for bar in few["bars"]] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert few["bars"][0] == [0, 0, pytest.approx(67, abs=1), r.DONE, 1, "fit[0]"]
    many = look.timeline([entry(number, seconds=0.9, began=100 + number / 9) for number in range(20_000)], now=3000.0)
    assert len(json.dumps(many)) < 9000
    assert sum(bar[4] for bar in many["bars"]) == 20_000


def test_timeline_shows_what_still_runs_until_now() -> None:
    """A running call ends at the time of asking; natural order keeps worker 2 before worker 10."""
    calls = [entry(1, worker="w-10"), entry(2, worker="w-2", state=r.RUNNING, seconds=None)]
    drawn = look.timeline(calls, now=111.0)
    assert (drawn["span"], drawn["lanes"]) == (10.0, ["w-2", "w-10"])
    lane, left, width, state, *_ = drawn["bars"][1]
    assert (lane, left + width, state) == (0, drawn["units"], r.RUNNING)


def test_calls_without_a_known_worker_get_lanes_in_which_nothing_overlaps() -> None:
    """Two calls at a time make two lanes."""
    calls = [entry(number, worker=None, began=100 + number / 2, seconds=0.9) for number in range(6)]
    assert look.timeline(calls, now=110.0)["lanes"] == ["fit · 1", "fit · 2"]


def test_nothing_but_hits_is_no_timeline() -> None:
    """What came from the cache took no time."""
    assert look.timeline([entry(1, state=r.CACHED, seconds=0.0)], now=200.0)["lanes"] == []


def test_graph_has_what_calls_and_what_waits(played: Any) -> None:
    """A call in a call and a handle among arguments are edges between their tasks."""
    played.do.tell(events.TaskQueued, 1, "load", backend="thread")
    played.do.start(1, "load")
    played.do.tell(events.TaskQueued, 2, "fit", backend="thread", needs=(1,))
    played.do.start(2, "fit")
    played.do.start(3, "score", parent_id=2)
    assert played.model.edges == {("load", "fit"): "result", ("fit", "score"): "calls"}
    svg = look.graph(played.model, None)
    assert "load → fit: result" in svg
    assert "fit → score: calls" in svg


def test_handles_among_arguments_are_told() -> None:
    """A submitted call says which calls it waits for."""
    told: list[events.Event] = []

    @nbflow.task
    def add(a: int, b: Any) -> int:
        return a + sum(b)

    with nbflow.session(observers=[told.append]):
        first = nbflow.submit(add, 1, [2])
        assert nbflow.submit(add, first, [first, 4]).get() == 10
    queued = [event.needs for event in told if isinstance(event, events.TaskQueued)]
    assert queued == [(), (first.task_id, first.task_id)]


def test_history_has_the_durations_of_the_tasks_of_the_run(played: Any) -> None:
    """Each task with its typical and its latest seconds; without a record there is nothing to show."""
    played.do.start(1)
    played.do.start_map(2, 5, "score")
    past = SimpleNamespace(
        durations=lambda name, kind=None: [1.0, 2.0] if (name, kind) == ("fit", None) else [0.1] if kind else [],
        typical_s=lambda name: 1.5,
    )
    assert look.history(played.model, past) == [
        ["fit", "", 1.5, [1.0, 2.0]],
        ["score", "each item", 1.5, [0.1]],
    ]
    assert look.history(played.model, None) == []
