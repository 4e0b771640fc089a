"""Bars of tqdm inside tasks, told as their progress."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from nbflow import map_tasks, session, task
from nbflow.events import ProgressMade
from nbflow.settings import Settings
from nbflow.testing import EventRecorder

std = pytest.importorskip("tqdm.std")


@pytest.fixture(autouse=True)
def _no_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of tqdm's own is none of ours."""
    monkeypatch.setattr(std.tqdm, "monitor_interval", 0)


def count(name: str, items: int = 3) -> int:
    """Loop with a bar of that module."""
    module = __import__(f"tqdm.{name}", fromlist=["tqdm"])
    return sum(module.tqdm(range(items), desc="files"))


def told(recorder: Any) -> list[tuple[float, float | None, str | None]]:
    """Return what was told, first and last."""
    events = recorder.of(ProgressMade)
    return [(event.done, event.total, event.label) for event in (events[0], events[-1])] if events else []


@pytest.mark.parametrize("name", ["std", "auto", "notebook", "asyncio"])
def test_a_bar_is_told_and_not_drawn(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever kind of bar a task makes, its row counts instead."""
    recorder = EventRecorder()
    with session(settings=Settings(tqdm=True), observers=[recorder]):
        assert task(count)(name) == 3
    assert told(recorder) == [(0, 3, "files"), (3, 3, "files")]
    assert capsys.readouterr().err == ""


def test_bars_are_as_they_were_outside_and_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    """Outside of a task, without the setting, and when the session is over, tqdm draws."""
    before = std.tqdm.__dict__["__new__"]
    recorder = EventRecorder()
    with session(settings=Settings(tqdm=True)):
        with session(observers=[recorder]):  # an inner session inherits the setting and undoes nothing
            count("std")
        assert std.tqdm.__dict__["__new__"] is not before
        task(count)("std")
        with session(settings=Settings(tqdm=False), observers=[recorder]):
            task(count)("std", 4)
    assert std.tqdm.__dict__["__new__"] is before
    assert told(recorder) == []
    drawn = capsys.readouterr().err
    assert "3/3" in drawn
    assert "4/4" in drawn


def test_the_outer_of_two_bars_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """A bar inside of another does not take its place; one that comes after it does."""
    recorder = EventRecorder()

    @task
    def nested() -> None:
        with std.tqdm(total=2, desc="outer") as bar:
            for _ in range(2):
                list(std.tqdm(range(100), desc="inner", leave=False))
                bar.update(1)
        list(std.tqdm(range(5), desc="after", position=0))

    with session(settings=Settings(tqdm=True), observers=[recorder]):
        nested()
    assert {event.label for event in recorder.of(ProgressMade)} == {"outer", "after"}
    assert capsys.readouterr().err == ""


def test_bars_in_worker_processes() -> None:
    """A bar in another process counts for the task here."""
    recorder = EventRecorder()
    with session(settings=Settings(tqdm=True, max_parallel_processes=1), observers=[recorder]):
        assert map_tasks(count, ["std"], [6], backend="process") == [15]
    assert told(recorder)[-1] == (6, 6, "files")


def test_without_tqdm_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting asks for nothing that would have to be installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tqdm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("nbflow.bars.find_spec", lambda name: None)
    with session(settings=Settings(tqdm=True)):
        assert task(lambda: 1)() == 1
    assert "tqdm" not in sys.modules
