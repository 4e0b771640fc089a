"""The disk tier: an index, and files for large results.

    <folder>/FORMAT  .gitignore  CACHEDIR.TAG  index.sqlite3  flights  blobs/<2 hex>/<30 hex>  quarantine/

The rules:

* Nothing is made before a first result is computed or saved. The folder is for its user only (mode 0700).
* A result whose computing took a while is committed at once; cheap ones wait for each other, see `pending`. Stores of
  one process on one folder see each other's results at once all the same.
* A read that finds anything wrong is a miss; what it found goes to the quarantine, and the reason is kept for
  `explain`. A write that fails raises.
* Checksums of buffers are compared when a process first loads a file. For files beyond 64 MiB the comparison is made
  once and for all: size, inode and change time of the sound file are signed into the index, and while they are the
  same the file is taken to be the same (as git does), so a gigabyte is back in milliseconds.
* A folder of another format is not used and not touched.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable

from xxhash import xxh3_64_hexdigest

from nbflow._typing import TYPE_CHECKING
from nbflow._util import lazy
from nbflow.cache.ahead import Ahead
from nbflow.cache.blob import Damaged, Packed, check_buffers, read_front
from nbflow.cache.database import is_corruption
from nbflow.cache.files import Files, Stamp
from nbflow.cache.index import Index, Row
from nbflow.cache.known import Known
from nbflow.cache.memory import EntryInfo
from nbflow.cache.pending import Pending
from nbflow.cache.seal import FILE, Loaded, Parcel, Record, loaded_from, named_front, opened, seal, unseal, wrap
from nbflow.cache.seats import Seats
from nbflow.cache.trust import Signer, load_signer, make_signer
from nbflow.errors import CacheError

if TYPE_CHECKING:
    from pathlib import Path  # a small result is found without

    from nbflow.cache import folder as folders
else:
    folders = lazy("nbflow.cache.folder")

__all__ = ["DiskTier"]

FORMAT = "nbflow cache 2"
_AT_ONCE_S = 0.05  # seconds of computing from which a result is worth a commit of its own
_TRUST_STAMP = 64 * 1024**2  # bytes from which a file is compared only when it has changed
_NOTED = 10_000  # keys of entries that are remembered as too old


class _Folder:
    """What all tiers of this process on one folder share."""

    def __init__(self, seats: Seats) -> None:
        self.known = Known(seats)
        self.ahead = Ahead(seats)
        self.tiers: weakref.WeakSet[DiskTier] = weakref.WeakSet()
        self.seals: dict[str, bytes] = {}  # of results that wait to be written


_folders: weakref.WeakValueDictionary[str, _Folder] = weakref.WeakValueDictionary()


class DiskTier:
    """Results in a folder; safe from any thread, process and kernel at once.

    Args:
        folder: The folder; made at the first save.
        max_bytes: Bytes that results may take.
        max_age_s: Seconds after which unused entries go.
        wall: Returns seconds since the epoch.
        compress: What to compress, see `squeeze.MODES`.
        seats: Those of the folder, where changes of the index are marked.
    """

    def __init__(
        self,
        folder: str,
        max_bytes: int,
        max_age_s: float,
        wall: Callable[[], float],
        compress: str,
        seats: Seats,
    ) -> None:
        self._place = folder
        self.files = Files(folder)
        self.compress = compress
        self.max_bytes = max_bytes
        self.max_age_s = max_age_s
        self.faults: dict[str, str] = {}
        self._wall = wall
        self._index = Index(os.path.join(folder, "index.sqlite3"), seats.change)
        self._format_seen = False
        self._pruned = 0.0
        self._signer: Signer | None = None
        self._shared = _folders.setdefault(folder, _Folder(seats))
        self._shared.tiers.add(self)
        self._pending = Pending(self._commit, self._lost, self._shared.seals)
        self.when_written = self._pending.then
        self._trouble: str | None = None  # why the last commit failed
        self._told = False
        self._expired: dict[str, float] = {}  # limits that the entries under these keys were found to have passed

    @property
    def folder(self) -> Path:
        """The folder."""
        return self.files.folder

    # -- reading

    def fetch(self, key: str, ttl: float | None, default_ttl: float | None) -> Loaded | None:
        """Return the entry under `key`, or None; never raises.

        Args:
            key: Digest of the key.
            ttl: Seconds after which an entry is too old.
            default_ttl: The same where neither `ttl` nor the entry says so.
        """
        try:
            signer = self._signer
            if signer is None or not self._format_seen:
                if not self._usable() or (signer := load_signer()) is None:
                    return None
                self._signer = signer
            shared = self._shared
            sealed = shared.seals.get(key) or shared.ahead.take(key) or self._find(key)
            if sealed is None:
                return None
            record = unseal(signer, key, sealed)
            limit = ttl if ttl is not None else record.ttl if record.ttl is not None else default_ttl
            if limit is not None and self._wall() - record.created > limit:
                if len(self._expired) >= _NOTED:
                    self._expired.clear()
                self._expired[key] = limit
                return None
            return loaded_from(record) if record.kind != FILE else self._mapped(key, sealed, record, signer)
        except Damaged as fault:
            self._set_aside(key, str(fault))
        except FileNotFoundError:
            self._set_aside(key, "its file is gone")
        except Exception as error:  # a cache never fails a task: whatever went wrong is a miss
            self._fault(key, error)
        return None

    def _find(self, key: str) -> bytes | None:
        """Return the seal of an entry of the index, unless it was read ahead."""
        known = self._shared.known
        if known.lacks(key):
            return None
        found = self._index.find(key)
        if found is None:
            known.missed(self._index)
            return None
        self._shared.ahead.went_to(self._index, found[1])
        return found[0]

    def too_old(self, key: str) -> float | None:
        """Return the limit that the entry under `key` had passed when it was last asked for; None if it had not."""
        return self._expired.get(key)

    def note_use(self, key: str, times: int = 1) -> None:
        """Remember a use, for eviction; never raises."""
        try:
            self._index.note_use(key, self._wall(), times)
        except Exception as error:
            self._fault(key, error)

    def _mapped(self, key: str, sealed: bytes, record: Record, signer: Signer) -> Loaded:
        name = record.result.hex()
        view, stamp = self.files.map(name, shared=bool(record.content))
        if not view:
            raise Damaged("it is empty")
        front = named_front(view, signer, record, stamp[0])
        if not self.files.is_sound(name, stamp):
            large = stamp[0] >= _TRUST_STAMP
            if not (large and record.payload == _written(stamp)):
                check_buffers(front, view)
                if large and not self._index.readonly:
                    self._index.reseal(key, sealed, seal(signer, key, record._replace(payload=_written(stamp))))
            self.files.note_sound(name, stamp)
        return opened(front, view, record)

    # -- writing

    def save(self, info: EntryInfo, packed: Packed, content: bytes = b"") -> tuple[int, str]:
        """Store a result under `info.key`.

        Args:
            info: What is known of it; its size is filled in.
            packed: The result.
            content: Of a result that is to be handed out read-only, see `Record`.

        Returns:
            Bytes that it takes (0: too large for the store's budget, not stored), and its digest.

        Raises:
            CacheError: The folder is of another format, or the user's key cannot be made.
            OSError, sqlite3.Error: The disk is full, read-only, or busy for too long.
        """
        self._prepare()
        signer = self._signer = self._signer or make_signer()
        parcel = wrap(signer, info, packed, content, self.compress)
        if parcel.size > self.max_bytes:
            return 0, parcel.name
        info.size_bytes = parcel.size
        sealed, file = parcel.sealed, None
        if parcel.blob:
            self._prepare(again=True)
            file = parcel.name
            record = unseal(signer, info.key, sealed)
            sealed = seal(signer, info.key, record._replace(payload=self._write_file(parcel)))
        if info.key in self._shared.seals:
            self._supersede(info.key)
        self._pending.add(Row(info, sealed, file))
        if info.cost_s >= _AT_ONCE_S or self._trouble is not None or self._index.readonly:
            self._pending.flush()
        if file and not self.files.exists(file):  # evicted by another process in between
            self._write_file(parcel)
        return parcel.size, parcel.name

    def _supersede(self, key: str) -> None:
        """Let no older result under `key` be written after the one that comes now."""
        for tier in self._shared.tiers:
            if tier is not self:
                tier._pending.discard(key)

    def _commit(self, rows: list[Row]) -> None:
        self._prepare(again=True)
        try:
            total, orphans = self._index.write(rows)
        except Exception as error:
            if not is_corruption(error):
                raise
            self._set_index_aside()
            total, orphans = self._index.write(rows)
        self._shared.known.added(row.info.key for row in rows)
        self._trouble = None
        if self.faults or self._expired:
            for row in rows:
                self.faults.pop(row.info.key, None)
                self._expired.pop(row.info.key, None)
        self.files.remove(orphans)
        if total > self.max_bytes or rows[-1].info.created - self._pruned > self.max_age_s / 100:
            self._prune(None, keep_some=True)

    def _lost(self, rows: list[Row], error: Exception) -> None:
        self._trouble = f"{type(error).__name__}: {error}"
        self._told = False
        for row in rows:
            self.faults[row.info.key] = f"the last result could not be written ({self._trouble})"

    def trouble(self) -> str | None:
        """Return, once, why results that were saved before could not be written."""
        if self._trouble is None or self._told:
            return None
        self._told = True
        return self._trouble

    def flush(self) -> None:
        """Write the results of this process that wait; what cannot be written is noted as a fault."""
        for tier in list(self._shared.tiers):
            tier._pending.flush_quietly()

    def verify(self, key: str) -> str | None:
        """Read an entry back to its last byte; return what is wrong with it (it is set aside), or None."""
        loaded = self.fetch(key, float("inf"), None)
        if loaded is None:
            return self.faults.get(key, "it is gone")
        if loaded.record.kind == FILE:  # compared now, whatever was known of the file
            try:
                view, _ = self.files.map(loaded.record.result.hex(), shared=True)
                check_buffers(read_front(view, self._signer), view)
            except (Damaged, OSError, ValueError) as fault:
                self._set_aside(key, str(fault))
                return str(fault)
        return None

    def export(self, key: str) -> Loaded | None:
        """Return a sound entry with all that is known of it, to be wrapped for somebody else; None if there is none.

        Never raises; an entry that has passed its limit is exported with that limit.
        """
        loaded = self.fetch(key, float("inf"), None)
        if loaded is None:
            return None
        self.flush()
        info = self._index.info(key)
        return None if info is None else loaded._replace(info=info)

    def adopt(self, loaded: Loaded) -> tuple[int, str]:
        """Store an entry that came from elsewhere under the user's own key; see `save`.

        Args:
            loaded: What `unwrap` returned, with `info`.
        """
        assert loaded.info is not None
        return self.save(loaded.info, Packed(bytes(loaded.head), loaded.buffers), loaded.record.content)

    def _write_file(self, parcel: Parcel) -> bytes:
        """Write the file of a result; return its stamp as text."""
        return _written(self.files.write(parcel.name, parcel.blob, parcel.size))

    def prepare_quietly(self) -> bool:
        """Make the folder if it can be made; return whether it is there and of our format."""
        if self._format_seen:
            return True
        try:
            self._prepare()
        except (CacheError, OSError):
            return False
        return True

    def _prepare(self, *, again: bool = False) -> None:
        """Make the folder and its marks; `again` even if it was there before, since somebody may have deleted it."""
        if (self._format_seen and not again) or self._usable(for_writing=True):
            return
        folders.make_folder(self.folder, FORMAT)

    def _usable(self, *, for_writing: bool = False) -> bool:
        """Whether the folder is there and of our format.

        Raises:
            CacheError: It is of another format, and we are to write.
        """
        if self._format_seen and (not for_writing or self.files.are_there()):
            return True
        try:
            with open(os.path.join(self._place, "FORMAT"), encoding="utf-8", errors="replace") as stream:
                found = stream.read().strip()
        except FileNotFoundError:
            return False
        if found != FORMAT:
            if for_writing:
                raise CacheError(
                    f"The cache in {self.folder} has the format {found[:40]!r}, this nbflow uses {FORMAT!r}. "
                    "It is left as it is; choose another cache folder, or delete it."
                )
            return False
        self._format_seen = self.files.are_there()
        return self._format_seen

    # -- damage

    def _set_aside(self, key: str, reason: str) -> None:
        """Forget a damaged entry, keeping its bytes for inspection."""
        self.faults[key] = reason
        try:
            found = self._index.find(key)
            if found is None or self._index.readonly:
                return
            sealed = found[0]
            name = self._index.file_of(key)
            if name is None:
                self.files.set_aside(
                    sealed if isinstance(sealed, bytes) else repr(sealed).encode(),
                    f"{xxh3_64_hexdigest(key.encode('utf-8', 'surrogatepass'))}.row",
                )
            elif len(name) == 32 and name.isalnum():
                self.files.set_file_aside(name)
            self._index.delete([key])
        except Exception as error:  # cannot be moved (read-only): it stays a miss
            self.faults[key] = f"{reason} ({error})"

    def _fault(self, key: str, error: Exception) -> None:
        self.faults[key] = f"it could not be read ({type(error).__name__}: {error})"
        if is_corruption(error):
            try:
                self._set_index_aside()
            except Exception as further:  # read-only: everything stays a miss
                self.faults[key] += f"; {further}"

    def _set_index_aside(self) -> None:
        """Move a broken database away; files that it named are found again by content or removed in time."""
        self._index.abandon()
        for suffix in ("", "-wal", "-shm"):
            name = f"index.sqlite3{suffix}"
            path = os.path.join(self._place, name)
            if os.path.exists(path):
                self.files.set_aside(path, name)

    # -- management

    def check(self) -> None:
        """Write what waits, and raise `CacheError` where the folder is of another format."""
        self._usable(for_writing=True)
        self.flush()

    def prune(self, max_bytes: int | None = None, *, keep_some: bool = False) -> int:
        """Enforce the budgets of size and age, and remove files that nothing refers to.

        Args:
            max_bytes: Budget to enforce; None for the store's own.
            keep_some: Make room for some more entries too.

        Returns:
            How many entries went.
        """
        self.flush()
        return self._prune(max_bytes, keep_some=keep_some)

    def _prune(self, max_bytes: int | None, *, keep_some: bool) -> int:
        limit = self.max_bytes if max_bytes is None else max_bytes
        now = self._wall()
        self._pruned = now
        _, size, pruned = self._index.totals()
        if size <= limit and now - pruned <= self.max_age_s / 100:
            return 0
        count, files = self._index.evict(int(limit * 0.9) if keep_some else limit, now - self.max_age_s, now)
        self.files.remove(files)
        if now - pruned > self.max_age_s / 100:
            self._index.reclaim()
        self.files.sweep(self._index.used_files())
        return count

    def delete(self, keys: Iterable[str]) -> int:
        """Delete entries; return how many."""
        self.flush()
        gone = list(keys)
        count, files = self._index.delete(gone)
        self.files.remove(files)
        for key in gone:
            self._expired.pop(key, None)
        return count

    def clear(self, task: str | None = None) -> int:
        """Delete all entries, or those of one task; return how many."""
        self.flush()
        count, files = self._index.clear(task)
        self.files.remove(files)
        self._expired.clear()  # what is gone because somebody wanted it is not told as something else
        return count

    @property
    def index(self) -> Index:
        """The index."""
        return self._index

    def close(self) -> None:
        """Write what is held back; the tier can be used again."""
        self._pending.close()
        try:
            self._index.close()
        except Exception as error:  # only times of use are lost
            self.faults["close"] = str(error)
            self._index.abandon()


def _written(stamp: Stamp) -> bytes:
    return ",".join(map(str, stamp)).encode()
