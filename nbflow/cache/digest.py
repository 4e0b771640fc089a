"""Values to bytes: a typed, total, canonical encoding.

The rules:

* Every encoding begins with a tag for its type and says where it ends, so `1`, `1.0`, `True`, `"1"`, `[1]`, `(1,)`
  and `{1}` all differ and neighbours cannot run into each other.
* Only content counts: not identity (`(s, s)` and `(s, copy of s)` are equal), not the order of dicts and sets, not
  the memory layout of arrays. `-0.0` and `0.0` differ; all NaN are one.
* A container becomes a 16-byte hash of its members. A member that contains the container (a cycle) is written as the
  number of levels to climb back.
* Nothing is imported for a value: a handler is chosen by the name of the value's type when such a value comes in.
* What has no lasting content (locks, open files, generators) raises `Undigestable` with the path to it. A walk with
  an `identity` puts that in its place instead; such digests are only good for this session.
"""

from __future__ import annotations

import copyreg
import struct
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GenericAlias,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    UnionType,
    WrapperDescriptorType,
)

from xxhash import xxh3_128_digest

from nbflow._installed import entry_points
from nbflow._typing import TYPE_CHECKING, Any, TypeAlias
from nbflow._util import lazy, one_line, package_of, report
from nbflow.cache import memo
from nbflow.cache.classes import is_enum
from nbflow.cache.parts import PACKED_FROM, Undigestable, hashed, text_bytes
from nbflow.cache.standard import STANDARD, refuse, volatile

if TYPE_CHECKING:
    from nbflow.cache import arrays
    from nbflow.cache import packed as packing
else:
    arrays = lazy("nbflow.cache.arrays")  # few calls take an array, or a long list
    packing = lazy("nbflow.cache.packed")

__all__ = ["LEAVES", "Handler", "Walk", "Without", "is_container", "is_data", "register", "task_function"]

Handler: TypeAlias = Callable[["Walk", Any], bytes]

LIBRARIES = frozenset("matplotlib numpy pandas polars pyarrow scipy torch".split())
"""Packages whose types `arrays` knows."""

_INLINE = 256  # bytes that are written out; longer ones are hashed
_ENTANGLED = 1_000_000  # nodes of cycles, counted with repetition, before we give up
_NAN = struct.pack("<d", float("nan"))


def _float(value: float) -> bytes:
    return struct.pack("<d", value) if value == value else _NAN


def _bytes(value: bytes) -> bytes:
    if len(value) <= _INLINE:
        return b"b%x:" % len(value) + value
    return (memo.recall(value) if len(value) >= memo.LARGE else None) or b"B" + xxh3_128_digest(value)


LEAVES: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"N",
    type(Ellipsis): lambda value: b"E",
    type(NotImplemented): lambda value: b"n",
    bool: lambda value: b"T" if value else b"F",
    int: lambda value: b"i%x;" % value,
    float: lambda value: b"f" + _float(value),
    complex: lambda value: b"c" + _float(value.real) + _float(value.imag),
    str: text_bytes,
    bytes: _bytes,
    bytearray: lambda value: b"a" + xxh3_128_digest(value),
}


class Walk:
    """One pass over one value; not to be shared between threads.

    Args:
        code: Encodes functions, classes and modules.
        identity: Encodes what cannot be digested; None to raise `Undigestable`.
        rank: Gives members of sets and keys of dicts an order by their own content, where the order in which `code`
            meets them would count.
    """

    __slots__ = ("_depth", "_lowest", "_memo", "_repeats", "code", "identity", "rank")

    def __init__(
        self,
        code: Callable[[Any], bytes],
        identity: Callable[[Any], bytes] | None = None,
        rank: Callable[[Any], bytes] | None = None,
    ) -> None:
        self.code = code
        self.identity = identity
        self.rank = rank
        self._memo: dict[int, tuple[bytes, Any]] = {}
        self._depth: dict[int, int] = {}
        self._lowest = sys.maxsize
        self._repeats = 0

    def encode(self, value: Any) -> bytes:
        """Return the canonical bytes of `value`.

        Raises:
            Undigestable: There is something in `value` that has no lasting content, or it is nested too deeply.
        """
        leaf = LEAVES.get(type(value))
        return leaf(value) if leaf is not None else self._node(value)

    def _node(self, value: Any) -> bytes:
        """Encode a value that may contain others: once if it is shared, as a climb if it contains itself."""
        key = id(value)
        known = self._memo.get(key)
        if known is not None:
            return known[0]
        if memo.known and (content := memo.recall(value)) is not None:
            return content
        level = self._depth.get(key)
        if level is not None:
            self._lowest = min(self._lowest, level)
            return b"^%x;" % (len(self._depth) - level)
        level = self._depth[key] = len(self._depth)
        outer, self._lowest = self._lowest, sys.maxsize
        try:
            encoded = self._handled(value)
        except RecursionError:
            raise Undigestable("", "it is nested too deeply") from None
        finally:
            del self._depth[key]
        if self._lowest >= level:
            self._memo[key] = (encoded, value)  # with the value, so that its id stays taken
            self._lowest = outer
        else:  # depends on what is above: not the same everywhere, so not remembered
            self._lowest = min(self._lowest, outer)
            self._repeats += 1
            if self._repeats > _ENTANGLED:
                raise Undigestable("", "its members refer to each other in too many ways")
        return encoded

    def _handled(self, value: Any) -> bytes:
        if self.identity is None:
            return _handler(type(value))(self, value)
        try:
            return _handler(type(value))(self, value)
        except Undigestable:
            return hashed(b"?", self.identity(value))

    def sequence(self, items: list[Any] | tuple[Any, ...]) -> bytes:
        """Encode members in order; many strings or numbers of one type are packed."""
        if len(items) >= PACKED_FROM:
            whole = packing.packed(items)
            if whole is not None:
                return whole
        leaves, node, out = LEAVES, self._node, []
        try:
            for item in items:
                leaf = leaves.get(type(item))
                out.append(leaf(item) if leaf is not None else node(item))
        except Undigestable as fault:
            raise fault.under(f"[{len(out)}]") from None
        return b"l%x:" % len(out) + b"".join(out)

    def pairs(self, items: Iterable[tuple[Any, Any]], step: str = "[{!r}]") -> bytes:
        """Encode keys and values in an order that only their content decides."""
        if self.rank is not None:
            rank, items = self.rank, [*items]
            if not all(type(key) in LEAVES for key, _ in items):
                items.sort(key=lambda item: rank(item[0]))
        keyed = sorted(((self.encode(key), key, value) for key, value in items), key=lambda item: item[0])
        out = []
        for encoded, key, value in keyed:
            try:
                out.append(encoded + self.encode(value))
            except Undigestable as fault:
                name = key if isinstance(key, (str, int, float, bytes)) else type(key).__name__
                raise fault.under(step.format(name)) from None
        out.sort()  # only for keys that are equal in content, such as two NaN
        return b"".join(out)

    def attribute(self, owner: Any, name: str) -> bytes:
        """Encode one attribute, naming it in the path of a fault."""
        try:
            return self.encode(getattr(owner, name))
        except Undigestable as fault:
            raise fault.under(f".{name}") from None

    def reduced(self, value: Any) -> bytes:
        """Encode an object by its class and by what it would take to build it again, as `copy` and `pickle` see it."""
        kind = type(value)
        if task_function(value) is not None:
            return self.code(value)
        reducer = copyreg.dispatch_table.get(kind)
        try:
            recipe: Any = value.__reduce_ex__(4) if reducer is None else reducer(value)
        except Exception as error:
            raise Undigestable("", f"{_type_name(kind)}: {one_line(error, 120)}") from None
        if isinstance(recipe, str):
            return hashed(b"gl", text_bytes(str(getattr(value, "__module__", kind.__module__))), text_bytes(recipe))
        maker, args, state, items, pairs = (*recipe, None, None, None, None)[:5]
        made = b"" if maker in (copyreg.__newobj__, copyreg._reconstructor) else self.encode(maker)  # type: ignore[attr-defined]
        if made == b"" and args and args[0] is kind:
            args = args[1:]
        pieces = [self.code(kind), made, self.encode((*(args or ()),)), self._state(state)]
        pieces.append(self.sequence([*items]) if items is not None else b"")
        if pairs is not None and isinstance(value, OrderedDict):
            pieces.append(self.sequence([part for pair in pairs for part in pair]))
        else:
            pieces.append(self.pairs(pairs) if pairs is not None else b"")
        return hashed(b"O", *pieces)

    def _state(self, state: Any) -> bytes:
        """Encode what `__getstate__` gave: a dict of attributes, perhaps with slots beside it, or anything else."""
        if type(state) is dict:
            return hashed(b"sd", self.pairs(state.items(), ".{}"))
        if type(state) is tuple and len(state) == 2 and type(state[1]) is dict and type(state[0]) in (dict, type(None)):
            return hashed(b"ss", self.pairs((state[0] or {}).items(), ".{}"), self.pairs(state[1].items(), ".{}"))
        return self.encode(state)


class Without:
    """An object as it is digested where some of its attributes do not count."""

    __slots__ = ("names", "value")

    def __init__(self, value: Any, names: frozenset[str]) -> None:
        self.value = value
        self.names = names


def _without(walk: Walk, view: Without) -> bytes:
    attributes = [(name, value) for name, value in vars(view.value).items() if name not in view.names]
    return hashed(b"wo", walk.code(type(view.value)), walk.pairs(attributes, ".{}"))


# --- containers and values of the standard library -----------------------------------------------------------------


def _set(tag: bytes) -> Handler:
    def handle(walk: Walk, value: Any) -> bytes:
        try:
            if walk.rank is not None and len(value) > 1 and not all(type(member) in LEAVES for member in value):
                value = sorted(value, key=walk.rank)
            return hashed(tag, *sorted(map(walk.encode, value)))
        except Undigestable as fault:
            raise fault.under("{…}") from None

    return handle


def _memoryview(walk: Walk, value: Any) -> bytes:
    return hashed(b"mv", value.format.encode(), walk.encode(value.shape), value.tobytes())


def _enum(walk: Walk, value: Any) -> bytes:
    return hashed(b"en", walk.code(type(value)), text_bytes(str(value.name)), walk.attribute(value, "_value_"))


def _method(walk: Walk, value: Any) -> bytes:
    owner = walk.attribute(value, "__self__")
    if isinstance(value, MethodType):
        return hashed(b"me", walk.code(value.__func__), owner)
    return hashed(b"mb", text_bytes(value.__name__), owner)


def _builtin(walk: Walk, value: Any) -> bytes:
    owner = value.__self__
    return walk.code(value) if owner is None or isinstance(owner, ModuleType) else _method(walk, value)


def _alias(walk: Walk, value: Any) -> bytes:
    return hashed(b"al", walk.encode(getattr(value, "__origin__", UnionType)), walk.attribute(value, "__args__"))


def _code(walk: Walk, value: Any) -> bytes:
    return walk.code(value)


_EXACT: dict[Any, Handler] = {
    list: lambda walk, value: hashed(b"L", walk.sequence(value)),
    tuple: lambda walk, value: hashed(b"U", walk.sequence(value)),
    dict: lambda walk, value: hashed(b"D", walk.pairs(value.items())),
    MappingProxyType: lambda walk, value: hashed(b"mp", walk.pairs(value.items())),
    OrderedDict: lambda walk, value: hashed(b"od", walk.sequence([*value.keys()]), walk.sequence([*value.values()])),
    set: _set(b"X"),
    frozenset: _set(b"Z"),
    type({}.keys()): _set(b"dk"),
    type({}.values()): lambda walk, value: hashed(b"dv", walk.sequence([*value])),
    type({}.items()): lambda walk, value: hashed(b"di", walk.pairs(value)),
    range: lambda walk, value: hashed(b"ra", walk.sequence((value.start, value.stop, value.step))),
    slice: lambda walk, value: hashed(b"sl", walk.sequence((value.start, value.stop, value.step))),
    memoryview: _memoryview,
    FunctionType: _code,
    CodeType: _code,
    ModuleType: _code,
    BuiltinFunctionType: _builtin,
    MethodType: _method,
    MethodWrapperType: _method,
    WrapperDescriptorType: _code,
    MemberDescriptorType: _code,
    GenericAlias: _alias,
    UnionType: _alias,
    Without: _without,
    object: lambda walk, value: hashed(b"ob", walk.identity(value)) if walk.identity else refuse(value),
}


# --- registry -----------------------------------------------------------------------------------------------------

_registered: dict[str, Handler] = {}
_asked: set[str] = set()  # packages whose entry points were looked for
_chosen: dict[type, Handler] = {}  # types of the standard library and of packages; notebook classes come and go
_registry_lock = threading.Lock()


def register(kind: type | str, content: Callable[[Any], Any]) -> None:
    """Say how values of a type are digested.

    A package can do this without being imported: an entry point in the group `nbflow.digests`, named like the package,
    is loaded when the first value of one of its types comes in, and called without arguments.

    Args:
        kind: The type, or its dotted name ("package.module.Type") where the package should not be imported.
        content: Takes such a value and returns its content: anything that can be digested (text, bytes, a tuple).
    """
    name = kind if isinstance(kind, str) else _type_name(kind)
    tag = name.encode()
    with _registry_lock:
        _registered[name] = lambda walk, value: hashed(b"rg", tag, walk.encode(content(value)))
        _chosen.clear()


def _type_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _handler(kind: type) -> Handler:
    handler = _EXACT.get(kind) or _chosen.get(kind)
    if handler is None:
        handler = _choose(kind)
        if kind.__module__ != "__main__":
            _chosen[kind] = handler
    return handler


def _choose(kind: type) -> Handler:
    """Find the handler of a type: what the user registered, what the type says itself, what we know, else reduce."""
    name = _type_name(kind)
    if name in _registered:
        return _registered[name]
    if callable(getattr(kind, "__nbflow_digest__", None)):
        return _protocol
    if name in STANDARD:
        return STANDARD[name]
    if issubclass(kind, type):
        return _code
    if issubclass(kind, ModuleType):
        return _code
    if is_enum(kind):
        return _enum
    if issubclass(kind, Iterator) and "__reduce__" not in vars(kind) and "__reduce_ex__" not in vars(kind):
        if kind.__module__ != "__main__":
            return volatile("it can be read only once")
    top = package_of(kind)
    _load_entry_points(top)
    if name in _registered:
        return _registered[name]
    homes = [package_of(base) for base in kind.__mro__]
    if LIBRARIES.isdisjoint(homes):
        return Walk.reduced
    names = [f"{home}.{base.__qualname__}" for home, base in zip(homes, kind.__mro__, strict=True)]
    if names[0] in arrays.HANDLERS:
        return arrays.HANDLERS[names[0]]
    for home, title in zip(homes, names, strict=True):
        if home == top and title in arrays.INHERITED:
            return arrays.INHERITED[title]
    for home, title in zip(homes, names, strict=True):
        if home != top and title in arrays.SUBCLASSED:
            return arrays.SUBCLASSED[title]
    return Walk.reduced


def is_container(value: Any) -> bool:
    """Whether a value is a mutable container of the standard library."""
    kind = type(value)
    return kind in (list, dict, set, bytearray) or kind.__module__ in ("array", "collections")


def is_data(value: Any) -> bool:
    """Whether a value is an array, a frame or alike: data, even for code that stores into it."""
    kind = type(value)
    if LIBRARIES.isdisjoint(map(package_of, kind.__mro__)):
        return False
    return _handler(kind) in arrays.DATA


def _load_entry_points(package: str) -> None:
    if package in _asked or package in sys.stdlib_module_names or package == "__main__":
        return
    _asked.add(package)
    for point in entry_points("nbflow.digests"):
        if point.name != package:
            continue
        try:
            point.load()()
        except Exception as error:
            report(f"The digests of {package} ({point.value}) could not be loaded: {one_line(error)}")


def _protocol(walk: Walk, value: Any) -> bytes:
    content = value.__nbflow_digest__()
    if not isinstance(content, (str, bytes)):
        raise Undigestable("", f"__nbflow_digest__ of {type(value).__qualname__} returned {type(content).__name__}")
    return hashed(b"nd", _type_name(type(value)).encode(), walk.encode(content))


# --- tasks --------------------------------------------------------------------------------------------------------


def task_function(value: Any) -> Any:
    """Return the function inside a task object, or None where `value` is no task."""
    if isinstance(value, partial):  # gets a `__dict__` when it is asked for it, and is another thing to `partial` then
        return None
    if "spec" not in getattr(value, "__dict__", ()) and not any("spec" in vars(base) for base in type(value).__mro__):
        return None  # asking a stranger for an attribute may have effects
    inner = getattr(getattr(value, "spec", None), "func", None)
    if not callable(inner):
        return None
    for function in (getattr(value, "func", None), getattr(value, "__wrapped__", None)):
        if callable(function):
            return function
    return None
