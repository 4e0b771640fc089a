"""Files that a cell opens by their plain name: noticed while it runs, and followed as a `File` is.

Python tells of every file that it opens (PEP 578), so nothing is patched: one hook, set when the first cell runs that
is to be cached, looks on while such a cell runs. It tells of folders that are listed too: of those the names count.
Libraries that open files by themselves (polars, HDF5) are known by what the cell hands to them:
`pl.read_csv("data.csv")`, `os.path.exists(place)`. Only what looks like data of the user counts: files of Python and
its packages, of the system, of nbflow, hidden and temporary ones, and what the cell itself writes are left out.
"""

from __future__ import annotations

import ast
import os
import re
import stat
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from nbflow.cache.filestate import CODE, LISTED, expand, state_of
from nbflow.cache.keyring import ring_folder
from nbflow.cache.places import is_local
from nbflow.cache.trust import key_file
from nbflow.notebook.newcomers import Newcomers
from nbflow.runtime.current import current_call

if TYPE_CHECKING:
    from nbflow.runtime.current import Call

__all__ = ["NamedFile", "following", "named_files"]

_EVENTS = frozenset({"open", "os.listdir", "os.scandir"})
_LISTERS = frozenset({"fnmatch", "glob", "os", "pathlib"})
_LONG = 4096  # characters that no path has
_SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/bin", "/opt", "/System", "/Library")


_READS = re.compile(r"(read|scan|open|load)(_\w*)?|imread|loadtxt|genfromtxt|fromfile|Path|File|Dataset")
_ASKS = re.compile(r"l?exists|is_?file|is_?dir|get[acm]time|getsize|l?stat")
_WRITES = re.compile(r"[rb]*[wax+][wax+b]*")


class NamedFile(NamedTuple):
    """What a call that reads files is given first: a text, or a name of the notebook.

    Attributes:
        text: The text or the name.
        is_name: Which of them it is.
        asks: Whether the call only asks about the file, so that it matters too if there is none.
    """

    text: str
    is_name: bool
    asks: bool


def named_files(tree: ast.AST) -> tuple[NamedFile, ...]:
    """Return what calls in a syntax tree are given first whose names say that they read files, or ask about them."""
    found: dict[NamedFile, None] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        func = node.func
        called = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
        asks = _ASKS.fullmatch(called) is not None
        if not (asks or _READS.fullmatch(called)) or any(map(_is_mode_of_writing, node.args[1:])):
            continue
        first = node.args[0] if node.args else func.value if asks and isinstance(func, ast.Attribute) else None
        if isinstance(first, ast.Call) and len(first.args) == 1:  # Path("data.csv").exists()
            first = first.args[0]
        if isinstance(first, ast.Name):
            found[NamedFile(first.id, True, asks)] = None
        elif isinstance(first, ast.Constant) and isinstance(first.value, str):
            found[NamedFile(first.value, False, asks)] = None
    return tuple(found)


def _is_mode_of_writing(argument: ast.expr) -> bool:
    value = argument.value if isinstance(argument, ast.Constant) else None
    return isinstance(value, str) and _WRITES.fullmatch(value) is not None


class _Watch:
    """What one run of a cell opens."""

    def __init__(self, call: Call, own: tuple[str, ...]) -> None:
        self.call = call
        self.own = own
        self.newcomers = Newcomers()
        self.began_ns = call.session.clock.wall() * 1e9
        self.written: set[str] = set()
        self.read: dict[str, str] = {}  # absolute path: as it was written

    def opened(self, path: str, writes: bool) -> None:
        reads = self.call.reads
        place = expand(path)
        if writes:
            self.written.add(place)
        elif reads is None or place in self.read or place in self.written:
            return
        elif not place.startswith(self.own) and _is_data(place, os.getcwd()) and self._was_there(place):
            self.read[place] = path
            if all(expand(known) != place for known in reads):
                reads[path] = state_of(path)

    def listed(self, folder: str) -> None:
        """Take note that the names in a folder were asked for."""
        reads, name = self.call.reads, folder.rstrip("/") + LISTED
        place = expand(folder)
        if reads is not None and name not in reads and not place.startswith(self.own) and _is_data(place, os.getcwd()):
            reads[name] = state_of(name)

    def _was_there(self, place: str) -> bool:
        """Whether it is a file that was like this before the cell ran, and not one that it has had written; or none."""
        try:
            status = os.stat(place)
        except OSError:  # that there is no such file may be what the result depends on
            return True
        return stat.S_ISREG(status.st_mode) and status.st_mtime_ns < self.began_ns

    def named(self, files: Iterable[NamedFile], namespace: Mapping[str, Any]) -> None:
        """Follow the files among those that the cell may read, as far as its inputs say which these are."""
        for text, is_name, asks in files:
            value = namespace.get(text) if is_name else text
            if isinstance(value, (str, os.PathLike)) and 0 < len(path := os.fsdecode(value)) < _LONG:
                if asks or os.path.isfile(expand(path)):
                    self.opened(path, writes=False)

    def end(self) -> None:
        """Leave out what the cell has both read and written, or written to a folder that it lists."""
        reads = self.call.reads
        if reads is None:
            return
        for place in self.written & self.read.keys():
            reads.pop(self.read[place], None)
        folders = {os.path.dirname(place) for place in self.written}
        for name in [name for name in reads if name.endswith(LISTED)]:
            if expand(name.removesuffix(LISTED) or "/") in folders:
                del reads[name]


_watches: dict[int, _Watch] = {}  # by id of the call
_here = threading.local()
_hooked = False


@contextmanager
def following(
    call: Call, own: Iterable[str], files: Iterable[NamedFile], namespace: Mapping[str, Any]
) -> Iterator[None]:
    """Note the files that are read by `call` and by what it calls, in any thread that knows of it or that it starts.

    Args:
        call: The call of a cell that runs now.
        own: Folders whose files are nobody's data: the caches.
        files: Those that it may read by other means than Python's, see `named_files`.
        namespace: The notebook's.
    """
    global _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_hook)
    folders = tuple(os.path.join(os.path.abspath(folder), "") for folder in own)
    keys = (os.path.abspath(key_file()), os.path.join(os.path.abspath(ring_folder()), ""))
    watch = _Watch(call, folders + keys)
    with suppress(OSError, ValueError):  # what is wrong with them, the body will find out
        watch.named(files, namespace or {})
    _watches[call.id] = watch
    try:
        yield
    finally:
        del _watches[call.id]
        watch.end()


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event not in _EVENTS or not _watches or getattr(_here, "busy", False):
        return
    if isinstance(args[0], int):  # a file or folder that is open already
        return
    _here.busy = True  # looking at the file opens it
    try:
        call = current_call()
        while call is not None and call.id not in _watches:
            call = call.parent
        watches = [_watches[call.id]] if call is not None else _watches_of_newcomers()
        if event == "open":
            path, mode, flags = args
            writes = any(letter in mode for letter in "wax") if mode else bool(flags & (os.O_WRONLY | os.O_RDWR))
            for watch in watches:
                watch.opened(os.fsdecode(path), writes)
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


def _watches_of_newcomers() -> list[_Watch]:
    """Return those that may have started this thread, which works for no call."""
    if current_call() is not None:
        return []
    return [watch for watch in list(_watches.values()) if watch.newcomers.here()]


@lru_cache(maxsize=4096)
def _is_data(place: str, folder: str) -> bool:
    """Whether a file may be data of the user, who works in `folder`."""
    inside = place.startswith(os.path.join(folder, ""))
    seen = os.path.relpath(place, folder) if inside else place
    if place.endswith(CODE) or any(part.startswith(".") for part in seen.split(os.sep)):
        return False
    return inside or not place.startswith(_foreign())


@lru_cache(maxsize=1)
def _foreign() -> tuple[str, ...]:
    """Return the folders of the system, of Python and its packages, and of temporary files."""
    python = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values(), tempfile.gettempdir()}
    return tuple(os.path.join(folder, "") for folder in (*map(os.path.realpath, python), *python, *_SYSTEM))
