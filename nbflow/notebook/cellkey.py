"""The cache key of a cell: its code, and everything that it reads.

Data count by content. Functions and classes count by all the code that they reach, part by part, so that an edit can
be named; what such code changes is an input (and an output) of the cell as well. Objects without content make a key
for this session only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from nbflow.cache.digest import task_function
from nbflow.cache.fingerprint import Snapshot, imports
from nbflow.cache.key import CacheKey, Fingerprint, KeyBuilder
from nbflow.cache.mentions import names_in
from nbflow.cache.owners import OPAQUE
from nbflow.cache.parts import KeyPart, short_text
from nbflow.cache.places import is_local
from nbflow.cache.source import Imports, Shelf, inner_codes
from nbflow.notebook.cells import Cell, CellOptions
from nbflow.notebook.expansion import refusal_of
from nbflow.notebook.reach import SHELL_NAMES, Reach, has_code
from nbflow.runtime import current
from nbflow.sessions import session_or_default

__all__ = ["CellKeyer", "ForcedKeyer"]

_MISSING = object()
_OPAQUE = OPAQUE | {"locals"}  # builtins that reach any name of a cell


class CellKeyer:
    """Makes the cache key of a cell: its code, its inputs by content, and what the options add.

    Args:
        cell: The cell.
        name: The name it is kept under.
        namespace: The notebook's.
        options: The options of the magic.
        where: Which cell last bound a name, in words, or "".
    """

    def __init__(
        self,
        cell: Cell,
        name: str,
        namespace: Mapping[str, Any],
        options: CellOptions,
        where: Callable[[str], str] = lambda name: "",
    ) -> None:
        self.cell = cell
        self.name = name
        self.namespace = namespace
        self.options = options
        self.where = where
        self.last: CacheKey | None = None
        self.call: Any = None
        self.reach = self._new_reach()

    def _new_reach(self) -> Reach:
        return Reach(self.cell, self.namespace, frozenset(self.options.ignore))

    def input_names(self) -> list[str]:
        """Names that the key depends on, in order."""
        effects = self.cell.effects
        if self.options.inputs is not None:
            names: list[str] = list(self.options.inputs)
        else:
            also = [*effects.builtin_reads, *effects.mentions]
            if effects.runs_text:
                texts = [text for text in map(self.namespace.get, effects.inputs) if type(text) is str]
                also += [name for text in texts for name in names_in(text)]
            also += [name for name in effects.doubtful if has_code(self.namespace.get(name))]  # which may do anything
            names = list(dict.fromkeys([*effects.inputs, *(name for name in also if name in self.namespace)]))
        return [name for name in names if name not in SHELL_NAMES and name not in self.options.ignore]

    def said(self) -> Iterator[Any]:
        """Yield what may name files: constants of the cell and of what it calls, its inputs, and what these capture."""
        for code in self.cell.codes:
            for each in (code, *inner_codes(code)):
                yield from each.co_consts
        yield from map(self.namespace.get, self.input_names())
        yield from self.reach.said()

    def refusal(self) -> str | None:
        """Say why the cell takes no part in caching, if it is to take part and cannot."""
        if self.options.cache == "off":
            return None
        effects = self.cell.effects
        used = _OPAQUE.intersection(effects.builtin_reads).difference(self.namespace)
        opaque = [f"{name}()" for name in sorted(used)] or [*effects.opaque, *self._opaque()]
        if opaque:
            return refusal_of(opaque[0])
        if (drawn_on := self._drawing_on()) is not None:
            return f"it draws on `{drawn_on}`, which has no content to compare"
        return None

    def _drawing_on(self) -> str | None:
        """Return the first input that is part of a matplotlib figure, or None.

        Such objects all refer to each other, are changed by nearly every call, and have no content to compare; a cell
        that draws on them runs as a plain cell does.
        """
        found = (name for name in self.input_names() if _is_artist(self.namespace.get(name)))
        return next(found, None)

    def _opaque(self) -> list[str]:
        """Say in words what it, or functions of the notebook that it may call, use to reach any name at all."""
        if self.options.inputs is not None:
            return []
        names = self.input_names()
        shells = [f"`{name}`" for name in names if isinstance(self.namespace.get(name), InteractiveShell)]
        return shells or self.reach.opaque(names)

    def unsteady(self) -> str | None:
        """Return the first input that is another one each time it is looked at (a generator), or None."""
        if self.last is None or not self.last.notes:
            return None
        one, other = (CellKeyer(self.cell, self.name, self.namespace, self.options).key({}).parts for _ in range(2))
        return next((before.name for before, now in zip(one, other, strict=False) if before.digest != now.digest), None)

    def quick(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Cells have no short way to their key."""
        return None

    def key(self, inputs: Mapping[str, Any], *call: Any, unchanged: bool = False) -> CacheKey:
        """Return the key as of now; a name that is missing is a part as well, so that the body may fail naturally."""
        self.call = current.frame()
        options = self.options
        builder = KeyBuilder(self.name)
        code = KeyPart("code", self.name, self.cell.digest, "", self.cell.label)
        builder.add_code(Fingerprint(self.cell.digest, (code,)))  # names depend on the order in which cells ran
        seen: set[tuple[str, str]] = set()
        _add_parts(builder, _imports_of(self.cell.imports), ("", ""), seen)
        self.reach = reach = self._new_reach()
        roots: dict[str, Any] = {}
        names = self.input_names()
        for name in names:
            self._add(builder, "input", name, seen, roots)
        for name in options.depends:
            self._add(builder, "depends", name, seen, roots)
        for name, code in reach.from_modules(names, imported=options.inputs is None):
            found = reach.follow(code).fingerprint
            if not found.notes:  # else it may be anything that the module works with
                _add_parts(builder, found.parts, ("helper", name), seen)
        heap = reach.heap_of(roots)
        for name in sorted(set(reach.changed_names) - set(names)):  # for the cell it is input and output
            if name in self.namespace:
                builder.add("input", name, self.namespace[name])
            else:
                builder.add_digest("input", name, "missing", text="missing")
        for name, value, digest in reach.state():
            if digest is None:
                builder.add("input", name, value)
            else:
                builder.add_digest("input", name, digest, digest if digest == "missing" else short_text(value))
        if heap.shared:  # `b = a` and `b = list(a)` are not the same to a cell that changes one of them
            builder.add("format", "which inputs are one object", heap.shared)
        if not heap.complete:
            builder.add_code(Fingerprint("", (), (f"its inputs hold more than {heap.limit:,} objects",)))
        if options.version is not None:
            builder.add("version", "version", options.version)
        if options.outputs is not None:
            builder.add("format", "outputs", options.outputs)
        key = builder.build()
        parts = (part if part.where else part._replace(where=self.where(part.name)) for part in key.parts)
        self.last = key._replace(parts=tuple(parts))
        return self.last

    def _add(
        self,
        builder: KeyBuilder,
        kind: str,
        name: str,
        seen: set[tuple[str, str]],
        roots: dict[str, Any],
    ) -> None:
        """Add one name: code by all that it reaches, so that an edit can be named; data by content.

        What can be reached and changed from it is collected in `roots`.
        """
        value = self.namespace.get(name, _MISSING)
        if value is _MISSING:
            builder.add_digest(kind, name, "missing", text="missing")
            return
        roots[name] = value
        if isinstance(value, ModuleType) and is_local(value.__name__):  # what it takes from there comes apart
            builder.add("global", name, value.__name__)
            _add_parts(builder, _imports_of(((value.__name__, 0, ()),)), ("module", value.__name__), seen)
            return
        if not isinstance(value, (FunctionType, type)) and task_function(value) is None:
            builder.add(kind, name, value)
            return
        found = self.reach.follow(value)
        _add_parts(builder, found.fingerprint.parts, ("class" if isinstance(value, type) else "helper", name), seen)
        builder.add_code(Fingerprint("", (), found.fingerprint.notes))


class ForcedKeyer:
    """A keyer that drops what the cache has under the key before it is looked up."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.quick = run.keyer.quick

    def key(self, *args: Any, **kwargs: Any) -> Any:
        """Return the cell's key, after its entry was dropped."""
        key = self.run.keyer.key(*args, **kwargs)
        self.run.drop_entry()
        return key


def _add_parts(
    builder: KeyBuilder, parts: tuple[KeyPart, ...], root: tuple[str, str], seen: set[tuple[str, str]]
) -> None:
    """Add the parts of reached code, each once; that of the code itself under kind and name of `root`."""
    for part in parts:
        place = root if part.kind == "code" else (part.kind, part.name)
        if place not in seen:
            seen.add(place)
            builder.add_digest(*place, part.digest, part.text, part.where)


_imported: dict[Imports, Snapshot] = {}


def _imports_of(found: Imports) -> tuple[KeyPart, ...]:
    """Return modules and packages that a cell imports; looked at again when a file of theirs has changed."""
    if not found:
        return ()
    known = _imported.get(found)
    if known is None or not known.holds():
        if len(_imported) >= 256:
            _imported.clear()
        notes = getattr(session_or_default().cache_store, "notes", None)
        known = _imported[found] = imports(found, None if notes is None else Shelf(notes))
    return known.fingerprint.parts


def _is_artist(value: Any, depth: int = 1) -> bool:
    """Whether `value` is a part of a matplotlib figure, or a container of such."""
    if any(kind.__module__ == "matplotlib.artist" for kind in type(value).__mro__):
        return True
    if depth and isinstance(value, (list, tuple, dict)):
        members = islice(value.values() if isinstance(value, dict) else value, 100)
    elif depth and type(value).__name__ == "ndarray" and value.dtype == object:
        members = islice(value.flat, 100)
    else:
        return False
    return any(_is_artist(member, depth - 1) for member in members)
