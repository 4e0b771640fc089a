"""The index of a store: an SQLite database that finds, weighs and forgets entries.

The rules:

* `live` has a short row for each entry, by a number made from its key: what eviction weighs, and where the entry is.
  `rows` has the entries themselves, appended one after the other. So an insert touches one page at random, not many,
  and forgetting half of the entries rewrites a small table: their `rows` are only listed in `gone`, and removed a few
  at a time by later writes.
* What calls of the same code share (name, cell, parts of the code) is stored once, in `kinds`.
* All that a hit depends on is in the signed column `seal`; the others are for finding, evicting and telling.
* Totals are kept, never counted. Uses are noted in memory and written with the next change, not at every hit.
* Of what had to go, the dearest entries are remembered for a while, so that a miss can say so.
* Eviction is greedy-dual by value: `priority = floor + seconds saved · uses / bytes`, where `floor` rises to the
  priority of the last entry that had to go. Dear, small and often used entries stay; what is no longer used sinks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from xxhash import xxh3_64_intdigest

from nbflow._typing import TYPE_CHECKING, Any, NamedTuple
from nbflow._util import lazy
from nbflow.cache.database import Database
from nbflow.cache.memory import EntryInfo
from nbflow.cache.parts import LEAD, KeyPart
from nbflow.cache.uses import Uses

if TYPE_CHECKING:
    import json
    import sqlite3

    from nbflow.cache import rowtext
else:
    json = lazy("json")  # a hit reads none
    rowtext = lazy("nbflow.cache.rowtext")  # nor makes any text

__all__ = ["Index", "Row", "number_of"]

_BATCH = 8192  # uses that are held back at most
_RECLAIM = 256  # rows of forgotten entries that a write removes at least
_SCHEMA = """
CREATE TABLE IF NOT EXISTS live (
    id INTEGER PRIMARY KEY, n INTEGER, size INTEGER, cost REAL, hits INTEGER, used REAL, pinned INTEGER,
    priority REAL, file TEXT);
CREATE INDEX IF NOT EXISTS by_file ON live (file) WHERE file IS NOT NULL;
CREATE TABLE IF NOT EXISTS rows (
    n INTEGER PRIMARY KEY, id INTEGER, key TEXT, kind INTEGER, task INTEGER, args INTEGER, created REAL, ttl REAL,
    parts TEXT, seal BLOB);
CREATE INDEX IF NOT EXISTS by_task ON rows (task);
CREATE INDEX IF NOT EXISTS by_args ON rows (args);
CREATE TABLE IF NOT EXISTS kinds (id INTEGER PRIMARY KEY, task TEXT, cell TEXT, parts TEXT);
CREATE TABLE IF NOT EXISTS gone (n INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS totals (
    id INTEGER PRIMARY KEY CHECK (id = 1), entries INTEGER, bytes INTEGER, floor REAL, pruned REAL);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0, 0.0, 0.0);
"""
_EVICTED = "CREATE TABLE IF NOT EXISTS evicted (n INTEGER PRIMARY KEY, id INTEGER UNIQUE, at REAL)"
_ANY_EVICTED = "SELECT 1 FROM sqlite_master WHERE name = 'evicted'"
_INF = float("inf")
_DEAREST, _REMEMBERED = 1000, 10_000  # evicted entries that are remembered: of one eviction, and of all
_FIND = "SELECT seal, n FROM live JOIN rows USING (n) WHERE live.id = ?"
_NEXT = (
    "SELECT rows.id, seal FROM rows JOIN live ON live.id = rows.id AND live.n = rows.n "
    "WHERE rows.n > ? AND rows.n <= ? AND length(seal) <= ?"
)
_SHORT = 2048  # bytes of a seal that is worth reading before it is asked for
_INFOS = (
    "SELECT rows.key, kinds.task, kinds.cell, rows.created, live.used, live.cost, live.size, rows.ttl, kinds.parts, "
    "rows.parts, live.hits, live.pinned "
    "FROM rows JOIN live ON live.id = rows.id AND live.n = rows.n JOIN kinds ON kinds.id = rows.kind "
)


class Row(NamedTuple):
    """An entry to be written: what is known of it, its seal, and the file that has its result, if one has."""

    info: EntryInfo
    seal: bytes
    file: str | None


class Index(Database):
    """The index of one store; safe from any thread and after a fork.

    Args:
        path: The database file.
        changed: Called after each change was committed; must not raise.

    Methods that read return nothing where there is no file yet; all raise `sqlite3.Error`.
    """

    def __init__(self, path: str, changed: Callable[[], None] = lambda: None) -> None:
        self._older: dict[str, bool] = {}  # tasks asked for, and whether they had entries by then
        self._uses: dict[str, tuple[int, float]] = {}
        self._others = Uses(f"{path}-uses")  # of processes that have ended
        self._has_evicted: bool | None = None  # whether any entry is remembered as evicted; None: nobody looked
        super().__init__(path, _SCHEMA, changed)

    def after_fork(self) -> None:
        """Forget, in a forked child, what belongs to the parent."""
        super().after_fork()
        self._uses = {}

    def close(self) -> None:
        """Write what is held back, and close."""
        with self._lock:
            if self._connection is not None and self._uses and not self.readonly:
                uses, self._uses = self._uses, {}
                try:
                    self._others.add({number_of(key): used for key, used in uses.items()})
                except OSError:  # the disk is full, or somebody deleted the folder: they only weigh in eviction
                    pass
            self.abandon()

    def abandon(self) -> None:
        """Let go of the connections, and of what was known of the database."""
        super().abandon()
        self._has_evicted = None

    # -- one key

    def find(self, key: str) -> tuple[bytes, int] | None:
        """Return the seal of `key` and its place among all others; does not wait for what another thread writes."""
        if self._changing:
            rows = self.ask_aside(_FIND, (number_of(key),))
            return rows[0] if rows else None
        with self._lock:
            connection = self._connection or self.connect()
            if connection is None:
                return None
            found: tuple[bytes, int] | None = connection.execute(_FIND, (number_of(key),)).fetchone()
            return found

    def seals(self, place: int, count: int) -> dict[int, bytes]:
        """Return the short seals at the `count` places after `place`, by the numbers of their entries."""
        return dict(self._ask(_NEXT, (place, place + count, _SHORT)))

    def file_of(self, key: str) -> str | None:
        """Return the name of the file that has the result of `key`."""
        found = self._ask("SELECT file FROM live WHERE id = ?", (number_of(key),))
        return found[0][0] if found else None

    def info(self, key: str) -> EntryInfo | None:
        """Return what is known of the entry under `key`."""
        found = self._infos("WHERE rows.id = ? AND rows.n = (SELECT n FROM live WHERE id = ?)", (number_of(key),) * 2)
        return found[0] if found else None

    def note_use(self, key: str, when: float, times: int = 1) -> None:
        """Remember that `key` was used, to be written later."""
        uses = self._uses
        known = uses.get(key)
        uses[key] = (times if known is None else known[0] + times, when)
        if len(uses) >= _BATCH and not self.readonly:
            with self._lock, self.change() as connection:
                self._write_uses(connection)

    def reseal(self, key: str, before: bytes, seal: bytes) -> None:
        """Replace the seal of a row that has not changed meanwhile."""
        with self._lock, self.change() as connection:
            connection.execute(
                "UPDATE rows SET seal = ? WHERE n = (SELECT n FROM live WHERE id = ?) AND seal = ?",
                (seal, number_of(key), before),
            )

    def pin(self, key: str, pinned: bool) -> bool:
        """Keep (or no longer keep) an entry from eviction; return whether there is one."""
        with self._lock:
            if self.connect() is None:
                return False
            with self.change() as connection:
                changed = connection.execute(
                    "UPDATE live SET pinned = ? WHERE id = ?", (int(pinned), number_of(key))
                ).rowcount
                return changed > 0

    # -- writing

    def write(self, rows: Sequence[Row]) -> tuple[int, list[str]]:
        """Insert or replace entries, all of them or none.

        Returns:
            Bytes that all results take now, and the files that nothing refers to any more.
        """
        with self._lock, self.change() as connection:
            floor, last = connection.execute("SELECT floor, (SELECT max(n) FROM rows) FROM totals").fetchone()
            new = {row.info.key: row for row in rows}  # the last one under a key counts
            entries, size, replaced = self._insert(connection, list(new.values()), floor, last or 0)
            if replaced:
                connection.executemany("DELETE FROM rows WHERE n = ?", [(n,) for n, _ in replaced])
            self._write_uses(connection)  # which may be those of the new entries
            self._reclaim(connection, max(_RECLAIM, 2 * len(rows)))
            total = connection.execute(
                "UPDATE totals SET entries = entries + ?, bytes = bytes + ? RETURNING bytes", (entries, size)
            ).fetchone()[0]
            return total, self._unused(connection, {file for _, file in replaced if file is not None})

    def _insert(
        self, connection: sqlite3.Connection, rows: list[Row], floor: float, last: int
    ) -> tuple[int, int, list[tuple[int, str | None]]]:
        """Insert rows; return how many entries and bytes there are more, and place and file of what was replaced."""
        entries = more = 0
        replaced: list[tuple[int, str | None]] = []
        facts: list[Any] = []
        weights, kinds = [], {}
        numbers = [number_of(info.key) for info, _, _ in rows]
        found = connection.execute(
            "SELECT id, n, size, hits, pinned, file FROM live WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(numbers),),
        )
        known = {old[0]: old[1:] for old in found.fetchall()}
        for n, (number, (info, seal, file)) in enumerate(zip(numbers, rows, strict=True), last + 1):
            kind, code, own, args = rowtext.split(info)
            hits = pinned = 0
            old = known.get(number)
            if old is None:
                entries += 1
            else:
                before, size, hits, pinned, old_file = old
                more -= size
                replaced.append((before, old_file))
            size = info.size_bytes
            more += size
            priority = floor + info.cost_s * (hits + 1) / max(size, 1)
            kinds[kind] = (kind, info.task, info.cell, code)
            facts += (n, number, info.key, kind, rowtext.hash_of(info.task), args, info.created, info.ttl, own, seal)
            weights.append((number, n, size, info.cost_s, hits, info.last_used, pinned, priority, file))
        connection.executemany("INSERT OR IGNORE INTO kinds VALUES (?, ?, ?, ?)", kinds.values())
        if self._has_evicted is None:
            self._has_evicted = connection.execute(_ANY_EVICTED).fetchone() is not None
        if self._has_evicted:
            back = "DELETE FROM evicted WHERE id IN (SELECT value FROM json_each(?))"
            connection.execute(back, (json.dumps(numbers),))
        rowtext.insert_all(connection, "INSERT INTO rows", 10, facts)
        rowtext.insert_all(
            connection, "INSERT OR REPLACE INTO live", 9, [field for weight in sorted(weights) for field in weight]
        )
        return entries, more, replaced

    def _write_uses(self, connection: sqlite3.Connection) -> None:
        uses = self._others.take()
        mine, self._uses = self._uses, {}
        for key, (times, when) in mine.items():
            uses[number_of(key)] = (times + uses.get(number_of(key), (0, 0.0))[0], when)
        if uses:
            connection.executemany(
                "UPDATE live SET hits = hits + ?, used = max(used, ?), "
                "priority = (SELECT floor FROM totals) + cost * (hits + ? + 1) / max(size, 1) WHERE id = ?",
                [(times, when, times, number) for number, (times, when) in uses.items()],
            )

    # -- forgetting

    def delete(self, keys: Iterable[str]) -> tuple[int, list[str]]:
        """Delete entries; return how many, and the files that nothing refers to any more."""
        return self._forget("id IN (SELECT value FROM json_each(?))", json.dumps([number_of(key) for key in keys]))

    def clear(self, task: str | None = None) -> tuple[int, list[str]]:
        """Delete all entries, or those of one task; returns as `delete`."""
        if task is None:
            with self._lock:
                if self.connect() is None:
                    return 0, []
                with self.change() as connection:
                    count, files = self._delete(connection, "1", ())
                    for table in ("rows", "gone", "kinds"):
                        connection.execute(f"DELETE FROM {table}")
                    connection.execute(_EVICTED)
                    connection.execute("DELETE FROM evicted")
            return count, files
        return self._forget(
            "n IN (SELECT n FROM rows JOIN kinds ON kinds.id = rows.kind WHERE rows.task = ? AND kinds.task = ?)",
            rowtext.hash_of(task),
            task,
        )

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
            with self.change() as connection:
                self._write_uses(connection)
                count, files = self._evict(connection, "pinned = 0 AND used < ?", (unused_since,), now)
                total = connection.execute("UPDATE totals SET pruned = ? RETURNING bytes", (now,)).fetchone()[0]
                last = self._cut(connection, total, total - max_bytes)
                if last is not None:
                    more, further = self._evict(connection, "pinned = 0 AND (priority, used) <= (?, ?)", last, now)
                    connection.execute("UPDATE totals SET floor = max(floor, ?)", last[:1])
                    count, files = count + more, files + further
        return count, files

    def _evict(
        self, connection: sqlite3.Connection, where: str, values: tuple[Any, ...], now: float
    ) -> tuple[int, list[str]]:
        """Forget entries as `_delete` does, and remember the dearest; where nothing is, no miss need ask for it."""
        if connection.execute(f"SELECT 1 FROM live WHERE {where} LIMIT 1", values).fetchone() is None:
            return 0, []
        connection.execute(_EVICTED)
        connection.execute(
            f"INSERT OR REPLACE INTO evicted (id, at) SELECT id, ? FROM live WHERE {where} ORDER BY cost DESC LIMIT ?",
            (now, *values, _DEAREST),
        )
        connection.execute("DELETE FROM evicted WHERE n <= (SELECT max(n) FROM evicted) - ?", (_REMEMBERED,))
        self._has_evicted = True
        return self._delete(connection, where, values)

    def evicted(self, key: str) -> float | None:
        """Return when the entry under `key` had to go, if that is remembered and nothing came since."""
        if self._has_evicted is None:
            self._has_evicted = bool(self._ask(_ANY_EVICTED))
        found = self._ask("SELECT at FROM evicted WHERE id = ?", (number_of(key),)) if self._has_evicted else None
        return found[0][0] if found else None

    @staticmethod
    def _cut(connection: sqlite3.Connection, total: int, excess: int) -> tuple[float, float] | None:
        """Return priority and last use of the best entry that has to go, so that `excess` bytes go; None for none.

        To sort all entries would take a third of an eviction, so only those with about that priority are sorted.
        """
        last = None
        for least, most in (_about(connection, total, excess), (-_INF, _INF)) if excess > 0 else ():
            below = "SELECT total(size) FROM live WHERE pinned = 0 AND priority < ?"
            left = excess - connection.execute(below, (least,)).fetchone()[0]
            if left <= 0:  # a wrong guess; nothing is below the last one
                continue
            rows = connection.execute(
                "SELECT size, priority, used FROM live WHERE pinned = 0 AND priority BETWEEN ? AND ? "
                "ORDER BY priority, used",
                (least, most),
            )
            for size, priority, used in rows:
                last = (priority, used)
                left -= size
                if left <= 0:
                    rows.close()
                    return last
        return last

    def _forget(self, where: str, *values: Any) -> tuple[int, list[str]]:
        with self._lock:
            if self.connect() is None:
                return 0, []
            with self.change() as connection:
                return self._delete(connection, where, values)

    def _delete(self, connection: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> tuple[int, list[str]]:
        """Forget entries: their short rows go now, the others are listed to go later."""
        count, size = connection.execute(f"SELECT count(*), sum(size) FROM live WHERE {where}", values).fetchone()
        if not count:
            return 0, []
        found = connection.execute(f"SELECT DISTINCT file FROM live WHERE file IS NOT NULL AND {where}", values)
        files = {file for (file,) in found}
        connection.execute(f"INSERT OR IGNORE INTO gone SELECT n FROM live WHERE {where} ORDER BY n", values)
        connection.execute(f"DELETE FROM live WHERE {where}", values)
        connection.execute("UPDATE totals SET entries = entries - ?, bytes = bytes - ?", (count, size))
        return count, self._unused(connection, files)

    def reclaim(self) -> None:
        """Remove all that belongs to forgotten entries, in steps between which others can write."""
        with self._lock:
            if self.connect() is None:
                return
            left = True
            while left:
                with self.change() as connection:
                    left = self._reclaim(connection, 4000)
            with self.change() as connection:
                connection.execute("DELETE FROM kinds WHERE id NOT IN (SELECT kind FROM rows)")

    @staticmethod
    def _reclaim(connection: sqlite3.Connection, count: int) -> bool:
        """Remove rows of `count` forgotten entries; return whether there were as many."""
        found = connection.execute("SELECT n FROM gone ORDER BY n LIMIT ?", (count,)).fetchall()
        if found:
            last = found[-1]
            connection.execute("DELETE FROM rows WHERE n IN (SELECT n FROM gone WHERE n <= ?)", last)
            connection.execute("DELETE FROM gone WHERE n <= ?", last)
        return len(found) == count

    @staticmethod
    def _unused(connection: sqlite3.Connection, files: set[str]) -> list[str]:
        used = "SELECT 1 FROM live WHERE file = ?"
        return [file for file in sorted(files) if connection.execute(used, (file,)).fetchone() is None]

    # -- knowing

    def entries(self, task: str | None = None) -> Iterator[EntryInfo]:
        """Return what is known of each entry, oldest first."""
        where, values = (
            ("WHERE rows.task = ? AND kinds.task = ? ", (rowtext.hash_of(task), task)) if task is not None else ("", ())
        )
        if self._others.waiting() and self.connect() is not None and not self.readonly:
            with self._lock, self.change() as connection:
                self._write_uses(connection)
        return iter(self._infos(f"{where}ORDER BY rows.created, rows.n", values))

    def related(self, task: str, parts: tuple[KeyPart, ...]) -> list[EntryInfo]:
        """Return entries that a task had when it was first asked for: those with the same arguments, and recent ones.

        Those written since are known to whoever wrote them.
        """
        older = self._older.get(task)
        if older is None:
            older = self._older[task] = bool(
                self._ask("SELECT 1 FROM rows WHERE task = ? LIMIT 1", (rowtext.hash_of(task),))
            )
        if not older:
            return []
        same = self._infos("WHERE rows.args = ? ORDER BY rows.n DESC LIMIT 2", (rowtext.arguments_of(task, parts),))
        last = self._infos("WHERE rows.task = ? ORDER BY rows.n DESC LIMIT 6", (rowtext.hash_of(task),))
        return list({info.key: info for info in (*same, *last) if info.task == task and not info.leads}.values())

    def _infos(self, where: str, values: tuple[Any, ...]) -> list[EntryInfo]:
        return [rowtext.info_of(*row) for row in self._ask(_INFOS + where, values)]

    def totals(self) -> tuple[int, int, float]:
        """Return the number of entries, their bytes, and when the last clean-up was."""
        found = self._ask("SELECT entries, bytes, pruned FROM totals")
        return found[0] if found else (0, 0, 0.0)

    def numbers(self) -> set[int]:
        """Return the numbers of all entries, see `number_of`."""
        return {number for (number,) in self._ask("SELECT id FROM live")}

    def leads(self) -> int:
        """Return how many entries are no results themselves, see `EntryInfo.leads`."""
        kinds = self._ask("SELECT id, task FROM kinds WHERE parts = ?", (rowtext.text_of((LEAD,)),))
        if not kinds:
            return 0
        ids, tasks = json.dumps([kind for kind, _ in kinds]), json.dumps([rowtext.hash_of(task) for _, task in kinds])
        return int(
            self._ask(
                "SELECT count(*) FROM rows JOIN live ON live.id = rows.id AND live.n = rows.n "
                "WHERE rows.task IN (SELECT value FROM json_each(?)) AND rows.kind IN (SELECT value FROM json_each(?))",
                (tasks, ids),
            )[0][0]
        )

    def used_files(self) -> set[str]:
        """Return the names of all files that entries refer to."""
        return {name for (name,) in self._ask("SELECT file FROM live WHERE file IS NOT NULL")}

    def _ask(self, question: str, values: tuple[Any, ...] = ()) -> list[Any]:
        if self._changing:
            return self.ask_aside(question, values)
        with self._lock:
            connection = self.connect()
            return [] if connection is None else connection.execute(question, values).fetchall()


def _about(connection: sqlite3.Connection, total: int, excess: int) -> tuple[float, float]:
    """Return two priorities between which that of the last entry to go probably is, see `Index._cut`."""
    # Ids are made by a hash, so the first entries are a fair sample of all.
    sample = connection.execute("SELECT priority, size, pinned FROM live ORDER BY id LIMIT 1000").fetchall()
    each = total / max(sum([size for _, size, _ in sample]), 1)  # bytes for which one of the sample stands
    least, gone, margin = -_INF, 0.0, total / 20
    for priority, size, pinned in sorted(sample):
        gone += 0 if pinned else size * each
        if gone > excess + margin:
            return least, float(priority)
        if gone < excess - margin:
            least = priority
    return least, _INF


def number_of(key: str) -> int:
    """Return the number by which an entry is found; its seal names the whole key."""
    number: int = xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))
    return number >> 1
