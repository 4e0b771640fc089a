"""The phrases of the panel."""

from __future__ import annotations

from typing import Any

import pytest

from nbflow.core import events
from nbflow.notebook.panel import rows as r
from nbflow.notebook.panel import words


def test_every_state_has_an_icon() -> None:
    """No state is told by its colour alone."""
    states = {r.QUEUED, r.RUNNING, r.RETRYING, r.DONE, r.CACHED, r.FAILED, r.CANCELLED, r.TIMED_OUT, r.LEFT}
    assert set(words.ICONS) == states


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("helper `clean` changed (cell 4)", ["why: helper `clean` changed (cell 4)"]),
        ("never run before", []),
        (None, []),
    ],
)
def test_miss_tells_why_unless_it_is_the_first(played: Any, reason: str | None, said: list[str]) -> None:
    """A recomputed call says what changed."""
    played.do.start(1)
    played.do.tell(events.CacheMiss, 1, key="k", reason=reason)
    played.do.finish(1)
    assert words.details(played.model.rows[1]) == said


@pytest.mark.parametrize(("reason", "said"), [("panel", ["from the panel"]), ("cancelled", []), ("handle", ["handle"])])
def test_cancelled_call_tells_by_whom(played: Any, reason: str, said: list[str]) -> None:
    """Who stopped a call is told in words."""
    played.do.start(1)
    played.do.tell(events.TaskCancelled, 1, duration_s=1.0, reason=reason)
    assert words.details(played.model.rows[1]) == said


def test_elapsed_ticks_only_while_it_runs(played: Any) -> None:
    """Queued and cached rows have no time, running ones count from their start."""
    played.do.tell(events.TaskQueued, 1, backend="thread")
    now = played.clock.wall() + 3
    assert words.elapsed(played.model.rows[1], now) == ""
    played.do.start(1)
    assert words.elapsed(played.model.rows[1], now) == "3.0 s"
    assert words.elapsed(played.model.rows[1], None) == ""
    played.do.hit(2)
    assert words.elapsed(played.model.rows[2], now) == ""


def test_progress_counts_steps_items_and_calls(played: Any) -> None:
    """Steps that a call reports, items of a map, calls of a task: each in its own words."""
    played.do.start(1)
    played.do.tell(events.ProgressMade, 1, done=3, total=40, label="epoch")
    assert words.progress(played.model.rows[1]) == "3/40"
    assert words.details(played.model.rows[1]) == ["epoch"]
    played.do.start(2)
    played.do.tell(events.ProgressMade, 2, done=1500, total=None)
    assert words.progress(played.model.rows[2]) == "1,500"
    for number in range(3, 13):
        played.do.start(number, "g")
        played.do.finish(number, "g")
    assert words.progress(next(row for row in played.model.rows.values() if row.kind == r.TASK)) == "× 10"
