"""What a cell left behind: the record that the cache keeps of one run, and how it comes back.

A `Record` holds what was printed and shown, the values of the cell's outputs and its last value; it is pickled (by
the cache, when it saves) in one piece, so that two names of one object stay two names of one object. The rules:

* An object that the cell had before it ran, or a class or function that the notebook defines, is stored as a
  reference; what the cell changed of it, as its new contents.
* Arrays and frames stay out of band, so that a big value comes back without a copy.
* What was found to matter only while the cell ran (a random generator it drew from, a name that a loop should have
  bound) is a *condition*: where it differs, the record is not used.
* Nothing is stored in halves: one output that cannot be pickled makes the whole record `Unstorable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from nbflow._util import refusal
from nbflow.cache.classes import has_only_attributes
from nbflow.notebook.heap import Heap, content_of, refill
from nbflow.notebook.memory import is_array
from nbflow.notebook.pickling import Apart, References, Stream, dump, load
from nbflow.notebook.recorder import Item
from nbflow.notebook.ways import attribute_of, follow, owner_at, set_attribute

__all__ = ["LiveOutputs", "Packed", "Record", "Unstorable"]


class Unstorable(Exception):
    """A cell's record cannot be stored; the message says which output and why."""


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
        attributes: What methods had changed of classes, by `Class.attribute`, once it was restored.
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
    packed: Packed | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    _undo: list[Callable[[], None]] = field(default_factory=list)

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

    def find_known(self, namespace: Mapping[str, Any]) -> list[Any]:
        """Return the objects that the record refers to; to be called before anything is put into the namespace.

        Raises:
            LookupError: One of them is not where it was.
        """
        assert self.packed is not None
        found = []
        for way, kind in self.packed.ways:
            value = follow(way, namespace)
            if type(value).__qualname__ != kind:
                raise LookupError(f"`{way[0]}` holds something else now")
            found.append(value)
        return found

    def restore(self, namespace: dict[str, Any], keep: frozenset[str], known: list[Any] | None = None) -> Any:
        """Put the outputs into `namespace`, change inputs as the cell did, and return the last value.

        Args:
            namespace: The notebook's.
            keep: Names whose present value stays (functions, classes and modules that were just defined again).
            known: What `find_known` returned; None to look now.
        """
        assert self.packed is not None
        known = self.find_known(namespace) if known is None else known
        carriers: list[Any] = []
        for stream in self.packed.carriers:
            carriers.append(load(stream, namespace, known, carriers))
        outputs, updates, wholes, self.value = load(self.packed.main, namespace, known, carriers)
        for number, content in updates:
            self._undo.append(partial(refill, known[number], content_of(known[number])))
            refill(known[number], content)
        for number, later in wholes:
            _change_in_place(known[number], later)
        self.attributes = {name: value for name, value in outputs.items() if "." in name}
        namespace.update((name, value) for name, value in outputs.items() if name not in keep and "." not in name)
        for name in self.deleted:
            namespace.pop(name, None)
        return self.value

    def set_attribute_state(self, namespace: Mapping[str, Any]) -> None:
        """Give modules, classes and functions what code had changed of them; once they and the data are there."""
        for name, value in self.attributes.items():
            owner_name, _, attribute = name.rpartition(".")
            owner = owner_at(owner_name, namespace)
            before = attribute_of(owner, attribute, self)
            set_attribute(owner, attribute, value)
            if before is not self:
                self._undo.append(partial(set_attribute, owner, attribute, before))

    def undo(self) -> None:
        """Take back what a restoration that failed has changed in place, so that the cell can run instead."""
        while self._undo:
            with suppress(Exception):  # what can be taken back is
                self._undo.pop()()

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.pack()
        assert self.packed is not None
        fields = (self.items, self.held, self.random, self.random_before, self.digests, self.conditions, self.deleted)
        return _loaded, (fields, tuple(self.packed))


def _loaded(fields: tuple[Any, ...], packed: tuple[Any, ...]) -> Record:
    record = Record(*fields)
    record.packed = Packed(*packed)
    return record


class Packed(NamedTuple):
    """The values of a record: `main` has outputs, contents of objects, later selves of others, and the last value."""

    ways: list[tuple[Any, str]]
    carriers: list[Stream]
    main: Stream


@dataclass(slots=True)
class LiveOutputs:
    """The values to store, while they are alive.

    Attributes:
        values: Data outputs by name.
        heap: What the cell had before it ran.
        stirred: Those objects of the heap that cannot be looked into, and that have changed.
        namespace: The notebook's.
        anew: What is not stored, since a hit makes it anew, see `made_anew`.
    """

    values: dict[str, Any]
    heap: Heap
    stirred: list[Any]
    namespace: Mapping[str, Any]
    anew: Mapping[int, str] = field(default_factory=dict)

    def dump(self, last: Any) -> Packed:
        """Pickle values, changes and last value.

        Raises:
            Unstorable: Names the output that cannot be pickled.
        """
        for each in (fixed := [each for each in self.stirred if not can_change_in_place(each)]):
            name, *steps = self.heap.ways[id(each)]
            if not steps:
                self.values.setdefault(name, each)
        self.heap.forget(fixed)
        own = frozenset(self.values)
        changed: list[Any] = []
        wholes = [each for each in self.stirred if can_change_in_place(each)]
        for each in self.heap.changed():
            (wholes if is_array(each) or self.heap.is_opened(each) else changed).append(each)
        contents = list(map(content_of, changed))
        inside = [getattr(each, "__dict__", None) for each in wholes]
        references = References(self.heap, (self.values, contents, inside, last))

        def pickled(value: Any) -> Stream:
            return dump(value, self.namespace, own, references, anew=self.anew)

        updates = [(references.number(each), content) for each, content in zip(changed, contents, strict=True)]
        apart = [(references.number(each), Apart(each)) for each in wholes]
        try:
            main = pickled((self.values, updates, apart, last))
            return Packed(references.ways, [pickled(Apart(each)) for each in references.carriers], main)
        except Exception as error:
            raise Unstorable(self._culprit(last, [*updates, *apart], pickled, error)) from None

    def _culprit(self, last: Any, updates: Any, pickled: Callable[[Any], Any], error: Exception) -> str:
        outputs = ((f"output `{name}`", value) for name, value in self.values.items())
        for name, value in [*outputs, ("the last value", last)]:
            try:
                pickled(value)
            except Exception as reason:
                return f"{name} ({type(value).__name__}) cannot be stored: {refusal(reason)}"
        for _, content in updates:
            try:
                pickled(content)
            except Exception as reason:
                return f"what it changed in place cannot be stored: {refusal(reason)}"
        return f"its outputs cannot be stored together: {refusal(error)}"


def _refill_buffer(old: Any, new: Any) -> None:
    old.seek(0)
    old.truncate()
    old.write(new.getvalue())
    old.seek(new.tell())


def _refill_array(old: Any, new: Any) -> None:
    old[:] = new


def _refill_generator(old: Any, new: Any) -> None:
    old.bit_generator.state = new.bit_generator.state


_REFILLS: dict[str, Callable[[Any, Any], object]] = {
    "_io.BytesIO": _refill_buffer,
    "_io.StringIO": _refill_buffer,
    "array.array": _refill_array,
    "numpy.random._generator.Generator": _refill_generator,
    "numpy.random.mtrand.RandomState": lambda old, new: old.set_state(new.get_state(legacy=False)),
    "random.Random": lambda old, new: old.setstate(new.getstate()),
}
"""How objects whose state is not in their `__dict__` take over that of another, by their type."""


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def can_change_in_place(value: Any) -> bool:
    """Whether `_change_in_place` can give an object of this kind the state of another."""
    kind = type(value)
    if is_array(value):
        return bool(value.flags.writeable)
    if _name_of(kind) in _REFILLS:
        return True
    return has_only_attributes(kind) and hasattr(value, "__dict__") and not isinstance(value, type)


def _change_in_place(old: Any, new: Any) -> None:
    """Give `old` the state of `new`, so that other names for it see the change."""
    if is_array(old):
        old[...] = new
    elif old is new:  # one of those of which there is only one
        return
    elif refill := _REFILLS.get(_name_of(type(old))):
        refill(old, new)
    else:
        old.__dict__.clear()
        old.__dict__.update(new.__dict__)
