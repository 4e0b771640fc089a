"""The store: hits, expiry, budgets, sharing, restarts, and words for a miss."""

from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nbflow.cache import CACHE_MISS, CacheKey, CacheStore, FunctionKeyer, KeyPart
from nbflow.errors import CacheError

ROOT = str(Path(__file__).parents[2])


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(params=["memory", "disk"])
def any_store(request: pytest.FixtureRequest, folder: Path) -> Any:
    """A store of each kind."""
    store = CacheStore(folder if request.param == "disk" else None)
    yield store
    store.close()


def key(digest: str, task: str = "f", **parts: Any) -> CacheKey:
    """Make a key with parts."""
    return CacheKey(
        digest, task, "disk", tuple(KeyPart("argument", name, str(value), str(value)) for name, value in parts.items())
    )


VALUES = [
    None,
    False,
    0,
    "",
    "text",
    1.5,
    [1, [2]],
    {"a": {1}},
    (1, [2]),
    np.arange(5),
    np.arange(100_000.0),
    pd.DataFrame({"a": range(9999), "b": "x"}),
    b"x" * 100_000,
    "ü" * 50_000,
]


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_what_goes_in_comes_out(any_store: CacheStore, number: int) -> None:
    """Any result, None and large ones included, is found again with its cost; by another store on the folder too."""
    value = VALUES[number]
    saved = any_store.save("k", value, cost_s=1.5)
    stores = [any_store] if any_store.location is None else [any_store, CacheStore(any_store.location)]
    for store in stores:
        for _ in range(2):
            found = store.fetch("k")
            assert found is not None
            assert found.saved_s == 1.5
            assert found.key == "k"
            assert type(found.value) is type(value)
            assert pickle.dumps(found.value) == pickle.dumps(pickle.loads(pickle.dumps(value)))
        store.close()
    assert saved.persisted == (any_store.location is not None)
    assert len(saved.digest) == 32


def test_a_miss_is_a_miss(any_store: CacheStore) -> None:
    """Nothing stored: None, CACHE_MISS, false, and nothing on disk."""
    assert any_store.fetch("a") is None
    assert any_store.peek("a") is None
    assert any_store.get("a") is CACHE_MISS
    assert not CACHE_MISS
    assert pickle.loads(pickle.dumps(CACHE_MISS)) is CACHE_MISS
    assert not any_store.contains("a")
    assert list(any_store.entries()) == []
    assert not any_store.invalidate("a")
    assert any_store.location is None or not os.path.exists(any_store.location)


def test_hits_share_nothing_that_can_change(any_store: CacheStore) -> None:
    """What one caller does to a hit, or to the value it stored, is not seen by the next; arrays can be written to."""
    original = {"list": [1], "small": np.zeros(3), "large": np.zeros(50_000)}
    any_store.save("k", original)
    original["list"].append(2)  # type: ignore[attr-defined]
    original["large"][0] = 5
    for _ in range(3):
        found = any_store.fetch("k")
        assert found is not None
        assert found.value["list"] == [1]
        assert found.value["large"][0] == 0
        assert found.value["small"][0] == 0
        found.value["list"].append(3)
        found.value["large"][0] = 7
        found.value["small"][0] = 7
    text = ("a", 1, frozenset({2}))
    any_store.save("t", text)
    assert any_store.fetch("t").value is any_store.fetch("t").value  # type: ignore[union-attr]


def test_expiry(folder: Path) -> None:
    """An entry is too old when its age exceeds the limit of the call, else its own, else the store's."""
    clock = Clock()
    for location in (None, folder):
        store = CacheStore(location, ttl=100, clock=clock)
        store.save("own", 1, ttl=10)
        store.save("store", 1)
        clock.now += 10
        assert store.fetch("own")
        assert store.fetch("store")
        assert store.peek("own")
        assert store.fetch("store", ttl=5) is None
        assert store.peek("store", 5) is None
        clock.now += 1
        assert store.fetch("own") is None
        assert store.peek("own") is None
        assert store.fetch("own", ttl=50)
        clock.now += 90
        assert store.fetch("store") is None
        assert store.peek("store") is None
        store.put("zero", 1, ttl=0)
        assert store.fetch("zero")
        clock.now += 0.001
        assert store.fetch("zero") is None
        store.close()
    fresh = CacheStore(folder, clock=clock)
    assert fresh.fetch("own") is None
    assert fresh.explain(CacheKey("own", "")) == "expired (ttl 10 s)"
    fresh.close()


def test_session_keys_stay_in_memory(store: CacheStore, folder: Path) -> None:
    """A session-scoped result never reaches the disk, and is found as long as the store lives."""
    session = CacheKey("s", "f", "session")
    assert not store.save(session, [1]).persisted
    assert not folder.exists()
    assert store.fetch(session).value == [1]  # type: ignore[union-attr]
    assert [info.tier for info in store.entries()] == ["memory"]
    assert CacheStore(folder).fetch(session) is None


def test_the_folder_and_its_marks(folder: Path, tmp_path: Path) -> None:
    """The home is private, ignored by git and by backups, and made by the first save; so is the key file."""
    store = CacheStore(folder)
    assert not folder.parent.exists()
    store.put("a", 1)
    for place in (folder, folder.parent):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert (place / ".gitignore").read_text() == "*\n"
        assert (place / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    secret = Path(os.environ["NBFLOW_KEY_FILE"])
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert len(secret.read_bytes()) == 32
    store.close()
    results = tmp_path / "results" / "cache"
    other = CacheStore(results)
    other.put("a", 1)
    other.close()
    assert not (tmp_path / "results" / ".gitignore").exists()


def test_another_format_is_left_alone(folder: Path) -> None:
    """A folder of a newer version is not read, not written and not destroyed; managing it says so."""
    folder.mkdir(parents=True)
    (folder / "FORMAT").write_text("nbflow cache 99\n")
    (folder / "index.sqlite3").write_bytes(b"other")
    store = CacheStore(folder)
    assert store.fetch("a") is None
    for manage in (
        lambda: store.save("a", 1),
        store.stats,
        store.clear,
        lambda: list(store.entries()),
        lambda: store.invalidate("a"),
        store.prune,
    ):
        with pytest.raises(CacheError, match="format 'nbflow cache 99'"):
            manage()
    assert (folder / "index.sqlite3").read_bytes() == b"other"
    assert sorted(os.listdir(folder)) == ["FORMAT", "index.sqlite3"]


def test_entries_stats_and_management(store: CacheStore) -> None:
    """Entries tell task, cell, cost, size, parts and uses; they can be pinned, invalidated and cleared by task."""
    parts = (KeyPart("code", "f", "1", "", "cell 4"), KeyPart("argument", "x", "2", "5"))
    store.save(CacheKey("a", "f", parts=parts), [1], cost_s=2.0, ttl=60, cell="cell 4")
    store.save(CacheKey("b", "g"), np.zeros(10_000))
    store.save(CacheKey("c", "g"), 3)
    (info,) = store.entries("f")
    assert (info.key, info.task, info.cell, info.cost_s, info.ttl, info.parts) == ("a", "f", "cell 4", 2.0, 60, parts)
    stats = store.stats()
    assert stats["entries"] == 3
    assert stats["bytes"] == sum(info.size_bytes for info in store.entries()) > 80_000
    assert store.pin("b")
    assert not store.pin("zzz")
    assert [info.key for info in store.entries() if info.pinned] == ["b"]
    assert store.invalidate("a")
    assert store.fetch("a") is None
    assert list(store.entries("f")) == []
    assert store.clear("g") == 2
    assert store.fetch("b") is None
    store.save("d", 1)
    assert store.clear() == 1
    assert store.stats()["entries"] == store.stats()["bytes"] == 0
    assert not list(Path(store.location or "").glob("blobs/*/*"))


def test_equal_results_are_one_file(store: CacheStore, folder: Path) -> None:
    """Two keys with the same large result share a file, which lives as long as one of them."""
    one, other = store.save("a", np.ones(50_000)), store.save("b", np.ones(50_000))
    assert one.digest == other.digest != store.save("c", np.zeros(50_000)).digest
    assert len(list(folder.glob("blobs/*/*"))) == 2
    store.invalidate("a")
    assert CacheStore(folder).get("b")[0] == 1
    store.save("b", 5)
    store.invalidate("c")
    assert list(folder.glob("blobs/*/*")) == []


def test_budget_of_bytes(folder: Path) -> None:
    """The store stays within its budget; what cost much per byte, was pinned or is used a lot stays longest."""
    clock = Clock()
    store = CacheStore(folder, max_bytes=1_000_000, clock=clock, memory_bytes=0)
    store.save("pinned", np.zeros(10_000))
    store.pin("pinned")
    store.save("dear", np.full(10_000, 1.0), cost_s=1000)
    store.save("used", np.full(10_000, 2.0), cost_s=1)
    for number in range(40):
        clock.now += 1
        assert store.fetch("used")
        store.save(f"cheap{number}", np.full(10_000, 3.0 + number), cost_s=1)
        assert store.stats()["bytes"] <= 1_000_000
    kept = {info.key for info in store.entries()}
    assert {"pinned", "dear", "used", "cheap39"} <= kept
    assert len(kept) >= 8
    assert len(list(folder.glob("blobs/*/*"))) == len(kept)
    assert not store.save("huge", np.zeros(1_000_000)).persisted
    assert {info.key for info in store.entries()} == kept
    assert store.prune(200_000) > 0
    assert store.stats()["bytes"] <= 200_000
    store.close()


def test_budget_of_age(folder: Path) -> None:
    """What was not used for longer than the limit goes; what was used stays."""
    clock = Clock()
    store = CacheStore(folder, max_age_s=1000, clock=clock, memory_bytes=0)
    store.save("old", 1)
    store.save("used", 1)
    clock.now += 600
    assert store.fetch("used")
    clock.now += 600
    store.save("new", 1)
    assert {info.key for info in store.entries()} == {"used", "new"}
    store.close()


def test_a_drifting_workload_keeps_more_value_than_lru(folder: Path) -> None:
    """Under the same budget the store saves more seconds than least-recently-used would."""
    rng = np.random.default_rng(7)
    costs = {name: float(cost) for name, cost in enumerate(rng.choice([0.1, 0.5, 20.0], size=60))}
    store = CacheStore(folder, max_bytes=20 * 8600, memory_bytes=0)
    lru: dict[int, None] = {}
    saved = lru_saved = 0.0
    for step in range(1500):
        name = int(rng.integers(0, 30)) + (30 if step > 900 and rng.random() < 0.5 else 0)
        if store.fetch(str(name)):
            saved += costs[name]
        else:
            store.save(str(name), bytes([name]) * 8400, cost_s=costs[name])
        if name in lru:
            lru_saved += costs[name]
            del lru[name]
        lru[name] = None
        while len(lru) > 20:
            del lru[next(iter(lru))]
    assert saved > lru_saved * 1.1
    store.close()


def test_memory_budget(store: CacheStore) -> None:
    """The memory tier drops what was not used for longest, and never holds more than its budget."""
    small = CacheStore(memory_bytes=10_000)
    for number in range(100):
        small.save(str(number), "x" * 900)
        assert small.fetch("0") or number > 50
        assert small.stats()["memory_bytes"] <= 10_000
    assert small.fetch("99")
    assert small.fetch("0")
    assert not small.fetch("50")
    small.save("big", "x" * 20_000)
    assert small.fetch("big") is None


def test_pickles_as_its_address(store: CacheStore) -> None:
    """A store that went through pickle finds the entries of the first."""
    store.put("a", [1])
    other = pickle.loads(pickle.dumps(store))
    assert other.get("a") == [1]
    assert other.location == store.location
    other.close()
    assert pickle.loads(pickle.dumps(CacheStore())).location is None


def test_functions_and_local_classes_as_results(store: CacheStore, folder: Path) -> None:
    """Results that plain pickle cannot name (lambdas, classes made in functions) are stored by value."""

    class Local:
        def __init__(self, n: int) -> None:
            self.n = n

    n = 5
    store.save("f", lambda x: x + n)
    store.save("o", Local(3))
    assert CacheStore(folder).get("f")(1) == 6
    assert CacheStore(folder).get("o").n == 3


def test_a_result_that_cannot_be_stored_raises(any_store: CacheStore) -> None:
    """A lock or a generator cannot be kept: the caller is told, and the old value is not kept in its place."""
    any_store.save("a", [1])
    with pytest.raises(TypeError):
        any_store.save("a", [threading.Lock()])
    with pytest.raises(TypeError):
        any_store.save("b", (n for n in ()))
    assert any_store.fetch("b") is None


def test_threads_share_a_store(store: CacheStore) -> None:
    """Readers and writers in eight threads see whole values of the right key."""
    errors: list[str] = []

    def work(seed: int) -> None:
        for step in range(60):
            number = (seed * 7 + step) % 20
            found = store.fetch(f"k{number}")
            if found is not None and not (found.value == number).all():
                errors.append(f"{number}: {found.value}")
            store.save(f"k{number}", np.full(6000 if number % 2 else 10, number))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.stats()["entries"] == 20


PROCESS = """
import sys; sys.path.insert(0, {root!r})
import numpy as np
from nbflow.cache import CacheStore
store = CacheStore({folder!r})
bad = 0
for step in range(150):
    n = (step * 7 + {seed}) % 10
    found = store.fetch(f"k{{n}}")
    if found is not None and not (found.value == n).all(): bad += 1
    store.save(f"k{{n}}", np.full(8000 if n % 2 else 10, n))
store.close()
print(bad, store._misses)
"""


def test_processes_share_a_store(folder: Path) -> None:
    """Three processes that read and write the same keys see whole values only."""
    texts = [PROCESS.format(root=ROOT, folder=str(folder), seed=seed) for seed in range(3)]
    running = [subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) for text in texts]
    for process in running:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert out.split()[0] == "0"
    store = CacheStore(folder)
    assert store.stats()["entries"] == 10
    assert store.stats()["quarantined"] == 0
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_use_the_store(store: CacheStore) -> None:
    """A child of fork reads and writes through a connection of its own, and the parent's still works."""
    store.save("a", [1])
    child = os.fork()
    if not child:
        status = 1
        try:
            store._memory.clear()
            assert store.get("a") == [1]
            store.save("b", [2])
            store.flush()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert store.get("b") == [2]
    store.save("c", [3])
    assert json.dumps(sorted(info.key for info in store.entries())) == '["a", "b", "c"]'


# --- words for a miss ---------------------------------------------------------------------------------------------


def test_words_for_a_miss(any_store: CacheStore, notebook: Any) -> None:
    """One edit is named as that edit, with its cell or its values."""
    text = """
CUTOFF = 3
def make(n):
    def f(x, y=1): return clean(x) * CUTOFF + n
    return f
def clean(x): return x
class Model: pass
f = make(1)
"""

    def keyed(x: Any = 1, **options: Any) -> CacheKey:
        return FunctionKeyer(notebook["f"], name="f", **options).key({"x": x})

    notebook.run(text)
    assert any_store.explain(keyed()) == "never run before"
    any_store.save(keyed(), [1])
    edits = {
        "def clean(x): return x\n=>def clean(x): return -x\n": "helper `clean` changed",
        "CUTOFF = 3=>CUTOFF = 5": "global `CUTOFF` 3 → 5",
        "make(1)=>make(2)": "closure `n` 1 → 2",
        "y=1=>y=2": "default `y` 1 → 2",
        "CUTOFF + n=>CUTOFF - n": "code changed",
    }
    for edit, words in edits.items():
        old, new = edit.split("=>")
        assert old in text
        notebook.run(text.replace(old, new))
        assert any_store.explain(keyed()) == words
    notebook.run(text)
    assert any_store.explain(keyed(2)) == "argument `x` 1 → 2"
    assert any_store.explain(keyed([1] * 100)) == "argument `x` 1 → list of 100"
    assert any_store.explain(keyed(version="2")) == "version '2' is new"
    notebook.run(text.replace("CUTOFF = 3", "CUTOFF = 4").replace("make(1)", "make(3)"))
    assert any_store.explain(keyed(9)) == "closure `n` 1 → 3; global `CUTOFF` 3 → 4; argument `x` 1 → 9"


def test_the_nearest_entry_is_compared(any_store: CacheStore) -> None:
    """Of many entries the one with the fewest differences counts, then the most recent; other tasks do not."""
    for number in range(30):
        any_store.save(key(f"{number}", a=number % 5, b=number, c=1), number)
    any_store.save(key("other", "g", a=3, b=99, c=1), 1)
    assert any_store.explain(key("new", a=4, b=29, c=2)) == "argument `c` 1 → 2"
    assert str(any_store.explain(key("new", a=4, b=99, c=1))) == "argument `b` 29 → 99"
    many = CacheKey("n", "f", parts=tuple(KeyPart("argument", name, "new") for name in "abcdef"))
    assert str(any_store.explain(many)).endswith("and 3 more")


def test_a_result_of_a_class_that_is_not_there_yet(
    store: CacheStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart a result may need a class that is only defined later: a miss, and found once it is defined."""
    import __main__

    late = type("Late", (), {"__module__": "__main__", "__qualname__": "Late"})
    monkeypatch.setattr(__main__, "Late", late, raising=False)
    store.save("a", late())
    monkeypatch.delattr(__main__, "Late")
    other = CacheStore(folder)
    assert other.fetch("a") is None
    assert "Late" in str(other.explain(CacheKey("a", "")))
    monkeypatch.setattr(__main__, "Late", late, raising=False)
    assert type(other.get("a")) is late
    other.close()
