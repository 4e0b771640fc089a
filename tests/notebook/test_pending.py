"""A placeholder shows its state and refuses everything else with an error that says how to wait."""

from __future__ import annotations

import copy
import math
import operator
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from nbflow.errors import PendingError
from nbflow.notebook.pending import Pending, maker_of


class Maker:
    """Stands for a cell in the background."""

    def absence(self, name: str) -> str:
        """Say what a cell would say."""
        return f"`{name}` is not there yet; wait with %flow wait fit"


@pytest.fixture
def pending() -> Any:
    """Return a placeholder."""
    return Pending("model", Maker())


@pytest.mark.parametrize(
    "touch",
    [
        lambda p: p.predict,
        lambda p: p(),
        lambda p: p + 1,
        lambda p: 1 + p,
        lambda p: operator.iadd(p, 1),
        lambda p: p @ p,
        lambda p: -p,
        lambda p: p == 1,
        lambda p: p < 1,
        lambda p: p[0],
        lambda p: operator.setitem(p, 0, 1),
        lambda p: setattr(p, "x", 1),
        lambda p: list(p),
        lambda p: 1 in p,
        lambda p: len(p),
        lambda p: bool(p),
        lambda p: str(p),
        lambda p: f"{p:>3}",
        lambda p: int(p),
        lambda p: math.floor(p),
        lambda p: hash(p),
        lambda p: os.fspath(p),
        lambda p: p.__enter__(),
        lambda p: pickle.dumps(p),
        lambda p: copy.deepcopy(p),
        lambda p: pytest.importorskip("numpy").asarray(p),
        lambda p: pytest.importorskip("numpy").ones(2) + p,
    ],
)
def test_touching_raises(pending: Any, touch: Callable[[Any], Any]) -> None:
    """Attribute, call, operators, items, iteration, conversion, pickling: all say what is missing and how to wait."""
    with pytest.raises(PendingError, match="`model` is not there yet; wait with %flow wait fit") as caught:
        touch(pending)
    assert caught.value.name == "model"  # type: ignore[attr-defined]


def test_it_can_be_shown_and_recognised(pending: Any) -> None:
    """Its repr shows the state, displays find nothing special about it, and its maker can be asked for."""
    assert "not there yet" in repr(pending)
    assert not hasattr(pending, "_repr_html_")
    assert isinstance(maker_of(pending), Maker)
    assert maker_of(3) is None
