"""The graph of reachable code: what a function or class is, with everything that it refers to.

Functions, classes, local modules and captured values are its nodes, names its edges. Each node is digested alone and
named by a *label*; where it refers to another node, the label stands for it. So mutual recursion costs nothing, a
helper that is used twice is digested once, and one edit changes one part. The rules:

* Functions are known by their syntax tree, captured cells, defaults, and what their globals refer to, recursively.
* Classes are known by their bases and by what is in them; methods are functions.
* Code of installed packages is known by name and version, the standard library by name alone.
* Captured data are known by content, *except* what the reached code itself rebinds or mutates: that is its state, not
  its input. Arrays and frames are never state: even code that stores into them computes with what is in them.

While it walks, a graph notes what it saw by identity (`names`, `attributes`), by content (`contents`) and on disk
(`files`), so that a later look can tell whether anything has changed. Its `frame` is the digest of the reached code
without any captured value: what was found out about the state of such code is filed under it (see `state`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from weakref import WeakKeyDictionary

from xxhash import xxh3_128_hexdigest

from nbflow._typing import TYPE_CHECKING, Any
from nbflow._util import lazy
from nbflow.cache import modules, nodes
from nbflow.cache.attached import add_attached
from nbflow.cache.claims import Claims
from nbflow.cache.described import add_described
from nbflow.cache.digest import Walk, Without, task_function
from nbflow.cache.nodes import is_code, is_constant, is_native
from nbflow.cache.owners import ABSENT
from nbflow.cache.parts import (
    Fingerprint,
    KeyPart,
    Undigestable,
    combine,
    hashed,
    part_bytes,
    short_text,
    text_bytes,
)
from nbflow.cache.places import is_local, is_standard, package_version
from nbflow.cache.source import Shelf, facts_of
from nbflow.cache.state import learned

if TYPE_CHECKING:
    from nbflow.cache import identity
else:
    identity = lazy("nbflow.cache.identity")

__all__ = ["Graph"]

_TOOLS = frozenset(
    {
        "IPython.core.interactiveshell.InteractiveShell",
        "logging.Logger",
        "logging.LoggerAdapter",
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


class Graph:
    """Walks the code that `add` is given, and all that it reaches.

    Args:
        nested: Whether this graph is only made to put code into an order, for another graph.
        shelf: What earlier processes found out of the code.
    """

    def __init__(self, nested: bool = False, shelf: Shelf | None = None) -> None:
        self.shelf = shelf
        self.names: list[tuple[Callable[..., Any], Any, Any]] = []
        self.attributes: list[tuple[Any, str, Any]] = []
        self.contents: list[tuple[str, Any, bytes]] = []
        self.files: list[tuple[str, Any]] = []
        self.notes: list[str] = []
        self.frame = ""
        self.solid = True
        self.texts_only = False  # of local modules: what has been set there since does not count
        self.parts: dict[str, KeyPart] = {}
        self.labels: dict[int, str] = {}
        self._used: dict[str, int] = {}
        self.alive: list[Any] = []  # everything whose id is in use
        self._queue: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self.values: dict[tuple[int, str], tuple[str, str, Any]] = {}
        self.claims = Claims()
        self.foreign: list[type] = []  # classes of packages
        self._unseen = False  # whether there are new ones among them
        self.described: list[tuple[Any, str]] = []  # local functions and classes, with their labels
        self.state: set[tuple[int, str]] = set()
        # What the code rebinds, or changes what it holds:
        self.changed_names: dict[str, None] = {}  # names of the notebook
        self.attribute_state: dict[tuple[str, str], Any] = {}  # modules, classes and functions by (name, attribute)
        self.closure_state: dict[str, Any] = {}  # cells of closures, in words
        self.loads: dict[str, None] = {}  # local modules that bodies import
        self.remembering: dict[str, Any] = {}  # functions with an `lru_cache`
        self.opaque: dict[str, None] = {}  # in words, what notebook code uses that reaches names it does not tell
        self.omitted: dict[int, set[str]] = {}
        self.changed: set[int] = set()  # what the code changes in some way
        self._learned: frozenset[str] = frozenset()
        self._told: set[int] = set()  # tasks whose declared versions were noted
        self.root = ""
        self.walk = Walk(self.code, rank=None if nested else _rank)

    # -- what users of a graph call

    def add(self, root: Any, kind: str = "code") -> None:
        """Walk from `root`; its own part gets `kind`."""
        root = task_function(root) or root
        self.claims.open |= isinstance(root, type)  # whoever has a class may call its methods
        if isinstance(root, MethodType):
            self.root = self.root or self.label(root.__func__, kind)
        label = self.label(root, kind)
        self.root = self.root or label
        self._drain()

    def add_value(self, kind: str, name: str, value: Any) -> None:
        """Add a value by content (or code, if it is code)."""
        if is_code(value):
            self.label(value, kind)
        else:
            self.values[(-len(self.values) - 1, name)] = (kind, name, value)
        self._drain()

    def result(self) -> Fingerprint:
        """Return what was found, without the state."""
        dropped = self.dropped()
        parts = tuple(part for name, part in self.parts.items() if name not in dropped)
        return Fingerprint(combine([part_bytes(p.kind, p.name, p.digest) for p in parts]), parts, tuple(self.notes))

    def dropped(self) -> set[str]:
        """Return the names of the parts that are left out."""
        return {self.values[key][1] for key in self.state if key in self.values}

    def state_names(self) -> frozenset[str]:
        """Return the names that were left out because the code itself changes them."""
        return frozenset(name for _, name in self.state)

    # -- the walk

    def _drain(self) -> None:
        while self._queue or self._unseen or self._values_left():
            if self._queue or self._unseen:
                self._work_off()
            # Values come last: only when all code has been seen do we know which of them are state.
            if not self.frame:
                self.frame = combine([part_bytes(p.kind, p.name, p.digest) for p in self.parts.values()])
                self._learned = learned(self.frame)
            for key, (kind, name, value) in list(self.values.items()):
                if name in self._learned:
                    self.state.add(key)
                elif name not in self.parts and key not in self.state:
                    self._value_part(key, kind, name, value)
                    break

    def _work_off(self) -> None:
        while self._queue or self._unseen:
            while self._queue:
                work, args = self._queue.popleft()
                self.claims.at = id(args[0])
                work(self, *args)
            self.claims.at = 0
            self._unseen = False
            add_attached(self)
        add_described(self)
        self.state |= self.claims.live()

    def _values_left(self) -> bool:
        return any(name not in self.parts and key not in self.state for key, (_, name, _v) in self.values.items())

    def code(self, value: Any) -> bytes:
        """Encode code that is met inside a captured value: by its label, and it becomes a node."""
        return hashed(b"lb", text_bytes(self.label(value)))

    def seen_code(self) -> Callable[[Any], bytes]:
        """Return what encodes code exactly as this graph did, and refuses code that it has not met."""
        labels = self.labels

        def encode(value: Any) -> bytes:
            inner = task_function(value)
            label = labels.get(id(value if inner is None else inner))
            if label is None:
                raise Undigestable("", "it contains code that was not there before")
            return hashed(b"lb", text_bytes(label))

        return encode

    def label(self, value: Any, kind: str | None = None, member: str = "") -> str:
        """Return the name of a node, queueing the node when it is new; `member` is what a method is called by."""
        inner = task_function(value)
        if inner is not None:
            self.watch(value, "func") if hasattr(value, "func") else None
            label = self.label(inner, kind, member)
            self._declared(value, label)
            return label
        if isinstance(value, MethodType):
            return self._method_label(value, kind)
        self.claims.lead(id(value), member)
        known = self.labels.get(id(value))
        if known is not None:
            return known
        work, name, default_kind = self._describe(value)
        label = self.unique(name)
        self.labels[id(value)] = label
        self.alive.append(value)
        if work is not None:
            self._queue.append((work, (value, label, kind or default_kind)))
        elif kind is not None:
            self.part(kind, label, [label.encode()])
        return label

    def note_remembered(self, label: str, function: Any) -> None:
        """Make this a session key where a function has an `lru_cache` of what was before something changed."""
        if self.walk.rank is None:  # this graph is only made to look at a part of another one
            return
        now = _rank(function)
        if not function.cache_info().currsize:
            _filled_by[function] = now
        elif (before := _filled_by.setdefault(function, now)) != now:
            name = getattr(function, "__name__", label)
            self.part("helper", f"{label} (remembered)", [before])
            self.notes.append(
                f"`{name}` has an `lru_cache` with results from before something changed that it depends on "
                f"(`{name}.cache_clear()` forgets them)"
            )
            self.solid = False

    def unique(self, name: str) -> str:
        count = self._used[name] = self._used.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def _method_label(self, value: MethodType, kind: str | None) -> str:
        """Name a bound method after its function and the object that it is bound to."""
        inner, owner = self.label(value.__func__, kind), value.__self__
        self.attributes.append((value, "__func__", value.__func__))
        if isinstance(owner, type):
            return f"{inner} of {self.label(owner)}"
        code = getattr(value.__func__, "__code__", None)
        if isinstance(code, CodeType) and code.co_varnames:
            nodes.omit(self, owner, facts_of(code, self.shelf), code.co_varnames[0])
        key = (id(owner), inner)
        if key not in self.values:
            self.values[key] = ("closure", self.unique(f"{inner}.__self__"), owner)
            self.alive.append(owner)
        return self.values[key][1]

    def _declared(self, task: Any, label: str) -> None:
        """Note what the user says that a task depends on which is called here."""
        declared = getattr(getattr(getattr(task, "spec", None), "keyer", None), "declared", ())
        if not declared or id(task) in self._told:
            return
        self._told.add(id(task))
        self.alive.append(task)
        for number, value in enumerate(declared):
            if is_code(value):
                self.label(value)
            else:
                self.values[(-len(self.values) - 1, label)] = ("depends", self.unique(f"{label}[{number}]"), value)

    def _describe(self, value: Any) -> tuple[Callable[..., None] | None, str, str]:
        """Return who digests this node, how it is called, and of what kind it is."""
        if isinstance(value, FunctionType):
            module = value.__globals__.get("__name__", "") or ""
            if is_local(module, value.__code__.co_filename):
                return nodes.function_node, self._qualified(module, value.__qualname__), "helper"
            return nodes.installed_node, f"{module}.{value.__qualname__}", "helper"
        if isinstance(value, CodeType):
            return nodes.code_node, value.co_name, "helper"
        if isinstance(value, type):
            module = value.__module__ if isinstance(value.__module__, str) else ""
            if value.__flags__ & (1 << 9) and is_local(module):  # Py_TPFLAGS_HEAPTYPE
                return nodes.class_node, self._qualified(module, value.__qualname__), "class"
            if value.__flags__ & (1 << 9):
                self.foreign.append(value)
                self._unseen = True
            self.package(module)
            return None, f"{module}.{value.__qualname__}", "class"
        if isinstance(value, ModuleType):
            name = value.__name__
            if is_local(name):
                return modules.module_node, modules.module_key(name), "module"
            self.package(name)
            return None, modules.module_key(name), "module"
        if isinstance(value, partial):
            return nodes.partial_node, "partial", "helper"
        if isinstance(value, BuiltinFunctionType) and nodes.is_bound(value):
            return nodes.bound_node, self._qualified(type(value.__self__).__module__, str(value.__qualname__)), "helper"
        owner = getattr(value, "__objclass__", None)  # of a method that is written in C
        module = str(getattr(value, "__module__", None) or getattr(owner, "__module__", ""))
        title = getattr(value, "__qualname__", getattr(value, "__name__", None))
        wrapped = getattr(value, "__wrapped__", None)
        if callable(wrapped) or title is None or (is_local(module) and not is_native(value)):
            kind = type(value)
            return nodes.object_node, self._qualified(kind.__module__, str(kind.__qualname__)), "helper"
        self.package(module)
        return None, f"{module}.{title}", "helper"

    @staticmethod
    def _qualified(module: str, name: str) -> str:
        name = name.replace("<locals>.", "")
        return name if module in ("__main__", "") else f"{module}.{name}"

    def package(self, module: str) -> None:
        """Note the version of an installed package; Python's own modules have none."""
        top = module.partition(".")[0]
        if not top or top == "__main__" or top == "nbflow" or is_standard(top):
            return
        if modules.module_key(top) not in self.parts:
            version = package_version(top)
            digest = xxh3_128_hexdigest(hashed(b"pv", version.encode()))
            self.parts[modules.module_key(top)] = KeyPart("module", top, digest, version)

    def watch(self, owner: Any, *names: str) -> None:
        for name in names:
            self.attributes.append((owner, name, getattr(owner, name, ABSENT)))

    def part(self, kind: str, label: str, pieces: list[bytes], text: str = "", where: str = "") -> None:
        self.parts[label] = KeyPart(kind, label, xxh3_128_hexdigest(hashed(b"nd", *pieces)), text, where)

    # -- values

    def lenient(self, value: Any) -> bytes:
        """Encode what library code has captured, or a module holds; inner machinery (locks, caches) by type only."""
        try:
            encoded = self.walk.encode(value)
        except Undigestable:
            return text_bytes(type(value).__qualname__)
        if not is_constant(value):
            self.contents.append(("", value, encoded))
        return encoded

    def _value_part(self, key: tuple[int, str], kind: str, name: str, value: Any) -> None:
        """Digest a captured value by content."""
        text = short_text(value)
        if id(value) in self.omitted:
            value = Without(value, frozenset(self.omitted[id(value)]))
            self.alive.append(value)
        if any(f"{base.__module__}.{base.__qualname__}" in _TOOLS for base in type(value).__mro__):
            self.part(kind, name, [type(value).__qualname__.encode()])  # a means, not data
            return
        try:
            encoded = self.walk.encode(value)
        except Undigestable as fault:
            if id(value) in self.changed or self.claims.claimed(key):  # a progress bar: it is there to be changed
                self.state.add(key)
                return
            self.notes.append(f"{kind} `{name}`{fault.path}: {fault.reason}")
            encoded = Walk(self.code, identity.identity_token).encode(value)
            self.solid = False
        if not is_constant(value):
            self.contents.append((name, value, encoded))
        self.parts[name] = KeyPart(kind, name, xxh3_128_hexdigest(encoded), text)


_filled_by: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()  # of functions with an `lru_cache`: what they were


def _rank(value: Any) -> bytes:
    """Return what puts members of a set into an order that does not change with the next start."""

    def alone(code: Any) -> bytes:
        graph = Graph(nested=True)
        graph.add(code)
        return graph.result().digest.encode()

    try:
        return Walk(alone).encode(value)
    except Exception:  # whatever it is, the graph itself will meet it too
        return b""
