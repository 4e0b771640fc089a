"""The objects that a cell can change: everything mutable that its inputs lead to, and how to get there again.

A plain cell works on live objects, so that an edit in place is seen under every other name for the same object, and
what a cell takes out of a list is that very element. A `Heap` is a map of these objects before the cell runs: how
each is reached, which are reached in two ways, and what they held. After the run it tells which of them have changed;
a record refers to all of them by their ways and carries only the new contents.

The rules:

* Ways begin at a name and lead through items, keys, attributes, closures and defaults. Numbers, text and the like have
  no identity here.
* What cannot be looked into (frames, objects of compiled types) is one object as a whole; whether it has changed is
  known from its digest.
* Objects of libraries count as a whole in the key. Those that are nothing but their attributes are opened before the
  body runs: what is inside has ways then, so that a model and its optimizer go on sharing their parameters.
* Arrays that share memory stay so: a view is described by its place in the array that owns the memory.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from enum import Enum
from functools import partial
from itertools import islice
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from xxhash import xxh3_128_digest

from nbflow._util import package_of
from nbflow.cache.classes import has_only_attributes
from nbflow.cache.digest import is_data
from nbflow.cache.places import is_local
from nbflow.notebook.memory import covers, is_array, owner_of
from nbflow.notebook.ways import Way, plain_function

__all__ = [
    "ATOMS",
    "Heap",
    "arrays_within",
    "can_be_opened",
    "content_of",
    "refill",
]

ATOMS = frozenset(
    {int, float, complex, bool, str, bytes, type(None), range, type(Ellipsis), type(NotImplemented), slice, frozenset}
    | {ModuleType, BuiltinFunctionType, CodeType}
)
_KEYS = frozenset({int, float, bool, str, bytes, type(None)})
_KEY_MODULES = frozenset({"datetime", "decimal", "fractions", "numpy", "pandas", "pathlib", "uuid"})
_ABSTRACT = frozenset({"abc", "collections.abc", "typing"})
_NOT_OWN = _ABSTRACT | {"builtins"}
_SPECIAL = ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__", "__setattr__", "__delattr__")
_plain_kinds: WeakKeyDictionary[type, bool] = WeakKeyDictionary()
_opened_kinds: WeakKeyDictionary[type, bool] = WeakKeyDictionary()
_CLOSED = frozenset({"logging", "matplotlib", "nbflow", "numpy", "pandas", "polars", "pyarrow", "threading"})
_HOLDERS = frozenset({"argparse.Namespace", "types.SimpleNamespace"})
_Waiting: TypeAlias = "deque[tuple[Any, Way]]"
_HASHED = 1024**2  # bytes up to which an array is looked into; whether a larger one has changed, its digest tells


class Heap:
    """The mutable objects that some names lead to.

    Args:
        roots: Names and their values, in an order that is the same in every run.

    Attributes:
        ways: How each object is reached first, by id.
        shared: Which of the encounters led to an object that was met before, in order; equal for equal structures.
        whole: Ids of the objects that cannot be looked into.
        inner: Those of them that were found inside of objects of libraries, see `open`.
        modules: The modules that objects lead to, by name.
        complete: False if there were more than `limit` objects, so that not all of them were looked at.
    """

    limit = 1_000_000
    limit_inside = 100_000

    def __init__(self, roots: Mapping[str, Any]) -> None:
        self.ways: dict[int, Way] = {}  # its keys stay valid: `objects` keeps what they belong to alive
        self.objects: dict[int, Any] = {}
        self.whole: set[int] = set()
        self.inner: set[int] = set()
        self.shared: list[tuple[int, int]] = []
        self.modules: dict[str, ModuleType] = {}
        self.complete = True
        self._before: dict[int, Any] = {}
        self._opened: set[int] = set()
        self._numbers: dict[int, int] = {}
        self._owners: dict[int, int] = {}
        self._met = 0
        self.add(roots)

    def add(self, roots: Mapping[str, Any]) -> Iterator[Any]:
        """Add what further names lead to, and return the objects that were not known before."""
        known = len(self.objects)
        waiting: _Waiting = deque()
        for name, value in roots.items():
            if type(value) not in ATOMS:
                self._meet(value, (name,), waiting)
        while waiting:
            value, way = waiting.popleft()
            for inner, step in _inside(value):
                if type(inner) not in ATOMS:
                    self._meet(inner, (*way, step), waiting)
                elif type(inner) is ModuleType:
                    self.modules[inner.__name__] = inner
        return islice(self.objects.values(), known, None)

    def open(self, keys: Iterable[int]) -> None:
        """Look into objects that count as a whole, where they are nothing but their attributes.

        Args:
            keys: Ids of objects in `whole` that have content.
        """
        waiting: _Waiting = deque()
        most = min(self.limit, len(self.objects) + self.limit_inside)
        for key in keys:
            self._open(self.objects[key], self.ways[key], waiting)
        while waiting:
            value, way = waiting.popleft()
            for inner, step in _inside(value):
                known = id(inner) in self.objects
                if known or type(inner) in ATOMS or not _is_own(inner) or len(self.objects) >= most:
                    continue
                self._meet(inner, (*way, step), waiting)
                if id(inner) in self.whole:
                    self.inner.add(id(inner))
                    self._open(inner, (*way, step), waiting)

    def _open(self, value: Any, way: Way, waiting: _Waiting) -> None:
        if can_be_opened(value):
            self.whole.discard(id(value))
            self.inner.discard(id(value))
            self._opened.add(id(value))
            self._before[id(value)] = None, _attributes(value)
            waiting.append((value, way))

    def _meet(self, value: Any, way: Way, waiting: _Waiting) -> None:
        self._met += 1
        if isinstance(value, Enum):  # a member has nothing of its own
            value, way = type(value), (*way, ("a", "__class__"))
        if isinstance(value, type) and value.__module__ != "__main__":
            return
        key = id(value)
        known = self._numbers.get(key)
        if known is not None:
            self.shared.append((self._met, known))
            return
        if len(self.objects) >= self.limit:
            self.complete = False
            return
        self._numbers[key] = self._met
        self.ways[key] = way
        self.objects[key] = value
        if is_array(value):
            owner = id(owner_of(value))
            if owner in self._owners:
                self.shared.append((self._met, self._owners[owner]))
            self._owners.setdefault(owner, self._met)
        content = content_of(value)
        if content is None:
            self.whole.add(key)
        else:
            self._before[key] = content
            waiting.append((value, way))

    def changed(self) -> list[Any]:
        """Return the objects whose own contents are no longer what they were; those in `whole` are not looked at."""
        return [
            value
            for key, value in self.objects.items()
            if key in self._before
            and not _same(self._before[key], (None, _attributes(value)) if key in self._opened else content_of(value))
        ]

    def is_opened(self, value: Any) -> bool:
        """Whether an object of the heap is one of a library that was opened: only its own pickling knows its state."""
        return id(value) in self._opened

    def identities(self) -> set[int]:
        """Return the ids of all objects, and of those that own the memory of arrays."""
        return {*self.objects, *self._owners}

    def forget(self, values: Collection[Any]) -> None:
        """Take objects out that cannot be changed in place; what holds them has to be given their later selves."""
        gone = set(map(id, values))
        for key in gone:
            del self.ways[key]
        self.whole -= gone
        for key, known in self.objects.items() if gone else ():
            if any(id(inner) in gone for inner, _ in _inside(known)):
                self._before[key] = None  # equal to no content

    def whole_within(self, name: str) -> list[Any]:
        """Return the objects that cannot be looked into and are reached from `name` first, without what is inside."""
        return [self.objects[key] for key in self.whole - self.inner if self.ways[key][0] == name]

    def array_below(self, value: Any) -> Any:
        """Return the known array that has the memory of the array `value`, or None."""
        if value.dtype.hasobject:
            return None
        owner = owner_of(value)
        found = self._owners.get(id(owner))
        if found is None:
            return None
        arrays = (known for known in self.objects.values() if is_array(known) and owner_of(known) is owner)
        return next((known for known in arrays if known is owner or covers(known, value)), None)


def can_be_opened(value: Any) -> bool:
    """Whether `Heap.open` looks into an object: it is of a library, no data, and nothing but its attributes."""
    return _is_opened(type(value)) and not is_data(value)


def arrays_within(values: Iterable[Any], known: Container[int], limit: int = Heap.limit) -> Iterator[Any]:
    """Yield the arrays that values are or hold, each once.

    Args:
        values: Where to look, in data of any depth.
        known: Ids of objects that are not looked into.
        limit: How many objects are looked at.
    """
    waiting, seen = list(values), set[int]()
    while waiting and len(seen) < limit:
        value = waiting.pop()
        if type(value) in ATOMS or id(value) in seen or id(value) in known or isinstance(value, (FunctionType, type)):
            continue
        seen.add(id(value))
        if is_array(value):
            yield value
        else:
            waiting.extend(inner for inner, _ in _inside(value) if type(inner) not in ATOMS)


def content_of(value: Any) -> Any:
    """Return what an object holds itself, such that a later change shows; None if it cannot be looked into."""
    kind = type(value)
    if isinstance(value, tuple):
        return ()
    if isinstance(value, FunctionType):
        return _function_content(value)
    if isinstance(value, type):
        own = {name: each for name, each in vars(value).items() if not name.startswith("__")}
        if issubclass(value, Enum):  # whose members and maps of them cannot be set
            own = {name: each for name, each in own.items() if name[0] != "_" and name not in value.__members__}
        return own
    if isinstance(value, (MethodType, partial)):
        return ()
    if is_array(value):
        if value.dtype.hasobject or value.nbytes > _HASHED:
            return None
        data = value if value.flags.c_contiguous or value.flags.f_contiguous else value.copy()
        flat = data.reshape(-1, order="A")
        return kind, value.shape, value.dtype.str, xxh3_128_digest(flat.view("u1").data if flat.size else b"")
    items: Any = None
    if isinstance(value, (list, deque)):
        items = list(value)
    elif isinstance(value, dict):
        if not _KEYS.issuperset(map(type, value)) and not all(map(_is_key, value)):
            return None
        items = list(value.items())
    elif isinstance(value, set):
        items = set(value)
    elif isinstance(value, bytearray):
        items = bytes(value)
    elif not _is_plain_kind(kind):
        return None
    return items, _attributes(value)


def refill(value: Any, content: Any) -> None:
    """Give an object the contents that `content_of` returned for its later self."""
    if isinstance(value, FunctionType):
        cells, defaults, keywords, own = content
        for cell, inner in zip(value.__closure__ or (), cells, strict=True):
            if inner:
                (cell.cell_contents,) = inner
        value.__defaults__, value.__kwdefaults__ = defaults, keywords
        value.__dict__.clear()
        value.__dict__.update(own)
        return
    if isinstance(value, type):
        for name in [name for name in content_of(value) if name not in content]:
            delattr(value, name)
        for name, inner in content.items():
            if vars(value).get(name, content) is not inner:
                setattr(value, name, inner)
        return
    if is_array(value):
        value[...] = content
        return
    items, attributes = content
    if isinstance(value, list):
        list.__setitem__(value, slice(None), items)
    elif isinstance(value, deque):
        value.clear()
        value.extend(items)
    elif isinstance(value, dict):
        kind: Any = OrderedDict if isinstance(value, OrderedDict) else dict
        kind.clear(value)
        for key, inner in items:
            kind.__setitem__(value, key, inner)
    elif isinstance(value, set):
        set.clear(value)
        set.update(value, items)
    elif isinstance(value, bytearray):
        value[:] = items
    _set_attributes(value, attributes)


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """Return what an object holds that has an identity of its own, with the steps that lead there."""
    if isinstance(value, FunctionType):
        for place, cell in enumerate(value.__closure__ or ()):
            try:
                yield cell.cell_contents, ("c", place)
            except ValueError:  # not filled yet
                continue
        yield from ((each, ("d", place)) for place, each in enumerate(value.__defaults__ or ()))
        yield from ((each, ("d", name)) for name, each in (value.__kwdefaults__ or {}).items())
        yield from ((each, ("a", name)) for name, each in value.__dict__.items())
        return
    if isinstance(value, type):
        own = ((name, each) for name, each in vars(value).items() if not name.startswith("__"))
        yield from ((plain_function(each), ("a", name)) for name, each in own)
        return
    if isinstance(value, MethodType):
        yield value.__self__, ("a", "__self__")
        return
    if isinstance(value, partial):
        yield from ((getattr(value, name), ("a", name)) for name in ("func", "args", "keywords"))
        return
    if isinstance(value, (list, tuple, deque)):
        yield from ((each, ("i", place)) for place, each in enumerate(value))
    elif isinstance(value, dict):
        yield from ((each, ("k", key)) for key, each in value.items())
    elif is_array(value):
        return
    attributes = _attributes(value)
    yield from ((each, ("a", name)) for name, each in (attributes or {}).items())


def _is_key(value: Any) -> bool:
    """Whether a key of a dict is found again by what it is, and has nothing that can change."""
    kind: Any = type(value)
    if kind in (tuple, frozenset):
        return all(map(_is_key, value))
    return kind in _KEYS or (package_of(kind) in _KEY_MODULES and kind.__hash__ is not object.__hash__)


def _function_content(value: FunctionType) -> tuple[Any, ...]:
    cells: list[tuple[Any, ...]] = []
    for cell in value.__closure__ or ():
        try:
            cells.append((cell.cell_contents,))
        except ValueError:
            cells.append(())
    return cells, value.__defaults__, value.__kwdefaults__, dict(value.__dict__)


def _is_plain_kind(kind: Any) -> bool:
    """Whether all that instances hold is in their attributes: their classes are Python code of the notebook's own."""
    known = _plain_kinds.get(kind)
    if known is None:
        known = _plain_kinds[kind] = f"{kind.__module__}.{kind.__qualname__}" in _HOLDERS or _is_own_kind(kind)
    return known


def _is_own_kind(kind: Any) -> bool:
    modules = {str(each.__module__) for each in kind.__mro__[:-1]} - _ABSTRACT - {"__main__"}
    own: Any = object
    return kind.__module__ not in _NOT_OWN and (
        not modules
        or (
            all(map(is_local, modules))
            and all(getattr(kind, name, None) is getattr(own, name, None) for name in _SPECIAL)
        )
    )


def _is_opened(kind: Any) -> bool:
    """Whether instances of a class of a library, or of one that derives from such, are nothing but attributes."""
    known = _opened_kinds.get(kind)
    if known is None:
        home = package_of(kind)
        known = _opened_kinds[kind] = (
            has_only_attributes(kind)
            and kind.__dictoffset__ != 0
            and home not in _CLOSED
            and home not in sys.stdlib_module_names
            and _CLOSED.isdisjoint(package_of(base) for base in kind.__mro__)
        )
    return known


def _is_own(value: Any) -> bool:
    """Whether an object inside one of a library is a part of it, as functions of libraries are not."""
    return not isinstance(value, FunctionType) or is_local(value.__module__ or "")


def _attributes(value: Any) -> dict[str, Any] | None:
    """Return the attributes of an object, those in slots included; None if it has none."""
    if type(value).__module__ == "builtins":
        return None
    found = dict(getattr(value, "__dict__", ()))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def _set_attributes(value: Any, attributes: Mapping[str, Any] | None) -> None:
    if attributes is None:
        return
    for name in [name for name in _attributes(value) or {} if name not in attributes]:
        object.__delattr__(value, name)
    for name, inner in attributes.items():
        object.__setattr__(value, name, inner)


def _same(one: Any, other: Any) -> bool:
    """Whether two contents are the same: the same objects in the same places."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            key == also and _same(value, more)
            for (key, value), (also, more) in zip(one.items(), other.items(), strict=True)
        )
    return type(one) in ATOMS and type(one) not in (float, complex) and bool(one == other)
