"""What a cell left behind: the record that the cache keeps of one run, and how it comes back.

A `Record` holds what was printed and shown, the values of the cell's outputs and its last value; it is pickled (by
the cache, when it saves) in one piece, so that two names of one object stay two names of one object. The rules:

* A value that *is* an input of the cell, or a class or function that the notebook defines, is stored as a reference
  to that name.
* Arrays and frames stay out of band, so that a big value comes back without a copy.
* What was found to matter only while the cell ran (a random generator it drew from, a name that a loop should have
  bound) is a *condition*: where it differs, the record is not used.
* Nothing is stored in halves: one output that cannot be pickled makes the whole record `Unstorable`.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CellType, FunctionType, ModuleType
from typing import Any

from nbflow._util import one_line
from nbflow.notebook.recorder import Item

__all__ = ["LiveOutputs", "Record", "Unstorable", "drawn", "random_states", "set_random_states"]


class Unstorable(Exception):
    """A cell's record cannot be stored; the message says which output and why."""


# -- random generators


def random_states() -> dict[str, Any]:
    """Return the states of the global generators of `random` and NumPy, such that they can be compared and set."""
    states: dict[str, Any] = {}
    if (module := sys.modules.get("random")) is not None:
        states["random"] = module.getstate()
    if (module := sys.modules.get("numpy.random")) is not None:
        kind, keys, *rest = module.get_state()
        states["numpy"] = (kind, keys.tobytes(), *rest)
    return states


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put generators into the given states; those whose module cannot be had are left alone."""
    for name, state in states.items():
        if name == "random":
            import random

            random.setstate(state)
        else:
            import numpy

            kind, keys, *rest = state
            numpy.random.set_state((kind, numpy.frombuffer(keys, dtype=numpy.uint32), *rest))


def drawn(before: Mapping[str, Any], after: Mapping[str, Any], *, seeds: bool) -> dict[str, Any]:
    """Return the states (after) of the generators that a cell drew from or set.

    Args:
        before: States before the cell ran.
        after: States after it.
        seeds: Whether the cell's text sets a seed, so that a generator that it loaded first counts as set.
    """
    changed = {}
    for name, state in after.items():
        if name in before:
            if before[name] != state:
                changed[name] = state
        elif seeds or state[2] != 624:  # a generator that nobody has drawn from stands at the end of its block
            changed[name] = state
    return changed


# -- pickling by reference

_namespace: ContextVar[dict[str, Any]] = ContextVar("nbflow_namespace")


def _named(path: str) -> Any:
    """Find what a reference stands for, in the namespace that a record is being restored into."""
    root, *rest = path.split(".")
    found = _namespace.get()[root]
    for name in rest:
        found = getattr(found, name)
    return found


def _named_module(name: str) -> Any:
    import importlib

    return importlib.import_module(name)


def _make_function(code: Any, name: str, defaults: Any, free: int) -> FunctionType:
    return FunctionType(code, _namespace.get(), name, defaults, tuple(CellType() for _ in range(free)))


def _fill_function(function: Any, state: tuple[dict[str, Any], list[tuple[Any, ...]]]) -> None:
    attributes, contents = state
    for cell, content in zip(function.__closure__ or (), contents, strict=True):
        if content:
            (cell.cell_contents,) = content
    own = attributes.pop("__dict__")
    function.__dict__.update(own)
    for name, value in attributes.items():
        setattr(function, name, value)


def _closed_file(name: str) -> io.TextIOWrapper:
    """Stand in for a file that was closed when it was stored, as after `with open(…) as f`."""
    raw = io.BytesIO()
    raw.name = name
    stream = io.TextIOWrapper(raw)
    stream.close()
    return stream


def _reduce(obj: Any, namespace: Mapping[str, Any], aliases: Mapping[int, str], own: frozenset[str]) -> Any:
    """How a notebook's own objects are pickled; NotImplemented for all others."""
    if (alias := aliases.get(id(obj))) is not None:
        return _named, (alias,)
    kind = type(obj)
    if kind is ModuleType:
        return _named_module, (obj.__name__,)
    if issubclass(kind, io.IOBase) and obj.closed:
        return _closed_file, (str(getattr(obj, "name", "")),)
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
    contents: list[tuple[Any, ...]] = []
    for cell in function.__closure__ or ():
        try:
            contents.append((cell.cell_contents,))
        except ValueError:  # not filled yet
            contents.append(())
    names = ("__kwdefaults__", "__annotations__", "__qualname__", "__doc__", "__module__")
    attributes = {name: getattr(function, name) for name in names} | {"__dict__": dict(function.__dict__)}
    made = (function.__code__, function.__name__, function.__defaults__, len(contents))
    return _make_function, made, (attributes, contents), None, None, _fill_function


class _Dynamic(Exception):
    """A class or function that no import and no name leads to; takes cloudpickle."""


def _dump(value: Any, reduce: Callable[[Any], Any]) -> tuple[bytes, list[Any]]:
    """Pickle `value` with its buffers apart; by cloudpickle, which takes a moment to load, only where needed."""
    try:
        return _dump_with(pickle.Pickler, value, reduce)
    except Exception:
        import cloudpickle

        return _dump_with(cloudpickle.Pickler, value, reduce)


def _dump_with(base: Any, value: Any, reduce: Callable[[Any], Any]) -> tuple[bytes, list[Any]]:
    plain = base is pickle.Pickler

    class Pickler(base):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            found = reduce(obj)
            if found is not NotImplemented:
                return found
            if plain:
                if isinstance(obj, (type, FunctionType)) and obj.__module__ == "__main__":
                    raise _Dynamic
                return NotImplemented
            return super().reducer_override(obj)

    file = io.BytesIO()
    buffers: list[Any] = []
    Pickler(file, protocol=5, buffer_callback=buffers.append).dump(value)
    return file.getvalue(), buffers


# -- the record


@dataclass(slots=True, eq=False)
class Record:
    """One run of a cell, as the cache keeps it.

    Attributes:
        items, held: What was put out before and after the last value.
        random: States of the generators that the cell drew from or set; `random_before` those that it needs.
        digests: Digests after the run of the outputs that are inputs as well (None: cannot be digested).
        conditions: What is to hold of names that turned out to matter only while the cell ran.
        deleted: Names that the cell took away.
        refused: Why the record cannot be stored, once that was tried.
    """

    items: list[Item] = field(default_factory=list)
    held: list[Item] = field(default_factory=list)
    random: dict[str, Any] = field(default_factory=dict)
    random_before: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str | None] = field(default_factory=dict)
    conditions: dict[str, str] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()
    refused: str | None = None
    value: Any = None
    live: Callable[[Record], LiveOutputs] | None = None
    packed: tuple[bytes, list[Any]] | None = None

    def pack(self) -> None:
        """Pickle the outputs; does nothing the second time.

        Raises:
            Unstorable: Some output cannot be pickled; `refused` says so from then on.
        """
        if self.packed is not None:
            return
        if self.refused is None and self.live is not None:
            try:
                outputs = self.live(self)
                self.packed = outputs.dump(self.value)
            except Unstorable as error:
                self.refused = str(error)
        if self.packed is None:
            raise Unstorable(self.refused or "its values are gone")
        self.live = None

    def restore(self, namespace: dict[str, Any], keep: frozenset[str]) -> Any:
        """Put the outputs into `namespace` and return the last value.

        Args:
            namespace: The notebook's.
            keep: Names whose present value stays (functions, classes and modules that were just defined again).
        """
        assert self.packed is not None
        token = _namespace.set(namespace)
        try:
            outputs, changed, self.value = pickle.loads(self.packed[0], buffers=self.packed[1])
        finally:
            _namespace.reset(token)
        for name, value in outputs.items():
            if name not in keep:
                namespace[name] = _change_in_place(namespace.get(name), value) if name in changed else value
        for name in self.deleted:
            namespace.pop(name, None)
        return self.value

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.pack()
        assert self.packed is not None
        stream, buffers = self.packed
        fields = (self.items, self.held, self.random, self.random_before, self.digests, self.conditions, self.deleted)
        return _loaded, (fields, stream, buffers)


def _loaded(fields: tuple[Any, ...], stream: bytes, buffers: list[Any]) -> Record:
    record = Record(*fields)
    record.packed = (stream, buffers)
    return record


@dataclass(slots=True)
class LiveOutputs:
    """The values to store, while they are alive.

    Attributes:
        values: Data outputs by name.
        changed: Those of them that are inputs changed in place.
        namespace: The notebook's.
        aliases: Names of inputs that stay as they are, by the id of their value.
    """

    values: dict[str, Any]
    changed: frozenset[str]
    namespace: Mapping[str, Any]
    aliases: Mapping[int, str]

    def dump(self, last: Any) -> tuple[bytes, list[Any]]:
        """Pickle values and last value in one piece.

        Raises:
            Unstorable: Names the output that cannot be pickled.
        """
        own = frozenset(self.values)

        def reduce(obj: Any) -> Any:
            return _reduce(obj, self.namespace, self.aliases, own)

        top = {
            name: _Alias(self.aliases[id(value)]) if id(value) in self.aliases else value
            for name, value in self.values.items()
        }
        last = _Alias(self.aliases[id(last)]) if id(last) in self.aliases else last
        try:
            return _dump((top, self.changed, last), reduce)
        except Exception as error:
            raise Unstorable(self._culprit(top, last, reduce, error)) from None

    def _culprit(self, top: dict[str, Any], last: Any, reduce: Callable[[Any], Any], error: Exception) -> str:
        for name, value in [*((f"output `{name}`", value) for name, value in top.items()), ("the last value", last)]:
            try:
                _dump(value, reduce)
            except Exception as reason:
                return f"{name} ({type(value).__name__}) cannot be stored: {one_line(reason)}"
        return f"its outputs cannot be stored together: {one_line(error)}"


class _Alias:
    """A top-level output that is one of the inputs; comes back as whatever that name stands for then."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return _named, (self.name,)


class _Plain:
    """As large as every object that is nothing but its `__dict__`."""


def _change_in_place(old: Any, new: Any) -> Any:
    """Give `old` the contents of `new`, so that other names for it see the change; or return `new`."""
    kind = type(old)
    if kind is not type(new):
        return new
    if kind in (list, bytearray):
        old[:] = new
    elif kind in (dict, set):
        old.clear()
        old.update(new)
    elif kind.__module__ == "numpy" and kind.__name__ == "ndarray":
        if old.shape != new.shape or old.dtype != new.dtype or not old.flags.writeable:
            return new
        old[...] = new
    elif kind.__basicsize__ == _Plain.__basicsize__ and hasattr(old, "__dict__") and not isinstance(old, type):
        old.__dict__.clear()
        old.__dict__.update(new.__dict__)
    else:
        return new
    return old
