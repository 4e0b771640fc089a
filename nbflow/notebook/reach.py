"""What a cell may change without naming it: what the code that it can call changes.

A cell calls functions of other cells and of local modules, methods of its inputs, and whatever their data hold. What
these change of the notebook's names, of modules, classes and functions, and of what they have captured is found from
their code; to the cell it is input and output alike. So a hit can do what a call would have done, and is none where
what was there before is not the same.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from functools import partial
from types import FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from nbflow.cache.digest import task_function
from nbflow.cache.fingerprint import Snapshot, snapshot
from nbflow.cache.key import KeyBuilder
from nbflow.cache.nodes import is_code
from nbflow.cache.owners import is_local_owner, note_owned, owner_name, owner_of, reaches_all
from nbflow.cache.places import is_local
from nbflow.cache.source import facts_of
from nbflow.notebook.cells import Cell
from nbflow.notebook.heap import ATOMS, Heap, can_be_opened
from nbflow.notebook.ways import attribute_of, named, owner_at

__all__ = ["SHELL_NAMES", "Reach", "digest_or_none", "has_code"]

SHELL_NAMES = frozenset(
    "get_ipython exit quit open display In Out _ih _oh _dh _sh __name__ __doc__ __builtins__".split()
)
"""Names that belong to the shell: never inputs, whatever they hold."""

_MISSING = object()
_HOLDERS = frozenset({list, dict, tuple, set})  # no code themselves


class Reach:
    """What the code changes that a cell can call, as far as `follow`, `from_modules` and `heap_of` have met it.

    Args:
        cell: The cell.
        namespace: The notebook's.
        ignored: Names that do not count.

    Attributes:
        changed_names: Names of the notebook.
        before: What was in attributes and closures when `state` was asked for, by their names.
        heap: The objects that the cell can get at.
    """

    def __init__(self, cell: Cell, namespace: Mapping[str, Any], ignored: frozenset[str]) -> None:
        self.cell = cell
        self.namespace = namespace
        self.changed_names: dict[str, None] = {}
        self.before: dict[str, Any] = {}
        self.heap = Heap({})
        self._ignored = ignored | SHELL_NAMES
        self._attributes: dict[tuple[str, str], Any] = {}  # modules, classes, functions by (their name, attribute)
        self._cells: dict[str, Any] = {}  # of closures
        self._read: dict[str, None] = {}  # names that code reads, also of modules: the key has their content already
        self._followed: dict[int, Snapshot] = {}  # by id of the code
        self._wholes: dict[int, str | None] = {}  # digests of objects that cannot be looked into, by id
        self._remembering: dict[str, Any] = {}  # functions with an `lru_cache`, by name
        self._loads: dict[str, None] = {}  # local modules that bodies import
        self._looked_into: set[str] = set()  # those of them whose code was noted
        self._opaque: dict[str, None] = {}  # in words, what code uses that reaches any name at all

    # -- finding code

    def follow(self, code: Any) -> Snapshot:
        """Note what a piece of code changes, with all that it calls; return its graph, looked at once."""
        found = self._followed.get(id(code))
        if found is None:
            found = self._followed[id(code)] = _snapshot_of(code)
            self._note(found)
        return found

    def _note(self, found: Snapshot) -> None:
        self.changed_names |= {name: None for name in found.changed_names if name not in self._ignored}
        for (_, attribute), owner in found.attribute_state.items():
            note_owned(self._attributes, owner, attribute)
        for name, cell in found.closure_state.items():
            others = 1
            while self._cells.setdefault(name if others == 1 else f"{name}#{others}", cell) is not cell:
                others += 1
        for part in found.fingerprint.parts:
            if part.kind == "global":  # any call of a method may change it, not only those of which one knows
                self._note_global(part.name)
        self._remembering |= found.remembering
        self._opaque |= found.opaque
        self._loads |= found.loads

    def _note_global(self, name: str) -> None:
        module, _, attribute = name.rpartition(".")
        if not module:
            self._read[name] = None
        elif module in sys.modules and type(vars(sys.modules[module]).get(attribute)) not in ATOMS:
            self._read[f"{owner_name(sys.modules[module])}.{attribute}"] = None

    def chains(self) -> set[tuple[str, ...]]:
        """Return the names that the cell's code loads, each with the attributes that follow at once."""
        return {chain for code in self.cell.codes for chain in facts_of(code).chains}

    def opaque(self, names: list[str]) -> list[str]:
        """Say in words what the cell, or code of the notebook among these names, uses to reach any name at all."""
        found: dict[str, None] = {}
        for chain in self.chains():
            taken = [place for name, place in self.cell.imported if name == chain[0]]
            values = [self.namespace.get(chain[0])] if not taken else []
            for module, name in taken:
                owner = sys.modules.get(module)
                values.append(getattr(owner, name, None) if name else owner)
            if any(reaches_all(value, chain) for value in values):
                found[f"`{'.'.join(chain)}`"] = None
        for value in map(self.namespace.get, names):
            code = task_function(value) or (value if isinstance(value, (FunctionType, type)) else type(value))
            if getattr(code, "__module__", "") == "__main__" and type(code).__hash__ is not None:
                found |= _snapshot_of(code).opaque
        return list(found)

    def from_modules(self, names: list[str], imported: bool = True) -> Iterator[tuple[str, Any]]:
        """Yield the functions and classes that the cell takes out of local modules, and note the values that it takes.

        Their files do not tell what has been set there since.

        Args:
            names: Those that the cell reads; some are modules.
            imported: Whether what the cell itself imports counts, if it is loaded.
        """
        roots: dict[str, list[list[Any]]] = {}  # by name: where it leads, beginning with a module
        for name in names:
            if _is_local_module(self.namespace.get(name)):
                roots[name] = [[self.namespace[name]]]
        for name, (module, attribute) in self.cell.imported if imported else ():
            if (loaded := sys.modules.get(module)) is not None and is_local(module):
                roots.setdefault(name, []).append([loaded, attribute] if attribute else [loaded])
        stored = {(name,) for name in roots if name in self.cell.effects.outputs and name not in self.cell.defined}
        taken = sorted(chain for chain in self.chains() | stored if chain[0] in roots) if roots else ()
        for (owner, *rest), (_, *further) in ((root, chain) for chain in taken for root in roots[chain[0]]):
            rest += further
            while rest and _is_local_module(inner := vars(owner).get(rest[0], _MISSING)):
                owner, rest = inner, rest[1:]
            value = vars(owner).get(rest[0], _MISSING) if rest else owner
            if not rest:
                self._note_whole(owner)
            elif isinstance(value, (FunctionType, type)):
                if _is_followed(value):
                    self.follow(value)
                    yield f"{owner.__name__}.{rest[0]}", value
            elif not isinstance(value, ModuleType):
                note_owned(self._attributes, owner, rest[0])
        changed = (chain for code in self.cell.codes for chain in facts_of(code).state if chain[0] in roots)
        for (module, *way), (_, *further) in ((root, chain) for chain in changed for root in roots[chain[0]]):
            owner, attribute = owner_of(("", *way, *further), module)
            if owner is not None and is_local_owner(owner):
                note_owned(self._attributes, owner, attribute)
        for name, attribute in self.cell.attributes_set:
            for module, *way in roots.get(name, ()):
                owner, _ = owner_of(("", *way, attribute), module)
                if way and owner is not module and owner is not None and is_local_owner(owner):
                    note_owned(self._attributes, owner, attribute)

    def _note_whole(self, module: ModuleType) -> None:
        """Note a local module that is handed to somebody, who may change anything of it."""
        if _is_local_module(module):
            self._loads[module.__name__] = None
            for name, value in list(vars(module).items()):
                if not name.startswith("__") and not is_code(value):
                    note_owned(self._attributes, module, name)

    def remembering(self) -> Iterator[tuple[Any, str]]:
        """Yield functions with an `lru_cache`, each with the digest of its code and of what that reads."""
        for function in self._remembering.values():
            yield function, _snapshot_of(function.__wrapped__).fingerprint.digest

    def heap_of(self, roots: dict[str, Any]) -> Heap:
        """Return the heap of all that these names and values lead to, through code that they lead to as well."""
        self.heap = heap = Heap({})
        more, roots = roots, {}
        while True:  # at least once: a cell without inputs, too, may take something out of a module
            roots |= more
            for code in self._codes_among(heap.add(more)):
                self.follow(code)
                self._note_members(code)
            for module in heap.modules.values():
                self._note_whole(module)
            self._note_loaded()
            more = {name: self.namespace[name] for name in sorted(self.changed_names) if name in self.namespace}
            for name in sorted(self._read):
                with suppress(LookupError):
                    more[name] = named(name, self.namespace)
            for (owner, attribute), kind in sorted(self._attributes.items(), key=lambda item: item[0]):
                value = attribute_of(kind, attribute, _MISSING)
                if value is not _MISSING:
                    more[f"{owner}.{attribute}"] = value
            more = {name: value for name, value in more.items() if name not in roots}
            if not more:
                return heap

    def _note_members(self, code: Any) -> None:
        """Note what a class has that is an object with code of its own, such as a descriptor."""
        for name, value in list(vars(code).items()) if isinstance(code, type) else ():
            if isinstance(value, ModuleType):
                self._note_whole(value)
            elif not (name.startswith("__") or is_code(value) or isinstance(value, Enum)) and _is_followed(type(value)):
                note_owned(self._attributes, code, name)

    def _note_loaded(self) -> None:
        """Note all code of the modules that bodies import: which of it they call, their names do not tell."""
        for name in [name for name in self._loads if name not in self._looked_into and name in sys.modules]:
            self._looked_into.add(name)
            for value in list(vars(sys.modules[name]).values()):
                if isinstance(value, (FunctionType, type)) and value.__module__ == name:
                    self.follow(value)

    def _codes_among(self, objects: Iterable[Any]) -> Iterator[Any]:
        """Yield functions and classes that objects are, have, or lead to, as far as they may be edited."""
        kinds: dict[int, type] = {}
        for value in objects:
            if isinstance(value, (FunctionType, type)):
                inner: Any = value
            else:
                kind = type(value)
                if kind in _HOLDERS:
                    continue
                kinds[id(kind)] = kind
                inner = value.func if kind is partial else getattr(value, "__wrapped__", None)
                if kind.__name__ == "_lru_cache_wrapper":
                    self._remembering[value.__name__] = value
            if isinstance(inner, (FunctionType, type)) and _is_followed(inner):
                yield inner
        yield from (kind for kind in kinds.values() if _is_followed(kind))

    def said(self) -> Iterator[Any]:
        """Yield the constants of code that was followed, and the values that it has captured."""
        for found in self._followed.values():
            yield from found.said()

    # -- what is there

    def look_at_wholes(self, names: Collection[str], *, solid: bool) -> None:
        """Take the digests of those objects that cannot be looked into and that are not under one of these names.

        Args:
            names: Names of whose values the digests are known.
            solid: Whether all of these have content.
        """
        heap = self.heap
        wholes = [(key, value) for key, value in heap.objects.items() if key in heap.whole]
        digests = {key: digest_or_none(value) for key, value in wholes if heap.ways[key][0] not in names}
        heap.open(
            key
            for key, value in wholes
            if can_be_opened(value) and (digests[key] if key in digests else solid or digest_or_none(value))
        )
        self._wholes = {key: digest for key, digest in digests.items() if key in heap.whole}
        self._wholes |= {key: digest_or_none(heap.objects[key]) for key in heap.inner}

    def stirred(self) -> list[Any]:
        """Return the objects whose digests were taken and are no longer the same."""
        objects = self.heap.objects
        return [
            objects[key]
            for key, before in self._wholes.items()
            if before is not None and digest_or_none(objects[key]) != before
        ]

    def state(self) -> list[tuple[str, Any, str | None]]:
        """Return what is in attributes and closures that the code changes: name, value, and its digest.

        What is missing has the digest "missing", and what has no content None; where a module keeps such a thing for
        itself (a connection, a lock), it does not count and is left out.
        """
        values = {
            f"{owner}.{attribute}": (kind, attribute_of(kind, attribute, _MISSING))
            for (owner, attribute), kind in self._attributes.items()
        }
        for name, cell in self._cells.items():
            values[name] = cell, getattr(cell, "cell_contents", _MISSING)
        modules = self._cells_of_modules()
        found: list[tuple[str, Any, str | None]] = []
        for name, (kind, value) in sorted(values.items(), key=lambda item: item[0]):
            self.before[name] = value
            digest = "missing" if value is _MISSING else digest_or_none(value)
            if digest is not None or not (isinstance(kind, ModuleType) or id(kind) in modules):
                found.append((name, value, digest))
        return found

    def value_before(self, name: str) -> Any:
        """Return what was in an attribute or a closure when `state` was asked for; None where there was nothing."""
        value = self.before.get(name)
        return None if value is _MISSING else value

    def value_of(self, name: str) -> Any:
        """Return the present value of a name, an attribute or a closure; None where there is none."""
        if name in self._cells:
            return getattr(self._cells[name], "cell_contents", None)
        owner, _, attribute = name.rpartition(".")
        kind = self._attributes.get((owner, attribute))
        return self.namespace.get(name) if kind is None else attribute_of(kind, attribute, None)

    def changed(self, parts: Mapping[str, str], names: list[str]) -> dict[str, Any]:
        """Return what code has changed of modules, classes and functions, by `Class.attribute`, since `state`.

        Args:
            parts: Digests of the inputs, by name.
            names: Those that the cell reads.

        Raises:
            LookupError: What has changed belongs to something that cannot be found again.
        """
        for opaque in self._opaque:
            raise LookupError(f"it can call code that uses {opaque}, and what that reads and writes cannot be seen")
        found: dict[str, Any] = {}
        for (owner, attribute), kind in self._attributes.items():
            name = f"{owner}.{attribute}"
            value = attribute_of(kind, attribute, _MISSING)
            if not self._differs(name, value, parts):
                continue
            if isinstance(kind, ModuleType) and value is not _MISSING and digest_or_none(value) is None:
                continue
            if value is _MISSING or _owner_or_none(owner, self.namespace) is not kind:
                if id(kind) in self.heap.objects:  # which has its own way there
                    continue
                what = "module" if isinstance(kind, ModuleType) else "class" if isinstance(kind, type) else "function"
                raise LookupError(f"it changes `{name}` of a {what} that the notebook does not have under that name")
            found[name] = value
        reached, modules = self._reached, self._cells_of_modules()
        for name, cell in self._cells.items():
            value = getattr(cell, "cell_contents", _MISSING)
            if id(cell) in reached or not self._differs(name, value, parts):
                continue
            if (path := modules.get(id(cell))) is None or value is _MISSING:
                raise LookupError(f"it changes `{name}`, which the notebook has no name for")
            if digest_or_none(value) is not None:
                found[path] = value
        for name, function in self._remembering.items():
            inner = _snapshot_of(function.__wrapped__)
            if inner.changed_names or inner.attribute_state or inner.closure_state:
                raise LookupError(f"it calls `{name}`, whose `lru_cache` decides whether it changes something")
        return found | self._state_of_new(names)

    @property
    def _reached(self) -> set[int]:
        """Ids of the cells of closures that the heap leads to."""
        if not self._cells:
            return set()
        functions = (value for value in self.heap.objects.values() if isinstance(value, FunctionType))
        return {id(cell) for function in functions for cell in function.__closure__ or ()}

    def _cells_of_modules(self) -> dict[int, str]:
        """Return by which names the cells of closures that local modules have are found again."""
        found: dict[int, str] = {}
        if self._reached.issuperset(map(id, self._cells.values())):
            return found
        for module in [each for each in list(sys.modules) if each != "__main__" and is_local(each)]:
            for name, value in list(vars(sys.modules[module]).items()):
                for path, owner in _functions_in(f"{module}:{name}", value, set(), module):
                    if isinstance(owner, FunctionType):
                        for captured, cell in zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True):
                            found.setdefault(id(cell), f"{path}.<{captured}>")
        return found

    def _differs(self, name: str, value: Any, parts: Mapping[str, str]) -> bool:
        """Whether what is in an attribute or closure is not what it was."""
        before = self.before.get(name, _MISSING)
        now = None if value is _MISSING else digest_or_none(value)
        return now != parts.get(name) if now is not None and before is not _MISSING else value is not before

    # -- what was not there before the cell ran

    def _state_of_new(self, names: list[str]) -> dict[str, Any]:
        """Return what modules that the cell has loaded, and what it has defined, remember by now.

        A hit loads and defines them anew, after which nothing has been called yet.
        """
        later = Reach(self.cell, self.namespace, self._ignored)
        for _ in later.from_modules(names):
            pass
        later._loads = dict.fromkeys(name for name in self._loads if name not in self._looked_into)
        later._note_loaded()
        found: dict[str, Any] = {}
        for (owner, attribute), kind in later._attributes.items():
            name = f"{owner}.{attribute}"
            if name not in self.before and _owner_or_none(owner, self.namespace) is kind:
                value = attribute_of(kind, attribute, _MISSING)
                if digest_or_none(value) is not None:
                    found[name] = value
        for name in self.cell.defined:
            found |= _memory_of(name, self.namespace.get(name))
        return found


def _memory_of(name: str, defined: Any) -> dict[str, Any]:
    """Return what a function, class or object under a name remembers: attributes, defaults, and what is captured."""
    found: dict[str, Any] = {}
    if isinstance(defined, (type, FunctionType)):
        if defined.__module__ != "__main__":
            return found
        known = _snapshot_of(defined)
        cells = set(map(id, known.closure_state.values()))
        for path, owner in _functions_in(name, defined, set()):
            for (_, attribute), kind in known.attribute_state.items():
                if kind is owner and (value := attribute_of(owner, attribute, _MISSING)) is not _MISSING:
                    found[f"{path}.{attribute}"] = value
            if isinstance(owner, FunctionType):
                for captured, cell in zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True):
                    if id(cell) in cells and (value := getattr(cell, "cell_contents", _MISSING)) is not _MISSING:
                        found[f"{path}.<{captured}>"] = value
    elif type(defined).__module__ == "__main__":  # what a class that serves as decorator has made
        own = getattr(defined, "__dict__", {})
        found |= {f"{name}.{attribute}": value for attribute, value in own.items() if not is_code(value)}
    return found


def _functions_in(path: str, value: Any, seen: set[int], module: str = "__main__") -> Iterator[tuple[str, Any]]:
    """Yield a function or class of a module, its methods, and the functions that they have captured, with ways."""
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if id(value) in seen or not isinstance(value, (type, FunctionType)) or value.__module__ != module:
        return
    seen.add(id(value))
    if isinstance(value, type):
        yield path, value
        for name, own in list(vars(value).items()):
            if isinstance(getattr(own, "__func__", own), FunctionType):
                yield from _functions_in(f"{path}.{name}", own, seen, module)
    elif isinstance(value, FunctionType):
        yield path, value
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield from _functions_in(f"{path}.<{name}>", getattr(cell, "cell_contents", None), seen, module)


def has_code(value: Any) -> bool:
    """Whether a value is a function, class or object whose code is the notebook's or a local module's."""
    if isinstance(value, partial):
        return has_code(value.func)
    return _is_followed(task_function(value) or (value if isinstance(value, (FunctionType, type)) else type(value)))


def _is_followed(code: Any) -> bool:
    return is_local(code.__module__ or "") and type(code).__hash__ is not None


def _is_local_module(value: Any) -> bool:
    return isinstance(value, ModuleType) and is_local(value.__name__)


def _owner_or_none(name: str, namespace: Mapping[str, Any]) -> Any:
    try:
        return owner_at(name, namespace)
    except (LookupError, AttributeError, TypeError, ImportError):
        return None


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
