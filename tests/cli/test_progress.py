"""The live view and the milestones."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any

import pytest

from nbflow.cli.progress import Board, LiveView, Milestones, View, live_lines
from nbflow.notebook.report import TaskRow


class Wall:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


def row(number: int, task: str, **fields: Any) -> dict[str, Any]:
    return asdict(TaskRow(number, task, **fields))


def test_live_lines_show_the_cell_and_its_tasks_running_first(wall: Wall) -> None:
    """What runs now is on top; the time of a running map counts from its start."""
    board = Board(wall)
    board.cell_started(4, 9, "\n  %%task fit\nx = 1")
    board.report([row(0, "load", cell="cell 4", total=1, cached=1, saved_s=2.0)])
    running = row(1, "fit", cell="cell 4", maps=1, total=8, ran=1, cached=3, running=2, since=1000.0)
    board.report([running])
    wall.now += 6
    head, first, second = live_lines(board, 100)
    assert head == "cell 4/9 · %%task fit · 6.0 s"
    assert first == "  fit · [##########..........] 4/8 · 3 cached · 6.0 s"
    assert second == "  load · cached · 0 ms · saved 2.0 s"


def test_live_lines_never_wrap_and_are_few(wall: Wall) -> None:
    """A narrow terminal and many tasks change nothing about the block's size."""
    board = Board(wall)
    board.cell_started(1, 1, "x" * 300)
    board.report(
        [row(n, f"task number {n} with a very long name", total=1, running=1, since=1000.0) for n in range(50)]
    )
    lines = live_lines(board, 40)
    assert len(lines) == 8
    assert lines[-1] == "  … 44 more"
    assert max(map(len, lines)) < 40


def test_rows_of_earlier_cells_are_not_shown_again(wall: Wall) -> None:
    """The block is about the running cell."""
    board = Board(wall)
    board.cell_started(1, 2, "a")
    board.report([row(0, "load", total=1, ran=1)])
    board.cell_started(2, 2, "b")
    assert len(live_lines(board, 80)) == 1
    assert [found["task"] for found in board.ordered()] == ["load"]


def test_live_view_rewrites_its_block_and_removes_it(wall: Wall) -> None:
    """Each frame goes back over the one before; nothing is written when nothing changed; closing leaves no trace."""
    stream = io.StringIO()
    view = LiveView(Board(wall), stream)
    view.cell_started(1, 2, "a = 1")
    view.tick()
    first = stream.getvalue()
    view.tick()
    assert stream.getvalue() == first
    view.report([row(0, "load", total=1, running=1, since=1000.0)])
    view.tick()
    assert stream.getvalue()[len(first) :].startswith("\x1b[1A\r\x1b[J")
    view.close()
    assert stream.getvalue().endswith("\x1b[2A\r\x1b[J")


def test_milestones_tell_each_task_when_its_cell_ends(wall: Wall) -> None:
    """A log has one line for each task, and none for what nested tasks did."""
    stream = io.StringIO()
    view = Milestones(Board(wall), stream)
    view.cell_started(2, 5, "%%task load")
    view.report([row(0, "load", total=1, cached=1, time_s=0.25, saved_s=12.5)])
    view.report([row(1, "inner", nested=True, total=1, ran=1), row(2, "fit", maps=1, total=8, ran=8, time_s=3.0)])
    view.report([row(3, "score", maps=1, total=3, ran=1, cached=2, time_s=1.0)])
    view.cell_ended(2)
    assert stream.getvalue().splitlines() == [
        "[2/5] load: cached, 0.2 s, saved 12.5 s",
        "[2/5] fit: 8 ran, 3.0 s",
        "[2/5] score: 1 ran, 2 cached, 1.0 s",
    ]


def test_milestones_tell_each_tenth_of_a_long_map_once(wall: Wall) -> None:
    """At most nine lines for a map, however many items it has; quick ones get none."""
    stream = io.StringIO()
    view = Milestones(Board(wall), stream)
    view.cell_started(1, 1, "fit")
    for done in range(1001):
        wall.now += 0.01
        view.report([row(0, "fit", maps=1, total=1000, ran=done, since=1000.0)])
    lines = stream.getvalue().splitlines()
    assert lines[-1] == "[1/1] fit: 90 % (900 of 1000)"
    assert len(lines) <= 9


def test_milestones_tell_long_cells_without_tasks(wall: Wall) -> None:
    """A slow plain cell is named, quick ones are not worth a line."""
    stream = io.StringIO()
    view = Milestones(Board(wall), stream)
    view.cell_started(1, 2, "import pandas")
    wall.now += 0.5
    view.cell_ended(1)
    view.cell_started(2, 2, "\nslow()\nmore()")
    wall.now += 2
    view.cell_ended(2)
    assert stream.getvalue() == "[2/2] slow(): 2.0 s\n"


def test_milestones_of_a_workflow_have_no_cell(wall: Wall) -> None:
    """A task that took its time gets a line when it ends, each time that it took more; quick and nested ones none."""
    out = io.StringIO()
    view = Milestones(Board(wall), out)
    view.report([row(0, "quick", total=1, ran=1, time_s=0.2), row(1, "inner", nested=True, total=1, ran=1, time_s=9.0)])
    view.report([row(2, "slow", total=1, running=1, since=1000.0)])
    view.report([row(2, "slow", total=1, ran=1, time_s=3.0)])
    view.report([row(2, "slow", total=2, ran=2, time_s=3.5)])
    view.report([row(2, "slow", total=3, ran=3, time_s=6.0)])
    assert out.getvalue() == "slow: ran, 3.0 s\nslow: 3 ran, 6.0 s\n"


def test_the_quiet_view_says_only_what_must_be_seen(wall: Wall) -> None:
    """--quiet shows no progress, but an interrupt is still answered."""
    stream = io.StringIO()
    view = View(Board(wall), stream)
    view.cell_started(1, 1, "a")
    view.report([row(0, "a", total=1)])
    view.tick()
    view.cell_ended(1)
    view.close()
    assert stream.getvalue() == ""
    view.note("interrupting")
    assert stream.getvalue() == "nbflow: interrupting\n"


def test_rows_without_a_label_belong_to_the_running_cell(wall: Wall) -> None:
    """Tasks of threads have no label; they are shown at the cell that runs."""
    board = Board(wall)
    board.cell_started(3, 5, "a")
    board.report([row(0, "a", total=1)])
    assert board.ordered()[0]["cell"] == "cell 3"
