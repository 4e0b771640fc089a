"""Seals that are read ahead: the index is asked seldom, and nothing is handed out that it does not have any more."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from nbflow.cache import CACHE_MISS, CacheStore
from nbflow.cache import ahead as module
from nbflow.cache.seats import Seats

COUNT = 300


@pytest.fixture(autouse=True)
def _lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LASTS_S", 1e9)


@pytest.fixture
def store(folder: Path) -> CacheStore:
    """A store with results in a row, of which nothing is in memory."""
    made = CacheStore(folder, memory_bytes=0)
    for n in range(COUNT):
        made.save(f"k{n}", n)
    made.flush()
    return made


def elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> CacheStore:
    """Return a store on the same folder, as another process would have it."""
    import nbflow.cache.disk
    import nbflow.cache.flight

    monkeypatch.setattr(nbflow.cache.flight, "_tables", {})
    monkeypatch.setattr(nbflow.cache.disk, "_folders", {})
    return CacheStore(folder, memory_bytes=0)


def test_results_in_a_row_are_read_together(store: CacheStore, asked: list[str]) -> None:
    """Whoever asks in the order of storing asks the index a few times in all, and finds each result."""
    assert [store.get(f"k{n}") for n in range(COUNT)] == list(range(COUNT))
    assert len(asked) < 20
    store.close()


def test_nearly_in_a_row(store: CacheStore, asked: list[str]) -> None:
    """A few threads that take turns ask about in the order of storing, which is enough."""
    order = [n for begin in range(0, COUNT, 4) for n in random.Random(begin).sample(range(begin, begin + 4), 4)]
    assert [store.get(f"k{n}") for n in order] == order
    assert len(asked) < 40
    store.close()


def test_here_and_there(store: CacheStore, asked: list[str]) -> None:
    """Whoever asks for one result here and one there has nothing read that was not asked for."""
    order = [n * 97 % COUNT for n in range(COUNT)]
    assert [store.get(f"k{n}") for n in order] == order
    assert len(asked) == COUNT
    store.close()


def test_what_changes_meanwhile(store: CacheStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that is replaced or deleted after it was read ahead is found as it is now, whoever did that."""
    others: list[Callable[[], CacheStore]] = [
        lambda: store,
        lambda: CacheStore(folder, memory_bytes=0),
        lambda: elsewhere(folder, monkeypatch),
    ]
    for round_, other in enumerate(others):
        begin = 100 * round_
        assert [store.get(f"k{n}") for n in range(begin, begin + 50)] == list(range(begin, begin + 50))
        changer = other()
        changer.save(f"k{begin + 50}", "new", cost_s=1.0)
        assert store.get(f"k{begin + 50}") == "new"
        assert [store.get(f"k{n}") for n in range(begin + 51, begin + 90)] == list(range(begin + 51, begin + 90))
        assert changer.invalidate(f"k{begin + 90}")
        assert store.get(f"k{begin + 90}") is CACHE_MISS
        assert store.get(f"k{begin + 91}") == begin + 91
        changer.close()
    store.close()


def test_what_is_gone_is_not_read(store: CacheStore, asked: list[str]) -> None:
    """Rows of deleted and of replaced entries, which are removed later, are none to be read ahead."""
    for n in range(50, 60):
        store.invalidate(f"k{n}")
        store.save(f"k{n + 10}", "new", cost_s=1.0)
    asked.clear()
    found = [store.get(f"k{n}") for n in range(100)]
    assert found[50:60] == [CACHE_MISS] * 10
    assert found[60:70] == ["new"] * 10
    assert found[:50] + found[70:] == [*range(50), *range(70, 100)]
    store.close()


def test_a_damaged_neighbour(store: CacheStore) -> None:
    """What was damaged and is read ahead is a miss with its reason; those beside it are found."""
    assert store.disk is not None
    with store.disk.index.change() as connection:
        connection.execute("UPDATE rows SET seal = zeroblob(100) WHERE key = 'k20'")
        connection.execute("UPDATE rows SET seal = 'text' WHERE key = 'k21'")
    found = [store.get(f"k{n}") for n in range(40)]
    assert found == [*range(20), CACHE_MISS, CACHE_MISS, *range(22, 40)]
    assert "was not sealed by your key" in store.disk.faults["k20"]
    assert store.stats()["quarantined"] == 2
    store.close()


def test_it_ends_with_time(store: CacheStore, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot tell of its changes is noticed all the same, a second later."""
    monkeypatch.setattr(module, "_LASTS_S", -1.0)
    assert [store.get(f"k{n}") for n in range(50)] == list(range(50))
    assert len(asked) == 50
    store.close()


def test_where_nobody_can_tell(store: CacheStore, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file for marks each result is asked for."""
    monkeypatch.setattr(Seats, "watch", lambda self: b"")
    assert [store.get(f"k{n}") for n in range(50)] == list(range(50))
    assert len(asked) == 50
    store.close()
