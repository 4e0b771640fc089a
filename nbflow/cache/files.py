"""The files of a store: one for each large result, and a corner for what turned out to be damaged.

    <folder>/blobs/<2 hex>/<30 hex>  quarantine/

A file is named by its content, written beside its place and renamed. It is never changed afterwards, only deleted, so
it can be mapped, and whoever has compared it with its checksums need not do so again while its stamp is the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from functools import cached_property

from nbflow._typing import TYPE_CHECKING, Any
from nbflow._util import lazy

if TYPE_CHECKING:
    import mmap
    from pathlib import Path  # a small result is found without

    from nbflow import _mapping as mapping
else:
    mapping = lazy("nbflow._mapping")
    mmap = lazy("mmap")

__all__ = ["Files", "Stamp"]

Stamp = tuple[int, ...]
"""Size, inode and change time of a file; while they are the same, it is taken to be the same."""

_QUARANTINED = 32  # files that are kept for inspection
_ORPHAN_S = 3600.0  # age from which a file that nothing refers to is no write in progress
_RESERVED = 8 * 1024**2  # bytes from which room is made before anything is written, which is quicker


class Files:
    """The files in a folder; safe from any thread, process and kernel at once.

    Args:
        place: The folder, which others make.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._sound: dict[str, Stamp] = {}  # files compared by this process

    @cached_property
    def folder(self) -> Path:
        """The folder."""
        from pathlib import Path

        return Path(self._place)

    def are_there(self) -> bool:
        """Whether there is a place for files."""
        return os.path.isdir(os.path.join(self._place, "blobs"))

    def path(self, name: str) -> str:
        """Return where the file of this name is, or would be."""
        return os.path.join(self._place, "blobs", name[:2], name[2:])

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return os.path.exists(self.path(name))

    # -- reading and writing

    def map(self, name: str, *, shared: bool) -> tuple[memoryview, Stamp]:
        """Map a file.

        Args:
            name: Its name.
            shared: Whether nobody is to write to the memory; else what is written there stays private.

        Returns:
            Its bytes (none where it is empty), and its stamp.

        Raises:
            OSError: There is none, or it cannot be read.
        """
        with open(self.path(name), "rb", buffering=0) as stream:
            stamp = _stamp(os.fstat(stream.fileno()))
            if not stamp[0]:
                return memoryview(b""), stamp
            access = mmap.ACCESS_READ if shared else mmap.ACCESS_COPY
            return mapping.map_part(stream.fileno(), stamp[0], access), stamp

    def is_sound(self, name: str, stamp: Stamp) -> bool:
        """Whether this process has compared the file of this stamp, or written it."""
        return self._sound.get(name) == stamp

    def note_sound(self, name: str, stamp: Stamp) -> None:
        """Remember that the file of this stamp was compared."""
        self._sound[name] = stamp

    def write(self, name: str, pieces: tuple[Any, ...], size: int) -> Stamp:
        """Write a file unless it is there already, known to be sound; return its stamp.

        Args:
            name: Its name.
            pieces: What is in it, in order.
            size: Bytes of all pieces.

        Raises:
            OSError: The disk is full or read-only.
        """
        path = self.path(name)
        try:
            stamp = _stamp(os.stat(path))
            if self.is_sound(name, stamp):
                return stamp
        except FileNotFoundError:
            pass
        parent, last = os.path.split(path)
        os.makedirs(parent, mode=0o700, exist_ok=True)
        beside = os.path.join(parent, f".{last}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            with open(beside, "xb", opener=_private) as stream:
                if size >= _RESERVED and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(stream.fileno(), 0, size)
                for piece in pieces:
                    stream.write(piece)
            os.replace(beside, path)
        except BaseException:
            _unlink(beside)
            raise
        stamp = self._sound[name] = _stamp(os.stat(path))
        return stamp

    # -- tidying up

    def remove(self, names: Iterable[str]) -> None:
        """Delete files."""
        for name in names:
            self._sound.pop(name, None)
            _unlink(self.path(name))

    def sweep(self, used: set[str]) -> None:
        """Delete what is not used, and what killed writers left, once it is old enough to be nobody's work."""
        for path in self._all():
            name = path.parent.name + path.name
            try:
                if name not in used and time.time() - path.stat().st_mtime > _ORPHAN_S:
                    path.unlink()
            except OSError:
                continue

    def _all(self) -> Iterator[Path]:
        for folder in (self.folder / "blobs").glob("??"):
            yield from folder.iterdir()

    # -- damage

    def set_aside(self, what: bytes | str, name: str) -> None:
        """Put something damaged into the quarantine, from which the oldest goes.

        Args:
            what: Its bytes, or the path of a file, which is moved.
            name: What to call it.
        """
        corner = self.folder / "quarantine"
        corner.mkdir(mode=0o700, exist_ok=True)
        place = corner / f"{name}.{os.urandom(3).hex()}"
        if isinstance(what, bytes):
            place.write_bytes(what)
        elif os.path.exists(what):
            os.replace(what, place)
        kept = sorted(corner.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        for old in kept[:-_QUARANTINED]:
            old.unlink(missing_ok=True)

    def set_file_aside(self, name: str) -> None:
        """Put a damaged file into the quarantine."""
        self.set_aside(self.path(name), f"{name}.blob")
        self._sound.pop(name, None)

    def quarantined(self) -> int:
        """Return how many damaged files are kept."""
        corner = self.folder / "quarantine"
        return sum(1 for _ in corner.iterdir()) if corner.is_dir() else 0


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_ino, status.st_ctime_ns


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # gone, or still mapped (Windows): the next clean-up finds it
        pass


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
