"""Tables and the summary line."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from nbflow.cli.console import ExitCode
from nbflow.cli.table import clip, counts, finish, summary_line, table, task_seconds, task_table
from nbflow.notebook.report import TaskRow


def row(task: str = "load", **fields: Any) -> dict[str, Any]:
    return asdict(TaskRow(0, task, **fields))


def test_columns_line_up_and_numbers_are_right_aligned() -> None:
    """Every line of a table has its columns at the same place."""
    lines = table(["name", "n"], [["a", "1"], ["long name", "200"]], right=(1,)).splitlines()
    assert lines[0] == "name         n"
    assert lines[2:] == ["a            1", "long name  200"]


def test_only_the_last_column_is_cut() -> None:
    """A long remark is cut where the line ends, so that nothing wraps."""
    lines = table(["task", "why"], [["load", "x" * 200]], width=40).splitlines()
    assert max(map(len, lines)) == 40
    assert lines[-1].endswith("…")


def test_clip_keeps_the_first_line_only() -> None:
    """Texts of many lines become one."""
    assert clip("one\ntwo", 10) == "one"
    assert clip("", 10) == ""
    assert clip("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"total": 1, "ran": 1}, "ran"),
        ({"total": 8, "cached": 8, "maps": 1}, "cached"),
        ({"total": 8, "ran": 3, "cached": 5, "maps": 1}, "3 ran, 5 cached"),
        ({"total": 3, "ran": 1, "failed": 1, "cancelled": 1}, "1 ran, 1 failed, 1 cancelled"),
        ({"total": 4, "ran": 3, "running": 1}, "3 ran, 1 unfinished"),
        ({"total": 0, "maps": 1}, "nothing to do"),
    ],
)
def test_counts_say_how_calls_ended(fields: dict[str, int], text: str) -> None:
    """One word where all ended alike, numbers where not."""
    assert counts(row(**fields)) == text


def test_summary_line_of_a_cached_run() -> None:
    """The line of the design: tasks, how they ended, saved, took."""
    rows = [row(str(n), total=1, cached=1, saved_s=10.325) for n in range(4)]
    assert summary_line(rows, 2.1) == "4 tasks: 4 cached · saved 41.3 s · took 2.1 s"
    assert summary_line(rows[:1], 2.1).startswith("1 task: 1 cached")


def test_summary_line_names_the_worst_of_each_task() -> None:
    """A map with one failed item counts as failed, one with a computed item as ran."""
    rows = [
        row("a", total=3, cached=2, failed=1),
        row("b", total=3, cached=2, ran=1, saved_s=1.0),
        row("c", total=2, ran=1, cancelled=1),
        row("d", total=1, running=1),
    ]
    expected = "4 tasks: 1 ran, 1 failed, 1 cancelled, 1 unfinished · saved 1.0 s · took 5.0 s"
    assert summary_line(rows, 5.0) == expected
    assert summary_line([], 1.0) == "no tasks · took 1.0 s"


def test_task_table_groups_maps_and_says_why() -> None:
    """A map is one row with its number of items; the reason of a miss is told unless it is the first run."""
    text = task_table(
        [
            row("load", cell="cell 2", total=1, ran=1, time_s=1.5, why="never run before"),
            row("fit", cell="cell 5", maps=1, total=8, ran=3, cached=5, time_s=4.2, saved_s=6.1),
            row("clean", cell="cell 5", nested=True, total=3, ran=3, why="helper `drop` changed (cell 4)"),
        ]
    )
    head, _, load, fit, clean = text.splitlines()
    assert head.split() == ["task", "cell", "result", "count", "time", "saved", "why"]
    assert load.split() == ["load", "2", "ran", "1", "1.5", "s"]
    assert fit.split() == ["fit", "5", "3", "ran,", "5", "cached", "8", "items", "4.2", "s", "6.1", "s"]
    assert clean.startswith("  clean")
    assert clean.endswith("helper `drop` changed (cell 4)")


def test_time_of_nested_tasks_is_not_counted_twice() -> None:
    """A task's time includes that of the tasks it calls."""
    rows = [row("outer", total=1, ran=1, time_s=3.0), row("inner", nested=True, total=1, ran=1, time_s=2.0)]
    assert task_seconds(rows) == 3.0


def test_json_has_everything_in_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get one JSON object on stdout, also with --quiet."""
    finish({"status": "ok"}, [row(total=1, cached=1, saved_s=2.0)], 1.0, ExitCode.OK, quiet=True, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == 0
    assert found["saved_s"] == 2.0
    assert found["tasks"][0]["task"] == "load"
    assert "since" not in found["tasks"][0]


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """--quiet leaves stdout empty."""
    finish({}, [row(total=1, ran=1)], 1.0, ExitCode.OK, quiet=True, as_json=False)
    assert capsys.readouterr().out == ""
