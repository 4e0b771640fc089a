"""Large buffers between processes: written once to a file, mapped by whoever needs them.

A mapping is private and copied on write, so arrays are writable, nobody sees another's changes, and pages that nobody
touches cost nothing. The files lie in one folder of the kernel's process under the system's folder for temporary
files, which is quicker to fill than shared memory and takes none away; it goes with the process, and whatever a
killed process left is swept by the next one.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from itertools import count
from typing import NamedTuple

from nbflow._mapping import map_part

__all__ = ["BESIDE_BYTES", "BufferStore", "Ref", "map_file", "write_file"]

BESIDE_BYTES = 1 << 20
"""Buffers of this size or more travel as files."""

_KEEP_BYTES = 1 << 28
"""How much of what nobody needs any more is kept, in case that it is needed again; the last one is in any case."""

_GRACE_S = 60.0


class Ref(NamedTuple):
    """A buffer in a file, `offset` bytes from its begin."""

    path: str
    size: int
    offset: int = 0


def write_file(path: str, data: memoryview) -> Ref:
    """Write a new file.

    Raises:
        OSError: There is no room, or no such folder.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        rest = data.cast("B")
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
    return Ref(path, data.nbytes)


def map_file(ref: Ref) -> memoryview:
    """Return a private, writable view of a file's content."""
    descriptor = os.open(ref.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        before = ref.offset % mmap.ALLOCATIONGRANULARITY
        return map_part(descriptor, before + ref.size, mmap.ACCESS_COPY, ref.offset - before)[before:]
    finally:
        os.close(descriptor)


class BufferStore:
    """The files of one pool; safe from any thread.

    A buffer that comes again, in whatever call, is found by its content and not written a second time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all of these
        self._holds: dict[str, int] = {}  # by path; those with none are in the order in which they were let go
        self._sizes: dict[str, int] = {}
        self._idle_bytes = 0
        self._folder: str | None = None
        self._guard: int | None = None
        self._number = count()

    def put(self, data: memoryview) -> Ref:
        """Return the file of a buffer, held once more, written if need be.

        Raises:
            OSError: It cannot be written.
        """
        from xxhash import xxh3_128_hexdigest

        name = f"{xxh3_128_hexdigest(data)}-{data.nbytes}"
        with self._lock:
            path = os.path.join(self._made(), name)
            if path in self._holds:
                self._hold(path)
                return Ref(path, data.nbytes)
            self._trim(data.nbytes)  # before, so that the memory of what goes serves for what comes
        # Written without the lock; whoever else writes the same at this moment has another name for it.
        draft = f"{path}.{next(self._number)}"
        write_file(draft, data)
        with self._lock:
            if path in self._holds:
                os.unlink(draft)
            else:
                os.replace(draft, path)
                self._sizes[path] = data.nbytes
                self._idle_bytes += data.nbytes
                self._holds[path] = 0
            self._hold(path)
        return Ref(path, data.nbytes)

    def hold(self, refs: list[Ref]) -> None:
        """Hold files once more."""
        with self._lock:
            for ref in refs:
                self._hold(ref.path)

    def _hold(self, path: str) -> None:
        if self._holds[path] == 0:
            self._idle_bytes -= self._sizes[path]
        self._holds[path] += 1

    def release(self, refs: list[Ref]) -> None:
        """Hold files once less; those that nobody holds may be removed."""
        with self._lock:
            for ref in refs:
                if ref.path not in self._holds:
                    continue  # the store was closed
                self._holds[ref.path] -= 1
                if self._holds[ref.path] == 0:
                    self._idle_bytes += ref.size
                    self._holds[ref.path] = self._holds.pop(ref.path)  # now the youngest
            self._trim(0)

    def _trim(self, coming: int) -> None:
        """Remove what has been idle longest, until there is room for so many bytes."""
        if self._idle_bytes + coming <= _KEEP_BYTES:
            return
        for path in [path for path, holds in self._holds.items() if holds == 0][:-1]:
            if self._idle_bytes + coming <= _KEEP_BYTES:
                return
            self._idle_bytes -= self._sizes.pop(path)
            del self._holds[path]
            _unlink(path)

    def folder(self) -> str:
        """Return the folder, making it on first use."""
        if (folder := self._folder) is not None:
            return folder
        with self._lock:
            return self._made()

    def _made(self) -> str:
        if self._folder is None:
            import tempfile  # workers import this module, and shall be quick to start

            _sweep()
            folder = tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-")
            self._guard = _lock_folder(folder)
            self._folder = folder
        return self._folder

    def forget_worker(self, mark: str) -> None:
        """Remove results that a worker wrote but did not send; to be called when all that it sent was read."""
        if self._folder is not None:
            for name in os.listdir(self._folder):
                if name.startswith(f"{mark}-"):
                    _unlink(os.path.join(self._folder, name))

    def close(self) -> None:
        """Remove all files; what is mapped stays readable."""
        with self._lock:
            folder, self._folder = self._folder, None
            self._holds.clear()
            self._sizes.clear()
            self._idle_bytes = 0
            if folder is not None:
                import shutil

                shutil.rmtree(folder, ignore_errors=True)
            if self._guard is not None:
                os.close(self._guard)
                self._guard = None


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # mapped, on Windows; or swept by somebody
        pass


def _prefix() -> str:
    return f"nbflow-buffers-{os.getuid() if hasattr(os, 'getuid') else 'user'}-"


def _lock_folder(folder: str) -> int | None:
    """Lock a folder for the life of the returned descriptor; None where somebody else has it, or nobody can."""
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep() -> None:
    """Remove the folders of processes that have ended without doing it themselves; a lock says who lives."""
    if sys.platform == "win32":  # no such lock, and no such folder outlives a restart there
        return
    import shutil
    import tempfile
    import time

    base = tempfile.gettempdir()
    for name in os.listdir(base):
        if not name.startswith(_prefix()):
            continue
        folder = os.path.join(base, name)
        try:
            if time.time() - os.stat(folder).st_mtime < _GRACE_S:  # it may be about to be locked
                continue
            guard = _lock_folder(folder)
        except OSError:
            continue
        if guard is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(guard)
