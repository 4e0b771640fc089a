"""The record of runs: what it keeps, how it is bounded, and that nothing can break it."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from nbflow import map_tasks, session, task
from nbflow.history import Collector, History, Run
from nbflow.settings import load_settings, set_global_settings
from nbflow.testing import FakeClock


def run(task: str = "fit", duration_s: float = 1.0, **more: Any) -> Run:
    return Run(**{"task": task, "kind": "call", "when": 1000.0, "duration_s": duration_s, "ran": 1} | more)


def test_runs_come_back_in_another_process_s_eyes(tmp_path: Path) -> None:
    """What was recorded is read by whoever opens the same home, in order, and a reader sees what is added later."""
    home = tmp_path / ".nbflow"
    one, other = History.open(home), History.open(home)
    assert other.runs() == []
    assert not home.exists()
    rows = [run(duration_s=2.0, notebook="a.ipynb"), run("load", cached=1, ran=0, saved_s=9.5, cell="cell 3")]
    one.record(rows)
    assert other.runs() == rows
    one.record([run("late")])
    assert [found.task for found in other.runs(2)] == ["load", "late"]
    assert [found.task for found in other.runs(names=["fit"])] == ["fit"]
    assert [found.task for found in other.runs(notebook="a.ipynb")] == ["fit"]
    assert stat.S_IMODE(home.stat().st_mode) & 0o077 == 0 or os.name == "nt"
    assert (home / ".gitignore").read_text() == "*\n"


def test_typical_time_is_the_median_of_what_was_computed(tmp_path: Path) -> None:
    """Hits, failures and one odd run do not move it; several calls count with their mean; kinds are told apart."""
    history = History.open(tmp_path)
    assert history.typical_s("fit") is None
    history.record([run(duration_s=seconds) for seconds in (1.0, 900.0, 3.0)])
    history.record([run(duration_s=0.01, ran=0, cached=1), run(duration_s=0.02, failed=1), run("other", 50.0)])
    assert history.typical_s("fit") == 3.0
    history.record([run("many", 8.0, ran=4), run("many", 30.0, kind="map", ran=10, cached=5)])
    assert history.typical_s("many", kind="call") == 2.0
    assert history.typical_s("many", kind="map") == 3.0
    assert history.durations("fit", 2) == [900.0, 3.0]


def test_it_is_bounded_and_forgets_the_oldest(tmp_path: Path) -> None:
    """Two files of a limited size are all that there ever is, and the newest runs are in them."""
    history = History(tmp_path, most_bytes=2000)
    for number in range(200):
        history.record([run(str(number))])
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["history.1.jsonl", "history.jsonl"]
    assert all(file.stat().st_size < 2200 for file in files)
    found = [int(each.task) for each in History(tmp_path).runs()]
    assert found == list(range(found[0], 200))
    assert len(found) >= 20
    assert [int(each.task) for each in history.runs()] == found


def test_torn_and_foreign_lines_are_left_out(tmp_path: Path) -> None:
    """A line that a crash cut short, and anything that is no run, costs itself only."""
    history = History.open(tmp_path)
    history.record([run("first")])
    with open(history.path, "a", encoding="utf-8") as file:
        file.write('[1]\n{"task": "x"}\n{"task": 1, "kind": "call", "when": 0, "duration_s": 1}\n')
        file.write(json.dumps({"task": "new", "kind": "cell", "when": 1, "duration_s": 2, "of_the_future": 3}) + "\n")
        file.write('{"task": "torn", "ki')
    history.record([run("last")])
    assert [found.task for found in history.runs()] == ["first", "new", "last"]


def test_a_record_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    """A home that is a file makes one warning and no error."""
    (tmp_path / "home").write_text("in the way")
    history = History.open(tmp_path / "home")
    with pytest.warns(RuntimeWarning, match="history=off"):
        history.record([run()])
    history.record([run()])
    assert history.typical_s("fit") is None


def _write(home: str, name: str) -> None:
    history = History(home, most_bytes=200_000)
    for number in range(100):
        history.record([run(f"{name}-{number}")])


def test_several_processes_and_threads_write_at_once(tmp_path: Path) -> None:
    """No line is lost or mixed up with another."""
    context = multiprocessing.get_context("spawn")
    writers: list[Any] = [context.Process(target=_write, args=(str(tmp_path), f"p{number}")) for number in range(2)]
    writers += [threading.Thread(target=_write, args=(str(tmp_path), f"t{number}")) for number in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = [each.task for each in History.open(tmp_path).runs()]
    assert sorted(found) == sorted(f"{name}-{number}" for name in ("p0", "p1", "t0", "t1") for number in range(100))


@task(cache=True)
def half(x: int) -> float:
    return x / 2


@task
def broken() -> None:
    raise ValueError("no luck")


def test_collector_tells_calls_maps_and_inner_sessions(tmp_path: Path) -> None:
    """One row for the calls of a task, one for each map, each once, those of sessions inside as well."""
    history = History.open(tmp_path / "home")
    with session(clock=FakeClock()) as context:
        context.collector = Collector(history, "book.ipynb")
        context.label = lambda: "cell 2"
        half(1), half(1), half(2)
        map_tasks(half, [2, 3, 4])
        map_tasks(half, range(40), backend="thread")
        with pytest.raises(ValueError, match="no luck"):
            broken()
        context.collector.collect(context)
        context.collector.collect(context)  # nothing new
        with session():
            half(3)
        half(100)
    rows = history.runs()
    found = [(row.task, row.kind, row.ran, row.cached, row.failed) for row in rows]
    assert sorted(found[:4]) == [
        ("broken", "call", 0, 0, 1),
        ("half", "call", 2, 1, 0),
        ("half", "map", 2, 1, 0),
        ("half", "map", 36, 4, 0),
    ]
    assert found[4:] == [("half", "call", 0, 1, 0), ("half", "call", 1, 0, 0)]
    assert {(row.notebook, row.cell) for row in rows} == {("book.ipynb", "cell 2")}


def test_scripts_record_only_where_they_are_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain session leaves nothing; with `history="on"` its end writes what ran."""
    with session() as context:
        half(1)
        home = context.home
    assert not (home / "history.jsonl").exists()
    with session(settings=load_settings(history="on")):
        half(1)
    assert [row.task for row in History.open(home).runs()] == ["half"]
    set_global_settings(None)


FLOW = """from nbflow import task, workflow
@task
def half(x): return x / 2
@workflow
def main(): return half(3)
"""


def test_nbflow_run_remembers_workflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow from the command line is recorded too, unless the setting says no."""
    (tmp_path / "flow.py").write_text(FLOW)
    command = [sys.executable, "-m", "nbflow", "run", "flow:main", "--quiet"]
    for setting, known in (("off", []), ("auto", ["half"])):
        env = {**os.environ, "NBFLOW_HISTORY": setting, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
        assert [row.task for row in History.open(tmp_path / ".nbflow").runs()] == known
