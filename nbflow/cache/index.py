"""The index of a store: one SQLite table, one row per key.

The rules:

* WAL, one connection for each process, used under a lock; a forked child opens its own and never touches its
  parent's.
* All that a hit depends on is in the signed column `seal`; the others are for finding, evicting and telling.
* A result below 32 KiB lives in its row; a larger one in a file that the row names by content.
* Totals are kept, never counted. Uses are noted in memory and written with the next change, not at every hit.
* Eviction is greedy-dual by value: `priority = floor + seconds saved · uses / bytes`, where `floor` rises to the
  priority of the last entry that had to go. Dear, small and often used entries stay; what is no longer used sinks.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_64_intdigest

from nbflow.cache.memory import EntryInfo
from nbflow.cache.parts import KeyPart

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Index", "is_corruption"]

_BUSY_S = 5.0
_BATCH = 512  # uses that are held back at most
_CORRUPT = frozenset({11, 26})  # SQLITE_CORRUPT, SQLITE_NOTADB
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, seal BLOB, file TEXT, task TEXT, cell TEXT, args INTEGER, created REAL, used REAL, ttl REAL,
    cost REAL, size INTEGER, hits INTEGER, pinned INTEGER, priority REAL, parts TEXT);
CREATE INDEX IF NOT EXISTS by_priority ON entries (pinned, priority, used);
CREATE INDEX IF NOT EXISTS by_task ON entries (task);
CREATE INDEX IF NOT EXISTS by_args ON entries (args);
CREATE INDEX IF NOT EXISTS by_file ON entries (file) WHERE file IS NOT NULL;
CREATE TABLE IF NOT EXISTS totals (
    id INTEGER PRIMARY KEY CHECK (id = 1), entries INTEGER, bytes INTEGER, floor REAL, pruned REAL);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0, 0.0, 0.0);
"""
_INSERT = f"INSERT OR REPLACE INTO entries VALUES ({','.join('?' * 15)})"
_COLUMNS = "key, task, cell, created, used, cost, size, ttl, parts, hits, pinned"


_indexes: weakref.WeakSet[Index] = weakref.WeakSet()


def _watch_forks(index: Index) -> None:
    if not _indexes and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)
    _indexes.add(index)


def _after_fork() -> None:
    for index in list(_indexes):
        index.after_fork()


def is_corruption(error: BaseException) -> bool:
    """Whether SQLite says that the file is no sound database (rather than busy, full or read-only)."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in _CORRUPT


class Index:
    """The table of one store; safe from any thread and after a fork.

    Args:
        path: The database file.

    Methods that read return nothing where there is no file yet; all raise `sqlite3.Error`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._opened = (0, 0)  # device, inode
        self._left_alone: list[Any] = []  # connections of our parent process
        self._uses: dict[str, tuple[int, float]] = {}
        self.readonly = False
        _watch_forks(self)

    def connect(self, create: bool = False) -> sqlite3.Connection | None:
        """Return the open connection, or None where there is no database and none is to be made."""
        with self._lock:
            connection = self._connection
            if connection is not None:
                if not (create and self._was_replaced()):
                    return connection
                self.abandon()
            if not create and not os.path.exists(self._path):
                return None
            return self._open()

    def _open(self) -> sqlite3.Connection:
        import sqlite3

        self.readonly = False
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
                raise sqlite3.OperationalError("this file system cannot share a database")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA cache_size=-16384")  # KiB: the inner pages of some 100,000 entries
            if connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'totals'").fetchone()[0] == 0:
                connection.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            connection.close()
            connection = self._open_readonly(error)
        except BaseException:
            connection.close()
            raise
        status = os.stat(self._path)
        self._opened = (status.st_dev, status.st_ino)
        self._connection = connection
        return connection

    def _open_readonly(self, error: sqlite3.OperationalError) -> sqlite3.Connection:
        """Open a store in a folder that we may only read; the MACs guard us from what others write meanwhile."""
        import sqlite3
        from urllib.parse import quote

        if not os.path.exists(self._path) or (
            os.access(self._path, os.W_OK) and os.access(os.path.dirname(self._path), os.W_OK)
        ):
            raise error
        connection = sqlite3.connect(
            f"file:{quote(self._path)}?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("SELECT 1 FROM totals").fetchone()
        except BaseException:
            connection.close()
            raise
        self.readonly = True
        return connection

    def _was_replaced(self) -> bool:
        """Whether somebody deleted the database under us; writing to it would be lost."""
        try:
            status = os.stat(self._path)
        except OSError:
            return True
        return self._opened != (status.st_dev, status.st_ino)

    def abandon(self) -> None:
        """Let go of the connection."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def after_fork(self) -> None:
        """Forget, in a forked child, what belongs to the parent; closing its connection would break its locks."""
        self._left_alone.append(self._connection)
        self._connection = None
        self._lock = threading.RLock()
        self._uses = {}

    def close(self) -> None:
        """Write what is held back, and close."""
        with self._lock:
            if self._connection is not None and self._uses and not self.readonly:
                with self._change() as connection:
                    self._write_uses(connection)
            self.abandon()

    # -- one key

    def read(self, key: str) -> bytes | None:
        """Return the seal of `key`."""
        with self._lock:
            connection = self._connection or self.connect()
            if connection is None:
                return None
            found = connection.execute("SELECT seal FROM entries WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def file_of(self, key: str) -> str | None:
        """Return the name of the file that has the result of `key`."""
        with self._lock:
            connection = self.connect()
            found = (
                None
                if connection is None
                else connection.execute("SELECT file FROM entries WHERE key = ?", (key,)).fetchone()
            )
        return None if found is None else found[0]

    def note_use(self, key: str, when: float, times: int = 1) -> None:
        """Remember that `key` was used, to be written later."""
        known = self._uses.get(key)
        self._uses[key] = (times if known is None else known[0] + times, when)
        if len(self._uses) >= _BATCH and not self.readonly:
            with self._lock, self._change() as connection:
                self._write_uses(connection)

    def write(self, info: EntryInfo, seal: bytes, file: str | None) -> tuple[int, str | None]:
        """Insert or replace the row of `info.key`.

        Args:
            info: What is known of the entry.
            seal: What a hit will depend on.
            file: Name of the file that has the result, if one has.

        Returns:
            Bytes that all results take now, and the name of a file that nothing refers to any more.
        """
        parts = json.dumps([[p.kind, p.name, p.digest, p.text, p.where] for p in info.parts])
        with self._lock, self._change() as connection:
            self._write_uses(connection)
            floor, size, hits, pinned, old = connection.execute(
                "SELECT floor, size, hits, pinned, file FROM totals LEFT JOIN entries ON key = ?", (info.key,)
            ).fetchone()
            is_new, size, hits, pinned = size is None, size or 0, hits or 0, pinned or 0
            priority = floor + info.cost_s * (hits + 1) / max(info.size_bytes, 1)
            place = (info.key, seal, file, info.task, info.cell, _arguments(info.task, info.parts))
            facts = (
                info.created,
                info.last_used,
                info.ttl,
                info.cost_s,
                info.size_bytes,
                hits,
                pinned,
                priority,
                parts,
            )
            connection.execute(_INSERT, (*place, *facts))
            total = connection.execute(
                "UPDATE totals SET entries = entries + ?, bytes = bytes + ? RETURNING bytes",
                (int(is_new), info.size_bytes - size),
            ).fetchone()[0]
            orphan = old if old is not None and old != file and not self._is_used(connection, old) else None
        return total, orphan

    def reseal(self, key: str, before: bytes, seal: bytes) -> None:
        """Replace the seal of a row that has not changed meanwhile."""
        with self._lock, self._change() as connection:
            connection.execute("UPDATE entries SET seal = ? WHERE key = ? AND seal = ?", (seal, key, before))

    def pin(self, key: str, pinned: bool) -> bool:
        """Keep (or no longer keep) an entry from eviction; return whether there is one."""
        with self._lock:
            if self.connect() is None:
                return False
            with self._change() as connection:
                return (
                    connection.execute("UPDATE entries SET pinned = ? WHERE key = ?", (int(pinned), key)).rowcount > 0
                )

    # -- many keys

    def delete(self, where: str, values: tuple[Any, ...] = ()) -> tuple[int, list[str]]:
        """Delete rows; return how many, and the files that nothing refers to any more."""
        with self._lock:
            if self.connect() is None:
                return 0, []
            with self._change() as connection:
                return self._delete(connection, where, values)

    def evict(self, max_bytes: int, unused_since: float, now: float) -> tuple[int, list[str]]:
        """Delete what is too old, then what is worth least until the rest fits; pinned entries stay.

        Args:
            max_bytes: Bytes that may stay.
            unused_since: Entries last used before this time go first.
            now: The time, noted as that of the last such clean-up.

        Returns:
            As `delete`.
        """
        with self._lock:
            if self.connect() is None:
                return 0, []
            with self._change() as connection:
                self._write_uses(connection)
                count, files = self._delete(connection, "pinned = 0 AND used < ?", (unused_since,))
                excess = (
                    connection.execute("UPDATE totals SET pruned = ? RETURNING bytes", (now,)).fetchone()[0] - max_bytes
                )
                last = None
                if excess > 0:
                    rows = connection.execute(
                        "SELECT size, priority, used FROM entries WHERE pinned = 0 ORDER BY priority, used"
                    )
                    for size, priority, used in rows:
                        last = (priority, used)
                        excess -= size
                        if excess <= 0:
                            break
                    rows.close()
                if last is not None:
                    more, further = self._delete(connection, "pinned = 0 AND (priority, used) <= (?, ?)", last)
                    connection.execute("UPDATE totals SET floor = max(floor, ?)", last[:1])
                    count, files = count + more, files + further
        return count, files

    def entries(self, task: str | None = None) -> Iterator[EntryInfo]:
        """Return what is known of each entry, oldest first."""
        where, values = ("WHERE task = ?", (task,)) if task is not None else ("", ())
        return iter(self._infos(f"{where} ORDER BY created", values))

    def related(self, task: str, parts: tuple[KeyPart, ...]) -> list[EntryInfo]:
        """Return recent entries of a task: those with the same arguments, and the last few."""
        found: dict[str, EntryInfo] = {}
        same = self._infos("WHERE args = ? ORDER BY rowid DESC LIMIT 8", (_arguments(task, parts),))
        for info in (*same, *self._infos("WHERE task = ? ORDER BY rowid DESC LIMIT 4", (task,))):
            found[info.key] = info
        return list(found.values())

    def _infos(self, where: str, values: tuple[Any, ...]) -> list[EntryInfo]:
        with self._lock:
            connection = self.connect()
            rows = (
                []
                if connection is None
                else connection.execute(f"SELECT {_COLUMNS} FROM entries {where}", values).fetchall()
            )
        return [_info(*row) for row in rows]

    def totals(self) -> tuple[int, int, float]:
        """Return the number of entries, their bytes, and when the last clean-up was."""
        with self._lock:
            connection = self.connect()
            found = (
                None
                if connection is None
                else connection.execute("SELECT entries, bytes, pruned FROM totals").fetchone()
            )
        return found or (0, 0, 0.0)

    # -- inside a transaction

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        connection = self.connect(create=True)
        assert connection is not None
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _write_uses(self, connection: sqlite3.Connection) -> None:
        uses, self._uses = self._uses, {}
        if uses:
            connection.executemany(
                "UPDATE entries SET hits = hits + ?1, used = max(used, ?2), "
                "priority = (SELECT floor FROM totals) + cost * (hits + ?1 + 1) / max(size, 1) WHERE key = ?3",
                [(times, when, key) for key, (times, when) in uses.items()],
            )

    def _delete(self, connection: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> tuple[int, list[str]]:
        gone = connection.execute(f"DELETE FROM entries WHERE {where} RETURNING size, file", values).fetchall()
        if not gone:
            return 0, []
        connection.execute(
            "UPDATE totals SET entries = entries - ?, bytes = bytes - ?", (len(gone), sum(size for size, _ in gone))
        )
        files = {name for _, name in gone if name is not None}
        return len(gone), [name for name in sorted(files) if not self._is_used(connection, name)]

    @staticmethod
    def _is_used(connection: sqlite3.Connection, result: str) -> bool:
        return connection.execute("SELECT 1 FROM entries WHERE file = ?", (result,)).fetchone() is not None

    def used_files(self) -> set[str]:
        """Return the names of all files that rows refer to."""
        with self._lock:
            connection = self.connect()
            rows: Iterable[tuple[str]] = (
                () if connection is None else connection.execute("SELECT file FROM entries WHERE file IS NOT NULL")
            )
            return {name for (name,) in rows}


def _info(*row: Any) -> EntryInfo:
    key, task, cell, created, used, cost, size, ttl, parts, hits, pinned = row
    known = tuple(KeyPart(*part) for part in json.loads(parts))
    return EntryInfo(key, task, cell, created, used, cost, size, ttl, known, hits, bool(pinned), "disk")


def _arguments(task: str, parts: tuple[KeyPart, ...]) -> int:
    """Return a number by which entries of a task with the same arguments are found."""
    texts = [f"{part.kind}\0{part.name}\0{part.digest}" for part in parts if part.kind in ("argument", "input")]
    return int(xxh3_64_intdigest("\0".join([task, *texts]).encode("utf-8", "surrogatepass"))) >> 1
