"""The index: totals that are right, entries that are forgotten at once and removed later."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbflow.cache import database
from nbflow.cache.index import Index, Row
from nbflow.cache.memory import EntryInfo
from nbflow.cache.parts import KeyPart


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """An empty index."""
    return Index(str(tmp_path / "index.sqlite3"))


def row(key: str, *, task: str = "f", cost: float = 1.0, size: int = 100, file: str | None = None, n: int = 0) -> Row:
    """Make an entry."""
    parts = (KeyPart("code", task, "1", "", "cell 1"), KeyPart("argument", "n", str(n), str(n)))
    return Row(EntryInfo(key, task, "cell 1", 1.0, 1.0, cost, size, None, parts), b"seal of " + key.encode(), file)


def counts(index: Index) -> dict[str, int]:
    """Return how many rows each table has."""
    return {table: index._ask(f"SELECT count(*) FROM {table}")[0][0] for table in ("live", "rows", "kinds", "gone")}


def test_entries_of_the_same_code_share_what_they_have_in_common(index: Index) -> None:
    """Task, cell and parts of the code are stored once; an entry has all of them when it is asked for."""
    index.write([row(f"k{n}", n=n) for n in range(50)])
    index.write([row("other", task="g")])
    assert counts(index) == {"live": 51, "rows": 51, "kinds": 2, "gone": 0}
    found = index.info("k7")
    assert found is not None
    assert found.parts == row("k7", n=7).info.parts
    assert [entry.key for entry in index.entries("g")] == ["other"]
    index.close()


def test_the_last_one_under_a_key_counts(index: Index) -> None:
    """A key that is written twice, in one commit or in two, is one entry with the newer result."""
    total, orphans = index.write([row("k", file="a" * 32), row("k", file="b" * 32, size=50)])
    assert (total, orphans) == (50, [])
    total, orphans = index.write([row("k", size=10)])
    assert (total, orphans) == (10, ["b" * 32])
    assert index.totals()[:2] == (1, 10)
    assert counts(index)["rows"] == 1
    index.close()


def test_forgotten_entries_are_removed_by_later_writes(index: Index) -> None:
    """Eviction forgets at once, and the rows go with the writes that follow."""
    rng = random.Random(4)
    index.write([row(f"k{n}", cost=rng.random(), n=n) for n in range(1000)])
    count, _ = index.evict(50_000, 0.0, 2.0)
    assert count == 500
    assert index.totals() == (500, 50_000, 2.0)
    assert counts(index) == {"live": 500, "rows": 1000, "kinds": 1, "gone": 500}
    left = {entry.key for entry in index.entries()}
    assert len(left) == 500
    assert all((index.find(f"k{n}") is not None) == (f"k{n}" in left) for n in range(1000))
    for number in range(3):
        index.write([row(f"new{number}")])
    assert counts(index) == {"live": 503, "rows": 503, "kinds": 1, "gone": 0}
    assert {entry.key for entry in index.entries()} == left | {"new0", "new1", "new2"}
    index.close()


@pytest.mark.parametrize("kind", ["even", "uneven", "few priorities", "pinned", "one large"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_those_worth_least_go_and_no_more(index: Index, kind: str, share: float) -> None:
    """Whatever sizes and priorities are like, eviction takes in order of priority and last use, until the rest fits."""
    rng = random.Random(len(kind))
    sizes = {"even": lambda: 100, "uneven": lambda: int(rng.paretovariate(0.7))}
    costs = [rng.choice((0.0, 1.0)) if kind == "few priorities" else rng.random() for _ in range(3000)]
    rows = [row(f"k{n}", cost=cost, size=sizes.get(kind, sizes["even"])()) for n, cost in enumerate(costs)]
    for entry, used in zip(rows, rng.sample(range(3000), 3000), strict=True):
        entry.info.last_used = float(used)
    if kind == "one large":
        rows[7].info.size_bytes = 10_000_000
    index.write(rows)
    for n in range(0, 3000 if kind == "pinned" else 0, 2):
        index.pin(f"k{n}", True)
    total = index.totals()[1]
    wanted = set()
    excess = total - int(total * share)
    for key, size in index._ask(
        "SELECT key, size FROM live JOIN rows USING (n) WHERE pinned = 0 ORDER BY priority, used"
    ):
        if excess > 0:
            wanted.add(key)
            excess -= size
    assert index.evict(int(total * share), 0.0, 2.0)[0] == len(wanted)
    assert {entry.key for entry in index.entries()} == {f"k{n}" for n in range(3000)} - wanted
    index.close()


def test_a_forgotten_entry_can_come_back(index: Index) -> None:
    """A key that was deleted and is written again is found, and stays when the old row is removed."""
    index.write([row("k"), row("l")])
    assert index.delete(["k"]) == (1, [])
    assert index.find("k") is None
    index.write([row("k", size=7)])
    index.reclaim()
    assert (index.find("k") or (None,))[0] == b"seal of k"
    assert index.totals()[:2] == (2, 107)
    assert index.clear() == (2, [])
    assert counts(index) == {"live": 0, "rows": 0, "kinds": 0, "gone": 0}
    index.close()


def test_a_file_that_two_entries_share_goes_with_the_last(index: Index) -> None:
    """Only what nothing refers to any more is told to be removed."""
    index.write([row("a", file="f" * 32), row("b", file="f" * 32)])
    assert index.delete(["a"]) == (1, [])
    assert index.used_files() == {"f" * 32}
    assert index.delete(["b"]) == (1, ["f" * 32])
    index.close()


def test_a_failed_write_changes_nothing(index: Index) -> None:
    """All rows of a commit, or none."""
    index.write([row("a")])
    bad = row("c")._replace(seal=object())  # type: ignore[arg-type]
    with pytest.raises(sqlite3.Error):
        index.write([row("b"), bad])
    assert [entry.key for entry in index.entries()] == ["a"]
    assert index.totals()[:2] == (1, 100)
    index.close()


def test_a_miss_asks_what_was_evicted_only_where_anything_was(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean-up that finds nothing to do, as the first one of each process, leaves later misses as cheap as before."""
    index.write([row("k"), row("old", cost=0.0)])
    assert index.evict(1000, 0.0, 2.0) == (0, [])
    with monkeypatch.context() as patch:
        patch.setattr(index, "_ask", lambda *question: pytest.fail(f"asked {question}"))
        assert index.evicted("nothing") is None
    assert index.evict(100, 0.0, 3.0) == (1, [])
    assert (index.evicted("old"), index.evicted("k")) == (3.0, None)
    index.close()


def test_an_index_that_nobody_has_any_more_closes_its_connections(tmp_path: Path) -> None:
    """Who drops a store without closing it gets no complaints of Python about open databases."""
    index = Index(str(tmp_path / "dropped.sqlite3"))
    connection = index.connect(create=True)
    assert connection is not None
    del index
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


class Refusing:
    """SQLite that finds somebody else at work, so often."""

    OperationalError = sqlite3.OperationalError

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)

    def connect(self, *args: Any, **options: Any) -> sqlite3.Connection:
        if self.codes:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = self.codes.pop()
            raise error
        return sqlite3.connect(*args, **options)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Refusing]:
    """What makes SQLite refuse."""

    def refuse(*codes: int) -> Refusing:
        library = Refusing(*codes)
        monkeypatch.setattr(database, "_sqlite", lambda: library)
        monkeypatch.setattr(database, "_PAUSE_S", 0.0)
        return library

    return refuse


def test_a_database_that_others_are_making_is_waited_for(index: Index, refusing: Callable[..., Refusing]) -> None:
    """SQLite gives up at once where two processes make a database; what is to be stored is stored all the same."""
    library = refusing(5, 261, 6)  # busy, busy with recovery, locked
    index.write([row("k")])
    assert not library.codes
    assert index.totals()[0] == 1
    index.close()


@pytest.mark.parametrize("codes", [[5] * 100_000, [14]], ids=["locked for good", "another fault"])
def test_nobody_waits_for_ever(
    index: Index, refusing: Callable[..., Refusing], monkeypatch: pytest.MonkeyPatch, codes: list[int]
) -> None:
    """What stays locked is a fault in the end, and what is no matter of waiting is one at once."""
    monkeypatch.setattr(database, "_BUSY_S", 0.01)
    library = refusing(*codes)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        index.write([row("k")])
    assert len(library.codes) < len(codes)
    assert bool(library.codes) is (len(codes) > 1)
