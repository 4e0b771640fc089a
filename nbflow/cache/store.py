"""The cache of results: a memory tier in front of a folder.

Reading never raises: whatever is wrong with an entry makes it a miss, and `explain` says what it was. A hit never
shares what one caller could change with another: values that cannot change are handed out as they are, others are
built anew. Session-scoped keys never reach the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nbflow._clock import SYSTEM_CLOCK, Clock
from nbflow.cache.blob import Packed, Unloadable, pack, unpack
from nbflow.cache.disk import DiskTier
from nbflow.cache.explain import expired, explain_miss
from nbflow.cache.memory import EntryInfo, Found, MemoryTier, is_immutable
from nbflow.cache.parts import CacheKey, hashed
from nbflow.errors import CacheError

__all__ = ["CACHE_MISS", "CacheMissType", "CacheStore", "EntryInfo", "Found", "Saved"]

_MIB = 1024**2
_MEMORY_COPY = 256 * 1024  # bytes up to which a changeable value of the disk is kept in memory too


class CacheMissType:
    """Type of `CACHE_MISS`, which is false and the only one of its kind."""

    _only: CacheMissType | None = None

    def __new__(cls) -> CacheMissType:
        if cls._only is None:
            cls._only = super().__new__(cls)
        return cls._only

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "CACHE_MISS"

    def __reduce__(self) -> tuple[Any, ...]:
        return CacheMissType, ()


CACHE_MISS = CacheMissType()


@dataclass(slots=True)
class Saved:
    """What became of a result.

    Args:
        size_bytes: Bytes that it takes.
        digest: Digest of the result; equal results of different keys are stored once.
        persisted: Whether it is on disk.
    """

    size_bytes: int
    digest: str
    persisted: bool


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
    ) -> None:
        self.location = None if location is None else os.path.abspath(os.path.expanduser(os.fspath(location)))
        self.ttl = ttl
        self._options = {"ttl": ttl, "memory_bytes": memory_bytes, "max_bytes": max_bytes, "max_age_s": max_age_s}
        self._clock = clock
        self._disk = None if self.location is None else DiskTier(self.location, max_bytes, max_age_s, clock.wall)
        self._memory = MemoryTier(memory_bytes, clock.wall, self._dropped)
        self._why: dict[str, str] = {}  # keys whose entry was there and could not be used
        self._misses = 0
        self._disk_hits = 0
        self.peek = self._memory.peek

    # -- looking up

    def fetch(self, key: CacheKey | str, *, ttl: float | None = None) -> Found | None:
        """Return the hit under `key` from memory or disk, or None; never raises.

        Args:
            key: The key, or its digest.
            ttl: Seconds after which an entry is too old; None for the entry's own limit, else the store's.
        """
        digest = key if isinstance(key, str) else key.digest
        found = self.peek(digest, ttl)
        if found is None and self._disk is not None and not (isinstance(key, CacheKey) and key.scope == "session"):
            found = self._from_disk(digest, ttl)
        if found is None:
            self._misses += 1
        return found

    def _from_disk(self, digest: str, ttl: float | None) -> Found | None:
        assert self._disk is not None
        loaded = self._disk.fetch(digest, ttl, self.ttl)
        if loaded is None:
            return None
        try:
            value = unpack(loaded.head, loaded.buffers)
        except Unloadable as error:
            self._why[digest] = f"the stored result cannot be built here: {error}"
            return None
        self._disk_hits += 1
        self._disk.note_use(digest)
        record = loaded.record
        found = Found(value, record.cost, record.created, digest)
        limit = self.ttl if record.ttl is None else record.ttl
        if is_immutable(value):
            self._memory.keep_loaded(found, None, limit)
        elif loaded.size <= _MEMORY_COPY:
            packed = Packed(bytes(loaded.head), tuple(map(bytes, loaded.buffers)))
            self._memory.keep_loaded(found, packed, limit)
        return found

    def contains(self, key: CacheKey | str, *, ttl: float | None = None) -> bool:
        """Whether `fetch` would find something."""
        return self.fetch(key, ttl=ttl) is not None

    def get(self, key: CacheKey | str) -> Any:
        """Return the result under `key`, or `CACHE_MISS`."""
        found = self.fetch(key)
        return CACHE_MISS if found is None else found.value

    # -- storing

    def save(
        self, key: CacheKey | str, value: Any, *, ttl: float | None = None, cost_s: float = 0.0, cell: str | None = None
    ) -> Saved:
        """Store a result; replaces what was there.

        Args:
            key: The key, or its digest.
            value: The result.
            ttl: Seconds after which it is too old.
            cost_s: Seconds that computing it took.
            cell: The cell that did so.

        Returns:
            Size and digest, and whether it is on disk (session keys never are).

        Raises:
            Exception: It cannot be pickled (what pickle says), or the disk is full, read-only or busy.
        """
        if isinstance(key, str):
            key = CacheKey(key, "")
        now = float(self._clock.wall())
        ttl = None if ttl is None else float(ttl)
        cost_s = float(cost_s) if cost_s == cost_s else 0.0
        info = EntryInfo(key.digest, key.task, cell, now, now, cost_s, 0, ttl, key.parts)
        shared = is_immutable(value)
        packed = None
        digest = ""
        persisted = False
        self._memory.drop(key.digest)  # whatever happens next, the old value is not the answer any more
        if self._disk is not None and key.scope != "session":
            packed = pack(value)
            size, digest = self._disk.save(info, packed)
            persisted = size > 0
        elif not shared:
            packed = pack(value)
        size = info.size_bytes or (packed.size if packed else 0)
        if shared or not persisted or size <= _MEMORY_COPY:
            limit = self.ttl if ttl is None else ttl
            self._memory.keep(info, value, None if shared else packed, ttl=limit, session=not persisted)
        self._why.pop(key.digest, None)
        return Saved(info.size_bytes or size, digest or _result_digest(packed, value), persisted)

    def put(self, key: CacheKey | str, value: Any, ttl: float | None = None) -> None:
        """Store a result; see `save`."""
        self.save(key, value, ttl=ttl)

    def invalidate(self, key: CacheKey | str) -> bool:
        """Delete one entry; return whether there was one."""
        digest = key if isinstance(key, str) else key.digest
        there = self._memory.drop(digest)
        return bool(self._disk is not None and self._manage().delete("key = ?", (digest,))) or there

    def clear(self, task: str | None = None) -> int:
        """Delete all entries, or those of one task; return how many were on disk or only in memory."""
        held = [info.key for info, session in self._memory.infos() if session and task in (None, info.task)]
        gone = [info.key for info in self.entries(task)] if task is not None else None
        count = len(held)
        if self._disk is not None:
            count += self._manage().delete("1" if task is None else "task = ?", () if task is None else (task,))
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

    def prune(self, max_bytes: int | None = None) -> int:
        """Enforce the budgets now (or a smaller one); return how many entries went."""
        return 0 if self._disk is None else self._manage().prune(max_bytes)

    # -- knowing

    def entries(self, task: str | None = None) -> Iterator[EntryInfo]:
        """Return what is known of each entry, or of those of one task; disk first.

        Raises:
            CacheError: The folder is of another format, or cannot be read.
        """
        if self._disk is not None:
            yield from self._read(lambda index: index.entries(task))
        for info, session in self._memory.infos():
            if session and task in (None, info.task):
                yield info

    def stats(self) -> dict[str, Any]:
        """Return counts and sizes.

        Raises:
            CacheError: The folder is of another format, or cannot be read.
        """
        count, size, _ = self._read(lambda index: index.totals()) if self._disk is not None else (0, 0, 0.0)
        return {
            "location": self.location,
            "entries": count + sum(session for _, session in self._memory.infos()),
            "bytes": size,
            "max_bytes": self._options["max_bytes"],
            "memory_entries": len(self._memory),
            "memory_bytes": self._memory.bytes,
            "hits": self._memory.hits + self._disk_hits,
            "misses": self._misses,
            "quarantined": self._disk.quarantined() if self._disk is not None else 0,
        }

    def explain(self, key: CacheKey) -> str | None:
        """Return why `key` misses, in words; None where it does not. Never raises.

        Names the parts that differ from the nearest entry of the same task, or says "expired (ttl 60 s)", "never run
        before", or what is wrong with the stored entry.
        """
        fault = self._why.get(key.digest) or (self._disk.faults.get(key.digest) if self._disk is not None else None)
        if fault is not None:
            return fault if fault.startswith("the ") else f"the stored entry was set aside: {fault}"
        others = [info for info, _ in self._memory.infos() if info.task == key.task and info.parts]
        if self._disk is not None:
            try:
                limit = self._disk.too_old(key.digest, self.ttl)
                if limit is not None:
                    return expired(limit)
                others += self._disk.index.related(key.task, key.parts)
            except Exception as error:
                return f"the store cannot be read: {error}"
        return explain_miss(key, others)

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

    def _dropped(self, digest: str, uses: int) -> None:
        if self._disk is not None:
            self._disk.note_use(digest, uses)

    def close(self) -> None:
        """Write what is held back and close files; the store can be used again."""
        if self._disk is not None:
            self._disk.close()

    def __repr__(self) -> str:
        return f"CacheStore({self.location!r})" if self.location else "CacheStore() in memory"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.location, self._options)


def _reopen(location: str | None, options: dict[str, Any]) -> CacheStore:
    return CacheStore(location, **options)


def _result_digest(packed: Packed | None, value: Any) -> str:
    """Return the digest of a result that is only in memory."""
    if packed is None:
        packed = pack(value)
    return hashed(b"", packed.head, *map(bytes, packed.buffers)).hex()
