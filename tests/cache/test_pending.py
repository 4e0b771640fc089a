"""Results that wait to be written: found meanwhile, written together, told when they cannot be."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from nbflow.cache import CACHE_MISS, CacheKey, CacheStore
from nbflow.cache import pending as module
from nbflow.cache.index import Index
from nbflow.errors import CacheError

ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def slow_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written before somebody asks for it."""
    monkeypatch.setattr(module, "WINDOW_S", 60.0)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each commit wrote."""
    counts: list[int] = []
    real = Index.write

    def write(self: Index, rows: Any) -> Any:
        counts.append(len(rows))
        return real(self, rows)

    monkeypatch.setattr(Index, "write", write)
    return counts


@pytest.mark.usefixtures("slow_window")
def test_cheap_results_are_written_together(folder: Path, writes: list[int]) -> None:
    """A hundred cheap results are one commit, made by `close`; all are found before and after it."""
    store = CacheStore(folder, memory_bytes=0)
    for number in range(100):
        store.save(f"k{number}", [number], cost_s=0.01)
    assert writes == []
    assert [store.get(f"k{number}") for number in range(100)] == [[number] for number in range(100)]
    store.close()
    assert writes == [100]
    assert CacheStore(folder).get("k7") == [7]
    assert not [thread for thread in threading.enumerate() if "cache-writer" in thread.name]


@pytest.mark.usefixtures("slow_window")
def test_a_dear_result_is_written_at_once_with_all_that_waits(folder: Path, writes: list[int]) -> None:
    """What took long to compute is on disk when `save` returns."""
    store = CacheStore(folder)
    store.save("cheap", 1, cost_s=0.01)
    store.save("dear", 2, cost_s=1.0)
    assert writes == [2]
    store.close()
    assert writes == [2]


@pytest.mark.usefixtures("slow_window")
def test_many_results_do_not_wait(folder: Path, writes: list[int]) -> None:
    """After some hundred results the thread writes without waiting for the end of its time."""
    store = CacheStore(folder)
    for number in range(600):
        store.save(f"k{number}", number)
    for _ in range(100_000):
        if writes:
            break
        threading.Event().wait(0.0005)
    assert writes
    assert writes[0] >= 512
    store.close()


def test_the_thread_ends_by_itself(folder: Path) -> None:
    """Once nothing waits there is no thread."""
    store = CacheStore(folder)
    store.save("k", 1)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "nbflow-cache-writer"]
    thread.join(20)
    assert not thread.is_alive()
    store.save("l", 1)
    store.close()


@pytest.mark.usefixtures("slow_window")
def test_stores_of_one_process_see_what_waits(folder: Path) -> None:
    """A second store on the folder finds at once what the first has not written, and the newer result wins."""
    one, other = CacheStore(folder, memory_bytes=0), CacheStore(folder, memory_bytes=0)
    one.save("k", "old")
    assert other.get("k") == "old"
    other.save("k", "new", cost_s=1.0)
    assert one.get("k") == "new"
    one.close()
    assert other.get("k") == "new"
    one.save("l", 1)
    assert [info.key for info in other.entries()] == ["k", "l"]
    one.save("m", 1)
    assert other.invalidate("m")
    assert one.get("m") is CACHE_MISS
    other.close()
    one.close()
    assert {info.key for info in CacheStore(folder).entries()} == {"k", "l"}


@pytest.mark.usefixtures("slow_window")
def test_what_cannot_be_written_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed commit raises in nobody's call; the next one is told, `explain` says why, and later saves raise."""
    store = CacheStore(folder, memory_bytes=0)

    def full(self: Index, rows: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Index, "write", full)
        store.save("k", [1])
        store.flush()
        assert store.fetch("k") is None
        assert "could not be written (OSError" in str(store.explain(CacheKey("k", "")))
        assert "No space" in str(store.trouble())
        assert store.trouble() is None
        with pytest.raises(OSError, match="No space"):
            store.save("l", [1])
    store.save("k", [1])  # at once, since the last commit failed
    assert CacheStore(folder).get("k") == [1]
    assert store.trouble() is None
    store.close()


def test_the_interpreter_ends(folder: Path) -> None:
    """A script that saves and ends without closing anything loses nothing."""
    text = (
        f"import sys; sys.path.insert(0, {ROOT!r})\n"
        "from nbflow.cache import CacheStore\n"
        f"store = CacheStore({str(folder)!r})\n"
        "for n in range(20): store.save(f'k{n}', [n])\n"
    )
    subprocess.run([sys.executable, "-c", text], check=True)
    store = CacheStore(folder)
    assert [store.get(f"k{n}") for n in range(20)] == [[n] for n in range(20)]
    store.close()


def test_another_format_is_said_at_once(folder: Path) -> None:
    """A folder of another format is not found out by a thread, but by the save."""
    folder.mkdir(parents=True)
    (folder / "FORMAT").write_text("nbflow cache 1\n")
    with pytest.raises(CacheError, match="format 'nbflow cache 1'"):
        CacheStore(folder).save("k", 1)
