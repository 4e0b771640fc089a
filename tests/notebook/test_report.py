"""What `nbflow run` gets to know about the tasks of a kernel."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from nbflow.core import events
from nbflow.notebook.report import Reporter, Tally, install


def started(call_id: int, task: str = "load", **fields: Any) -> events.TaskStarted:
    common = {"name": task, "time": 100.0, "task": task, "kind": "sync", "backend": "inline", "cell": "cell 2"}
    return events.TaskStarted(call_id=call_id, **(common | fields))


def completed(call_id: int, **fields: Any) -> events.TaskCompleted:
    return events.TaskCompleted(**({"call_id": call_id, "name": "load", "time": 101.0, "duration_s": 1.0} | fields))


def map_started(map_id: int, total: int, **fields: Any) -> events.MapStarted:
    common = {"name": "fit", "time": 100.0, "total": total, "backend": "thread", "cell": "cell 3"}
    return events.MapStarted(call_id=map_id, **(common | fields))


def counters(**fields: Any) -> dict[str, Any]:
    return {"completed": 0, "cached": 0, "failed": 0, "cancelled": 0, "saved_s": 0.0} | fields


def map_ended(map_id: int, total: int, **fields: Any) -> events.MapEnded:
    common = {"name": "fit", "time": 104.0, "total": total, "duration_s": 4.0}
    return events.MapEnded(call_id=map_id, **(common | counters(**fields)))


def test_calls_of_one_task_in_one_cell_are_one_row() -> None:
    """Rows count calls; time and savings add up."""
    tally = Tally()
    for event in (started(1), completed(1), started(2), completed(2, cached=True, saved_s=9.0, duration_s=0.5)):
        tally(event)
    (row,) = tally.rows()
    assert (row.task, row.cell, row.total, row.ran, row.cached, row.running) == ("load", "cell 2", 2, 1, 1, 0)
    assert (row.time_s, row.saved_s, row.since) == (1.5, 9.0, None)


def test_cells_and_nesting_make_rows_of_their_own() -> None:
    """The same task called from two cells, or by another task, is told apart."""
    tally = Tally()
    tally(started(1))
    tally(started(2, cell="cell 5"))
    tally(started(3, parent_id=1))
    assert [(row.cell, row.nested) for row in tally.rows()] == [("cell 2", False), ("cell 5", False), ("cell 2", True)]


def test_each_ending_is_counted_as_what_it_is() -> None:
    """Failures and timeouts count as failed and leave their message; cancelled calls do not."""
    tally = Tally()
    common: dict[str, Any] = {"name": "load", "time": 101.0, "duration_s": 1.0}
    for number in (1, 2, 3):
        tally(started(number))
    tally(events.TaskFailed(call_id=1, error="ValueError: no", error_type="ValueError", **common))
    tally(events.TaskTimedOut(call_id=2, timeout_s=2.5, **common))
    tally(events.TaskCancelled(call_id=3, **common))
    (row,) = tally.rows()
    assert (row.failed, row.cancelled, row.error) == (2, 1, "timed out after 2.5 s")


def test_the_reason_of_a_miss_is_kept() -> None:
    """What the cache says about a miss ends up in the table."""
    tally = Tally()
    tally(started(1))
    tally(events.CacheMiss(call_id=1, name="load", time=100.0, key="k", reason="argument `x` changed"))
    assert tally.rows()[0].why == "argument `x` changed"


def test_maps_are_sampled_while_they_run() -> None:
    """Counters of a live map and those of its end never add up twice."""
    tally = Tally()
    tally(map_started(7, 8))
    live = SimpleNamespace(id=7, running=2, **counters(completed=3, cached=1, saved_s=2.0))
    tally.sample([live])
    tally.sample([live])
    (row,) = tally.rows()
    assert (row.total, row.ran, row.cached, row.running, row.saved_s, row.since) == (8, 2, 1, 2, 2.0, 100.0)
    tally(map_ended(7, 8, completed=7, cached=4, failed=1, saved_s=5.0))
    assert (row.ran, row.cached, row.failed, row.running, row.saved_s) == (3, 4, 1, 0, 5.0)
    assert (row.time_s, row.since, row.maps) == (4.0, None, 1)


def test_two_maps_of_one_task_share_a_row() -> None:
    """Maps that run at the same time add up, and the row is idle when both have ended."""
    tally = Tally()
    tally(map_started(1, 4))
    tally(map_started(2, 6, time=102.0))
    tally.sample([SimpleNamespace(id=i, running=1, **counters(completed=i)) for i in (1, 2)])
    (row,) = tally.rows()
    assert (row.maps, row.total, row.ran, row.running) == (2, 10, 3, 2)
    tally(map_ended(1, 4, completed=4))
    assert row.since == 100.0
    tally(map_ended(2, 6, completed=6))
    assert (row.ran, row.running, row.since) == (10, 0, None)


def test_failed_items_leave_their_message_with_the_map() -> None:
    """Items are not counted twice, but the last error is told."""
    tally = Tally()
    tally(map_started(7, 2))
    failed = events.TaskFailed(
        call_id=8, map_id=7, name="fit[1]", time=101.0, duration_s=0.1, error="KeyError: 'x'", error_type="KeyError"
    )
    tally(failed)
    (row,) = tally.rows()
    assert (row.failed, row.error) == (0, "KeyError: 'x'")
    tally(map_ended(7, 2, completed=1, failed=1))
    assert row.failed == 1


def test_unknown_calls_are_ignored() -> None:
    """Endings of calls that began before anybody listened change nothing."""
    tally = Tally()
    tally(completed(99))
    tally(map_ended(98, 1, completed=1))
    assert tally.rows() == []
    assert tally.changes() == []


def test_only_changed_rows_are_handed_out() -> None:
    """Each change is told once; a hundred thousand calls are still one row."""
    tally = Tally()
    for number in range(1000):
        tally(started(number))
        tally(completed(number))
    (change,) = tally.changes()
    assert change["total"] == 1000
    assert tally.changes() == []


class FakeSession:
    """A session as far as the reporter needs one."""

    def __init__(self) -> None:
        self.observers: list[Any] = []

    def add_observer(self, observer: Any, items: bool = True) -> None:
        assert not items
        self.observers.append(observer)

    def remove_observer(self, observer: Any) -> None:
        self.observers.remove(observer)

    def live_maps(self) -> list[Any]:
        return []


class FakeShell:
    """Cell events of a shell, fired by hand."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}
        self.events = SimpleNamespace(register=self.handlers.__setitem__)

    def start_cell(self) -> None:
        self.handlers["pre_run_cell"](None)

    def end_cell(self) -> None:
        self.handlers["post_run_cell"](None)


class FakeComm:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.arrived = threading.Event()

    def send(self, data: Any) -> None:
        self.sent.append(data)
        self.arrived.set()


@pytest.fixture
def parts() -> tuple[FakeSession, FakeShell, FakeComm]:
    return FakeSession(), FakeShell(), FakeComm()


def test_rows_are_sent_while_a_cell_runs(parts: tuple[FakeSession, FakeShell, FakeComm]) -> None:
    """Nobody has to wait for the end of a long cell."""
    session, shell, comm = parts
    Reporter(session, shell, comm, interval_s=0.001)
    session.observers[0](started(1))
    assert comm.arrived.wait(10)
    shell.end_cell()
    assert comm.sent[0]["rows"][0]["running"] == 1


def test_the_last_state_is_sent_before_the_cell_ends(parts: tuple[FakeSession, FakeShell, FakeComm]) -> None:
    """Nothing that a cell did is lost, however quick it was; an idle kernel sends nothing."""
    session, shell, comm = parts
    Reporter(session, shell, comm, interval_s=3600)
    shell.end_cell()
    shell.start_cell()
    session.observers[0](started(1))
    session.observers[0](completed(1))
    assert comm.sent == []
    shell.end_cell()
    assert [message["rows"][0]["ran"] for message in comm.sent] == [1]
    shell.start_cell()
    shell.end_cell()
    assert len(comm.sent) == 1


def test_nested_cells_do_not_end_the_sending(parts: tuple[FakeSession, FakeShell, FakeComm]) -> None:
    """A cell that runs other cells is reported until it ends itself."""
    session, shell, comm = parts
    Reporter(session, shell, comm, interval_s=0.001)
    shell.start_cell()
    shell.end_cell()
    comm.arrived.clear()
    session.observers[0](started(1))
    assert comm.arrived.wait(10)
    shell.end_cell()


def test_a_new_session_is_listened_to_instead(parts: tuple[FakeSession, FakeShell, FakeComm]) -> None:
    """`%session` replaces the notebook's session; the tally goes on with the new one."""
    session, shell, comm = parts
    reporter = Reporter(session, shell, comm, interval_s=3600)
    other = FakeSession()
    reporter.attach(other)
    reporter.attach(other)
    assert session.observers == []
    assert other.observers == [reporter.tally]
    shell.end_cell()


def test_nothing_is_installed_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `NBFLOW_REPORT`, or without a kernel, there is no observer and no thread."""
    session = FakeSession()
    assert install(session) is None
    monkeypatch.setenv("NBFLOW_REPORT", "1")
    assert install(session) is None
    assert session.observers == []
