"""Bundles: written from a store, served as they are, loaded into another store, refused without their key."""

from __future__ import annotations

import os
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbflow import session, task
from nbflow.cache.bundle import load_bundle, write_bundle
from nbflow.cache.keyring import NamedKey, find_key
from nbflow.cache.parts import CacheKey
from nbflow.cache.store import CACHE_MISS, CacheStore
from nbflow.errors import CacheError
from nbflow.settings import load_settings

LARGE = random.Random(7).randbytes(100 * 1024)  # which nothing compresses
NAMES = [f"{number:032x}" for number in range(1, 9)]


def key(name: str, task: str = "f") -> CacheKey:
    return CacheKey(name, task)


@pytest.fixture
def bundle_key(tmp_path: Path) -> NamedKey:
    return find_key(str(tmp_path / "bundle.key"), make=True)


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[CacheStore]:
    """A store with results of two tasks."""
    store = CacheStore(tmp_path / "warm")
    store.save(key(NAMES[0]), [1], cost_s=3.0, cell="cell 2")
    store.save(key(NAMES[1]), LARGE)
    store.save(key(NAMES[2]), LARGE)
    store.save(key(NAMES[3], "g"), "g")
    yield store
    store.close()


def be_somebody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NBFLOW_KEY_FILE", str(tmp_path / "somebody" / "key"))


@pytest.mark.parametrize("name", ["out.zip", "out"])
def test_all_of_it_can_be_loaded(
    warm: CacheStore, bundle_key: NamedKey, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file and as a folder, by another user who has the key."""
    out = tmp_path / name
    done = write_bundle(warm, out, bundle_key)
    assert (done.count, done.skipped) == (4, {})
    be_somebody_else(monkeypatch, tmp_path)
    fresh = CacheStore(tmp_path / "fresh")
    assert load_bundle(fresh, str(out)).skipped == {"refused": 4}
    assert load_bundle(fresh, str(out), [str(bundle_key.path)]).count == 4
    assert load_bundle(fresh, str(out), [str(bundle_key.path)]).skipped == {"there already": 4}
    assert [fresh.get(key(name)) for name in NAMES[:3]] == [[1], LARGE, LARGE]
    (entry,) = [each for each in fresh.entries() if each.key == NAMES[0]]
    assert (entry.cost_s, entry.cell) == (3.0, "cell 2")
    fresh.close()


def test_some_tasks(warm: CacheStore, bundle_key: NamedKey, tmp_path: Path) -> None:
    """Only what was asked for; a task without results is an error, and no file is left."""
    assert write_bundle(warm, tmp_path / "some.zip", bundle_key, ["g"]).count == 1
    with pytest.raises(CacheError, match="No result of 'h' is stored; tasks with results: f, g"):
        write_bundle(warm, tmp_path / "none.zip", bundle_key, ["h"])
    assert sorted(path.name for path in tmp_path.glob("*.zip*")) == ["some.zip"]


def test_equal_bundles_are_equal_files(warm: CacheStore, bundle_key: NamedKey, tmp_path: Path) -> None:
    """So that they can be kept in version control; equal results are in them once."""
    write_bundle(warm, tmp_path / "one.zip", bundle_key)
    write_bundle(warm, tmp_path / "two.zip", bundle_key)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    names = zipfile.ZipFile(tmp_path / "one.zip").namelist()
    assert len([name for name in names if name.startswith("blobs/")]) == 1
    assert len(names) == 5


def test_memory_has_nothing_to_bundle(bundle_key: NamedKey, tmp_path: Path) -> None:
    """A cache without a folder is an error that says so."""
    with pytest.raises(CacheError, match="in memory only"):
        write_bundle(CacheStore(), tmp_path / "x.zip", bundle_key)
    store = CacheStore(tmp_path / "c")
    with pytest.raises(CacheError, match="There is no result to bundle"):
        write_bundle(store, tmp_path / "x.zip", bundle_key)
    with pytest.raises(CacheError, match="There is no bundle"):
        load_bundle(store, str(tmp_path / "missing.zip"))
    (tmp_path / "bad.zip").write_bytes(b"no zip at all")
    with pytest.raises(CacheError, match="cannot be read"):
        load_bundle(store, str(tmp_path / "bad.zip"))
    store.close()


class Trap:
    """Opening this writes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def altered(path: Path, find: bytes, by: bytes) -> None:
    """Rewrite the members of a zip with some bytes changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert any(find in data for data in members.values())
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data.replace(find, by))


def test_an_altered_bundle_is_never_unpickled(
    bundle_key: NamedKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as it is without the key, nor with the key but changed."""
    trap = tmp_path / "sprung"
    source = CacheStore(tmp_path / "source")
    source.save(key(NAMES[0]), (Trap(tmp_path / "other!"), b"small"))
    source.save(key(NAMES[1]), (Trap(tmp_path / "other!"), LARGE))
    write_bundle(source, tmp_path / "b.zip", bundle_key)
    source.close()
    be_somebody_else(monkeypatch, tmp_path)
    altered(tmp_path / "b.zip", b"other!", b"sprung")
    for number, trust in enumerate([[], [str(bundle_key.path)]]):
        settings = load_settings(cache_trust=trust)
        with session(
            cache_store=tmp_path / f"c{number}", cache_shared=tmp_path / "b.zip", settings=settings
        ) as context:
            if not trust:
                with pytest.warns(RuntimeWarning, match="that you do not trust"):
                    assert context.cache_store.get(key(NAMES[0])) is CACHE_MISS
            assert [context.cache_store.get(key(name)) for name in NAMES[:2]] == [CACHE_MISS] * 2
            facts = context.cache_store.stats()["shared"]
            assert facts["damaged" if trust else "refused"] >= 2
        store = CacheStore(tmp_path / f"d{number}")
        assert load_bundle(store, str(tmp_path / "b.zip"), trust).count == 0
        store.close()
    assert not trap.exists()
    assert not (tmp_path / "other!").exists()


RUNS: list[int] = []


@task(cache=True, ignore=(), depends=())
def squared(x: int) -> int:
    note(x)
    return x * x


def note(x: int) -> None:
    RUNS.append(x)


def test_a_session_serves_from_a_bundle(bundle_key: NamedKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh home computes nothing; what the bundle lacks is computed, and nothing is sent to it."""
    with session(cache_store=tmp_path / "mine") as context:
        squared(3)
        context.cache_store.close()
        write_bundle(context.cache_store, tmp_path / "b.zip", bundle_key)
    before = (tmp_path / "b.zip").read_bytes()
    be_somebody_else(monkeypatch, tmp_path)
    RUNS.clear()
    settings = load_settings(cache_trust=[str(bundle_key.path)], cache_shared=str(tmp_path / "b.zip"))
    with session(cache_store=tmp_path / "theirs", settings=settings) as context:
        assert [squared(3), squared(4)] == [9, 16]
        assert [call.cached for call in context.records] == [True, False]
        assert context.cache_store.stats()["shared"]["readonly"] is True
    assert RUNS == [4]
    assert (tmp_path / "b.zip").read_bytes() == before
