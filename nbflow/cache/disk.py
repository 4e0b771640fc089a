"""The disk tier: an index, files for large results, and a corner for what turned out to be damaged.

    <folder>/FORMAT  .gitignore  CACHEDIR.TAG  index.sqlite3  blobs/<2 hex>/<30 hex>  quarantine/

The rules:

* Nothing is made before the first save. The folder is for its user only (mode 0700).
* A file is written beside its place and renamed; it is never changed afterwards, only deleted, so it can be mapped.
* A read that finds anything wrong is a miss; what it found goes to the quarantine, and the reason is kept for
  `explain`. A write that fails raises.
* Checksums of buffers are compared when a process first loads a file. For files beyond 64 MiB the comparison is made
  once and for all: size, inode and change time of the sound file are signed into the index, and while they are the
  same the file is taken to be the same (as git does), so a gigabyte is back in milliseconds.
* A folder of another format is not used and not touched.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from xxhash import xxh3_64_hexdigest

from nbflow.cache.blob import Damaged, Front, Packed, check_buffers, front_of, pieces, read_front
from nbflow.cache.index import Index, is_corruption
from nbflow.cache.memory import EntryInfo
from nbflow.cache.seal import FILE, HEAD, WHOLE, Record, seal, unseal
from nbflow.cache.trust import Signer, load_signer, make_signer
from nbflow.errors import CacheError

__all__ = ["INLINE", "DiskTier", "Loaded"]

FORMAT = "nbflow cache 1"
INLINE = 32 * 1024  # bytes below which a result lives in the index
_TRUST_STAMP = 64 * 1024**2  # bytes from which a file is compared only when it has changed
_QUARANTINED = 32  # files that are kept for inspection
_ORPHAN_S = 3600.0  # age from which a file that nothing refers to is no write in progress
_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# Results cached by nbflow; safe to delete.\n"


class Loaded(NamedTuple):
    """A sound entry: its head, its buffers (mapped, or bytes of their own), and what its seal says."""

    head: bytes | memoryview
    buffers: tuple[Any, ...]
    record: Record
    size: int


class DiskTier:
    """Results in a folder; safe from any thread, process and kernel at once.

    Args:
        folder: The folder; made at the first save.
        max_bytes: Bytes that results may take.
        max_age_s: Seconds after which unused entries go.
        wall: Returns seconds since the epoch.
    """

    def __init__(self, folder: str, max_bytes: int, max_age_s: float, wall: Callable[[], float]) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.max_age_s = max_age_s
        self.faults: dict[str, str] = {}
        self._wall = wall
        self._index = Index(str(self.folder / "index.sqlite3"))
        self._format_seen = False
        self._sound: dict[str, tuple[int, ...]] = {}  # files compared by this process, with their stamps
        self._pruned = 0.0
        self._signer: Signer | None = None

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
            sealed = self._index.read(key)
            if sealed is None:
                return None
            record = unseal(signer, key, sealed)
            limit = ttl if ttl is not None else record.ttl if record.ttl is not None else default_ttl
            if limit is not None and self._wall() - record.created > limit:
                return None
            if record.kind == HEAD:
                return Loaded(record.payload, (), record, len(sealed))
            return self._whole(record) if record.kind == WHOLE else self._mapped(key, sealed, record, signer)
        except Damaged as fault:
            self._set_aside(key, str(fault))
        except FileNotFoundError:
            self._set_aside(key, "its file is gone")
        except Exception as error:  # a cache never fails a task: whatever went wrong is a miss
            self._fault(key, error)
        return None

    def too_old(self, key: str, default_ttl: float | None) -> float | None:
        """Return the limit that the entry under `key` has passed, or None where it has not, or there is none."""
        sealed = self._index.read(key) if self._signer is not None else None
        if sealed is None or self._signer is None:
            return None
        record = unseal(self._signer, key, sealed)
        limit = default_ttl if record.ttl is None else record.ttl
        return limit if limit is not None and self._wall() - record.created > limit else None

    def note_use(self, key: str, times: int = 1) -> None:
        """Remember a use, for eviction; never raises."""
        try:
            self._index.note_use(key, self._wall(), times)
        except Exception as error:
            self._fault(key, error)

    def _whole(self, record: Record) -> Loaded:
        """Take a blob with buffers out of its seal, which vouches for all of it."""
        view = memoryview(bytearray(record.payload))
        front = read_front(view, None)
        return Loaded(front.head, _slices(front, view), record, len(view))

    def _mapped(self, key: str, sealed: bytes, record: Record, signer: Signer) -> Loaded:
        name = record.result.hex()
        with open(self._blob(name), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not status.st_size:
                raise Damaged("it is empty")
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        view = memoryview(mapped)
        front = read_front(view, signer)
        if front.digest != name:
            raise Damaged("it holds another result")
        if front.size != status.st_size:
            raise Damaged("it is cut off")
        stamp = (status.st_size, status.st_ino, status.st_ctime_ns)
        if self._sound.get(name) != stamp:
            large = status.st_size >= _TRUST_STAMP
            if not (large and record.payload == _written(stamp)):
                check_buffers(front, view)
                if large and not self._index.readonly:
                    self._index.reseal(key, sealed, seal(signer, key, record._replace(payload=_written(stamp))))
            self._sound[name] = stamp
        return Loaded(front.head, _slices(front, view), record, status.st_size)

    # -- writing

    def save(self, info: EntryInfo, packed: Packed) -> tuple[int, str]:
        """Store a result under `info.key`.

        Args:
            info: What is known of it; its size is filled in.
            packed: The result.

        Returns:
            Bytes that it takes (0: too large for the store's budget, not stored), and its digest.

        Raises:
            CacheError: The folder is of another format, or the user's key cannot be made.
            OSError, sqlite3.Error: The disk is full, read-only, or busy for too long.
        """
        self._prepare()
        signer = self._signer = self._signer or make_signer()
        front, begin = front_of(packed, signer)
        if front.size > self.max_bytes:
            return 0, front.digest
        is_file = front.size >= INLINE
        if is_file:
            kind, payload = FILE, self._write_blob(front, begin, packed)
        elif packed.buffers:
            kind, payload = WHOLE, b"".join(pieces(front, begin, packed.buffers))
        else:
            kind, payload = HEAD, packed.head
        info.size_bytes = front.size
        record = Record(info.created, info.ttl, info.cost_s, bytes.fromhex(front.digest), kind, payload)
        sealed = seal(signer, info.key, record)
        file = front.digest if is_file else None
        try:
            total, orphan = self._index.write(info, sealed, file)
        except Exception as error:
            if not is_corruption(error):
                raise
            self._set_index_aside()
            total, orphan = self._index.write(info, sealed, file)
        self.faults.pop(info.key, None)
        self._remove([orphan] if orphan else [])
        if is_file and not self._blob(front.digest).exists():  # evicted by another process in between
            self._write_blob(front, begin, packed)
        if total > self.max_bytes or info.created - self._pruned > self.max_age_s / 100:
            self.prune(keep_some=True)
        return front.size, front.digest

    def _write_blob(self, front: Front, begin: bytes, packed: Packed) -> bytes:
        """Write a file unless it is there already; return its stamp."""
        path = self._blob(front.digest)
        try:
            known = path.stat()
        except FileNotFoundError:
            known = None
        stamp = (known.st_size, known.st_ino, known.st_ctime_ns) if known else ()
        if known is None or self._sound.get(front.digest) != stamp:  # one that we have not seen sound is written anew
            path.parent.mkdir(mode=0o700, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
            try:
                with open(beside, "xb", opener=_private) as stream:
                    for piece in pieces(front, begin, packed.buffers):
                        stream.write(piece)
                os.replace(beside, path)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
            status = path.stat()
            stamp = self._sound[front.digest] = (status.st_size, status.st_ino, status.st_ctime_ns)
        return _written(stamp)

    def _prepare(self) -> None:
        """Make the folder and its marks."""
        if self._usable(for_writing=True):
            return
        home = self.folder.parent
        new_home = not home.exists() and (home.name == ".nbflow" or os.environ.get("NBFLOW_HOME") == str(home))
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(self.folder, 0o700)
        (self.folder / "blobs").mkdir(mode=0o700, exist_ok=True)
        if new_home:
            os.chmod(home, 0o700)
        for place in (home, self.folder) if new_home else (self.folder,):
            for name, text in ((".gitignore", "*\n"), ("CACHEDIR.TAG", _SIGNATURE)):
                _mark(place / name, text)
        _mark(self.folder / "FORMAT", FORMAT + "\n")

    def _usable(self, *, for_writing: bool = False) -> bool:
        """Whether the folder is there and of our format.

        Raises:
            CacheError: It is of another format, and we are to write.
        """
        if self._format_seen and (not for_writing or (self.folder / "blobs").is_dir()):
            return True
        try:
            found = (self.folder / "FORMAT").read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return False
        if found != FORMAT:
            if for_writing:
                raise CacheError(
                    f"The cache in {self.folder} has the format {found[:40]!r}, this nbflow uses {FORMAT!r}. "
                    "It is left as it is; choose another cache folder, or delete it."
                )
            return False
        self._format_seen = (self.folder / "blobs").is_dir()
        return self._format_seen

    # -- damage

    def _set_aside(self, key: str, reason: str) -> None:
        """Forget a damaged entry, keeping its bytes for inspection."""
        self.faults[key] = reason
        try:
            sealed = self._index.read(key)
            if sealed is None or self._index.readonly:
                return
            name = self._index.file_of(key)
            if name is None:
                self._quarantine(
                    sealed if isinstance(sealed, bytes) else repr(sealed).encode(),
                    f"{xxh3_64_hexdigest(key.encode('utf-8', 'surrogatepass'))}.row",
                )
            elif len(name) == 32 and name.isalnum():
                self._quarantine(self._blob(name), f"{name}.blob")
                self._sound.pop(name, None)
            self._index.delete("key = ?", (key,))
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
            path = self.folder / f"index.sqlite3{suffix}"
            if path.exists():
                self._quarantine(path, path.name)

    def _quarantine(self, what: bytes | Path, name: str) -> None:
        corner = self.folder / "quarantine"
        corner.mkdir(mode=0o700, exist_ok=True)
        place = corner / f"{name}.{os.urandom(3).hex()}"
        if isinstance(what, bytes):
            place.write_bytes(what)
        elif what.exists():
            os.replace(what, place)
        kept = sorted(corner.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        for old in kept[:-_QUARANTINED]:
            old.unlink(missing_ok=True)

    # -- management

    def check(self) -> None:
        """Raise `CacheError` where the folder is of another format."""
        self._usable(for_writing=True)

    def prune(self, max_bytes: int | None = None, *, keep_some: bool = False) -> int:
        """Enforce the budgets of size and age, and remove files that nothing refers to.

        Args:
            max_bytes: Budget to enforce; None for the store's own.
            keep_some: Make room for some more entries too.

        Returns:
            How many entries went.
        """
        limit = self.max_bytes if max_bytes is None else max_bytes
        now = self._wall()
        count = 0
        self._pruned = now
        if self._index.totals()[1] > limit or now - self._index.totals()[2] > self.max_age_s / 100:
            count, files = self._index.evict(int(limit * 0.9) if keep_some else limit, now - self.max_age_s, now)
            self._remove(files)
            self._sweep()
        return count

    def _sweep(self) -> None:
        """Remove files without a row, and what killed writers left, once they are old enough to be nobody's work."""
        used = self._index.used_files()
        for path in self._files():
            name = path.parent.name + path.name
            try:
                if name not in used and time.time() - path.stat().st_mtime > _ORPHAN_S:
                    path.unlink()
            except OSError:
                continue

    def _files(self) -> Iterator[Path]:
        for folder in (self.folder / "blobs").glob("??"):
            yield from folder.iterdir()

    def delete(self, where: str, values: tuple[Any, ...] = ()) -> int:
        """Delete entries; return how many."""
        count, files = self._index.delete(where, values)
        self._remove(files)
        return count

    def _remove(self, results: list[str]) -> None:
        for result in results:
            self._sound.pop(result, None)
            try:
                self._blob(result).unlink(missing_ok=True)
            except OSError:  # still mapped (Windows): the next clean-up finds it
                continue

    def quarantined(self) -> int:
        """Return how many damaged files are kept."""
        corner = self.folder / "quarantine"
        return sum(1 for _ in corner.iterdir()) if corner.is_dir() else 0

    @property
    def index(self) -> Index:
        """The index."""
        return self._index

    def close(self) -> None:
        """Write what is held back; the tier can be used again."""
        try:
            self._index.close()
        except Exception as error:  # only times of use are lost
            self.faults["close"] = str(error)
            self._index.abandon()

    def _blob(self, result: str) -> Path:
        return self.folder / "blobs" / result[:2] / result[2:]


def _slices(front: Front, view: memoryview) -> tuple[Any, ...]:
    return tuple(view[offset : offset + length] for offset, length, _ in front.table)


def _written(stamp: tuple[int, ...]) -> bytes:
    return ",".join(map(str, stamp)).encode()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _mark(path: Path, text: str) -> None:
    """Put a small file there unless there is one; others, who may do the same just now, only ever see it whole."""
    if not path.exists():
        beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
