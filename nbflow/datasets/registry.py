"""The table of formats: which class reads and writes which type in which format.

A type is a class, or the dotted name of one ("pandas.DataFrame") whose module is not imported for our sake: as long as
nobody else imported it, no value can have that type. The table knows no messages; `base` turns its answers into them.
"""

from __future__ import annotations

import sys
import threading
from importlib.util import find_spec
from typing import Generic, TypeVar

__all__ = ["Registry", "installed", "resolve", "type_name"]

C = TypeVar("C")


def resolve(declared: type | str) -> type | None:
    """Return the class that `declared` names, or None as long as its module is not imported."""
    if isinstance(declared, type):
        return declared
    module, _, name = declared.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def type_name(type_: type | str) -> str:
    """Return the name of a type for messages: `int`, `pandas.DataFrame`."""
    if isinstance(type_, str):
        return type_
    return type_.__qualname__ if type_.__module__ == "builtins" else f"{type_.__module__}.{type_.__qualname__}"


def installed(module: str) -> bool:
    """Return whether a top-level module could be imported, without importing it."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return find_spec(module) is not None


class Registry(Generic[C]):
    """Classes by format and type; the first type of a format is its natural one.

    Registering the same pair again replaces the class, so a cell that defines a format can be run again. Safe from any
    thread: writers take a lock, readers look at tables that are replaced whole.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._formats: dict[str, dict[type | str, C]] = {}
        self._extensions: dict[str, tuple[str, ...]] = {}
        self._aliases: dict[str, str] = {}

    def add(
        self,
        entry: C,
        *,
        format: str,
        types: tuple[type | str, ...],
        extensions: tuple[str, ...],
        aliases: tuple[str, ...] = (),
    ) -> None:
        """Register `entry` for all pairs of `format` and `types`, and `format` for `extensions` and `aliases`."""
        with self._lock:
            table = dict(self._formats.get(format, {}))
            for declared in types:
                table[_slot(table, declared)] = entry
            known = {
                extension: (*(name for name in self._extensions.get(extension, ()) if name != format), format)
                for extension in extensions
                if format not in self._extensions.get(extension, ())
            }
            self._formats = {**self._formats, format: table}
            self._extensions = {**self._extensions, **known}
            self._aliases = {**self._aliases, **dict.fromkeys(aliases, format)}

    def formats(self) -> list[str]:
        """Return the names of all formats, sorted."""
        return sorted(self._formats)

    def extensions(self) -> list[str]:
        """Return all extensions, sorted."""
        return sorted(self._extensions)

    def canonical(self, format: str) -> str | None:
        """Return the name of the format that `format` names or is an alias of, or None."""
        return format if format in self._formats else self._aliases.get(format)

    def of_extension(self, extension: str) -> tuple[str, ...]:
        """Return the formats that files with this extension may have, the usual one first."""
        return self._extensions.get(extension, ())

    def entries(self, format: str) -> list[tuple[type | str, C]]:
        """Return the types that a format holds, as declared, and the class for each."""
        return list(self._formats.get(format, {}).items())

    def find(self, type_: type, format: str) -> C | None:
        """Return the class for the nearest base of `type_`, or None if the format cannot hold it."""
        order = type_.__mro__
        best: C | None = None
        rank = len(order)
        for declared, entry in self.entries(format):
            known = resolve(declared)
            if known in order and (place := order.index(known)) < rank:
                best, rank = entry, place
        return best

    def of_type(self, type_: type) -> list[str]:
        """Return the formats that can hold `type_`, in order of registration."""
        return [format for format in self._formats if self.find(type_, format) is not None]


def _slot(table: dict[type | str, C], declared: type | str) -> type | str:
    """Return the key under which `table` already holds the type, else `declared` itself."""
    known = resolve(declared)
    return next((key for key in table if key == declared or (known is not None and resolve(key) is known)), declared)
