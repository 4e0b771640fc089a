"""How a notebook tells of values that were changed in place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nbflow import session
from nbflow.cache import guard
from nbflow.core.events import TaskStarted, ValueChanged
from nbflow.notebook.changes import Changes
from nbflow.notebook.panel.model import Model


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    guard.forget()
    yield
    guard.forget()


def test_a_change_is_told_once_with_all_names(capsys: pytest.CaptureFixture[str], recorder: Any) -> None:
    """On stderr, as an event, and as a remark for `%flow`; the output history is no name."""
    numbers = [1]
    namespace = {"numbers": numbers, "alias": numbers, "_3": numbers, "other": [1]}
    changes = Changes(namespace)
    with session(observers=[recorder]) as context:
        changes.made(["numbers", "gone"], "`load`", "cell 3")
        changes.after_cell(context, "cell 3")
        assert capsys.readouterr().err == ""
        numbers.append(2)
        changes.after_cell(context, "cell 4")
        changes.after_cell(context, "cell 5")
    line = "`numbers` (also `alias`) was changed in place in cell 4 since `load` produced it (cell 3)"
    assert capsys.readouterr().err == f"nbflow: {line}. What is cached stays as it was.\n"
    assert list(changes.remarks) == [line]
    (event,) = [event for event in recorder.events if isinstance(event, ValueChanged)]
    assert (event.call_id, event.holder, event.cell) == (0, "numbers", "cell 4")


def test_what_a_task_cell_changes_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    """It is a part of the cell's result, under whatever name it shows; a later edit by a plain cell is told."""
    numbers = [1]
    changes = Changes({"numbers": numbers})
    with session() as context:
        changes.made(["numbers"], "`load`", "cell 3")
        changes.after_cell(context, "cell 3")
        numbers.append(2)
        changes.after_cell(context, "cell 4", meant=True)
        changes.after_cell(context, "cell 5")
        assert capsys.readouterr().err == ""
        numbers.append(3)
        changes.after_cell(context, "cell 6")
    assert "changed in place in cell 6" in capsys.readouterr().err


def test_a_value_without_a_name_is_told_by_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """It may be inside another one."""
    numbers = [1]
    changes = Changes({"holder": {"inside": numbers}})
    guard.note(numbers, "`load`", None)
    with session() as context:
        changes.after_cell(context, None)
        numbers.append(2)
        changes.after_cell(context, None)
    assert "nbflow: a [1, 2] was changed in place since `load` produced it." in capsys.readouterr().err


def test_the_panel_notes_it_on_the_row_of_the_call() -> None:
    """A call that gets a changed value says so beside its state."""
    model = Model()
    model.apply(TaskStarted(call_id=1, name="fit", time=0.0, task="fit", kind="sync", backend="inline"))
    model.apply(ValueChanged(call_id=1, name="fit", time=0.0, holder="df", origin="`load` produced it (cell 3)"))
    model.apply(ValueChanged(call_id=0, name="x", time=0.0, holder="x", origin="`load` produced it"))
    (row,) = model.rows.values()
    assert row.note == "`df` was changed in place since `load` produced it (cell 3)"
