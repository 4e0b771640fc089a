"""What is in a file, a folder, or the files that match a pattern, as a digest; read again only when needed.

A file counts as unchanged while device, inode, size and both of its times are the same. The rule of git closes the
gap that clocks leave: a file that was modified only moments before it was read is read again, since a further change
within the same tick would leave no mark. Folders count by the names and contents of the files below them. Digests of
large files are noted in the stores of this process, so that the next one need not read them. A path that ends with
`LISTED` stands for the names in a folder alone.
"""

from __future__ import annotations

import glob
import os
import stat
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from xxhash import xxh3_128, xxh3_128_hexdigest

from nbflow.cache.notes import open_notes
from nbflow.cache.parts import Undigestable, hashed

__all__ = ["CODE", "LISTED", "MISSING", "FileState", "expand", "is_pattern", "members", "state_of"]

CODE = (".py", ".pyc", ".pyi", ".pyd", ".so", ".dll", ".dylib", ".pth", ".ipynb")
"""Endings of names of files that are nobody's data."""

LISTED = "/ (names)"
"""What stands behind the path of a folder of which only the names matter; an existing path never is one."""

MISSING = "missing"
"""Digest of a file that is not there."""

_RACY_NS = 2_000_000_000  # the coarsest clock of a file system in use (FAT)
_CHUNK = 1024**2
_TRIES = 3  # readings of a file that changes meanwhile
_KEPT = 10_000  # files whose digests are remembered
_NOTED = 4 * 1024**2  # bytes from which reading a file takes longer than asking a store
_CACHE_TAG = b"Signature: 8a477f597d28d172789f06886806bc55"


class FileState(NamedTuple):
    """What is there: a digest (32 hex digits, or `MISSING`), and the same for people ("1.2 MB")."""

    digest: str
    text: str


class _Seen(NamedTuple):
    stamp: tuple[int, ...]
    digest: str
    settled: bool  # any later change must show in the stamp


_seen: dict[str, _Seen] = {}
_lock = threading.Lock()


def expand(path: str) -> str:
    """Return the absolute path that `path` means here and now."""
    return os.path.abspath(os.path.expanduser(path))


def is_pattern(path: str) -> bool:
    """Whether `path` is a pattern of several names, such as `data/*.csv`; an existing name never is."""
    return glob.has_magic(path) and not os.path.lexists(expand(path))


def members(path: str) -> list[str]:
    """Return the files that a path stands for, sorted: itself, those in the folder, or those that match."""
    place = expand(path)
    if is_pattern(path):
        return sorted(name for name in glob.iglob(place, recursive=True) if os.path.isfile(name))
    if os.path.isdir(place):
        return sorted(_below(place))
    return [place] if os.path.exists(place) else []


def state_of(path: str) -> FileState:
    """Return what is there now; safe from any thread.

    Args:
        path: A file, folder or pattern, or a folder followed by `LISTED`; relative to the working directory.

    Raises:
        Undigestable: It is a device, socket or pipe, whose content is not its own.
        OSError: It cannot be read.
    """
    place = expand(path)
    if path.endswith(LISTED) and not os.path.lexists(place):
        return _names_in(expand(path.removesuffix(LISTED) or "/"))
    several = is_pattern(path) or os.path.isdir(place)
    try:
        if not several:
            digest, size = _file(place)
            return FileState(digest, _words(size))
        pieces: list[bytes] = []
        total = 0
        base = _fixed_part(place) if is_pattern(path) else place
        found = members(path)
        for name in found:
            digest, size = _file(name)
            relative = os.path.relpath(name, base).replace(os.sep, "/")
            pieces += [relative.encode("utf-8", "surrogateescape"), digest.encode()]
            total += size
    except FileNotFoundError:
        return FileState(MISSING, MISSING)
    if not found and is_pattern(path):
        return FileState(MISSING, MISSING)
    count = f"{len(found)} file{'' if len(found) == 1 else 's'}"
    return FileState(hashed(b"", *pieces).hex(), f"{count}, {_words(total)}")


def _names_in(folder: str) -> FileState:
    """Return the names in a folder, but for hidden ones, and those of code and notebooks."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith((".", "__")) and not name.endswith(CODE)]
    except (FileNotFoundError, NotADirectoryError):
        return FileState(MISSING, MISSING)
    pieces = [name.encode("utf-8", "surrogateescape") for name in sorted(names)]
    return FileState(hashed(b"", *pieces).hex(), f"{len(names)} name{'' if len(names) == 1 else 's'}")


def _fixed_part(pattern: str) -> str:
    """Return the folder from which a pattern begins to branch out."""
    head = pattern
    while glob.has_magic(head):
        head = os.path.dirname(head)
    return head


def _below(folder: str) -> Iterator[str]:
    """Yield all files below a folder, through links too; not those of caches, which mark themselves as such."""
    entered: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in entered or (place != folder and _is_cache(place, names)):
            folders.clear()
            continue
        entered.add(real)
        yield from (file for name in names if os.path.isfile(file := os.path.join(place, name)))


def _is_cache(folder: str, names: list[str]) -> bool:
    if "CACHEDIR.TAG" not in names:
        return False
    with open(os.path.join(folder, "CACHEDIR.TAG"), "rb") as stream:
        return stream.read(len(_CACHE_TAG)) == _CACHE_TAG


def _file(path: str) -> tuple[str, int]:
    """Return digest and size of one file."""
    tries = 0
    while True:
        tries += 1
        began = time.time_ns()
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise Undigestable("", f"{path} is no regular file")
        stamp = _stamp(status)
        seen = _seen.get(path)
        if seen is not None and seen.settled and seen.stamp == stamp:
            return seen.digest, status.st_size
        large = status.st_size >= _NOTED
        if large and (noted := _noted(path, stamp)) is not None:
            _remember(path, _Seen(stamp, noted, settled=True))
            return noted, status.st_size
        digest = _read(path)
        if tries >= _TRIES or _stamp(os.stat(path)) == stamp:
            break
    # Of a file that changed while it was read, the stamp is not the present one, so the digest is never taken for it.
    settled = began - max(status.st_mtime_ns, status.st_ctime_ns) > _RACY_NS
    _remember(path, _Seen(stamp, digest, settled))
    if large and settled:
        for notes in list(open_notes):
            notes.put(_note_name(path, stamp), digest)
    return digest, status.st_size


def _remember(path: str, seen: _Seen) -> None:
    with _lock:
        if len(_seen) >= _KEPT:
            _seen.clear()
        _seen[path] = seen


def _noted(path: str, stamp: tuple[int, ...]) -> str | None:
    """Return the digest that an earlier process noted of the file of this stamp; it did so only once it was settled."""
    for notes in list(open_notes):
        digest = notes.get(_note_name(path, stamp))
        if isinstance(digest, str):
            return digest
    return None


def _note_name(path: str, stamp: tuple[int, ...]) -> str:
    return xxh3_128_hexdigest(f"file {stamp} {path}".encode("utf-8", "surrogateescape"))


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(path: str) -> str:
    hasher = xxh3_128()
    buffer = memoryview(bytearray(_CHUNK))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            hasher.update(buffer[:count])
    return hasher.hexdigest()


def _words(size: int) -> str:
    """Return a size as people read it: exactly where it is small, so that small changes show."""
    if size < 10_000:
        return f"{size} B"
    for unit in ("kB", "MB"):
        size_in_unit = size / (1e3 if unit == "kB" else 1e6)
        if size_in_unit < 999.95:
            return f"{size_in_unit:.1f} {unit}"
    return f"{size / 1e9:.1f} GB"
