"""What an index surely lacks: not asked for, and never said of an entry that is there."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from nbflow.cache import CACHE_MISS, CacheStore
from nbflow.cache import known as module
from nbflow.cache.parts import CacheKey


class _Leader:
    """A call that computes."""

    id, state, parent, backend = 1, "running", None, "inline"


def seated(folder: Path) -> CacheStore:
    """Return a store that has written something, and whose process has a desk."""
    store = CacheStore(folder, memory_bytes=0)
    store.save("first", 1, cost_s=1.0)
    flight = store.flights.join("first", _Leader())
    assert store.take_seat(flight, CacheKey("first", ""))
    store.flights.leave("first", flight.leader, "stored", store.when_written)
    return store


@pytest.fixture
def _lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LASTS_S", 1e9)


@pytest.mark.usefixtures("_lasting")
def test_misses_are_not_asked_for(folder: Path, asked: list[str]) -> None:
    """After some misses nothing is asked for that is not there; what is written is found, before and after a commit."""
    store = seated(folder)
    for number in range(20):
        assert store.fetch(f"k{number}") is None
    assert len(asked) == 2
    store.save("k7", 7)
    assert store.get("k7") == 7
    store.flush()
    assert store.get("k7") == 7
    assert store.get("first") == 1
    assert asked[2:] == ["k7", "first"]
    store.close()


@pytest.mark.usefixtures("_lasting")
def test_another_process_writes(folder: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody else commits is found by the next look."""
    import nbflow.cache.disk
    import nbflow.cache.flight

    store = seated(folder)
    for number in range(5):
        assert store.fetch(f"k{number}") is None
    assert len(asked) == 2
    monkeypatch.setattr(nbflow.cache.flight, "_tables", {})  # as if in another process
    monkeypatch.setattr(nbflow.cache.disk, "_folders", {})
    other = CacheStore(folder)
    other.save("k3", 3, cost_s=1.0)
    assert store.get("k3") == 3
    other.close()
    store.close()


@pytest.mark.usefixtures("_lasting")
def test_two_stores_of_one_process(folder: Path) -> None:
    """What one of them writes, the other does not take for missing."""
    one, other = seated(folder), CacheStore(folder, memory_bytes=0)
    for number in range(5):
        assert one.fetch(f"k{number}") is None
    other.save("k3", 3, cost_s=1.0)
    assert one.get("k3") == 3
    one.close()
    other.close()


def test_it_ends_with_time(folder: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot tell of its changes is noticed all the same, some seconds later."""
    monkeypatch.setattr(module, "_LASTS_S", -1.0)
    store = seated(folder)
    for number in range(6):
        assert store.fetch(f"k{number}") is None
    assert len(asked) == 6
    store.close()


def test_a_read_does_not_wait_for_a_write(folder: Path) -> None:
    """While a transaction of another thread is under way, what was committed before is found."""
    store = CacheStore(folder, memory_bytes=0)
    store.save("k", [1], cost_s=1.0)
    assert store.disk is not None
    inside, done = threading.Event(), threading.Event()

    def write() -> None:
        assert store.disk is not None
        with store.disk.index.change() as connection:
            connection.execute("UPDATE totals SET floor = 1.0")
            inside.set()
            assert done.wait(60)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert inside.wait(60)
        assert store.get("k") == [1]
        assert store.get("l") is CACHE_MISS
        assert [info.key for info in store.disk.index.entries()] == ["k"]
    finally:
        done.set()
        thread.join()
    store.close()


@pytest.mark.usefixtures("_lasting")
def test_a_call_that_computes_asks_once_at_most(folder: Path, asked: list[str]) -> None:
    """Of a hundred calls that find nothing, only the first few ask the index; each of them is there afterwards."""
    import nbflow

    @nbflow.task(cache=True)
    def double(n: int) -> int:
        return 2 * n

    with nbflow.session(cache_store=str(folder)):
        assert [double(n) for n in range(100)] == [2 * n for n in range(100)]
        assert len(asked) < 10
    with nbflow.session(cache_store=str(folder)) as session:
        assert [double(n) for n in range(100)] == [2 * n for n in range(100)]
        assert all(call.cached for call in session.records)
