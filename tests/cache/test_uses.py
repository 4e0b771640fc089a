"""Uses of processes that only had hits: noted beside the index, and moved into it by whoever changes or lists it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nbflow.cache import CacheStore
from nbflow.cache.uses import Uses

KEY = "0" * 32


def hits(store: CacheStore) -> list[int]:
    return [info.hits for info in store.entries()]


def test_a_process_with_hits_alone_changes_no_index(folder: Path) -> None:
    """Closing after hits commits nothing; the next one to list entries finds the uses of all."""
    with_result = CacheStore(folder)
    with_result.put(KEY, "value")
    with_result.close()
    index = folder / "index.sqlite3"
    before = index.read_bytes()
    for _ in range(2):
        store = CacheStore(folder)
        assert store.get(KEY) == "value"
        store.close()
    assert index.read_bytes() == before
    store = CacheStore(folder)
    assert hits(store) == [2]
    assert hits(store) == [2], "each use counts once"
    store.close()


def test_a_change_takes_the_uses_of_others_with_it(folder: Path) -> None:
    """Whoever writes next moves what waits, and adds its own."""
    store = CacheStore(folder)
    store.put(KEY, "value")
    store.close()
    store = CacheStore(folder)
    assert store.get(KEY) == "value"
    store.close()
    store = CacheStore(folder)
    assert store.get(KEY) == "value"
    store.put("1" * 32, "other")
    store.flush()
    assert not (folder / "index.sqlite3-uses").exists()
    assert sorted(hits(store)) == [0, 2]
    store.close()


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    """A process that is killed while it adds its uses costs nobody else's."""
    uses = Uses(str(tmp_path / "uses"))
    assert uses.take() == {}
    uses.add({7: (2, 10.0)})
    uses.add({7: (1, 5.0), 8: (1, 11.0)})
    with open(tmp_path / "uses", "ab") as stream:
        stream.write(b"torn")
    assert uses.take() == {7: (3, 10.0), 8: (1, 11.0)}
    assert uses.take() == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be deleted there")
def test_a_folder_that_is_gone_is_no_trouble(folder: Path) -> None:
    """A store whose folder was deleted meanwhile can be closed."""
    store = CacheStore(folder)
    store.put(KEY, "value")
    store.close()
    store = CacheStore(folder)
    assert store.get(KEY) == "value"
    shutil.rmtree(folder)
    store.close()
