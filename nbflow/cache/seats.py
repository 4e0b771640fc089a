"""What the processes on one folder tell each other through a small shared file: what they compute, and what changed.

    desks in use: one byte each | marks: 8 bytes for each desk, 8 for others | places of desk 0 | places of desk 1 | …

The rules:

* Each process has a *desk* from its first computation on. A lock on one byte, far behind the end of the file, says that
  its owner lives; the kernel gives it back when a process ends, however it ends.
* To take the seat of a key, a process writes the key's number at its own desk, and then looks at the other desks. Where
  it finds the number there, at the desk of a process that lives, it takes its own back. So of two at the same moment
  both may have to ask again, but never both get it: microseconds lie between writing and looking, and a processor
  holds nothing back for so long. No call of the system is needed, and no file is made for a key.
* Whoever changes the index changes the mark of its desk. As long as all others' marks are the same, nobody else did.
* All that is written is allocated before, so a full disk is an error here and no signal. Where the system or the file
  system lacks any of this, every seat is free, each process computes for itself, and there are no marks.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import time

from xxhash import xxh3_64_intdigest

from nbflow._typing import TYPE_CHECKING
from nbflow._util import lazy
from nbflow.cache.database import watch_forks

if TYPE_CHECKING:
    import mmap
else:
    mmap = lazy("mmap")  # whoever only finds results takes no seat

__all__ = ["Seats"]

_DESKS = 64
_MARK = 8  # bytes of a mark
_MARKS_END = _DESKS + (_DESKS + 1) * _MARK
_HEAD = 4096
_PLACE = 8  # bytes of the number of a key
_PLACES = 2048  # where the number of a key may be first
_WINDOW = 16  # so many places from there on where it may be as well
_DESK = _PLACES * _PLACE + 4096
_SIZE = _HEAD + _DESKS * _DESK
_LOCKS = 1 << 40  # where the locks of desks are
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_CHECK_S = 1.0  # seconds after which to look whether the file is still in its place


class Seats:
    """The desk of this process in the shared file; safe from any thread and after a fork.

    Args:
        path: The file; made when it is needed, in a folder that is there.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._works = True
        self._reset()
        watch_forks(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._file = -1
        self._shared: mmap.mmap | None = None
        self._places: memoryview | None = None  # the same as numbers
        self._opening = b""  # which of the files that were in this place it is
        self._checked = 0.0
        self._desk = -1
        self._alone = b""  # how the bytes of desks in use look where there is no other
        self._held: dict[int, tuple[int, int]] = {}  # numbers of keys: how often they were taken, where they are

    def before_fork(self) -> None:
        """Do nothing: the desk stays the parent's."""

    def after_fork(self) -> None:
        """Let go, in a forked child, of what it shares with its parent, whose lock stays."""
        if self._file >= 0:
            os.close(self._file)
        self._reset()

    # -- seats

    def take(self, key: str) -> bool:
        """Take the seat of `key`, again if this process has it already; False if another process has it."""
        number = _number(key)
        with self._lock:
            held = self._held.get(number)
            if held is not None:
                self._held[number] = (held[0] + 1, held[1])
                return True
            shared = self._shared if self._held else self._seated()  # while any is held, the file is not given up
            places = self._places
            if shared is None or places is None:
                return True
            window = _HEAD // _PLACE + number % _PLACES
            begin = window + self._desk * (_DESK // _PLACE)
            for place in range(begin, begin + _WINDOW):
                if not places[place]:
                    break
            else:  # hundreds of others are held: this one is computed without telling
                return True
            places[place] = number
            if shared[:_DESKS] != self._alone and self._is_elsewhere(shared, places, number, window):
                places[place] = 0
                return False
            self._held[number] = (1, place)
        return True

    def give_back(self, *keys: str) -> None:
        """Give the seats of keys back, each once for each time it was taken."""
        numbers = [_number(key) for key in keys]
        with self._lock:
            for number in numbers:
                held = self._held.get(number)
                if held is None:
                    continue
                times, place = held
                if times > 1:
                    self._held[number] = (times - 1, place)
                    continue
                del self._held[number]
                if self._places is not None:
                    self._places[place] = 0

    def _is_elsewhere(self, shared: mmap.mmap, places: memoryview, number: int, window: int) -> bool:
        """Whether `number` is at the desk of another process that lives."""
        for desk, used in enumerate(shared[:_DESKS]):
            begin = window + desk * (_DESK // _PLACE)
            if used and desk != self._desk and number in places[begin : begin + _WINDOW]:
                if not self._lock_desk(desk):
                    return True
                self._put(b"\0", desk)  # its process was killed
                _set_lock(self._file, _LOCKS + desk, False)
        return False

    # -- marks

    def marks(self) -> bytes:
        """Return the marks of all other processes as they are now; empty where they are not known."""
        shared = self._shared
        if shared is None or self._desk < 0:
            return b""
        own = _DESKS + self._desk * _MARK
        return self._opening + shared[_DESKS:own] + shared[own + _MARK : _MARKS_END]

    def all_marks(self) -> bytes:
        """Return the marks of all processes as they are now, this one included; empty where they are not known."""
        shared = self._shared
        return self._opening + shared[_DESKS:_MARKS_END] if shared is not None and self._works else b""

    def watch(self) -> bytes:
        """Return what `all_marks` does, from now on also where this process has no desk."""
        with self._lock:
            self._opened()
        return self.all_marks()

    def change(self) -> None:
        """Change the mark of this process, after a change of the index was committed; never raises."""
        with self._lock:
            try:
                self._seated()
                if self._shared is not None:
                    desk = self._desk if self._desk >= 0 else _DESKS
                    self._put(os.urandom(_MARK), _DESKS + desk * _MARK)
            except OSError:  # others may compute for a moment what is there by now
                self._works = False

    # -- the file

    def _seated(self) -> mmap.mmap | None:
        """Return the shared file once this process has a desk; None where it cannot have one."""
        shared = self._opened()
        if shared is None or self._desk >= 0:
            return shared
        try:
            for desk in range(_DESKS):
                if self._lock_desk(desk):
                    begin = _HEAD + desk * _DESK
                    self._put(bytes(_DESK), begin)
                    self._put(b"\1", desk)
                    self._desk = desk
                    self._alone = bytes(desk) + b"\1" + bytes(_DESKS - desk - 1)
                    return shared
        except OSError:
            self._works = False
        return None

    def _opened(self) -> mmap.mmap | None:
        """Return the shared file, opened anew if it is not the one that others would open: somebody may delete it."""
        now = time.monotonic()
        if self._shared is not None and (self._held or now - self._checked < _CHECK_S):
            return self._shared
        self._checked = now
        try:
            if self._shared is not None:
                if os.path.samestat(os.fstat(self._file), os.stat(self._path)):
                    return self._shared
                self._close()
            if not self._works:
                return None
            self._file = os.open(self._path, _FLAGS, 0o600)
            if os.fstat(self._file).st_size < _SIZE:
                os.truncate(self._file, _SIZE)
            self._shared = mmap.mmap(self._file, _SIZE)
            self._places = memoryview(self._shared).cast("Q")
            self._opening = os.urandom(_MARK)
        except FileNotFoundError:  # there is no folder any more, or not yet
            self._close()
        except (OSError, ValueError):
            self._works = False
            self._close()
        return self._shared

    def _close(self) -> None:
        self._shared = self._places = None
        self._desk = -1
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _put(self, data: bytes, begin: int) -> None:
        """Write to the file, which allocates what is written, and to its memory."""
        os.lseek(self._file, begin, os.SEEK_SET)
        os.write(self._file, data)
        if self._shared is not None:  # systems differ in when it would show there
            self._shared[begin : begin + len(data)] = data

    def _lock_desk(self, desk: int) -> bool:
        """Lock a desk; False where its process lives."""
        try:
            _set_lock(self._file, _LOCKS + desk, True)
        except OSError as error:
            if isinstance(error, BlockingIOError) or error.errno in _TAKEN:
                return False
            raise
        return True

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)


def _number(key: str) -> int:
    """Return the number of a key; a place of 0 is free."""
    return xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")) or 1


_TAKEN = (11, 13, 36)  # EAGAIN, EACCES, EDEADLK of Windows

if sys.platform == "win32":
    import msvcrt

    def _set_lock(file: int, place: int, taken: bool) -> None:
        os.lseek(file, place, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK if taken else msvcrt.LK_UNLCK, 1)

else:
    if TYPE_CHECKING:
        import fcntl
    else:
        fcntl = lazy("fcntl")

    _LAYOUT = ("qqihh", (2, 3, 4, 0, 1)) if sys.platform == "darwin" else ("hhqqi", (0, 1, 2, 3, 4))

    def _set_lock(file: int, place: int, taken: bool) -> None:
        """Set or give back a lock that belongs to the open file, not to the process."""
        command = getattr(fcntl, "F_OFD_SETLK", None)
        if command is None:
            raise OSError("no locks that belong to an open file")
        layout, order = _LAYOUT
        fields = (fcntl.F_WRLCK if taken else fcntl.F_UNLCK, os.SEEK_SET, place, 1, 0)
        fcntl.fcntl(file, command, struct.pack(layout, *(fields[index] for index in order)))
