"""The cache key of a cell: its code, and everything that it reads.

Data count by content. Functions and classes count by all the code that they reach, part by part, so that an edit can
be named; what such code changes is an input (and an output) of the cell as well. Objects without content make a key
for this session only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from nbflow.cache.digest import task_function
from nbflow.cache.fingerprint import Snapshot, imports, snapshot
from nbflow.cache.key import CacheKey, Fingerprint, KeyBuilder
from nbflow.cache.mentions import names_in
from nbflow.cache.parts import KeyPart, short_text
from nbflow.cache.places import is_local
from nbflow.cache.source import Imports, Shelf, facts_of
from nbflow.notebook.cells import Cell, CellOptions
from nbflow.notebook.heap import Heap
from nbflow.runtime import current
from nbflow.sessions import session_or_default

__all__ = ["SHELL_NAMES", "CellKeyer", "digest_or_none"]

SHELL_NAMES = frozenset(
    "get_ipython exit quit open display In Out _ih _oh _dh _sh __name__ __doc__ __builtins__".split()
)
"""Names that belong to the shell: never inputs, whatever they hold."""

_MISSING = object()


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
        self._attribute_state: dict[tuple[str, str], Any] = {}  # classes and functions by (their name, attribute)
        self._attribute_values: dict[str, Any] = {}
        self.heap = Heap({})

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
            names = list(dict.fromkeys([*effects.inputs, *(name for name in also if name in self.namespace)]))
        return [name for name in names if name not in SHELL_NAMES and name not in self.options.ignore]

    def drawing_on(self) -> str | None:
        """Return the first input that is part of a matplotlib figure, or None.

        Such objects all refer to each other, are changed by nearly every call, and have no content to compare; a cell
        that draws on them runs as a plain cell does.
        """
        found = (name for name in self.input_names() if _is_artist(self.namespace.get(name)))
        return next(found, None)

    def opaque(self) -> list[str]:
        """Say in words what functions of the notebook that it may call use to reach names that they do not tell."""
        if self.options.inputs is not None:
            return []
        found: dict[str, None] = {}
        for value in map(self.namespace.get, self.input_names()):
            code = task_function(value) or (value if isinstance(value, (FunctionType, type)) else type(value))
            if getattr(code, "__module__", "") == "__main__" and type(code).__hash__ is not None:
                found |= _snapshot_of(code).opaque
        return list(found)

    def unsteady(self) -> str | None:
        """Return the first input that is another one each time it is looked at (a generator), or None."""
        if self.last is None or not self.last.notes:
            return None
        one, other = (CellKeyer(self.cell, self.name, self.namespace, self.options).key({}).parts for _ in range(2))
        return next((before.name for before, now in zip(one, other, strict=False) if before.digest != now.digest), None)

    def quick(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Cells have no short way to their key."""
        return None

    def key(
        self, inputs: Mapping[str, Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> CacheKey:
        """Return the key as of now; a name that is missing is a part as well, so that the body may fail naturally."""
        self.call = current.frame()
        options = self.options
        builder = KeyBuilder(self.name)
        builder.add_digest("code", self.name, self.cell.digest, where=self.cell.label)
        seen: set[tuple[str, str]] = set()
        for part in _imports_of(self.cell.imports):
            seen.add((part.kind, part.name))
            builder.add_digest(part.kind, part.name, part.digest, part.text, part.where)
        self._attribute_state, self._attribute_values = {}, {}
        state: dict[str, None] = {}
        roots: dict[str, Any] = {}
        names = self.input_names()
        for name in names:
            self._add(builder, "input", name, seen, state, roots)
        for name in options.depends:
            self._add(builder, "depends", name, seen, state, roots)
        self._add_from_modules(builder, names, seen)
        for name in sorted(set(state) - set(names)):  # what its functions change: for the cell it is input and output
            if name in options.ignore or name[:1] == ".":  # attributes of functions come with those of classes
                continue
            if name in self.namespace:
                builder.add("input", name, self.namespace[name])
                roots[name] = self.namespace[name]
            else:
                builder.add_digest("input", name, "missing", text="missing")
        self.heap = heap = Heap(roots)
        self._add_attribute_state(builder)
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
        state: dict[str, None],
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
        if not isinstance(value, (FunctionType, type)) and task_function(value) is None:
            builder.add(kind, name, value)
            return
        found = _snapshot_of(value)
        _add_parts(builder, found.fingerprint, ("class" if isinstance(value, type) else "helper", name), seen)
        for part in found.fingerprint.parts:
            if part.kind == "global" and part.name in self.namespace:
                roots.setdefault(part.name, self.namespace[part.name])
        builder.add_code(Fingerprint("", (), found.fingerprint.notes))
        state.update(dict.fromkeys(found.state))
        self._attribute_state |= found.attribute_state

    def _add_from_modules(self, builder: KeyBuilder, names: list[str], seen: set[tuple[str, str]]) -> None:
        """Add what the cell takes out of local modules: their files do not tell what has been set there since.

        What has no content does not count there, as it may be anything that the module works with.
        """
        modules = {name for name in names if _is_local_module(self.namespace.get(name))}
        chains = {chain for code in self.cell.codes for chain in facts_of(code).chains} if modules else set()
        for chain in sorted(chain for chain in chains if chain[0] in modules):
            value, depth = self.namespace[chain[0]], 1
            while depth < len(chain) and _is_local_module(value):
                value = vars(value).get(chain[depth])
                depth += 1
            name = ".".join(chain[:depth])
            if isinstance(value, (FunctionType, type)) and is_local(value.__module__ or ""):
                found = _snapshot_of(value).fingerprint
                if not found.notes:
                    _add_parts(builder, found, ("helper", name), seen)
            elif not isinstance(value, ModuleType) and ("global", name) not in seen:
                digest = digest_or_none(value)
                if digest is not None:
                    seen.add(("global", name))
                    builder.add_digest("global", name, digest, short_text(value))

    def _add_attribute_state(self, builder: KeyBuilder) -> None:
        """Add what methods change of their classes, and functions of functions: no code, but an input of the cell."""
        kinds = {id(type(value)): type(value) for value in self.heap.objects.values()}
        for kind in kinds.values():
            if kind.__module__ == "__main__" and type(kind).__hash__ is not None:
                self._attribute_state |= _snapshot_of(kind).attribute_state
        for (owner, attribute), kind in sorted(self._attribute_state.items(), key=lambda item: item[0]):
            value = self._attribute_values[f"{owner}.{attribute}"] = vars(kind).get(attribute, _MISSING)
            if value is _MISSING:
                builder.add_digest("input", f"{owner}.{attribute}", "missing", text="missing")
            else:
                builder.add("input", f"{owner}.{attribute}", value)

    def attribute_state_made(self, parts: Mapping[str, str]) -> dict[str, Any]:
        """Return what code has changed of classes and functions, by `Class.attribute`, since the key was made.

        Args:
            parts: Digests of the inputs, by name.

        Raises:
            LookupError: What has changed belongs to something that the notebook has not under that name.
        """
        found: dict[str, Any] = {}
        for (owner, attribute), kind in self._attribute_state.items():
            name = f"{owner}.{attribute}"
            value = vars(kind).get(attribute)
            now = digest_or_none(value)
            if now == parts[name] or (now is None and value is self._attribute_values[name]):
                continue
            if self.namespace.get(owner) is not kind:
                what = "class" if isinstance(kind, type) else "function"
                raise LookupError(f"it changes `{name}` of a {what} that the notebook does not have under that name")
            found[name] = value
        for name in self.cell.defined:
            defined = self.namespace.get(name)
            if isinstance(defined, (type, FunctionType)) and defined.__module__ == "__main__":
                own = _snapshot_of(defined).attribute_state
                found |= {
                    f"{owner}.{each}": vars(cls)[each]
                    for (owner, each), cls in own.items()
                    if cls is defined and each in vars(cls)
                }
                if isinstance(defined, FunctionType) and _changes_defaults(defined):
                    found[f"{name}.__defaults__"] = defined.__defaults__
                    found[f"{name}.__kwdefaults__"] = defined.__kwdefaults__
        return found

    def value_of(self, name: str) -> Any:
        """Return the present value of an input: of a name, or of `Class.attribute`; None where there is none."""
        owner, _, attribute = name.rpartition(".")
        kind = self._attribute_state.get((owner, attribute))
        return self.namespace.get(name) if kind is None else vars(kind).get(attribute)


def _add_parts(builder: KeyBuilder, found: Fingerprint, root: tuple[str, str], seen: set[tuple[str, str]]) -> None:
    """Add the parts of reached code, each once; that of the code itself under kind and name of `root`."""
    for part in found.parts:
        place = root if part.kind == "code" else (part.kind, part.name)
        if place not in seen:
            seen.add(place)
            builder.add_digest(*place, part.digest, part.text, part.where)


def _is_local_module(value: Any) -> bool:
    return isinstance(value, ModuleType) and is_local(value.__name__)


def _changes_defaults(function: FunctionType) -> bool:
    """Whether a function by its text changes what its defaults hold, as a memory of calls does."""
    code = function.__code__
    named = {*code.co_varnames[: code.co_argcount][-len(function.__defaults__ or ()) or code.co_argcount :]}
    named |= {*(function.__kwdefaults__ or ())}
    return any(chain[0] in named for chain in facts_of(code).state)


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


def digest_or_none(value: Any) -> str | None:
    """Return the digest that a value would have as a part of a key, or None if it can have none."""
    builder = KeyBuilder("")
    builder.add("input", "", value)
    key = builder.build()
    return None if key.notes else key.parts[0].digest


_snapshots: WeakKeyDictionary[Any, Snapshot] = WeakKeyDictionary()


def _snapshot_of(value: Any) -> Snapshot:
    """Return the graph of a piece of code; the last one where nothing in it has changed since."""
    known = _snapshots.get(value)
    if known is None or not known.holds():
        known = _snapshots[value] = snapshot(value)
    return known
