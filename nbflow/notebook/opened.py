"""Files that a cell opens by their plain name: followed as a `File` is, while it runs here and in workers.

What Python opens is seen by `runtime.opened`. Libraries that open files by themselves (polars, HDF5) are known by what
the cell hands to them: `pl.read_csv("data.csv")`, `os.path.exists(place)`. Keys of the cache and what it stores are
nobody's data.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from nbflow.cache.filestate import expand, is_pattern, members
from nbflow.cache.keyring import ring_folder
from nbflow.cache.trust import key_file
from nbflow.runtime import opened
from nbflow.runtime.opened import Following

if TYPE_CHECKING:
    from nbflow.runtime.current import Call

__all__ = ["NamedFile", "following", "named_files"]

_LONG = 4096  # characters that no path has
_MANY = 2000  # texts that are looked at
_SEVERAL = (list, tuple, set, frozenset)
_WORD = re.compile(r"[^\s'\"`,;|<>()\[\]{}=]+")  # of a command or query
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
        if isinstance(func, ast.Name) and called == "open":  # Python's own tells when it opens a file, and whether
            continue
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


@contextmanager
def following(
    call: Call, own: Iterable[str], files: Iterable[NamedFile], said: Iterable[Any], namespace: Mapping[str, Any]
) -> Iterator[None]:
    """Follow the files that are read by `call` and by what it calls, wherever that runs.

    Args:
        call: The call of a cell that runs now.
        own: Folders whose files are nobody's data: the caches.
        files: Those that it may read by other means than Python's, see `named_files`.
        said: Values that it works with, some of which may be names of files, or commands with such names.
        namespace: The notebook's.
    """
    reads = call.reads
    if reads is None:
        yield
        return
    folders = [os.path.join(os.path.abspath(folder), "") for folder in (*own, str(ring_folder()))]
    about = Following((*folders, os.path.abspath(key_file())), call.session.clock.wall() * 1e9, os.getcwd())
    with opened.following(reads, about, reads, _paths(files, namespace), _places(said)):
        yield


def _paths(files: Iterable[NamedFile], namespace: Mapping[str, Any]) -> Iterator[str]:
    """Yield the files among those that a cell may read, as far as its inputs say which these are."""
    for text, is_name, asks in files:
        value = namespace.get(text) if is_name else text
        if isinstance(value, (str, os.PathLike)) and 0 < len(path := os.fsdecode(value)) < _LONG:
            if asks or os.path.isfile(expand(path)) or (is_pattern(path) and members(path)):
                yield path


def _places(said: Iterable[Any]) -> Iterator[str]:
    """Yield what is named of files that are there: paths, parts of commands and queries, files in folders."""
    texts: dict[str, None] = {}
    for value in said:
        texts.update(dict.fromkeys(_texts_in(value)))
        if len(texts) > _MANY:
            break
    yield from texts
    folders = [text for text in texts if os.path.isdir(expand(text))]
    inside = (os.path.join(folder, text) for folder in folders for text in texts if not os.path.isabs(text))
    yield from islice(inside, _MANY)


def _texts_in(value: Any) -> Iterator[str]:
    """Yield texts in a value that may be paths."""
    members = value if any(type(value) is kind for kind in _SEVERAL) else (value,)  # types need not be hashable
    for member in islice(members, _MANY):
        if issubclass(type(member), (str, PurePath)):  # other types may be of any make
            text = str(member)
            if len(text) < _LONG:
                yield from (word for word in _WORD.findall(text) if "." in word or os.sep in word or word == text)
                if " " in text and "\n" not in text:
                    yield text
