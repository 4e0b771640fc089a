"""How a cell's values are pickled: what the notebook has already is referred to, all else is stored.

Functions and classes of the notebook are referred to by name, and objects that the cell had before it ran by their
way through the heap, so that on a hit the present ones take their place. Views of arrays are stored as places in the
array that has the memory. Nothing else differs from ordinary pickling, with large buffers apart.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from logging import Logger
from types import (
    BuiltinMethodType,
    CellType,
    FunctionType,
    GetSetDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, NamedTuple

from nbflow._util import OPEN_FILE, WINDOWS, why_no_copy
from nbflow.notebook.chance import place_of
from nbflow.notebook.heap import ATOMS, Heap, arrays_within
from nbflow.notebook.memory import carrier_of, groups_in_memory, is_array, make_view, view_of

__all__ = ["Apart", "References", "dump", "load", "made_anew"]

Stream = tuple[bytes, list[Any]]
"""A pickle and its buffers."""


class Apart(NamedTuple):
    """Stands for an object that is to be stored although it could be referred to; what is inside of it still is."""

    value: Any


class References:
    """What a record refers to instead of storing it.

    Args:
        heap: The objects that were there before the cell ran.
        values: What is to be stored; of arrays in it that share memory, one will carry it for the others.

    Attributes:
        ways: Objects of the heap that were referred to: way and name of the type.
        carriers: The arrays that carry memory for others.
    """

    def __init__(self, heap: Heap, values: Iterable[Any]) -> None:
        self.heap = heap
        self.ways: list[tuple[Any, str]] = []
        self.carriers: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._carried: dict[int, int] = {}
        self._alive: list[Any] = []
        for arrays in groups_in_memory(arrays_within(values, heap.ways)):
            carrier = None if any(self._below(each) is not None for each in arrays) else carrier_of(arrays)
            if carrier is not None:
                self._carried |= {id(each): len(self.carriers) for each in (*arrays, carrier)}
                self.carriers.append(carrier)
                self._alive += arrays

    @property
    def needed(self) -> bool:
        """Whether there is anything to refer to."""
        return bool(self.heap.ways or self._carried)

    def number(self, value: Any) -> int:
        """Return the number of the reference to an object of the heap."""
        key = id(value)
        if key not in self._numbers:
            self._numbers[key] = len(self.ways)
            self.ways.append((self.heap.ways[key], type(value).__qualname__))
        return self._numbers[key]

    def of(self, value: Any) -> Any:
        """Return the reference to `value`, or None where it is to be stored."""
        key = id(value)
        if key in self.heap.ways:
            return self.number(value)
        if not is_array(value):
            return None
        if (place := self._carried.get(key)) is not None:
            return ("carried", place, *view_of(self.carriers[place], value))
        base = self._below(value)
        return None if base is None else ("view", self.number(base), *view_of(base, value))

    def _below(self, value: Any) -> Any:
        base = self.heap.array_below(value)
        return base if base is not None and id(base) in self.heap.ways else None


def made_anew(defined: Mapping[str, Any]) -> dict[int, str]:
    """Return by id what definitions make, each with the name or path at which a later run of them has it.

    Args:
        defined: What the definitions bound, by name.
    """
    found: dict[int, str] = {}
    for path, value in defined.items():
        while type(value) not in ATOMS and id(value) not in found:
            found[id(value)] = path
            if isinstance(value, partial):
                value, path = value.func, f"{path}.func"
            elif isinstance(inner := getattr(value, "__wrapped__", None), FunctionType):
                value, path = inner, f"{path}.__wrapped__"
    return found


_namespace: ContextVar[dict[str, Any]] = ContextVar("nbflow_namespace")


def _named(path: str) -> Any:
    """Find what a reference stands for, in the namespace that a record is being restored into."""
    root, *rest = path.split(".")
    found = _namespace.get()[root]
    for name in rest:
        found = getattr(found, name)
    return found


def _named_module(name: str) -> Any:
    return import_module(name)


def _attribute(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


def _own_attribute(owner: type, name: str) -> Any:
    return vars(owner)[name]


def _call(function: Any, *args: Any) -> Any:
    return function(*args)


def _taken_apart(value: Any) -> tuple[Any, ...]:
    """Return how pickle would store an object, in a form that it also takes for another that stands for it."""
    reduce = copyreg.dispatch_table.get(type(value))
    found: Any = reduce(value) if reduce is not None else value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if isinstance(found, str):
        raise pickle.PicklingError(f"{found} is one of a kind")
    made, args, *rest = found
    return (_call, (made, *args), *rest)


def _make_function(code: Any, name: str, defaults: Any, cells: tuple[CellType, ...]) -> FunctionType:
    return FunctionType(code, _namespace.get(), name, defaults, cells)


def _fill_function(function: Any, attributes: dict[str, Any]) -> None:
    own = attributes.pop("__dict__")
    function.__dict__.update(own)
    for name, value in attributes.items():
        setattr(function, name, value)


def _closed_file(name: str, mode: str) -> Any:
    """Stand in for a file that was closed when it was stored, as after `with open(…) as f`."""
    raw: Any = io.BytesIO()
    raw.name = name
    stream: Any = raw if "b" in mode else io.TextIOWrapper(raw)
    stream.mode = mode
    stream.close()
    return stream


def _reduce(obj: Any, namespace: Mapping[str, Any], own: frozenset[str], anew: Mapping[int, str]) -> Any:
    """How a notebook's own objects are pickled; NotImplemented for all others."""
    if (name := anew.get(id(obj))) is not None:
        return _named, (name,)
    kind = type(obj)
    if kind is CellType:  # functions that share it go on sharing it
        return CellType, (), _cell_content(obj), None, None, _fill_cell
    if kind is ModuleType:
        return _named_module, (obj.__name__,)
    if kind is GetSetDescriptorType:  # `getattr` gives what `__dict__` of a class describes
        return _own_attribute, (obj.__objclass__, obj.__name__)
    if kind in WINDOWS and (why := why_no_copy(obj)):
        raise TypeError(why)
    if issubclass(kind, io.IOBase):
        if obj.closed:
            return _closed_file, (str(getattr(obj, "name", "")), str(getattr(obj, "mode", "r")))
        if kind not in _IN_MEMORY:
            raise TypeError(OPEN_FILE)
    if kind in (MethodType, BuiltinMethodType) or kind.__name__ in ("Random", "RandomState"):
        place = place_of(obj)
        if place is not None:  # a copy of what all draw from would draw other numbers
            return _attribute, place
    if kind in _TURNED_TO_LISTS:
        raise TypeError(f"cannot pickle '{kind.__name__}' object")
    if isinstance(obj, Logger) and (obj.handlers or obj.level or obj.filters or obj.disabled or not obj.propagate):
        raise TypeError("what is set for a logger is of this process only")
    if not isinstance(obj, (FunctionType, type)) or obj.__module__ != "__main__":
        return NotImplemented
    path: str = getattr(obj, "__qualname__", "")
    root, *rest = path.split(".")
    found = namespace.get(root)
    for name in rest:
        found = getattr(found, name, None)
    if found is obj and root not in own:
        return _named, (path,)
    if isinstance(obj, FunctionType) and obj.__globals__ is namespace:
        return _reduce_function(obj)
    return NotImplemented


def _reduce_function(function: FunctionType) -> Any:
    """A function that no name stands for (a lambda in a list, a closure): its code, over the notebook's globals."""
    names = ("__kwdefaults__", "__annotations__", "__qualname__", "__doc__", "__module__")
    attributes = {name: getattr(function, name) for name in names} | {"__dict__": dict(function.__dict__)}
    made = (function.__code__, function.__name__, function.__defaults__, function.__closure__ or ())
    return _make_function, made, attributes, None, None, _fill_function


def _cell_content(cell: CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # not filled yet
        return ()


def _fill_cell(cell: CellType, content: tuple[Any, ...]) -> None:
    if content:
        (cell.cell_contents,) = content


_IN_MEMORY = (io.BytesIO, io.StringIO)
_TURNED_TO_LISTS: frozenset[type] = frozenset(
    type(iter(each))
    for each in (set[Any](), dict[Any, Any]().keys(), dict[Any, Any]().values(), dict[Any, Any]().items())
)
"""Iterators that pickle takes for iterators over a list."""


class _Dynamic(Exception):
    """A class or function that no import and no name leads to; takes cloudpickle."""


def dump(
    value: Any,
    namespace: Mapping[str, Any],
    own: frozenset[str],
    references: References,
    *,
    anew: Mapping[int, str],
) -> Stream:
    """Pickle a value with its buffers apart; by cloudpickle, which takes a moment to load, only where needed.

    Args:
        value: What to pickle.
        namespace: The notebook's.
        own: Names that the record itself will bind, so that they cannot be referred to.
        references: What need not be stored.
        anew: What definitions will make anew before this is loaded, see `made_anew`.

    Raises:
        Exception: It cannot be pickled; whatever pickle says.
    """
    reference = references.of if references.needed else None

    def reduce(obj: Any) -> Any:
        return _reduce(obj, namespace, own, anew)

    def is_new(kind: type) -> bool:
        return kind.__qualname__ in own and namespace.get(kind.__qualname__) is kind

    try:
        return _dump_with(pickle.Pickler, value, reduce, reference, is_new)
    except Exception:
        import cloudpickle

        return _dump_with(cloudpickle.Pickler, value, reduce, reference, is_new)


def _dump_with(
    base: Any,
    value: Any,
    reduce: Callable[[Any], Any],
    reference: Callable[[Any], Any] | None,
    is_new: Callable[[type], bool],
) -> Stream:
    plain = base is pickle.Pickler

    class Pickler(base):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is Apart:
                found = self.reducer_override(obj.value)
                return _taken_apart(obj.value) if found is NotImplemented else found
            found = reduce(obj)
            if found is not NotImplemented:
                return found
            if plain:
                if isinstance(obj, (type, FunctionType)) and obj.__module__ == "__main__":
                    raise _Dynamic
                return NotImplemented
            found = super().reducer_override(obj)
            if isinstance(obj, type) and isinstance(found, tuple) and found[2:]:
                found[2][0]["__qualname__"] = obj.__qualname__  # which it leaves out
                *made, tracked, extra = found[1]
                if isinstance(tracked, str) and is_new(obj):  # a class statement gives another class each time
                    found = (found[0], (*made, None, extra), *found[2:])
            return found

    class Referring(Pickler):
        def persistent_id(self, obj: Any) -> Any:
            assert reference is not None
            return reference(obj)

    file = io.BytesIO()
    buffers: list[Any] = []
    kind = Pickler if reference is None else Referring
    kind(file, protocol=5, buffer_callback=buffers.append).dump(value)
    return file.getvalue(), buffers


def load(stream: Stream, namespace: dict[str, Any], known: list[Any], carriers: list[Any]) -> Any:
    """Return a value that was dumped, built over the present notebook.

    Args:
        stream: What `dump` returned.
        namespace: The notebook's.
        known: The objects at the end of the references' ways.
        carriers: The arrays that carry memory for others, loaded before.
    """

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, reference: Any) -> Any:
            if isinstance(reference, int):
                return known[reference]
            kind, number, *view = reference
            base = known[number] if kind == "view" else carriers[number]
            whole = view[1:4] == [base.shape, base.strides, base.dtype] and view[0] == 0
            return base if kind == "carried" and whole else make_view(base, *view)

    token = _namespace.set(namespace)
    try:
        return Unpickler(io.BytesIO(stream[0]), buffers=stream[1]).load()
    finally:
        _namespace.reset(token)
