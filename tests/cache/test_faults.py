"""Damage: whatever happens to the folder, a read is right or a miss, and a failed write is said."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbflow.cache import CacheKey, CacheStore, trust
from nbflow.cache.blob import Packed, front_of, pieces
from nbflow.cache.seal import HEAD, Record, seal
from nbflow.errors import CacheError

ROOT = str(Path(__file__).parents[2])
SMALL: Any = {"a": [1, 2, 3], "b": np.arange(500.0)}
LARGE: Any = np.arange(20_000.0)


@pytest.fixture
def filled(folder: Path) -> Path:
    """A closed store with a small and a large result."""
    store = CacheStore(folder)
    store.save("small", SMALL)
    store.save("large", LARGE)
    store.close()
    return folder


def blob(folder: Path) -> Path:
    """Return the one file of a store."""
    (path,) = folder.glob("blobs/*/*")
    return path


def check(folder: Path, *, small: bool | None = None, large: bool | None = None) -> CacheStore:
    """Read both results in a store of its own; each must be right or missing, as said where that is known."""
    store = CacheStore(folder)
    for name, value, there in (("small", SMALL, small), ("large", LARGE, large)):
        found = store.fetch(name)
        if there is not None:
            assert (found is not None) == there, name
        if found is not None:
            assert pickle.dumps(found.value) == pickle.dumps(value)
    return store


def heal(store: CacheStore) -> None:
    """Store both again, and find them."""
    store.save("small", SMALL)
    store.save("large", LARGE)
    store.close()
    check(Path(store.location or ""), small=True, large=True).close()


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 24, 100, 200, 5000, -1])
def test_a_torn_file(filled: Path, keep: int) -> None:
    """A file that was cut off anywhere is a miss that goes to the quarantine, and the next save heals it."""
    path = blob(filled)
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    store = check(filled, small=True, large=False)
    assert store.stats()["quarantined"] == 1
    assert not path.exists()
    assert "set aside" in str(store.explain(CacheKey("large", "")))
    heal(store)


def test_every_flipped_bit_of_a_file_is_noticed(filled: Path) -> None:
    """A bit flipped in the front, the head or the data never gives a wrong value."""
    path = blob(filled)
    data = path.read_bytes()
    places = [*range(0, 400, 3), *random.Random(1).sample(range(400, len(data)), 60), len(data) - 1]
    noticed = kept = 0
    for place in places:
        broken = bytearray(data)
        broken[place] ^= 1 << (place % 8)
        path.write_bytes(broken)
        store = check(filled, small=True)
        noticed += store.stats()["quarantined"] > kept
        kept = min(store.stats()["quarantined"], 31)
        store.save("large", LARGE)
        store.close()
        check(filled, small=True, large=True).close()
    assert noticed > 100  # a byte of padding may be anything


def test_every_flipped_bit_of_a_row_is_noticed(filled: Path) -> None:
    """The same for results that live in the index, with their times and cost."""
    connection = sqlite3.connect(filled / "index.sqlite3")
    data = connection.execute("SELECT seal FROM rows WHERE key = 'small'").fetchone()[0]
    before = {
        "rows": connection.execute("SELECT * FROM rows WHERE key = 'small'").fetchone(),
        "live": connection.execute("SELECT live.* FROM live JOIN rows USING (n) WHERE key = 'small'").fetchone(),
    }
    changes: list[tuple[str, tuple[Any, ...]]] = []
    for place in [*range(80), *random.Random(2).sample(range(80, len(data)), 60)]:
        broken = bytearray(data)
        broken[place] ^= 4
        changes.append(("seal = ?", (bytes(broken),)))
    changes += [("seal = ?", (data[:size],)) for size in (0, 10, 40, 100, len(data) - 1)]
    changes += [
        (change, ())
        for change in (
            "seal = NULL",
            "seal = 'text'",
            "seal = 5",
            "seal = (SELECT seal FROM rows WHERE key = 'large')",
        )
    ]
    for change, values in changes:
        connection.execute(f"UPDATE rows SET {change} WHERE key = 'small'", values)
        connection.commit()
        check(filled, small=False, large=True).close()
        for table, row in before.items():
            connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({','.join('?' * len(row))})", row)
        connection.execute("DELETE FROM gone")
        connection.commit()
    check(filled, small=True, large=True).close()
    connection.close()


def test_results_cannot_be_swapped(filled: Path) -> None:
    """A sound row or file of ours under another key is not taken for that key's result."""
    store = CacheStore(filled)
    store.save("other", LARGE + 1)
    store.close()
    connection = sqlite3.connect(filled / "index.sqlite3")
    names = dict(connection.execute("SELECT key, file FROM rows JOIN live USING (n) WHERE file IS NOT NULL").fetchall())
    one, other = (filled / "blobs" / names[key][:2] / names[key][2:] for key in ("large", "other"))
    shutil.copy(other, one)
    check(filled, large=False).close()
    connection.execute("UPDATE rows SET seal = (SELECT seal FROM rows WHERE key = 'other') WHERE key = 'large'")
    connection.commit()
    connection.close()
    check(filled, large=False).close()


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


@pytest.mark.parametrize("inline", [True, False])
def test_foreign_entries_are_never_unpickled(filled: Path, tmp_path: Path, inline: bool) -> None:
    """An entry made under another key, however well-formed, is not opened: its payload never runs."""
    mark = tmp_path / "mark"
    pad = (np.zeros(10_000).data,) if not inline else ()
    packed = Packed(pickle.dumps(Attack(str(mark))), pad)
    signer = trust.Signer(b"x" * 32)
    front, begin = front_of(packed, signer)
    data = b"".join(pieces(front, begin, packed.buffers))
    connection = sqlite3.connect(filled / "index.sqlite3")
    if inline:
        record = Record(time.time(), None, 0.0, bytes.fromhex(front.digest), HEAD, packed.head)
        connection.execute("UPDATE rows SET seal = ? WHERE key = 'small'", (seal(signer, "small", record),))
    else:
        blob(filled).write_bytes(data)
    connection.commit()
    connection.close()
    store = check(filled, small=not inline, large=inline)
    assert store.stats()["quarantined"] == 1
    assert not mark.exists()
    heal(store)


def test_another_users_store_is_no_store_for_us(filled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the key nothing is found and nothing is harmed; under another key entries are refused."""
    before = os.environ["NBFLOW_KEY_FILE"]
    monkeypatch.setenv("NBFLOW_KEY_FILE", str(tmp_path / "other"))
    store = check(filled, small=False, large=False)
    assert store.stats()["quarantined"] == 0
    store.close()
    monkeypatch.setenv("NBFLOW_KEY_FILE", before)
    check(filled, small=True, large=True).close()
    monkeypatch.setenv("NBFLOW_KEY_FILE", str(tmp_path / "other"))
    store = CacheStore(filled)
    store.save("mine", 1)
    store.close()
    store = check(filled, small=False, large=False)
    assert store.stats()["quarantined"] == 2
    store.close()


def test_a_key_that_cannot_be_made_or_read(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key file that is something else, or in a place that is a file, fails the save with a word on what to do."""
    wrong = tmp_path / "wrong"
    wrong.write_text("short")
    monkeypatch.setenv("NBFLOW_KEY_FILE", str(wrong))
    with pytest.raises(CacheError, match="not a key"):
        CacheStore(folder).save("a", 1)
    monkeypatch.setenv("NBFLOW_KEY_FILE", str(wrong / "below"))
    with pytest.raises(CacheError, match="NBFLOW_KEY_FILE"):
        CacheStore(folder).save("a", 1)
    assert CacheStore(folder).fetch("a") is None


@pytest.mark.parametrize("damage", ["garbage", "empty", "header", "middle", "deleted", "directory"])
def test_a_broken_index(filled: Path, damage: str) -> None:
    """Whatever became of the index, reads are right or missing, and the store works again after a save."""
    path = filled / "index.sqlite3"
    data = path.read_bytes()
    if damage == "garbage":
        path.write_bytes(os.urandom(8192))
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "header":
        path.write_bytes(b"\0" * 100 + data[100:])
    elif damage == "middle":
        path.write_bytes(data[:4096] + os.urandom(len(data) - 4096))
    else:
        path.unlink()
    if damage == "directory":
        path.mkdir()
        store = check(filled, small=False, large=False)
        with pytest.raises(sqlite3.Error):
            store.save("small", SMALL, cost_s=1)
        assert store.fetch("small")  # from memory
        return
    store = check(filled)
    heal(store)


def test_an_index_deleted_under_an_open_store(store: CacheStore, folder: Path) -> None:
    """A folder that is deleted while the store is open is made anew by the next save, and that is found by others."""
    store.save("small", SMALL)
    shutil.rmtree(folder)
    assert CacheStore(folder).fetch("small") is None
    store.save("large", LARGE)
    store.save("small", SMALL)
    check(folder, small=True, large=True).close()


def test_a_deleted_file(filled: Path) -> None:
    """A file that is gone is a miss with a reason; so is one that cannot be opened."""
    blob(filled).unlink()
    store = check(filled, small=True, large=False)
    assert "gone" in str(store.explain(CacheKey("large", "")))
    heal(store)


def test_a_large_file_changed_in_place_is_noticed_although_it_was_signed(folder: Path) -> None:
    """Beyond 64 MiB a file is compared only when it has changed since; a changed one is, whatever its time says."""
    value = np.zeros(9 * 1024**2)
    store = CacheStore(folder)
    store.save("large", value)
    store.close()
    assert CacheStore(folder).get("large")[-1] == 0
    path = blob(folder)
    status = path.stat()
    with open(path, "r+b") as stream:
        stream.seek(-8, 2)
        stream.write(b"12345678")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert CacheStore(folder).fetch("large") is None


def test_a_copied_store_is_compared_and_signed_anew(folder: Path, tmp_path: Path) -> None:
    """A copy of the folder has other inodes: its large files are compared once more, and then found."""
    store = CacheStore(folder)
    store.save("large", np.zeros(9 * 1024**2))
    store.close()
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    for _ in range(2):
        store = CacheStore(copied)
        assert store.get("large").shape == (9 * 1024**2,)
        store.close()


def test_failed_writes_are_raised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or a folder that cannot be made raises, leaves no half file, and reading goes on."""
    store = CacheStore(folder)
    store.save("small", SMALL)
    import nbflow.cache.disk as disk

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        store.save("large", LARGE)
    monkeypatch.undo()
    assert list(folder.glob("blobs/*/.*")) == []
    assert list(folder.glob("blobs/*/*")) == []
    store.close()


def test_folder_is_a_file(tmp_path: Path) -> None:
    """A location that cannot be a folder is a miss for reading and an error for writing."""
    (tmp_path / "file").write_text("x")
    store = CacheStore(tmp_path / "file" / "cache")
    assert store.fetch("a") is None
    with pytest.raises(OSError):
        store.save("a", 1)


@pytest.mark.skipif(os.name == "nt", reason="needs mode bits")
def test_read_only_folder(filled: Path) -> None:
    """A store in a folder that we may only read is read; saves raise; damage stays a miss."""
    secret = Path(os.environ["NBFLOW_KEY_FILE"])
    outside = [parent for parent in (*filled.parents, *secret.parents) if len(parent.parts) > 2]
    modes = {place: place.stat().st_mode for place in [filled, *filled.rglob("*"), secret, *outside]}
    check(filled, small=True, large=True).close()  # what is imported late is imported now
    reading, writing = os.pipe()
    try:
        for place in modes:
            os.chmod(place, 0o555 if place.is_dir() else 0o444)
        child = os.fork()
        if not child:
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                os.write(writing, _read_only_session(filled).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    finally:
        for place, mode in modes.items():
            os.chmod(place, mode)
    assert os.read(reading, 10_000).decode() == "[1, 2, 3] 19999.0, refused, 1 [1, 2, 3]"
    os.close(reading), os.close(writing)


def _read_only_session(folder: Path) -> str:
    try:
        store = CacheStore(folder)
        said = [f"{store.get('small')['a']} {store.get('large')[-1]}"]
        try:
            store.save("x", 1, cost_s=1)
        except (OSError, sqlite3.Error):
            said.append("refused")
        said.append(f"{store.get('x')} {store.get('small')['a']}")
        store.close()
        return ", ".join(said)
    except BaseException as error:
        return repr(error)
