"""The facts of a run."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

import nbflow.events
from nbflow.core import events


def example(kind: type[events.Event]) -> events.Event:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        text = str(field.type)
        values[field.name] = "x" if "str" in text else 1 if "int" in text else 1.5 if "float" in text else None
    return kind(**values)


KINDS = [getattr(events, name) for name in events.__all__]


@pytest.mark.parametrize("kind", KINDS)
def test_events_are_frozen_and_survive_pickling(kind: type[events.Event]) -> None:
    """Events cross processes and threads: they cannot be changed, and compare by value."""
    event = example(kind)
    assert pickle.loads(pickle.dumps(event)) == event
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.name = "other"  # type: ignore[misc]
    assert {"call_id", "name", "time", "map_id"} <= {field.name for field in dataclasses.fields(kind)}


def test_four_terminal_events() -> None:
    """A call ends in one of exactly four ways."""
    terminal = {kind.__name__ for kind in KINDS if issubclass(kind, events.Terminal)} - {"Terminal"}
    assert terminal == {"TaskCancelled", "TaskCompleted", "TaskFailed", "TaskTimedOut"}


def test_public_door() -> None:
    """`nbflow.events` gives the same classes."""
    assert nbflow.events.__all__ == events.__all__
    assert all(getattr(nbflow.events, name) is getattr(events, name) for name in events.__all__)
