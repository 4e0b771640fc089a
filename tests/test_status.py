"""`why`: what a call would do, what the last one did, and the reasons, without running anything."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from nbflow import panel, session, task, why
from nbflow.cache.explain import Explanation
from nbflow.cache.keyring import make_key
from nbflow.errors import DefinitionError
from nbflow.settings import load_settings
from nbflow.tasks import Task
from nbflow.testing import FakeClock

RAN: list[Any] = []


def make(**options: Any) -> Task[Any, Any]:
    """Return a cached task; each is a new version of the same."""

    def item(x: Any, y: int = 2) -> Any:
        RAN.append(x)
        return [x, y]

    return task(**{"cache": True, "name": "item", **options})(item)


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()


def test_before_and_after() -> None:
    """Never run, fresh, another argument; then how the last call came by its result."""
    item = make()
    with session(clock=FakeClock()):
        assert why(item, 1) == "item would run: never run before."
        assert RAN == []
        item(1)
        assert why(item, 1).startswith("item is fresh: the result for these arguments is cached, computed 0 ms ago")
        assert why(item, 2) == "item would run: argument `x` 1 → 2."
        assert why(item, x=1, y=3).reasons == ("argument `y` 2 → 3",)
        assert why(item) == "item ran: never run before."
        item(1)
        with pytest.raises(DefinitionError, match="Nothing named 'itme' ran in this session yet; known: item"):
            why("itme")
        assert why("item").startswith("item was taken from the cache: neither code nor inputs changed")
    assert RAN == [1]


def test_all_differences_are_told() -> None:
    """More than fit a table, the most telling first."""
    with session():
        make(version=1)("a", 1)
        found = why(make(version=2), "b", 7)
        assert found.verdict == "item would run"
        assert found.reasons == ("version 1 → 2", "argument `x` 'a' → 'b'", "argument `y` 1 → 7")


def test_other_reasons(tmp_path: Path) -> None:
    """Expired, cleared, forced, not cached, kept for this session, sealed by a stranger."""
    item = make(cache_ttl=60)
    clock = FakeClock()
    with session(cache_store=tmp_path / "c", clock=clock) as context:
        item(1)
        clock.advance(61)
        assert why(item, 1) == "item would run: expired (ttl 60 s)."
        item(1)
        context.cache_store.clear()
        assert "has been evicted or cleared since" in why(item, 1)
        with session(settings=load_settings(force=True)):
            assert "recomputing is forced" in why(item, 1)
        assert "is not cached: it runs at every call" in why(make(cache=False), 1)
        assert why(item, threading.Lock()).verdict == "item is kept for this session only"
    make_key("team")
    settings = load_settings(cache_shared_key="team", cache_shared=str(tmp_path / "s"))
    with session(cache_store=tmp_path / "d", settings=settings):
        make()(1)
    narrow = load_settings(cache_trust=[], cache_shared=str(tmp_path / "s"))
    with session(cache_store=tmp_path / "e", settings=narrow):
        with pytest.warns(RuntimeWarning, match="that you do not trust"):
            assert "nbflow cache key add FILE" in why(make(), 1)


def test_what_cannot_be_stored_is_said() -> None:
    """The note of the last call is part of the answer."""

    @task(cache=True)
    def lazy(n: int) -> Any:
        return (each for each in range(n))

    with session():
        lazy(3)
        assert "not cached: write failed" in why(lazy, 3)
        assert "not cached: write failed" in why(lazy)


def test_mistakes() -> None:
    """No task, arguments that do not fit, a name that nobody knows."""
    item = make()
    with session():
        with pytest.raises(DefinitionError, match="give a task"):
            why(3)  # type: ignore[arg-type]
        with pytest.raises(DefinitionError, match="unexpected keyword argument 'z'"):
            why(item, 1, z=2)
        with pytest.raises(DefinitionError, match="Nothing named 'item' ran"):
            why(item)
        assert isinstance(why(item, 1), Explanation)


def test_panel_is_switched_by_true_and_false() -> None:
    """A word such as "off" counts as true and would show it."""
    with pytest.raises(DefinitionError, match=r"panel\('off'\): write panel\(\) .* or panel\(False\)"):
        panel("off")  # type: ignore[arg-type]
