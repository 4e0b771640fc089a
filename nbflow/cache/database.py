"""One SQLite database of a store: opened when needed, shared by threads, safe over forks and in read-only folders.

WAL, one connection for each process, used under a lock, and one beside it for what must not wait for a transaction of
another thread. A forked child opens its own and never touches its parent's.
A database that somebody deleted is made anew by the next write, and one in a folder that we may only read is read.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nbflow._typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Database", "is_corruption", "watch_forks"]

_BUSY_S = 5.0
_PAUSE_S = 0.005
_BUSY = frozenset({5, 6})  # SQLITE_BUSY, SQLITE_LOCKED
_CORRUPT = frozenset({11, 26})  # SQLITE_CORRUPT, SQLITE_NOTADB


class _Forked(Protocol):
    def before_fork(self) -> None: ...
    def after_fork(self) -> None: ...


_watched: weakref.WeakSet[_Forked] = weakref.WeakSet()
_watching = False


def watch_forks(thing: _Forked) -> None:
    """Have `thing.before_fork` called before every fork, and `after_fork` in the child, for as long as it lives."""
    global _watching
    if not _watching and hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
        _watching = True
    _watched.add(thing)


def _before_fork() -> None:
    for thing in list(_watched):
        thing.before_fork()


def _after_fork() -> None:
    for thing in list(_watched):
        thing.after_fork()


def is_corruption(error: BaseException) -> bool:
    """Whether SQLite says that the file is no sound database (rather than busy, full or read-only)."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in _CORRUPT


def _is_busy(error: BaseException) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in _BUSY


def _sqlite() -> Any:
    """Return SQLite without what the standard library wraps it in for dates, which costs a quarter of a cold hit."""
    try:
        import _sqlite3
    except ImportError:
        import sqlite3

        return sqlite3
    return _sqlite3


class Database:
    """One database file; safe from any thread and after a fork.

    Args:
        path: The file.
        schema: Statements that make its tables.
        changed: Called after each change was committed; must not raise.
    """

    def __init__(self, path: str, schema: str, changed: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._schema = schema
        self._changed = changed
        self._lock = threading.RLock()
        self._aside_lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._aside: sqlite3.Connection | None = None
        self._changing = False  # whether a transaction is under way
        self._opened = (0, 0)  # device, inode
        self._left_alone: list[Any] = []  # connections of our parent process
        self.readonly = False
        watch_forks(self)

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
        """Open the database; where several processes make it at once, SQLite itself does not always wait."""
        deadline = time.monotonic() + _BUSY_S
        while True:
            try:
                return self._open_now()
            except _sqlite().OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_S)

    def _open_now(self) -> sqlite3.Connection:
        library = _sqlite()
        self.readonly = False
        connection: sqlite3.Connection = library.connect(
            self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
                raise library.OperationalError("this file system cannot share a database")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA cache_size=-16384")  # KiB: all of `live` for some 300,000 entries
            connection.execute("PRAGMA mmap_size=268435456")  # bytes: a page that is not cached yet needs no call
            connection.execute("PRAGMA wal_autocheckpoint=4000")  # pages: those written often are copied back once
            if connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'totals'").fetchone()[0] == 0:
                connection.executescript(self._schema)
        except library.OperationalError as error:
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
        from urllib.parse import quote

        library = _sqlite()
        if not os.path.exists(self._path) or (
            os.access(self._path, os.W_OK) and os.access(os.path.dirname(self._path), os.W_OK)
        ):
            raise error
        connection: sqlite3.Connection = library.connect(
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
        with self._aside_lock:
            aside, self._aside = self._aside, None
            if aside is not None:
                aside.close()

    def __del__(self) -> None:
        # Python closes them as well, but from 3.13 on complains of everybody who leaves that to it.
        for connection in (getattr(self, "_connection", None), getattr(self, "_aside", None)):
            if connection is not None:
                connection.close()

    def ask_aside(self, question: str, values: tuple[Any, ...]) -> list[Any]:
        """Return the rows that answer a question, as of the last commit, while another thread may write."""
        with self._aside_lock:
            aside = self._aside
            if aside is None:
                aside = self._aside = _sqlite().connect(
                    self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
                )
            rows: list[Any] = aside.execute(question, values).fetchall()
            return rows

    def before_fork(self) -> None:
        """Do nothing: what is open stays the parent's."""

    def after_fork(self) -> None:
        """Forget, in a forked child, what belongs to the parent; closing its connection would break its locks."""
        self._left_alone += [self._connection, self._aside]
        self._connection = self._aside = None
        self._lock, self._aside_lock = threading.RLock(), threading.Lock()
        self._changing = False

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """Enter a transaction that is committed at the end of the block, or undone where that raises."""
        with self._lock:
            connection = self.connect(create=True)
            assert connection is not None
            connection.execute("BEGIN IMMEDIATE")
            self._changing = True
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._changing = False
        self._changed()
