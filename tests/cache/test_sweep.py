"""Removing results from a shared place: by age, by size, what nothing leads to, and never anybody else's files."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbflow.cache.keyring import make_key
from nbflow.cache.parts import CacheKey
from nbflow.cache.shared import SharedTier
from nbflow.cache.store import CACHE_MISS, CacheStore
from nbflow.cache.sweep import Swept
from nbflow.errors import CacheError
from nbflow.testing import FakeClock

LARGE = random.Random(7).randbytes(100 * 1024)  # which nothing compresses
DAY = 86400.0


def key(number: int) -> CacheKey:
    return CacheKey(f"{number:032x}", "f")


class Place:
    """A shared place, a clock, and stores that use both."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.clock = FakeClock(wall=time.time())
        self.stores: list[CacheStore] = []

    def store(self, name: str, **options: Any) -> CacheStore:
        shared = SharedTier(self.url, key="team", delays_s=(), clock=self.clock, flush_s=60.0, **options)
        self.stores.append(CacheStore(self.folder / name, shared=shared, clock=self.clock))
        return self.stores[-1]

    def tier(self, **options: Any) -> SharedTier:
        shared = self.store(f"t{len(self.stores)}", **options).shared
        assert isinstance(shared, SharedTier)
        return shared

    def fill(self, *values: Any, ttl: float | None = None) -> None:
        """Share these results, a day apart: the first one is the oldest."""
        store = self.store(f"w{len(self.stores)}")
        for number, value in enumerate(values, 1):
            store.save(key(number), value, cost_s=1.0, ttl=ttl)
            self.clock.advance(DAY)
        store.close()

    def found(self, count: int) -> list[int]:
        """Return the numbers of the results that somebody with an empty cache still finds."""
        store = self.store(f"r{len(self.stores)}")
        return [number for number in range(1, count + 1) if store.get(key(number)) is not CACHE_MISS]


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    make_key("team")
    place = Place(tmp_path, str(tmp_path / "shared") if request.param == "folder" else f"memory://{tmp_path.name}")
    yield place
    for store in place.stores:
        store.close()


def test_by_age(place: Place) -> None:
    """What was computed too long ago goes with its blob; a dry run says the same and removes nothing."""
    place.fill(LARGE, "two", LARGE[::-1], "four")
    planned = place.tier().prune(older_s=2.5 * DAY, dry_run=True)
    assert place.found(4) == [1, 2, 3, 4]
    done = place.tier().prune(older_s=2.5 * DAY)
    assert done == planned
    assert (done.removed, done.left) == (2, 2)
    assert len(LARGE) < done.removed_bytes < len(LARGE) + 2000
    assert len(LARGE) < done.left_bytes < len(LARGE) + 2000
    assert place.found(4) == [3, 4]
    assert place.tier().prune(older_s=2.5 * DAY) == Swept(0, 0, 2, done.left_bytes)


def test_by_size(place: Place) -> None:
    """The oldest go until the rest fits; a blob stays, and counts once, as long as one result needs it."""
    place.fill(LARGE, "two", LARGE, LARGE[::-1])
    whole = place.tier().prune()
    assert whole.removed == 0
    assert 2 * len(LARGE) < whole.left_bytes < 2 * len(LARGE) + 4000
    few = place.tier().prune(whole.left_bytes - 1)
    assert (few.removed, few.left) == (1, 3)
    assert few.removed_bytes < 2000
    assert place.found(4) == [2, 3, 4]
    half = place.tier().prune(150_000)
    assert (half.removed, half.left) == (2, 1)
    assert half.left_bytes <= 150_000
    assert place.found(4) == [4]
    assert place.tier().prune(0)[2:] == (0, 0)
    assert place.found(4) == []


def test_a_limit_of_its_own(place: Place) -> None:
    """A result past its own limit goes without being asked for."""
    place.fill("one", "two", "three", ttl=1.5 * DAY)
    assert place.tier().prune().removed == 2
    assert place.found(3) == [3]


def test_a_result_that_went_is_computed_and_sent_again(place: Place) -> None:
    """Removing costs time and nothing else: the writer sends it anew, blob and all."""
    place.fill(LARGE)
    place.tier().prune(0)
    assert place.found(1) == []
    place.fill(LARGE)
    assert place.found(1) == [1]


def test_only_our_files(tmp_path: Path) -> None:
    """What somebody else put there stays, whatever its name; what killed writers left goes after a day."""
    make_key("team")
    place = Place(tmp_path, str(tmp_path / "shared"))
    place.fill("one")
    root = tmp_path / "shared"
    theirs = ["data.csv", "keys/notes.txt", f"keys/ab/{'0' * 30}", f"blobs/{'a' * 16}/readme", "keys/ab/.hidden"]
    lost = [
        f"blobs/{'a' * 16}/ab/{'1' * 30}",
        "keys/ab/.0123456789abcdef.nbflow-tmp",
        f"blobs/{'a' * 16}/ab/.nbflow-x1",
    ]
    for name in theirs + lost:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * 10)
    young = f"blobs/{'a' * 16}/ab/{'2' * 30}"
    (root / young).write_bytes(b"being sent")
    for name in theirs + lost:
        os.utime(root / name, (0, 0))
    done = place.tier().prune(0)
    left = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    assert left == sorted([*theirs, young])
    assert (done.removed, done.left, done.left_bytes) == (1, 0, len(b"being sent"))
    for store in place.stores:
        store.close()


def test_what_is_only_read_stays(place: Place) -> None:
    """A tier that may not write says so and how to go on; it may still look."""
    place.fill("one")
    tier = place.tier(readonly=True)
    assert tier.prune(0, dry_run=True).removed == 1
    with pytest.raises(CacheError, match="cache_shared_readonly"):
        tier.prune(0)
    assert place.found(1) == [1]


def test_what_cannot_be_removed_is_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told of room that was not made."""
    place.fill("one")

    def refuse(self: object, name: str) -> None:
        raise PermissionError(f"{name} is not yours")

    monkeypatch.setattr("nbflow.cache.remote.Place.remove", refuse)
    with pytest.raises(CacheError, match=r"could not be pruned: .*is not yours"):
        place.tier().prune(0)
