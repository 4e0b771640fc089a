"""Results of calls that read files: what leads to them is kept with them, and is told from them."""

from __future__ import annotations

from pathlib import Path

from nbflow.cache import CacheKey, CacheStore, KeyPart
from nbflow.cache.bundle import load_bundle, write_bundle
from nbflow.cache.filestate import state_of
from nbflow.cache.keyring import make_key
from nbflow.cache.trace import fetch, save

KEY = CacheKey("ab" * 16, "load", "disk", (KeyPart("code", "load", "00" * 16),))


def filled(folder: Path, file: Path) -> CacheStore:
    """Return a store with a result that a file was read for, and one without."""
    file.write_text("1", encoding="utf-8")
    store = CacheStore(folder)
    save(store, KEY, {str(file): state_of(str(file))}, [1, 2], cost_s=2.0)
    store.save(CacheKey("cd" * 16, "other", "disk", KEY.parts), 3, cost_s=1.0)
    return store


def test_a_result_is_listed_and_counted_once(folder: Path, tmp_path: Path) -> None:
    """With its cost; what leads to it is told on demand. In a later process too."""
    store = filled(folder, tmp_path / "data")
    for _ in range(2):
        assert sorted(info.task for info in store.entries()) == ["load", "other"]
        assert sum(info.cost_s for info in store.entries()) == 3.0
        assert [info.leads for info in store.entries("load")] == [False]
        assert [info.leads for info in store.entries("load", leads=True)] == [False, True]
        assert store.stats()["entries"] == 2
        store.close()
        store = CacheStore(folder)
    store.close()


def test_in_memory_too(tmp_path: Path) -> None:
    """Where there is no disk."""
    file = tmp_path / "data"
    file.write_text("1", encoding="utf-8")
    store = CacheStore()
    save(store, KEY, {str(file): state_of(str(file))}, [1, 2])
    assert [info.leads for info in store.entries()] == [False]
    assert store.stats()["entries"] == 1
    assert len(list(store.entries(leads=True))) == 2


def test_why_compares_with_results_only(folder: Path, tmp_path: Path) -> None:
    """Many results of one task leave room for each other among the entries that are compared."""
    store = filled(folder, tmp_path / "data")
    store.close()
    store = CacheStore(folder)
    assert store.disk is not None
    assert [info.leads for info in store.disk.index.related("load", KEY.parts)] == [False]
    store.close()


def test_what_leads_to_a_result_goes_where_it_goes(folder: Path, tmp_path: Path) -> None:
    """Into bundles; and it is verified, and cleared with its task."""
    store = filled(folder, tmp_path / "data")
    key = make_key("bundle")
    assert write_bundle(store, tmp_path / "out.zip", key).count == 3
    other = CacheStore(tmp_path / "other")
    assert load_bundle(other, str(tmp_path / "out.zip"), [str(key.path)]).count == 3
    _, found = fetch(other, KEY)
    assert found is not None
    assert found.value == [1, 2]
    assert other.stats()["entries"] == 2
    other.close()
    assert store.verify() == []
    assert store.clear("load") == 2
    assert fetch(store, KEY)[1] is None
    assert not list(store.entries("load", leads=True))
    store.close()
