"""The cache of results: a memory tier in front of a folder.

Reading never raises: whatever is wrong with an entry makes it a miss, and `explain` says what it was. A hit never
shares what one caller could change with another: values that cannot change are handed out as they are, others are
built anew. Session-scoped keys never reach the disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

from nbflow._clock import SYSTEM_CLOCK, Clock
from nbflow._typing import TYPE_CHECKING, Any, NamedTuple
from nbflow._util import lazy
from nbflow.cache.blob import Packed, Unloadable, pack, unpack
from nbflow.cache.disk import DiskTier
from nbflow.cache.flight import Flight, flights_of
from nbflow.cache.memory import UNKNOWN, EntryInfo, Found, MemoryTier, is_immutable, unpack_readonly
from nbflow.cache.miss import CACHE_MISS, CacheMissType
from nbflow.cache.notes import Notes
from nbflow.cache.parts import CacheKey, hashed
from nbflow.cache.seal import Loaded
from nbflow.cache.squeeze import AUTO, check_mode
from nbflow.errors import CacheError

if TYPE_CHECKING:
    from nbflow.cache import explain as words
    from nbflow.cache.afar import SharedStore
else:
    words = lazy("nbflow.cache.explain")  # a hit needs none

__all__ = ["CACHE_MISS", "CacheMissType", "CacheStore", "EntryInfo", "Found", "Saved"]

_new = tuple.__new__  # of a named tuple in a third of the time
_MIB = 1024**2
_MEMORY_COPY = 256 * 1024  # bytes up to which a changeable value of the disk is kept in memory too


class Saved(NamedTuple):
    """What became of a result.

    Attributes:
        size_bytes: Bytes that it takes.
        digest: Digest of the result; equal results of different keys are stored once.
        persisted: Whether it is on disk.
        value: What to hand out instead of the result, where that is to be read-only; else None.
    """

    size_bytes: int
    digest: str
    persisted: bool
    value: Any = None


class CacheStore:
    """Results under keys, in memory and (where there is a location) on disk.

    Safe from any thread and process; pickles as its address, so a worker opens the same store.

    Args:
        location: Folder of the store; None for memory only. Made at the first save.
        ttl: Seconds after which entries are too old, where neither call nor entry says otherwise.
        memory_bytes: Budget of the memory tier.
        max_bytes: Budget of the disk tier.
        max_age_s: Seconds after which unused entries leave the disk.
        clock: Where time comes from.
        shared: A store further away, asked after a miss on disk; what it has is kept on disk too.
        compress: What to compress on disk: "auto", "off", "zlib" or "zstd"; see the setting `cache_compress`.

    Raises:
        SettingsError: There is no such compression, or not here.
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | None = None,
        *,
        ttl: float | None = None,
        memory_bytes: int = 256 * _MIB,
        max_bytes: int = 2048 * _MIB,
        max_age_s: float = 90 * 86400.0,
        clock: Clock = SYSTEM_CLOCK,
        shared: SharedStore | None = None,
        compress: str = AUTO,
    ) -> None:
        self.location = None if location is None else os.path.abspath(os.path.expanduser(os.fspath(location)))
        self.ttl = ttl
        self._options: dict[str, Any] = {
            "ttl": ttl,
            "memory_bytes": memory_bytes,
            "max_bytes": max_bytes,
            "max_age_s": max_age_s,
        }
        self._options["compress"] = check_mode(compress)
        self._clock = clock
        self.shared = shared
        self.flights = flights_of(self.location)
        self._disk = (
            None
            if self.location is None or self.flights.seats is None
            else DiskTier(self.location, max_bytes, max_age_s, clock.wall, compress, self.flights.seats)
        )
        self._memory = MemoryTier(memory_bytes, clock.wall, None if self._disk is None else self._disk.note_use)
        self._why: dict[str, str] = {}  # keys whose entry was there and could not be used
        self.notes = None if self._disk is None else Notes(self._disk)
        self._misses = 0
        self._disk_hits = 0
        self.peek = self._memory.peek

    @property
    def disk(self) -> DiskTier | None:
        """The tier on disk, where there is one."""
        return self._disk

    # -- looking up

    def fetch(self, key: CacheKey | str, *, ttl: float | None = None) -> Found | None:
        """Return the hit under `key` from memory or disk, or None; never raises.

        Args:
            key: The key, or its digest.
            ttl: Seconds after which an entry is too old; None for the entry's own limit, else the store's.
        """
        found = self.refetch(key, ttl)
        if found is None:
            self._misses += 1
        return found

    def refetch(self, key: CacheKey | str, ttl: float | None = None) -> Found | None:
        """Look once more, or beforehand: as `fetch`, but not finding anything is not counted as a miss."""
        digest = key if isinstance(key, str) else key.digest
        found = self.peek(digest, ttl)
        if found is not None or self._disk is None or (not isinstance(key, str) and key.scope == "session"):
            return found
        loaded = self._disk.fetch(digest, ttl, self.ttl)
        if loaded is None and self.shared is not None:
            loaded = self._from_afar(digest, ttl)
        if loaded is None:
            return None
        return self._taken(digest, loaded, self._disk)

    def _taken(self, digest: str, loaded: Loaded, disk: DiskTier) -> Found | None:
        """Return what `disk` had as a hit, and keep it in memory."""
        record = loaded.record
        readonly = Packed(bytes(loaded.head), loaded.buffers) if record.content else None
        try:
            value = unpack_readonly(readonly, record.content) if readonly else unpack(loaded.head, loaded.buffers)
        except Unloadable as error:
            self._why[digest] = f"the stored result cannot be built here: {error}"
            return None
        self._disk_hits += 1
        disk.note_use(digest)
        found = _new(Found, (value, record.cost, record.created, digest))
        limit = self.ttl if record.ttl is None else record.ttl
        if is_immutable(value):
            self._memory.keep_loaded(found, None, limit)
        elif readonly is not None:
            self._memory.keep_loaded(found, readonly, limit, record.content)
        elif len(loaded.head) + sum(map(len, loaded.buffers)) <= _MEMORY_COPY:
            packed = Packed(bytes(loaded.head), tuple(map(bytes, loaded.buffers)))
            self._memory.keep_loaded(found, packed, limit)
        return found

    def _from_afar(self, digest: str, ttl: float | None) -> Loaded | None:
        """Ask the shared store, and keep on disk what it has."""
        assert self._disk is not None
        assert self.shared is not None
        loaded = self.shared.fetch(digest, self.ttl if ttl is None else ttl)
        if loaded is not None:
            try:
                self._disk.adopt(loaded)
            except Exception as error:  # a full disk does not make a hit a miss
                self._why[digest] = f"the shared result could not be kept here: {error}"
        return loaded

    def contains(self, key: CacheKey | str, *, ttl: float | None = None) -> bool:
        """Whether `fetch` would find something."""
        return self.fetch(key, ttl=ttl) is not None

    def knows(self, key: CacheKey | str, *, ttl: float | None = None) -> bool:
        """Whether there is a result under `key` in memory or on disk, without building it or counting a use."""
        digest = key if isinstance(key, str) else key.digest
        if self._memory.holds(digest, ttl):
            return True
        if self._disk is None or (not isinstance(key, str) and key.scope == "session"):
            return False
        return self._disk.fetch(digest, ttl, self.ttl) is not None

    def get(self, key: CacheKey | str) -> Any:
        """Return the result under `key`, or `CACHE_MISS`."""
        found = self.fetch(key)
        return CACHE_MISS if found is None else found.value

    @property
    def again(self) -> _Again:
        """This store as seen by whoever looks a second time: nothing found is not counted as another miss."""
        return _Again(self)

    # -- one at a time

    def take_seat(self, flight: Flight, key: CacheKey) -> bool:
        """Keep other processes from computing what `flight` computes; False while one of them does; never blocks."""
        if self._disk is None or key.scope == "session":
            return True
        return not self._disk.prepare_quietly() or self.flights.take_seat(flight)

    def when_written(self, key: str, act: Callable[..., None]) -> None:
        """Call `act(key)` once the result under `key` is on disk, at once if it does not wait; see `Pending.then`."""
        if self._disk is None:
            act(key)
        else:
            self._disk.when_written(key, act)

    # -- storing

    def save(
        self,
        key: CacheKey | str,
        value: Any,
        *,
        ttl: float | None = None,
        cost_s: float = 0.0,
        cell: str | None = None,
        readonly: bool = False,
    ) -> Saved:
        """Store a result; replaces what was there.

        Args:
            key: The key, or its digest.
            value: The result.
            ttl: Seconds after which it is too old.
            cost_s: Seconds that computing it took.
            cell: The cell that did so.
            readonly: Hand it out read-only, mapped from where it is stored; see `Saved.value`.

        Returns:
            Size and digest, and whether it is on disk (session keys never are).

        Raises:
            Exception: It cannot be pickled (what pickle says), or the disk is full, read-only or busy; then it is kept
                in memory at least. Cheap results are written a moment later: see `trouble`.
        """
        if isinstance(key, str):
            key = CacheKey(key, "")
        now = float(self._clock.wall())
        ttl = None if ttl is None else float(ttl)
        cost_s = float(cost_s) if cost_s == cost_s else 0.0
        info = EntryInfo(key.digest, key.task, cell, now, now, cost_s, 0, ttl, key.parts)
        self._memory.drop(key.digest)  # whatever happens next, the old value is not the answer any more
        self._why.pop(key.digest, None)
        shared = is_immutable(value)
        on_disk = self._disk is not None and key.scope != "session"
        content = _content_of(value) if readonly else b""
        packed = None if shared and not on_disk else pack(value, in_band=0) if readonly else pack(value)
        digest, size, failure = "", 0, None
        if self._disk is not None and packed is not None and on_disk:
            try:
                size, digest = self._disk.save(info, packed, content)
                if self.notes is not None:
                    self.notes.write()
            except Exception as error:
                failure = error
        persisted = size > 0
        limit = self.ttl if ttl is None else ttl
        if content and packed is not None and not shared:
            # What is handed out lies over the file, or over a copy that nobody else has.
            loaded = self._disk.fetch(key.digest, float("inf"), None) if self._disk is not None and persisted else None
            packed = packed.detached() if loaded is None else Packed(packed.head, loaded.buffers)
            value = unpack_readonly(packed, content)
        if shared or content or not persisted or packed is None or packed.size <= _MEMORY_COPY:
            kept = None if shared else packed
            self._memory.keep(info, value, kept, ttl=limit, session=not persisted, content=content)
        if failure is not None:
            raise failure
        if persisted and self.shared is not None and self._disk is not None:
            self.shared.offer(key.digest, self._disk)
        digest = digest or _result_digest(packed, value)
        size = info.size_bytes or (packed.size if packed else 0)
        return _new(Saved, (size, digest, persisted, value if readonly else None))

    def put(self, key: CacheKey | str, value: Any, ttl: float | None = None) -> None:
        """Store a result; see `save`."""
        self.save(key, value, ttl=ttl)

    def invalidate(self, key: CacheKey | str) -> bool:
        """Delete one entry; return whether there was one."""
        digest = key if isinstance(key, str) else key.digest
        there = self._memory.drop(digest)
        return bool(self._disk is not None and self._manage().delete([digest])) or there

    def clear(self, task: str | None = None) -> int:
        """Delete all entries, or those of one task; return how many were on disk or only in memory."""
        held = [info.key for info, session in self._memory.infos() if session and task in (None, info.task)]
        gone = [info.key for info in self.entries(task, leads=True)] if task is not None else None
        count = len(held)
        if self._disk is not None:
            count += self._manage().clear(task)
        if self.notes is not None and task is None:
            self.notes.clear()
        if gone is None:
            self._memory.clear()
        else:
            for digest in gone:
                self._memory.drop(digest)
        return count

    def pin(self, key: CacheKey | str, pinned: bool = True) -> bool:
        """Keep an entry on disk whatever the budgets; return whether there is one."""
        digest = key if isinstance(key, str) else key.digest
        return self._disk is not None and self._manage().index.pin(digest, pinned)

    def prune(self, max_bytes: int | None = None, *, unused_s: float | None = None) -> int:
        """Enforce the budgets now and return how many entries went; pinned ones stay.

        Args:
            max_bytes: A smaller budget of bytes.
            unused_s: Remove what was not used for so many seconds too.
        """
        if self._disk is None:
            return 0
        count = 0
        if unused_s is not None:
            limit = self._clock.wall() - unused_s
            old = [info.key for info in self.entries(leads=True) if not info.pinned and info.last_used <= limit]
            count = self._manage().delete(old)
        return count + self._manage().prune(max_bytes)

    def verify(self) -> list[tuple[EntryInfo, str]]:
        """Read every entry on disk back to its last byte; return the damaged ones (set aside), with what is wrong."""
        if self._disk is None:
            return []
        checked = [(info, self._disk.verify(info.key)) for info in self.entries(leads=True) if info.tier == "disk"]
        return [(info, fault) for info, fault in checked if fault is not None]

    # -- knowing

    def entries(self, task: str | None = None, *, leads: bool = False) -> Iterator[EntryInfo]:
        """Return what is known of each result; disk first.

        Args:
            task: Only those of this task.
            leads: Return too what is no result but leads to one (the names of the files that a call read).

        Raises:
            CacheError: The folder is of another format, or cannot be read.
        """
        if self._disk is not None:
            yield from (info for info in self._read(lambda index: index.entries(task)) if leads or not info.leads)
        for info, session in self._memory.infos():
            if session and task in (None, info.task) and (leads or not info.leads):
                yield info

    def stats(self) -> dict[str, Any]:
        """Return counts and sizes.

        Raises:
            CacheError: The folder is of another format, or cannot be read.
        """
        count = size = leads = 0
        if self._disk is not None:
            count, size, leads = self._read(lambda index: (*index.totals()[:2], index.leads()))
        return {
            "location": self.location,
            "entries": count - leads + sum(session and not info.leads for info, session in self._memory.infos()),
            "bytes": size,
            "max_bytes": self._options["max_bytes"],
            "memory_entries": len(self._memory),
            "memory_bytes": self._memory.bytes,
            "hits": self._memory.hits + self._disk_hits,
            "misses": self._misses,
            "quarantined": self._disk.files.quarantined() if self._disk is not None else 0,
            "shared": self.shared.stats() if self.shared is not None else None,
        }

    def explain(self, key: CacheKey) -> str | None:
        """Return why `key` misses, in words; None where it does not. Never raises.

        Names the parts that differ from the nearest entry of the same task, or says "expired (ttl 60 s)", "never run
        before", or what is wrong with the stored entry.
        """
        return self.explain_later(key)()

    def explain_later(self, key: CacheKey) -> Callable[[], str | None]:
        """Look now at what `explain` compares, and return what tells in words what it was; neither raises."""
        disk = self._disk
        fault = self._why.get(key.digest) or (None if disk is None else disk.faults.get(key.digest))
        if fault is None and self.shared is not None and (afar := self.shared.why(key.digest)) is not None:
            return partial(_told, afar)
        if fault is not None:
            return partial(_told, fault if fault.startswith("the ") else f"the stored entry was set aside: {fault}")
        others = self._memory.related(key.task)
        if disk is not None:
            try:
                limit = disk.too_old(key.digest)
                if limit is not None:
                    return partial(words.expired, limit)
                index = disk.index
                since = index.evicted(key.digest)
                if since is not None:
                    return partial(words.evicted, self._clock.wall() - since)
                stored = index.related(key.task, key.parts)
            except Exception as error:
                return partial(_told, f"the store cannot be read: {error}")
            if stored:  # read for this alone, so not worth being kept
                return partial(_told, words.explain_miss(key, (*others, *stored)))
        return partial(_compared, key, others)

    def trouble(self) -> str | None:
        """Return, once, why results that were saved earlier could not be written; None where all is well."""
        return None if self._disk is None else self._disk.trouble()

    def flush(self) -> None:
        """Write what waits to be written, so that other processes find it; what cannot be written is explained."""
        if self._disk is not None:
            self._disk.flush()

    def _manage(self) -> DiskTier:
        assert self._disk is not None
        self._disk.check()
        return self._disk

    def _read(self, question: Any) -> Any:
        try:
            return question(self._manage().index)
        except CacheError:
            raise
        except Exception as error:
            raise CacheError(f"The cache in {self.location} cannot be read: {error}.") from error

    def close(self) -> None:
        """Write what is held back and close files; the store can be used again."""
        if self.shared is not None:
            self.shared.close()
        if self._disk is not None:
            if self.notes is not None:
                self.notes.write()
            self._disk.close()

    def __repr__(self) -> str:
        return f"CacheStore({self.location!r})" if self.location else "CacheStore() in memory"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.location, {**self._options, "shared": self.shared})


class _Again:
    """A store as seen by whoever looks a second time."""

    def __init__(self, store: CacheStore) -> None:
        self.fetch = store.refetch


def _compared(key: CacheKey, others: tuple[EntryInfo, ...]) -> str | None:
    return words.explain_miss(key, others)


def _told(text: str | None) -> str | None:
    return text


def _reopen(location: str | None, options: dict[str, Any]) -> CacheStore:
    return CacheStore(location, **options)


def _content_of(value: Any) -> bytes:
    """Return the canonical bytes of a value that is to be handed out read-only."""
    from nbflow.cache.fingerprint import content_bytes  # keys need a store, but a store alone needs no keys

    try:
        content = content_bytes(value)
    except Exception:  # it has no content that would mean the same tomorrow
        return UNKNOWN
    return content if len(content) < 256 else UNKNOWN


def _result_digest(packed: Packed | None, value: Any) -> str:
    """Return the digest of a result that is only in memory."""
    if packed is None:
        packed = pack(value)
    return hashed(b"", packed.head, *map(bytes, packed.buffers)).hex()
