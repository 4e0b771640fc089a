"""The graph of reachable code: what a function or class is, with everything that it refers to.

Functions, classes, local modules and captured values are its nodes, names its edges. Each node is digested alone and
named by a *label*; where it refers to another node, the label stands for it. So mutual recursion costs nothing, a
helper that is used twice is digested once, and one edit changes one part. The rules:

* Functions are known by their syntax tree, captured cells, defaults, and what their globals refer to, recursively.
* Classes are known by their bases and by what is in them; methods are functions.
* Code of installed packages is known by name and version, the standard library by name alone.
* Captured data are known by content, *except* what the reached code itself rebinds or mutates: that is its state, not
  its input.

While it walks, a graph notes what it saw by identity (`names`, `attributes`) and by content (`contents`), so that a
later look can tell whether anything has changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from importlib.util import resolve_name
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from xxhash import xxh3_128_hexdigest

from nbflow.cache.classes import class_members
from nbflow.cache.digest import Walk, task_function
from nbflow.cache.identity import identity_token
from nbflow.cache.parts import (
    Fingerprint,
    KeyPart,
    Undigestable,
    combine,
    framed,
    hashed,
    part_bytes,
    short_text,
    text_bytes,
)
from nbflow.cache.places import is_local, is_standard, module_file, package_version, where_of
from nbflow.cache.source import REBOUND, CodeFacts, code_bytes, facts_of, module_facts

__all__ = ["ABSENT", "Graph", "is_constant"]

ABSENT = object()
_IMMUTABLE = frozenset({int, float, complex, bool, str, bytes, type(None), type(Ellipsis), range})
_TOOLS = frozenset(
    {
        "IPython.core.interactiveshell.InteractiveShell",
        "logging.Logger",
        "_thread.lock",
        "_thread.RLock",
        "threading.Condition",
        "threading.Semaphore",
        "threading.Event",
        "threading.BoundedSemaphore",
        "threading.Barrier",
        "threading._RLock",
        "_thread._local",
        "asyncio.locks.Lock",
        "asyncio.locks.Semaphore",
        "asyncio.locks.Event",
        "asyncio.locks.Condition",
    }
)


def is_constant(value: Any) -> bool:
    """Whether `value` is of a simple type and cannot change."""
    kind = type(value)
    return kind in _IMMUTABLE or (kind in (tuple, frozenset) and all(map(is_constant, value)))


def _is_code(value: Any) -> bool:
    return isinstance(value, (FunctionType, type, MethodType, ModuleType, BuiltinFunctionType)) or (
        task_function(value) is not None
    )


class Graph:
    """Walks the code that `add` is given, and all that it reaches."""

    def __init__(self) -> None:
        self.names: list[tuple[Callable[..., Any], Any, Any]] = []
        self.attributes: list[tuple[Any, str, Any]] = []
        self.contents: list[tuple[Any, bytes]] = []
        self.notes: list[str] = []
        self.solid = True
        self._parts: dict[str, KeyPart] = {}
        self._labels: dict[int, str] = {}
        self._used: dict[str, int] = {}
        self._alive: list[Any] = []  # everything whose id is in use
        self._queue: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._values: dict[tuple[int, str], tuple[str, str, Any]] = {}
        self._state: set[tuple[int, str]] = set()
        self._root = ""
        self._coded = False
        self._walk = Walk(self.code)

    # -- what users of a graph call

    def add(self, root: Any, kind: str = "code") -> None:
        """Walk from `root`; its own part gets `kind`."""
        root = task_function(root) or root
        if isinstance(root, MethodType):
            self._root = self._root or self.label(root.__func__, kind)
        label = self.label(root, kind)
        self._root = self._root or label
        self._drain()

    def add_value(self, kind: str, name: str, value: Any) -> None:
        """Add a value by content (or code, if it is code)."""
        if _is_code(value):
            self.label(value, kind)
        else:
            self._values[(-len(self._values) - 1, name)] = (kind, name, value)
        self._drain()

    def result(self) -> Fingerprint:
        """Return what was found, without the state."""
        dropped = {self._values[key][1] for key in self._state if key in self._values}
        parts = tuple(part for name, part in self._parts.items() if name not in dropped)
        return Fingerprint(combine([part_bytes(p.kind, p.name, p.digest) for p in parts]), parts, tuple(self.notes))

    def state_names(self) -> frozenset[str]:
        """Return the names that were left out because the code itself changes them."""
        return frozenset(name for _, name in self._state)

    def is_state(self, key: tuple[int, str]) -> bool:
        return key in self._state

    # -- the walk

    def _drain(self) -> None:
        while self._queue or self._values_left():
            while self._queue:
                work, args = self._queue.popleft()
                work(*args)
            # Values come last: only when all code has been seen do we know which of them are state.
            for key, (kind, name, value) in list(self._values.items()):
                if name not in self._parts and key not in self._state:
                    self._value_part(kind, name, value)
                    break

    def _values_left(self) -> bool:
        return any(name not in self._parts and key not in self._state for key, (_, name, _v) in self._values.items())

    def code(self, value: Any) -> bytes:
        """Encode code that is met inside a captured value: by its label, and it becomes a node."""
        self._coded = True
        return hashed(b"lb", text_bytes(self.label(value)))

    def label(self, value: Any, kind: str | None = None) -> str:
        """Return the name of a node, queueing the node when it is new."""
        inner = task_function(value)
        if inner is not None:
            self._watch(value, "func") if hasattr(value, "func") else None
            return self.label(inner, kind)
        if isinstance(value, MethodType):
            return self._method_label(value, kind)
        known = self._labels.get(id(value))
        if known is not None:
            return known
        work, name, default_kind = self._describe(value)
        label = self._unique(name)
        self._labels[id(value)] = label
        self._alive.append(value)
        if work is not None:
            self._queue.append((work, (value, label, kind or default_kind)))
        elif kind is not None:
            self._part(kind, label, [label.encode()])
        return label

    def _unique(self, name: str) -> str:
        count = self._used[name] = self._used.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def _method_label(self, value: MethodType, kind: str | None) -> str:
        """Name a bound method after its function and the object that it is bound to."""
        inner, owner = self.label(value.__func__, kind), value.__self__
        self.attributes.append((value, "__func__", value.__func__))
        if isinstance(owner, type):
            return f"{inner} of {self.label(owner)}"
        key = (id(owner), inner)
        if key not in self._values:
            self._values[key] = ("closure", self._unique(f"{inner}.__self__"), owner)
            self._alive.append(owner)
        return self._values[key][1]

    def _describe(self, value: Any) -> tuple[Callable[..., None] | None, str, str]:
        """Return who digests this node, how it is called, and of what kind it is."""
        if isinstance(value, FunctionType):
            module = value.__globals__.get("__name__", "") or ""
            if is_local(module, value.__code__.co_filename):
                return self._function, self._qualified(module, value.__qualname__), "helper"
            return self._installed_function, f"{module}.{value.__qualname__}", "helper"
        if isinstance(value, CodeType):
            return self._code_object, value.co_name, "helper"
        if isinstance(value, type):
            module = value.__module__ if isinstance(value.__module__, str) else ""
            if value.__flags__ & (1 << 9) and is_local(module):  # Py_TPFLAGS_HEAPTYPE
                return self._class, self._qualified(module, value.__qualname__), "class"
            self._package(module)
            return None, f"{module}.{value.__qualname__}", "class"
        if isinstance(value, ModuleType):
            name = value.__name__
            if is_local(name):
                return self._module, _module_key(name), "module"
            self._package(name)
            return None, _module_key(name), "module"
        if isinstance(value, partial):
            return self._partial, "partial", "helper"
        owner = getattr(value, "__objclass__", None)  # of a method that is written in C
        module = str(getattr(value, "__module__", None) or getattr(owner, "__module__", ""))
        title = getattr(value, "__qualname__", getattr(value, "__name__", None))
        wrapped = getattr(value, "__wrapped__", None)
        if callable(wrapped) or title is None or (is_local(module) and not _is_native(value)):
            return self._object, self._qualified(type(value).__module__, type(value).__qualname__), "helper"
        self._package(module)
        return None, f"{module}.{title}", "helper"

    @staticmethod
    def _qualified(module: str, name: str) -> str:
        name = name.replace("<locals>.", "")
        return name if module in ("__main__", "") else f"{module}.{name}"

    def _package(self, module: str) -> None:
        """Note the version of an installed package; Python's own modules have none."""
        top = module.partition(".")[0]
        if not top or top == "__main__" or top == "nbflow" or is_standard(top):
            return
        if _module_key(top) not in self._parts:
            version = package_version(top)
            self._parts[_module_key(top)] = KeyPart("module", top, _hex(hashed(b"pv", version.encode())), version)

    def _watch(self, owner: Any, *names: str) -> None:
        for name in names:
            self.attributes.append((owner, name, getattr(owner, name, ABSENT)))

    def _part(self, kind: str, label: str, pieces: list[bytes], text: str = "", where: str = "") -> None:
        self._parts[label] = KeyPart(kind, label, _hex(hashed(b"nd", *pieces)), text, where)

    # -- nodes

    def _function(self, function: FunctionType, label: str, kind: str) -> None:
        code = function.__code__
        facts = facts_of(code)
        self._watch(function, "__code__", "__defaults__", "__kwdefaults__")
        pieces = [facts.digest]
        self._captured(function, facts, label, pieces)
        self._references(facts, function.__globals__, label, pieces)
        wrapped = getattr(function, "__wrapped__", None)
        if callable(wrapped):
            self._watch(function, "__wrapped__")
            pieces.append(b"wrapped" + text_bytes(self.label(wrapped)))
        self._part(kind, label, pieces, where=where_of(code.co_filename))

    def _captured(self, function: FunctionType, facts: CodeFacts, label: str, pieces: list[bytes]) -> None:
        """Add closure cells and defaults; a cell that the code changes is its state."""
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:
                value = ABSENT
            if self._mutates(facts, name, value):
                self._state.add((id(cell), name))
                self._alive.append(cell)
                continue
            self.attributes.append((cell, "cell_contents", value))
            chains = [chain for chain in facts.chains if chain[0] == name] or [(name,)]
            for chain in chains:
                pieces.append(self._edge(chain, value, ("closure", id(cell), self._inside(label, name)), facts))
        defaults = dict(function.__kwdefaults__ or {})
        arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
        values = function.__defaults__ or ()
        defaults.update(zip(arguments[len(arguments) - len(values) :], values, strict=True))
        for name in sorted(defaults):
            slot = ("default", id(function), self._inside(label, name))
            pieces.append(self._edge((name,), defaults[name], slot, facts))

    def _inside(self, label: str, name: str) -> str:
        """Name a captured value: plainly where it belongs to the root, else after its function."""
        return name if not self._root or label == self._root else f"{label}.{name}"

    @staticmethod
    def _mutates(facts: CodeFacts, name: str, value: Any) -> bool:
        roots = {chain[0] for chain in facts.state if chain[0] == name}
        if not roots:
            return False
        return (name,) in facts.state or not _is_code(value)

    def _references(self, facts: CodeFacts, scope: dict[str, Any], label: str, pieces: list[bytes]) -> None:
        """Follow the names that the code loads from its globals, and what it imports."""
        module = scope.get("__name__", "") or ""
        builtins = scope.get("__builtins__", {})
        builtins = vars(builtins) if isinstance(builtins, ModuleType) else builtins
        free = {chain[0] for chain in facts.chains}
        self._alive.append(scope)
        for chain in facts.chains:
            name = chain[0]
            if name not in free:
                continue
            value = scope.get(name, ABSENT)
            if value is ABSENT and (builtins.get(name, ABSENT) is not ABSENT or name.startswith("__")):
                self.names.append((scope.get, name, ABSENT))
                continue
            if self._mutates(facts, name, value):
                self._state.add((id(scope), name))
                continue
            self.names.append((scope.get, name, value))
            where = name if module in ("__main__", "") else f"{module}.{name}"
            pieces.append(self._edge(chain, value, ("global", id(scope), where), facts))
        for name, level, taken in facts.imports:
            pieces.append(self._import(name, level, taken, scope.get("__package__") or module))

    def _edge(self, chain: tuple[str, ...], value: Any, slot: tuple[str, int, str], facts: CodeFacts) -> bytes:
        """Follow a chain of names from `value`; return the name and the label of what it leads to."""
        kind, owner, where = slot
        text = ".".join(chain)
        rest = list(chain[1:])
        while isinstance(value, ModuleType) and rest and is_local(value.__name__):
            name = rest.pop(0)
            space = vars(value)
            key = (id(space), name)
            where, owner, kind = f"{value.__name__}.{name}", id(space), "global"
            value = space.get(name, ABSENT)
            self.names.append((space.get, name, value))
            if self._chain_state(chain[: len(chain) - len(rest)], facts) and not _is_code(value):
                self._state.add(key)
        if value is ABSENT:
            return framed(text.encode()) + b"absent"
        if _is_code(value) or isinstance(value, partial):
            return framed(text.encode()) + text_bytes(self.label(value))
        key = (owner, where.rpartition(".")[2])
        known = self._values.get(key)
        if known is None:
            known = self._values[key] = (kind, self._unique(where), value)
            self._alive.append(value)
        return framed(text.encode()) + text_bytes("=" + known[1])

    @staticmethod
    def _chain_state(chain: tuple[str, ...], facts: CodeFacts) -> bool:
        return any(state[: len(chain)] == chain for state in facts.state)

    def _import(self, name: str, level: int, taken: tuple[str, ...], package: str) -> bytes:
        """Follow an import inside a body: the whole module, whether or not it has been loaded yet."""
        text = f"import {'.' * level}{name} {','.join(taken)}"
        try:
            full = resolve_name("." * level + name, package) if level else name
        except (ImportError, ValueError):
            return framed(text.encode()) + b"absent"
        labels = [self._module_label(full)]
        labels += [
            self._module_label(f"{full}.{item}") for item in taken if is_local(full) and module_file(f"{full}.{item}")
        ]
        return framed(text.encode()) + b"".join(text_bytes(label) for label in labels)

    def _module_label(self, name: str) -> str:
        if not is_local(name):
            self._package(name)
        elif _module_key(name) not in self._parts:
            self._module_file(name)
        return _module_key(name)

    def _module(self, module: ModuleType, label: str, kind: str) -> None:
        self._module_label(module.__name__)

    def _module_file(self, name: str) -> None:
        """Digest a local module by the text of its file and of the local modules it imports."""
        self._parts[_module_key(name)] = KeyPart("module", name, "")  # ends cycles of imports
        file = module_file(name)
        pieces: list[bytes] = []
        try:
            with open(file or "", "rb") as stream:
                data = stream.read()
        except OSError:
            data = b""
        try:
            content, imports = module_facts(data.decode("utf-8-sig"))
        except (SyntaxError, ValueError):
            content, imports = hashed(b"mf", data), ()
        package = name if file and file.endswith(("__init__.py",)) else name.rpartition(".")[0]
        pieces.append(content)
        for other, level, taken in imports:
            pieces.append(self._import(other, level, taken, package))
        self.solid = False  # the file may be edited while we live
        digest = _hex(hashed(b"nd", *pieces))
        self._parts[_module_key(name)] = KeyPart("module", name, digest, "", where_of(file or ""))

    def _installed_function(self, function: FunctionType, label: str, kind: str) -> None:
        """Note package and version, and what a decorator of the package has captured."""
        module = function.__globals__.get("__name__", "") or ""
        self._package(module)
        pieces = [label.encode()]
        self._watch(function, "__code__")
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:
                continue
            self.attributes.append((cell, "cell_contents", value))
            if _is_code(value) or isinstance(value, partial) or callable(getattr(value, "__wrapped__", None)):
                pieces.append(name.encode() + text_bytes(self.label(value)))
            else:
                pieces.append(name.encode() + self._lenient(value))
        wrapped = getattr(function, "__wrapped__", None)
        if callable(wrapped):
            pieces.append(b"wrapped" + text_bytes(self.label(wrapped)))
        if len(pieces) > 1 or kind != "helper":
            self._part(kind, label, pieces)

    def _lenient(self, value: Any) -> bytes:
        """Encode what library code has captured; its inner machinery (locks, caches) counts by type only."""
        try:
            encoded = self._walk.encode(value)
        except Undigestable:
            return text_bytes(type(value).__qualname__)
        if not is_constant(value):
            self.solid = False
        return encoded

    def _code_object(self, code: CodeType, label: str, kind: str) -> None:
        self._part(kind, label, [code_bytes(code)])

    def _partial(self, value: Any, label: str, kind: str) -> None:
        pieces = [text_bytes(self.label(value.func)), self._lenient_strict(label, (value.args, value.keywords))]
        self._part(kind, label, pieces)

    def _object(self, value: Any, label: str, kind: str) -> None:
        """Digest a callable object: its class, what it wraps, and its content."""
        pieces = [text_bytes(self.label(type(value)))]
        wrapped = getattr(value, "__wrapped__", None)
        if callable(wrapped):
            self._watch(value, "__wrapped__")
            pieces.append(text_bytes(self.label(wrapped)))
        else:
            self._labels.pop(id(value), None)  # its content is the content of this node
            pieces.append(self._lenient_strict(label, value))
            self._labels[id(value)] = label
        self._part(kind, label, pieces)

    def _lenient_strict(self, label: str, value: Any) -> bytes:
        """Encode by content; what has none makes the key a session key."""
        self.solid = False
        try:
            return self._walk.encode(value)
        except Undigestable as fault:
            self.notes.append(f"`{label}`{fault.path}: {fault.reason}")
            return Walk(self.code, identity_token).encode(value)

    def _class(self, cls: type, label: str, kind: str) -> None:
        pieces = [text_bytes(self.label(base)) for base in cls.__bases__]
        if type(cls) is not type:
            pieces.append(b"meta" + text_bytes(self.label(type(cls))))
        space = cls.__dict__
        members = class_members(cls)
        self.attributes.append((cls, "__bases__", cls.__bases__))
        for name, value, watched in members:
            if watched:
                self.names.append((space.get, name, space.get(name, ABSENT)))
            for role, piece in _accessors(value):
                tag = f"{name}:{role}".encode()
                if _is_code(piece):
                    pieces.append(framed(tag) + text_bytes(self.label(piece)))
                elif role:
                    pieces.append(framed(tag) + self._lenient(piece))
                else:
                    member = self._unique(f"{label}.{name}")
                    self._values[(id(cls), name)] = ("class", member, piece)
                    pieces.append(framed(tag) + text_bytes("=" + member))
        self.names.append((_count_members, cls, len(space)))
        for function in vars(cls).values():
            self._class_state(function, cls)
        where = next((where_of(m.__code__.co_filename) for _, m, _w in members if isinstance(m, FunctionType)), "")
        self._part(kind, label, pieces, where=where)

    def _class_state(self, function: Any, cls: type) -> None:
        """Leave out class attributes that a method changes through `self`, `cls` or the class's name."""
        takes_class = isinstance(function, classmethod)
        function = getattr(function, "__func__", function)
        if not isinstance(function, FunctionType):
            return
        first = function.__code__.co_varnames[:1]
        for chain in facts_of(function.__code__).state:
            own = chain[0] in (cls.__name__, "__class__") or (chain[0] in first and takes_class)
            # `self.x = 1` makes an attribute of the object, `self.x[1] = 2` may change that of the class.
            if len(chain) > 1 and (own or (chain[0] in first and REBOUND not in chain)):
                self._state.add((id(cls), chain[1]))

    # -- values

    def _value_part(self, kind: str, name: str, value: Any) -> None:
        """Digest a captured value by content."""
        if any(f"{base.__module__}.{base.__qualname__}" in _TOOLS for base in type(value).__mro__):
            self._part(kind, name, [type(value).__qualname__.encode()])  # a means, not data
            return
        self._coded = False
        try:
            encoded = self._walk.encode(value)
        except Undigestable as fault:
            self.notes.append(f"{kind} `{name}`{fault.path}: {fault.reason}")
            encoded = Walk(self.code, identity_token).encode(value)
            self.solid = False
        if self._coded:
            self.solid = False
        elif not is_constant(value):
            self.contents.append((value, encoded))
        self._parts[name] = KeyPart(kind, name, _hex(encoded), short_text(value))


def _module_key(name: str) -> str:
    """Return what a module is called among the labels; a function may have the same name."""
    return f"module {name}"


def _is_native(value: Any) -> bool:
    return isinstance(value, BuiltinFunctionType) or type(value).__module__ == "builtins"


def _count_members(cls: Any, _: object) -> int:
    return len(cls.__dict__)


def _accessors(value: Any) -> list[tuple[str, Any]]:
    """Return the functions inside a descriptor, with their roles."""
    if isinstance(value, (staticmethod, classmethod)):
        return [(type(value).__name__, value.__func__)]
    if isinstance(value, property):
        return [(role, getattr(value, role)) for role in ("fget", "fset", "fdel") if getattr(value, role) is not None]
    function = getattr(value, "func", None)
    if type(value).__module__ == "functools" and function is not None:
        return [(type(value).__name__, function)]
    return [("", value)]


_hex = xxh3_128_hexdigest
