"""The reducer: what rows and totals a run of events gives."""

from __future__ import annotations

from typing import Any

import pytest

from nbflow.core import events
from nbflow.notebook.panel import rows as r
from nbflow.notebook.panel.model import FOLD_ABOVE, MAX_FAILED, MAX_ROWS, Model


def names(model: Model, limit: int = 40) -> list[tuple[int, str, str]]:
    """Return depth, name and state of the lines in view."""
    return [(line.depth, line.row.name, line.row.state) for line in model.view(limit).lines]


def test_call_goes_from_queued_over_running_to_done(played: Any) -> None:
    """A call is one row that changes its state."""
    played.do.tell(events.TaskQueued, 1, backend="thread")
    assert names(played.model) == [(0, "fit", r.QUEUED)]
    played.do.start(1)
    assert names(played.model) == [(0, "fit", r.RUNNING)]
    assert played.model.busy
    played.do.finish(1)
    assert names(played.model) == [(0, "fit", r.DONE)]
    assert not played.model.live
    assert played.model.totals() == r.Counts(done=1)


def test_hit_counts_as_cached_with_its_seconds(played: Any) -> None:
    """A cached completion is no ordinary one."""
    played.do.hit(1, saved_s=12.5)
    assert played.model.totals() == r.Counts(cached=1, saved_s=12.5)


def test_retry_shows_until_the_next_attempt(played: Any) -> None:
    """Between attempts the row says retrying, and knows the attempt's number."""
    played.do.start(1)
    played.do.tell(events.AttemptFailed, 1, number=1, error="OSError: x")
    played.do.tell(events.RetryScheduled, 1, number=2, delay_s=1.0)
    assert played.model.rows[1].state == r.RETRYING
    played.do.tell(events.AttemptStarted, 1, number=2)
    assert (played.model.rows[1].state, played.model.rows[1].attempts) == (r.RUNNING, 2)


def test_nested_calls_stand_under_their_parent(played: Any) -> None:
    """Depth follows parent_id, also when the parent is heard of later."""
    played.do.start(2, "inner", parent_id=1)
    played.do.start(1, "outer")
    played.do.start(3, "innermost", parent_id=2)
    assert [(depth, name) for depth, name, _ in names(played.model)] == [(0, "outer"), (1, "inner"), (2, "innermost")]


def test_repeated_calls_fold_into_one_row(played: Any) -> None:
    """Many calls of one task become one row with counts, and what runs stays visible."""
    for number in range(1, 101):
        played.do.start(number)
        played.do.finish(number)
    played.do.start(101)
    model = played.model
    assert names(model) == [(0, "fit", r.DONE), (0, "fit", r.RUNNING)]
    assert model.totals() == r.Counts(done=100, running=1)


def test_folding_takes_what_is_nested_along(played: Any) -> None:
    """When calls fold, so do their own calls, and no count is lost."""
    for number in range(0, 400, 4):
        played.do.start(number + 1, "outer")
        played.do.start(number + 2, "inner", parent_id=number + 1)
        played.do.start(number + 3, "deep", parent_id=number + 2)
        played.do.finish(number + 3, "deep")
        played.do.finish(number + 2, "inner")
        played.do.finish(number + 1, "outer")
    assert names(played.model) == [(0, "outer", r.DONE), (1, "inner", r.DONE), (2, "deep", r.DONE)]
    assert played.model.totals() == r.Counts(done=300)


def test_counted_call_gets_a_row_when_it_has_something_to_tell(played: Any) -> None:
    """In a loop, calls are only counted; one that fails, retries, reports or is looked at gets a row."""
    for number in range(1, 11):
        played.do.start(number)
        played.do.finish(number)
    model = played.model
    played.do.start(20)
    assert 20 not in model.rows
    assert model.totals() == r.Counts(done=10, running=1)
    played.do.tell(events.ProgressMade, 20, done=1, total=2)
    assert (model.rows[20].done, model.rows[20].state) == (1, r.RUNNING)
    played.do.start(21)
    played.do.fail(21)
    assert model.rows[21].error == "ValueError: bad"
    played.do.start(22)
    played.do.tell(events.LogLine, 22, text="hello")
    assert model.rows[22].line == "hello"
    played.do.start(23)
    assert (0, "fit", r.RUNNING) in names(model)
    assert 23 in model.rows
    assert model.totals() == r.Counts(done=10, running=3, failed=1)
    for number in (20, 22, 23):
        played.do.finish(number)
    assert model.totals() == r.Counts(done=13, failed=1)


def test_late_events_of_a_folded_call_do_not_bring_it_back(played: Any) -> None:
    """What is over and folded stays so, whatever arrives later or twice."""
    for number in range(1, 21):
        played.do.start(number)
        played.do.finish(number)
    before = names(played.model)
    played.do.start(3)
    played.do.finish(3)
    played.do.fail(4)
    assert names(played.model) == before
    assert played.model.totals() == r.Counts(done=20)


def test_map_shows_the_newest_sample(played: Any) -> None:
    """Samples that come out of order do not turn the clock back, and the end has the last word."""
    played.do.start_map(1, 10)
    counts = {"cached": 1, "failed": 1, "cancelled": 0, "running": 2, "total": 10}
    newer = r.MapSampled(call_id=1, name="fit", time=20.0, completed=6, items=(r.Item("fit[7]", 1.0),), **counts)
    older = r.MapSampled(call_id=1, name="fit", time=10.0, completed=2, **counts)
    played.model.apply(newer)
    played.model.apply(older)
    row = played.model.rows[1]
    assert row.counts == r.Counts(queued=1, running=2, done=5, cached=1, failed=1, missed=6)
    assert [item.name for item in row.items] == ["fit[7]"]
    played.do.end_map(1, 10, completed=9, failed=1)
    played.model.apply(newer)
    assert played.model.rows[1].counts == r.Counts(done=9, failed=1)
    assert (played.model.rows[1].state, played.model.rows[1].items) == (r.FAILED, ())


def test_items_that_never_started_count_as_cancelled(played: Any) -> None:
    """A map that ended early accounts for every item."""
    played.do.start_map(1, 10)
    played.do.end_map(1, 10, completed=3, failed=1)
    assert played.model.totals() == r.Counts(done=3, failed=1, cancelled=6)


def test_failed_items_stand_under_their_map_but_count_once(played: Any) -> None:
    """The map's counters count a failed item; its own row only tells why."""
    played.do.start_map(1, 3)
    played.do.start(2, "fit[0]", map_id=1)
    played.do.fail(2, "fit[0]", map_id=1)
    played.do.end_map(1, 3, completed=2, failed=1)
    assert names(played.model) == [(0, "fit", r.FAILED), (1, "fit[0]", r.FAILED)]
    assert played.model.totals() == r.Counts(done=2, failed=1)


def test_failures_are_kept_one_by_one_up_to_a_bound(played: Any) -> None:
    """The first failures have rows of their own; all are counted."""
    played.do.start_map(1, 1000)
    for number in range(2, 1002):
        played.do.fail(number, f"fit[{number}]", map_id=1)
    for number in range(2000, 3000):
        played.do.start(number, "g")
        played.do.fail(number, "g")
    assert len(played.model.rows) == 1 + MAX_FAILED + MAX_FAILED + 1
    assert played.model.totals().failed == 1000


def test_remarks_on_items_go_to_their_map(played: Any) -> None:
    """Lines, retries and notes of items show on the row of the map."""
    played.do.start_map(1, 5)
    played.do.tell(events.LogLine, 2, map_id=1, text="step 1\nstep 2\n")
    played.do.tell(events.RetryScheduled, 2, map_id=1, number=2, delay_s=0.1)
    played.do.tell(events.RetryScheduled, 2, map_id=1, number=2, delay_s=0.1)
    played.do.tell(events.WorkerLost, 3, map_id=1, worker="worker-1", reason="exit -9")
    row = played.model.rows[1]
    assert (row.line, row.retries, row.note) == ("step 2", 1, "worker worker-1 lost: exit -9")


@pytest.mark.parametrize("many", ["one task", "many tasks", "all at once"])
def test_memory_stays_bounded(played: Any, many: str) -> None:
    """Ten thousand calls leave a bounded number of rows and the right totals."""
    for number in range(1, 10_001):
        played.do.start(number, f"task{number}" if many == "many tasks" else "fit")
        if many != "all at once":
            played.do.finish(number, f"task{number}" if many == "many tasks" else "fit")
    assert len(played.model.rows) <= MAX_ROWS + 2
    assert played.model.totals().total == 10_000
    if many == "all at once":
        assert played.model.totals().running == 10_000
        for number in range(1, 10_001):
            played.do.finish(number)
        assert not played.model.live
        assert len(played.model.rows) <= FOLD_ABOVE + 2
    assert played.model.totals() == r.Counts(done=10_000)


def test_view_prefers_what_failed_and_what_runs(played: Any) -> None:
    """A short view drops finished rows first, keeps parents, and says how many are hidden."""
    played.do.start(1000, "outer")
    for number in range(1, 51):
        played.do.start(number, f"task{number}", parent_id=1000)
        played.clock.advance(1.0)
        if number == 7:
            played.do.fail(number, "task7")
        elif number != 9:
            played.do.finish(number, f"task{number}")
    view = played.model.view(5)
    shown = {line.row.name for line in view.lines}
    assert {"outer", "task7", "task9"} <= shown
    assert (len(view.lines), view.hidden) == (5, 46)
    assert view.lines[0].row.name == "outer"


def test_close_marks_what_never_ended(played: Any) -> None:
    """Rows that nobody ended are said to be left running, not running for ever."""
    played.do.start(1, "stream", kind="stream")
    assert played.model.live
    assert not played.model.busy
    played.do.start_map(2, 5)
    played.model.close()
    assert [row.state for row in played.model.rows.values()] == [r.LEFT, r.LEFT]
    assert played.model.totals() == r.Counts(left=6)
    assert not played.model.live


def test_close_takes_counted_calls_along(played: Any) -> None:
    """Also a call that never got a row is left running, not live, when the model is closed."""
    for number in range(1, 11):
        played.do.start(number)
        played.do.finish(number)
    played.do.start(11)
    played.model.close()
    assert not played.model.live
    assert played.model.totals() == r.Counts(done=10, left=1)


def test_history_gives_the_expected_time(played: Any) -> None:
    """The next call of a task knows how long the last computed one took."""
    played.do.start(1)
    played.do.finish(1, duration_s=8.0)
    played.do.hit(2)
    played.do.start(3)
    assert played.model.rows[3].expected_s == 8.0


def test_unknown_events_change_nothing(played: Any) -> None:
    """Facts that the panel does not show leave even the version alone."""
    played.do.tell(events.DatasetSaved, 1, key="k", format="csv", size_bytes=1, duration_s=0.1)
    assert (played.model.version, played.model.rows) == (0, {})
