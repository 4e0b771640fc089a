"""Files that are opened by their plain name: noticed while a call runs that is to be followed, here and in workers.

Python tells of every file that it opens (PEP 578), so nothing is patched: one hook, set when the first such call runs,
looks on while it does. It tells of folders that are listed too: of those the names count. Only what looks like data of
the user counts: files of Python and its packages, of the system, of nbflow, hidden and temporary ones, and what the
call itself writes are left out. A `Following` says elsewhere what is to be noticed there.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from types import FrameType
from typing import Any, NamedTuple

from nbflow.cache.filestate import CODE, LISTED, FileState, expand, is_pattern, members, state_of
from nbflow.cache.places import is_local
from nbflow.runtime.current import Call, current_call
from nbflow.runtime.newcomers import Newcomers

__all__ = ["Following", "Watch", "following", "nearest"]

_EVENTS = frozenset({"open", "os.listdir", "os.scandir", "sqlite3.connect"})
_LISTERS = frozenset({"fnmatch", "glob", "os", "pathlib"})
_SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/bin", "/opt", "/System", "/Library")
_MOUNTED = "/opt/ml/"  # where cloud notebooks have their data


class Following(NamedTuple):
    """What is to be noticed, wherever the work of a call is done.

    Attributes:
        own: Files, and folders (which end with a separator), that are nobody's data: the caches.
        began_ns: When the call began, in nanoseconds since the epoch: what was written since is its own.
        folder: The working directory that its paths are relative to.
    """

    own: tuple[str, ...]
    began_ns: float
    folder: str


class Watch:
    """What one call opens; safe from any thread.

    Args:
        about: What is to be noticed.
        found: Where to put the files that were read, with the state in which they were found.
    """

    def __init__(self, about: Following, found: dict[str, Any]) -> None:
        self.about = about
        self._found = found
        self._newcomers = Newcomers()
        self._written: set[str] = set()
        self._read: dict[str, str] = {}  # absolute path: as it was written
        self._perhaps: dict[str, tuple[str, FileState]] = {}  # by absolute path: as it was written, and its state

    def opened(self, path: str, writes: bool) -> None:
        """Take note that a file was opened, or asked for."""
        place = expand(path)
        if writes:
            self._written.add(place)
        elif place not in self._read and place not in self._written and self._counts(place):
            self._add(place, path, state_of(path))

    def named(self, path: str, *, absent: bool = False) -> None:
        """Take note of what may be read, or written, without Python's doing: a file, or all that match a pattern.

        Args:
            path: What is named; ignored if it names nothing that is there.
            absent: Not ignored then.
        """
        place = expand(path)
        there = os.path.isfile(place) or (is_pattern(path) and "**" not in path and members(path))
        if place not in self._perhaps and (there or (absent and not os.path.lexists(place))):
            if self._counts(place, CODE):
                self._perhaps[place] = self._here(path), state_of(path)

    def connected(self, path: str) -> None:
        """Take note of a database of SQLite: what was written last may be in a file beside it."""
        place = path.removeprefix("file:").partition("?")[0]
        if place and ":memory:" not in place:
            self.named(place, absent=True)
            self.named(f"{place}-wal", absent=True)

    def listed(self, folder: str) -> None:
        """Take note that the names in a folder were asked for."""
        name = folder.rstrip("/") + LISTED
        if name not in self._found and self._is_data(expand(folder)):
            path = self._here(folder).rstrip("/") + LISTED
            self._found[path] = state_of(name)

    def heard(self, states: Mapping[str, FileState]) -> None:
        """Take over what a watch on a part of the work has found."""
        for path, state in states.items():
            place = expand(path)
            if path.endswith(LISTED):
                self._found.setdefault(path, state)
            elif place not in self._read and place not in self._written:
                self._add(place, path, state)

    def _add(self, place: str, path: str, state: FileState) -> None:
        self._read[place] = path = self._here(path)
        self._found.setdefault(path, state)

    def _here(self, path: str) -> str:
        """Return a path as it is understood in the folder of the call."""
        return path if os.getcwd() == self.about.folder else expand(path)

    def _counts(self, place: str, also: tuple[str, ...] = ()) -> bool:
        """Whether it is data that was like this before the call began, not what it has had written; or absent."""
        if not self._is_data(place, also):
            return False
        try:
            status = os.stat(place)
        except OSError:  # that there is no such file may be what the result depends on
            return True
        # One from the future comes from elsewhere: who writes now leaves the present time.
        ours = self.about.began_ns <= status.st_mtime_ns <= time.time_ns()
        return stat.S_ISREG(status.st_mode) and not ours

    def _is_data(self, place: str, also: tuple[str, ...] = ()) -> bool:
        return not place.startswith(self.about.own) and _is_data(place, os.getcwd(), also)

    def end(self) -> None:
        """Add what was only named and is as it was; leave out what was written, and folders to which that was."""
        found, mine = self._found, set(self._read.values())
        others = {expand(path) for path in found if path not in mine and not path.endswith(LISTED)}
        for place, path in self._read.items():
            if place in self._written or place in others:
                found.pop(path, None)
        taken = self._written | self._read.keys() | others
        for place, (path, state) in self._perhaps.items():
            if place not in taken and _is_still(place, state):
                found[path] = state
        folders = {os.path.dirname(place) for place in self._written}
        for name in [name for name in found if name.endswith(LISTED)]:
            if expand(name.removesuffix(LISTED) or "/") in folders:
                del found[name]


def _is_still(place: str, state: FileState) -> bool:
    """Whether a file is what it was; else whoever named it has written it."""
    try:
        return state_of(place) == state
    except Exception:  # it is no file any more
        return False


_watches: dict[int, Watch] = {}  # by the identity of `Call.reads`, which all items of a range share
_here = threading.local()
_hooked = False


@contextmanager
def following(
    reads: dict[str, Any],
    about: Following,
    found: dict[str, Any],
    also: Iterable[str] = (),
    perhaps: Iterable[str] = (),
) -> Iterator[None]:
    """Notice the files that calls with these `reads`, and what they call, read in any thread that they know or start.

    Args:
        reads: `Call.reads` of the call, or of all of them.
        about: What is to be noticed.
        found: Where to put it.
        also: Files to begin with, which are read by other means than Python's.
        perhaps: Files that are only named: they may be read, or written.
    """
    global _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_hook)
    watch = Watch(about, found)
    with suppress(Exception):  # what is wrong with them, whoever opens them will find out
        for path in also:
            watch.opened(path, writes=False)
        for path in perhaps:
            watch.named(path)
    _watches[id(reads)] = watch  # not before: looking at a file opens it
    try:
        yield
    finally:
        del _watches[id(reads)]
        watch.end()


def nearest(call: Call | None) -> Watch | None:
    """Return the watch on a call or on the nearest one around it; None if nobody watches."""
    while call is not None:
        if call.reads is not None and (watch := _watches.get(id(call.reads))) is not None:
            return watch
        call = call.parent
    return None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event not in _EVENTS or not _watches or getattr(_here, "busy", False):
        return
    if isinstance(args[0], int):  # a file or folder that is open already
        return
    _here.busy = True  # looking at the file opens it
    try:
        watch = nearest(current_call())
        watches: Iterable[Watch] = _of_newcomers() if watch is None else (watch,)
        if event == "open":
            path, mode, flags = args
            writes = any(letter in mode for letter in "wax") if mode else bool(flags & (os.O_WRONLY | os.O_RDWR))
            for watch in watches:
                watch.opened(os.fsdecode(path), writes)
        elif event == "sqlite3.connect":
            for watch in watches:
                watch.connected(os.fsdecode(args[0]))
        elif watches and _is_asked_for(sys._getframe(1)):
            for watch in watches:
                watch.listed(os.fsdecode(args[0] or "."))
    except Exception:  # whatever it was: opening the file must not fail by it
        pass
    finally:
        _here.busy = False


def _is_asked_for(frame: FrameType | None) -> bool:
    """Whether the user's own code lists a folder, or Python does so for it; imports and libraries list some as well."""
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _LISTERS:
        frame = frame.f_back
    return frame is not None and is_local(str(frame.f_globals.get("__name__")), frame.f_code.co_filename)


def _of_newcomers() -> list[Watch]:
    """Return those that may have started this thread, which works for no call."""
    if current_call() is not None:
        return []
    return [watch for watch in list(_watches.values()) if watch._newcomers.here()]


@lru_cache(maxsize=4096)
def _is_data(place: str, folder: str, also: tuple[str, ...]) -> bool:
    """Whether a file may be data of the user, who works in `folder`; those with endings in `also` count as well."""
    inside = place.startswith(os.path.join(folder, ""))
    seen = os.path.relpath(place, folder) if inside else place
    if (place.endswith(CODE) and not place.endswith(also)) or any(part.startswith(".") for part in seen.split(os.sep)):
        return False
    return inside or place.startswith(_MOUNTED) or not place.startswith(_foreign())


@lru_cache(maxsize=1)
def _foreign() -> tuple[str, ...]:
    """Return the folders of the system, of Python and its packages, and of temporary files."""
    python = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values(), tempfile.gettempdir()}
    return tuple(os.path.join(folder, "") for folder in (*map(os.path.realpath, python), *python, *_SYSTEM))
