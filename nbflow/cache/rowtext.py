"""Rows of an index: what they say of an entry, as text and numbers, and how many are inserted at once.

What calls of the same code share is told apart from what is an entry's own. Numbers stand for texts that are only
compared; several texts may share one, so whoever finds by number compares the text too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted

from xxhash import xxh3_64_intdigest

from nbflow._typing import TYPE_CHECKING, Any
from nbflow.cache.memory import EntryInfo
from nbflow.cache.parts import KeyPart

if TYPE_CHECKING:
    import sqlite3

__all__ = ["arguments_of", "hash_of", "info_of", "insert_all", "split", "text_of"]


def hash_of(text: str) -> int:
    """Return a short number for a text, which many texts may share."""
    return int(xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))) >> 33


_ARGUMENTS = frozenset({"argument", "input"})


def split(info: EntryInfo) -> tuple[int, str, str, int]:
    """Return what a row says of an entry's parts: number and text of those of its kind, text and number of its own."""
    own = [part for part in info.parts if part[0] in _ARGUMENTS]
    others = info.parts if not own else tuple([part for part in info.parts if part[0] not in _ARGUMENTS])
    kind, code = _kind(info.task, info.cell, others)
    return kind, code, text_of(own), _arguments(info.task, own)


@lru_cache(maxsize=64)
def _kind(task: str, cell: str | None, parts: tuple[KeyPart, ...]) -> tuple[int, str]:
    code = text_of(parts)
    about = "\0".join((task, cell or "\0", code))
    return int(xxh3_64_intdigest(about.encode("utf-8", "surrogatepass"))) >> 1, code


def text_of(parts: Iterable[KeyPart]) -> str:
    """Return parts as text: what `json.dumps` makes of them, each as a list of its fields, in a tenth of the time."""
    fields = [
        f'"{kind}", {_quoted(name)}, "{digest}", {_quoted(text)}, {_quoted(where)}'
        for kind, name, digest, text, where in parts
    ]
    return "[[" + "], [".join(fields) + "]]" if fields else "[]"


def info_of(*row: Any) -> EntryInfo:
    """Return what is known of an entry; the fields are those that `Index.entries` asks for."""
    key, task, cell, created, used, cost, size, ttl, code, arguments, hits, pinned = row
    parts = _parsed(code) + tuple(KeyPart(*part) for part in json.loads(arguments))
    return EntryInfo(key, task, cell, created, used, cost, size, ttl, parts, hits, bool(pinned), "disk")


@lru_cache(maxsize=256)
def _parsed(code: str) -> tuple[KeyPart, ...]:
    return tuple(KeyPart(*part) for part in json.loads(code))


def arguments_of(task: str, parts: tuple[KeyPart, ...]) -> int:
    """Return a number by which entries of a task with the same arguments are found; others may share it."""
    return _arguments(task, [part for part in parts if part.kind in _ARGUMENTS])


def _arguments(task: str, own: list[KeyPart]) -> int:
    text = task
    for kind, name, digest, _, _ in own:
        text += f"\0{kind}\0{name}\0{digest}"
    return hash_of(text)


def insert_all(connection: sqlite3.Connection, statement: str, width: int, fields: list[Any]) -> None:
    """Insert rows of `width` fields each, all fields in one list.

    Each statement gives up the interpreter's lock once, and others, who compute, are slow to give it back: so there
    are many rows to a statement, and few different statements.
    """
    begin = 0
    for count in (64, 8, 1):
        while len(fields) - begin >= count * width:
            end = begin + count * width
            connection.execute(_statement(statement, width, count), fields[begin:end])
            begin = end


@lru_cache(maxsize=16)
def _statement(statement: str, width: int, count: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"{statement} VALUES {', '.join([row] * count)}"
