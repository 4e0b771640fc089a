"""What a session's store offers for its upkeep: verify, prune by age, pin, and the counts of each tier."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from nbflow.cache.parts import CacheKey
from nbflow.cache.shared import SharedTier
from nbflow.cache.store import CACHE_MISS, CacheStore
from nbflow.testing import FakeClock

LARGE = random.Random(7).randbytes(100 * 1024)  # which nothing compresses
DAY = 86400.0


def key(name: str) -> CacheKey:
    return CacheKey(name, "f")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def filled(folder: Path, clock: FakeClock) -> Iterator[CacheStore]:
    """A store with a small and two large results."""
    store = CacheStore(folder, clock=clock)
    store.save(key("small"), [1])
    store.save(key("large"), numpy.frombuffer(LARGE, "u1"))
    store.save(key("other"), LARGE[1:])
    store.close()
    yield store
    store.close()


def blobs(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "blobs").rglob("*") if path.is_file())


def test_verify_reads_to_the_last_byte(filled: CacheStore, folder: Path) -> None:
    """A changed byte deep inside is found, though this process has seen the file sound; the entry is set aside."""
    assert filled.verify() == []
    assert filled.get(key("large")).tobytes() == LARGE
    path = next(path for path in blobs(folder) if path.read_bytes().endswith(LARGE))
    stamp = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as stream:
        stream.seek(-100, 2)
        stream.write(b"!")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    ((entry, fault),) = filled.verify()
    assert entry.key == "large"
    assert "changed" in fault
    assert filled.verify() == []
    assert filled.stats()["entries"] == 2
    assert filled.stats()["quarantined"] == 1


def test_verify_needs_no_class(folder: Path, filled: CacheStore) -> None:
    """Nothing is unpickled, so a result whose class is not there is as sound as any."""
    local = type("Gone", (), {"__module__": "nowhere", "__reduce__": lambda self: (print, ("opened",))})
    filled.save(key("odd"), [local()])
    assert filled.verify() == []
    assert CacheStore().verify() == []


def test_prune_by_age(filled: CacheStore, clock: FakeClock) -> None:
    """What was not used for so long goes, but for pinned entries."""
    clock.advance(3 * DAY)
    again = CacheStore(filled.location, clock=clock)
    assert again.fetch(key("small")) is not None
    assert again.pin("other")
    again.close()
    clock.advance(DAY)
    assert again.prune(unused_s=7 * DAY) == 0
    assert again.prune(unused_s=2 * DAY) == 1
    assert {entry.key for entry in again.entries()} == {"small", "other"}
    assert again.get(key("large")) is CACHE_MISS
    again.close()


def test_stats_of_each_tier(folder: Path, tmp_path: Path) -> None:
    """Memory, disk and what is behind it."""
    store = CacheStore(folder, shared=SharedTier(str(tmp_path / "shared")))
    store.save(key("0" * 32), LARGE)
    store.close()
    facts = store.stats()
    assert facts["entries"] == 1
    assert facts["bytes"] >= len(LARGE)
    assert facts["shared"]["sent"] == 1
    assert CacheStore().stats()["shared"] is None


def test_an_evicted_entry_says_so(folder: Path, clock: FakeClock) -> None:
    """A miss of what had to go names the reason, in a later session too, until there is a result again."""
    store = CacheStore(folder, clock=clock)
    store.save(key("large"), LARGE)
    store.save(key("dear"), [1], cost_s=1e6)
    assert store.prune(50_000) == 1
    store.close()
    clock.advance(3600)
    store = CacheStore(folder, clock=clock)
    assert store.get(key("large")) is CACHE_MISS
    assert store.explain(key("large")) == "evicted 1 h ago, to keep the store within its budgets of size and age"
    assert store.explain(key("dear")) is None or "evicted" not in str(store.explain(key("dear")))
    store.save(key("large"), LARGE)
    assert store.invalidate(key("large"))
    assert "evicted" not in str(store.explain(key("large")))
    assert store.prune(0) == 1
    assert "evicted" in str(store.explain(key("dear")))
    assert store.clear() == 0
    assert "evicted" not in str(store.explain(key("dear")))
    store.close()
