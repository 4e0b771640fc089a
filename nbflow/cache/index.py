"""The index of a store: one SQLite table, one row per key.

The rules:

* WAL, one connection for each process, used under a lock; a forked child opens its own and never touches its parent's.
* A row carries a MAC over what a hit depends on, so a changed row is noticed before anything is done with it.
* A result below 32 KiB lives in its row; a larger one in a file that the row names by content.
* Totals are kept, never counted. Uses are noted in memory and written with the next change, not at every hit.
* Eviction is greedy-dual by value: `priority = floor + seconds saved · uses / bytes`, where `floor` rises to the priority of
  the last entry that had to go. Dear, small and often used entries stay; what is no longer used sinks.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from xxhash import xxh3_64_intdigest

from nbflow.cache.memory import EntryInfo
from nbflow.cache.parts import KeyPart

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Index", "Row", "is_corruption"]

_TIMES = struct.Struct("<dd")
_BUSY_S = 5.0
_BATCH = 512  # uses that are held back at most
_CORRUPT = frozenset({11, 26})  # SQLITE_CORRUPT, SQLITE_NOTADB
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, task TEXT, cell TEXT, code INTEGER, args INTEGER, result TEXT, created REAL, used REAL, ttl REAL,
    cost REAL, size INTEGER, hits INTEGER, pinned INTEGER, priority REAL, stamp TEXT, mac BLOB, data BLOB, parts TEXT);
CREATE INDEX IF NOT EXISTS by_priority ON entries (pinned, priority, used);
CREATE INDEX IF NOT EXISTS by_code ON entries (code);
CREATE INDEX IF NOT EXISTS by_args ON entries (args);
CREATE INDEX IF NOT EXISTS by_file ON entries (result) WHERE data IS NULL;
CREATE TABLE IF NOT EXISTS totals (id INTEGER PRIMARY KEY CHECK (id = 1), entries INTEGER, bytes INTEGER, floor REAL, pruned REAL);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0, 0.0, 0.0);
"""
_COLUMNS = "key, task, cell, created, used, cost, size, ttl, parts, hits, pinned"


class Row(NamedTuple):
    """What a hit depends on; `data` is None where the result is in a file."""

    result: str
    created: float
    ttl: float | None
    cost: float
    stamp: str | None
    mac: bytes
    data: bytes | None

    def signed(self, key: str) -> bytes:
        """Return the bytes that the MAC covers."""
        texts = f"{key}\0{self.result}\0{self.ttl!r}\0{self.stamp}\0".encode("utf-8", "surrogatepass")
        return texts + _TIMES.pack(self.created, self.cost)


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
        self._opened: tuple[int, int, int] = (0, 0, 0)  # process, device, inode
        self._left_alone: list[Any] = []  # connections of our parent process
        self._uses: dict[str, tuple[int, float]] = {}
        self.readonly = False

    def connect(self, create: bool = False) -> sqlite3.Connection | None:
        """Return the open connection, or None where there is no database and none is to be made."""
        connection = self._connection
        if connection is not None:
            if self._opened[0] == os.getpid() and not (create and self._was_replaced()):
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
            if connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'totals'").fetchone()[0] == 0:
                connection.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            connection.close()
            connection = self._open_readonly(error)
        except BaseException:
            connection.close()
            raise
        status = os.stat(self._path)
        self._opened = (os.getpid(), status.st_dev, status.st_ino)
        self._connection = connection
        return connection

    def _open_readonly(self, error: sqlite3.OperationalError) -> sqlite3.Connection:
        """Open a store in a folder that we may only read; the MACs guard us from what others write meanwhile."""
        import sqlite3
        from urllib.parse import quote

        if not os.path.exists(self._path) or (os.access(self._path, os.W_OK) and os.access(os.path.dirname(self._path), os.W_OK)):
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
        return self._opened[1:] != (status.st_dev, status.st_ino)

    def abandon(self) -> None:
        """Let go of the connection; in a forked child without closing it, which would break the parent's locks."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and self._opened[0] != os.getpid():
                self._left_alone.append(connection)
                self._lock = threading.RLock()
                self._uses = {}
            elif connection is not None:
                connection.close()

    def close(self) -> None:
        """Write what is held back, and close."""
        with self._lock:
            if self._connection is not None and self._opened[0] == os.getpid() and self._uses and not self.readonly:
                with self._change() as connection:
                    self._write_uses(connection)
            self.abandon()

    # -- one key

    def read(self, key: str) -> Row | None:
        """Return the row of `key`."""
        with self._lock:
            connection = self.connect()
            if connection is None:
                return None
            found = connection.execute(
                "SELECT result, created, ttl, cost, stamp, mac, data FROM entries WHERE key = ?", (key,)
            ).fetchone()
        return None if found is None else Row(*found)

    def note_use(self, key: str, when: float, times: int = 1) -> None:
        """Remember that `key` was used, to be written later."""
        known = self._uses.get(key)
        self._uses[key] = ((known[0] if known else 0) + times, when)
        if len(self._uses) >= _BATCH and not self.readonly:
            with self._lock, self._change() as connection:
                self._write_uses(connection)

    def write(self, key: str, info: EntryInfo, row: Row) -> tuple[int, str | None]:
        """Insert or replace the row of `key`.

        Returns:
            Bytes that all results take now, and the name of a file that nothing refers to any more.
        """
        parts = json.dumps([[p.kind, p.name, p.digest, p.text, p.where] for p in info.parts], ensure_ascii=True)
        code, args = _groups(info.task, info.parts)
        with self._lock, self._change() as connection:
            self._write_uses(connection)
            floor, size, hits, pinned, old = connection.execute(
                "SELECT floor, size, hits, pinned, CASE WHEN data IS NULL THEN result ELSE '' END "
                "FROM totals LEFT JOIN entries ON key = ?",
                (key,),
            ).fetchone()
            is_new, size, hits, pinned = size is None, size or 0, hits or 0, pinned or 0
            connection.execute(
                "INSERT OR REPLACE INTO entries VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (key, info.task, info.cell, code, args, row.result, row.created, info.last_used, row.ttl, row.cost, info.size_bytes,
                 hits, pinned, floor + row.cost * (hits + 1) / max(info.size_bytes, 1), row.stamp, row.mac, row.data, parts),
            )
            total = connection.execute(
                "UPDATE totals SET entries = entries + ?, bytes = bytes + ? RETURNING bytes",
                (int(is_new), info.size_bytes - size),
            ).fetchone()[0]
            orphan = old if old and not is_new and old != row.result and not self._is_used(connection, old) else None
        return total, orphan

    def restamp(self, key: str, row: Row) -> None:
        """Replace stamp and MAC of a row."""
        with self._lock, self._change() as connection:
            connection.execute(
                "UPDATE entries SET stamp = ?, mac = ? WHERE key = ? AND result = ?", (row.stamp, row.mac, key, row.result)
            )

    def pin(self, key: str, pinned: bool) -> bool:
        """Keep (or no longer keep) an entry from eviction; return whether there is one."""
        with self._lock:
            if self.connect() is None:
                return False
            with self._change() as connection:
                return connection.execute("UPDATE entries SET pinned = ? WHERE key = ?", (int(pinned), key)).rowcount > 0

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
                excess = connection.execute("UPDATE totals SET pruned = ? RETURNING bytes", (now,)).fetchone()[0] - max_bytes
                last = None
                if excess > 0:
                    rows = connection.execute("SELECT size, priority, used FROM entries WHERE pinned = 0 ORDER BY priority, used")
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
        """Return recent entries of a task: some with the same arguments, some with the same code, some with neither."""
        code, args = _groups(task, parts)
        found: dict[str, EntryInfo] = {}
        for where, value, limit in (("args = ?", args, 8), ("code = ?", code, 4)):
            for info in self._infos(f"WHERE {where} ORDER BY created DESC LIMIT {limit}", (value,)):
                found[info.key] = info
        if not found:
            for info in self._infos("WHERE task = ? ORDER BY rowid DESC LIMIT 4", (task,)):
                found[info.key] = info
        return [info for info in found.values() if info.task == task]

    def _infos(self, where: str, values: tuple[Any, ...]) -> list[EntryInfo]:
        with self._lock:
            connection = self.connect()
            rows = [] if connection is None else connection.execute(f"SELECT {_COLUMNS} FROM entries {where}", values).fetchall()
        return [
            EntryInfo(*row[:8], tuple(KeyPart(*part) for part in json.loads(row[8])), row[9], bool(row[10]), "disk") for row in rows
        ]

    def totals(self) -> tuple[int, int, float]:
        """Return the number of entries, their bytes, and when the last clean-up was."""
        with self._lock:
            connection = self.connect()
            found = None if connection is None else connection.execute("SELECT entries, bytes, pruned FROM totals").fetchone()
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
        gone = connection.execute(f"DELETE FROM entries WHERE {where} RETURNING size, CASE WHEN data IS NULL THEN result END", values).fetchall()
        if not gone:
            return 0, []
        connection.execute(
            "UPDATE totals SET entries = entries - ?, bytes = bytes - ?", (len(gone), sum(size for size, _ in gone))
        )
        files = {name for _, name in gone if name is not None}
        return len(gone), [name for name in sorted(files) if not self._is_used(connection, name)]

    @staticmethod
    def _is_used(connection: sqlite3.Connection, result: str) -> bool:
        return connection.execute("SELECT 1 FROM entries WHERE result = ? AND data IS NULL", (result,)).fetchone() is not None

    def used_files(self) -> set[str]:
        """Return the names of all files that rows refer to."""
        with self._lock:
            connection = self.connect()
            rows: Iterable[tuple[str]] = () if connection is None else connection.execute("SELECT result FROM entries WHERE data IS NULL")
            return {name for (name,) in rows}


def _groups(task: str, parts: tuple[KeyPart, ...]) -> tuple[int, int]:
    """Return two numbers by which entries with the same code, or with the same arguments, are found."""
    sides = ([], [])  # type: tuple[list[str], list[str]]
    for part in parts:
        sides[part.kind in ("argument", "input")].append(f"{part.kind}\0{part.name}\0{part.digest}")
    code, args = (xxh3_64_intdigest("\0".join([task, *side]).encode("utf-8", "surrogatepass")) >> 1 for side in sides)
    return code, args
