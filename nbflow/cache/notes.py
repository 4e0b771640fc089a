"""What was worked out on the way to a key, and would be worked out again by the next process: kept beside the results.

Notes are a table of their own in the index of a store, so they are never counted, listed or sent away with results.
Each is signed under the user's key; one that is damaged, or somebody else's, is none. Without a result there is nothing
to keep them for, so they are written with the next one, or into a store that has some when it is closed. The oldest go
when there are many.
"""

from __future__ import annotations

import weakref

from nbflow._typing import TYPE_CHECKING, Any
from nbflow.cache.blob import pack, unpack
from nbflow.cache.trust import MAC_BYTES, load_signer

if TYPE_CHECKING:
    from nbflow.cache.disk import DiskTier

__all__ = ["Notes", "open_notes"]

_KEPT = 20_000
_TABLE = "CREATE TABLE IF NOT EXISTS notes (n INTEGER PRIMARY KEY, name TEXT UNIQUE, note BLOB)"


open_notes: weakref.WeakSet[Notes] = weakref.WeakSet()
"""The notes of all stores of this process, for what is worth knowing whatever the store."""


class Notes:
    """The notes of one store; safe from any thread.

    Args:
        disk: Where they are kept.
    """

    __slots__ = ("__weakref__", "_disk", "_fresh")

    def __init__(self, disk: DiskTier) -> None:
        self._disk = disk
        self._fresh: dict[str, Any] = {}
        open_notes.add(self)

    def get(self, name: str) -> Any:
        """Return what was noted under `name`, by whatever process; None if there is nothing. Never raises."""
        try:
            signer = load_signer() if self._disk._usable() else None
            connection = None if signer is None else self._disk.index.connect()
            if signer is None or connection is None:
                return None
            row = connection.execute("SELECT note FROM notes WHERE name = ?", (name,)).fetchone()
            if row is None or signer.sign(_about(name), row[0][MAC_BYTES:]) != row[0][:MAC_BYTES]:
                return None
            return unpack(row[0][MAC_BYTES:], ())
        except Exception:  # a note is never needed: no table, no sound database, a type of another version
            return None

    def put(self, name: str, value: Any) -> None:
        """Note plain data under 32 hex digits that say all that it depends on; it is written with the next result."""
        self._fresh[name] = value

    def write(self) -> None:
        """Write what is new, into a store that has results; never raises."""
        if not self._fresh:
            return
        try:
            signer = load_signer() if self._disk._usable() else None
            if signer is None:
                return
            fresh, self._fresh = self._fresh, {}
            rows = [(name, data) for name, value in fresh.items() for data in (pack(value).head,)]
            with self._disk.index.change() as connection:
                connection.execute(_TABLE)
                connection.executemany(
                    "INSERT OR REPLACE INTO notes (name, note) VALUES (?, ?)",
                    [(name, signer.sign(_about(name), data) + data) for name, data in rows],
                )
                connection.execute("DELETE FROM notes WHERE n <= (SELECT max(n) FROM notes) - ?", (_KEPT,))
        except Exception:  # whatever a full or busy disk does to results is told by those
            pass

    def clear(self) -> None:
        """Forget all of them; never raises."""
        self._fresh = {}
        try:
            if self._disk._usable() and self._disk.index.connect() is not None:
                with self._disk.index.change() as connection:
                    connection.execute("DROP TABLE IF EXISTS notes")
        except Exception:  # as above; what stays is true, and signed
            pass


def _about(name: str) -> bytes:
    return b"note " + name.encode()
