"""Code and values to digests, and the means to notice quickly that code has not changed.

`digest` is the door for values, `fingerprint` that for code; each needs the other, for values may contain functions
and functions capture values. `Snapshot` remembers a graph of code as it was seen, so that an unchanged one is
recognised in a fraction of a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FunctionType

from xxhash import xxh3_128_hexdigest

from nbflow._typing import Any
from nbflow.cache import modules
from nbflow.cache.classes import is_plain_object
from nbflow.cache.digest import LEAVES, Walk, is_container
from nbflow.cache.graph import Graph
from nbflow.cache.nodes import is_constant
from nbflow.cache.owners import ABSENT
from nbflow.cache.parts import Fingerprint, Undigestable, hashed, part_bytes, text_bytes
from nbflow.cache.places import file_signature, is_standard
from nbflow.cache.source import Imports, Shelf, inner_codes

__all__ = ["Snapshot", "content_bytes", "digest", "fingerprint", "imports", "snapshot"]

_CHEAP = 32  # members up to which a captured container is digested again at every call


class Snapshot:
    """The graph of one piece of code as it was, and the means to notice that it is no longer so.

    `solid` is false where captured values contain code of their own: then only a new walk can tell. `cheap` is false
    where `holds` has to look at large values.
    """

    __slots__ = (
        "_alive",
        "_attributes",
        "_code",
        "_contents",
        "_described",
        "_files",
        "_names",
        "attribute_state",
        "captures",
        "changed_names",
        "cheap",
        "chunk",
        "closure_state",
        "fingerprint",
        "frame",
        "loads",
        "memo",
        "opaque",
        "remembering",
        "solid",
        "state",
    )

    def __init__(self, graph: Graph) -> None:
        self.fingerprint = graph.result()
        self.chunk = part_bytes("code", "", self.fingerprint.digest)
        self.frame = graph.frame
        self.state: frozenset[str] = graph.state_names()
        self.changed_names = graph.changed_names
        self.attribute_state = graph.attribute_state
        self.closure_state = graph.closure_state
        self.loads = graph.loads
        self.remembering = graph.remembering
        self.opaque = graph.opaque
        self.solid = graph.solid
        self.memo: dict[Any, dict[Any, str]] = {}
        self._names = tuple(graph.names)
        self._attributes = tuple(graph.attributes)
        self._files = tuple(graph.files)
        dropped = graph.dropped()
        self._contents = tuple(content for content in graph.contents if content[0] not in dropped)
        self._code = graph.seen_code()
        self._alive = graph.alive
        self._described = graph.described
        self.cheap = all(_is_cheap(value) for _, value, _ in self._contents)
        self.captures = any(name and is_container(value) for name, value, _ in self._contents)

    def holds(self) -> bool:
        """Whether the graph is unchanged; digests captured mutable values again."""
        if not self.solid:
            return False
        for look_up, name, expected in self._names:
            if look_up(name, ABSENT) is not expected:
                return False
        for owner, name, expected in self._attributes:
            if getattr(owner, name, ABSENT) is not expected:
                return False
        for path, expected in self._files:
            if file_signature(path) != expected:
                return False
        return not self._contents or self._same_contents()

    def _same_contents(self) -> bool:
        try:
            return all(Walk(self._code).encode(value) == expected for _, value, expected in self._contents)
        except Exception:  # it can no longer be digested, or its own methods fail now
            return False

    def said(self) -> Iterator[Any]:
        """Yield the constants of all local functions that the code reaches, and the values that these refer to."""
        for function, _ in self._described:
            code = getattr(function, "__code__", None)
            for each in () if code is None else (code, *inner_codes(code)):
                yield from each.co_consts
        for found in (*self._names, *self._attributes, *((name, "", value) for name, value, _ in self._contents)):
            yield found[2]

    def captured(self) -> dict[str, str | None]:
        """Return the present digests of captured containers; None where there is none."""
        found: dict[str, str | None] = {}
        for name, value, _ in self._contents:
            if name and is_container(value):
                try:
                    found[name] = xxh3_128_hexdigest(Walk(self._code).encode(value))
                except Exception:  # new code in it, or what has no content
                    found[name] = None
        return found


def _is_cheap(value: Any, left: int = _CHEAP) -> bool:
    """Whether digesting `value` again takes no more than some microseconds."""
    if is_constant(value) or isinstance(value, (FunctionType, type)):
        return True
    kind = type(value)
    if kind in (list, dict, set, tuple):
        members = [*value, *value.values()] if kind is dict else value
    elif is_plain_object(value):
        members = vars(value).values()
    else:
        return False
    return len(members) <= left and all(_is_cheap(member, left // 4) for member in members)


# --- the doors ----------------------------------------------------------------------------------------------------

_KEPT = 256  # snapshots that `fingerprint` remembers; each keeps its function alive, so they are few
_snapshots: dict[int, tuple[Any, Snapshot]] = {}


def snapshot(root: Any, depends: tuple[Any, ...] = (), shelf: Shelf | None = None) -> Snapshot:
    """Walk from `root` and from what the user says it depends on, with what the shelf has of the code."""
    graph = Graph(shelf=shelf)
    graph.add(root)
    for index, other in enumerate(depends):
        graph.add_value("depends", f"depends[{index}]", other)
    return Snapshot(graph)


def imports(found: Imports, shelf: Shelf | None = None) -> Snapshot:
    """Walk from what code that is no function imports: its parts are those modules and packages."""
    graph = Graph(shelf=shelf)
    modules.imported(graph, found)
    return Snapshot(graph)


def fingerprint(obj: Any) -> Fingerprint:
    """Digest a piece of code with all that it refers to; safe from any thread.

    Args:
        obj: A function, method, class, partial, task, module or other callable.

    Returns:
        Its digest and parts. Where something it captured cannot be digested, `notes` says what, and the digest is only
        good for this session.
    """
    known = _snapshots.get(id(obj))
    if known is not None and known[1].holds():
        return known[1].fingerprint
    found = snapshot(obj)
    if isinstance(obj, (FunctionType, type)):
        if len(_snapshots) >= _KEPT:
            _snapshots.clear()
        _snapshots[id(obj)] = (obj, found)
    return found.fingerprint


def _code_bytes(value: Any) -> bytes:
    if isinstance(value, type) and (value.__module__ == "builtins" or is_standard(str(value.__module__))):
        return hashed(b"cl", text_bytes(f"{value.__module__}.{value.__qualname__}"))
    found = fingerprint(value)
    if found.notes:
        raise Undigestable("", "; ".join(found.notes))
    name = getattr(value, "__qualname__", "") if isinstance(value, type) else ""
    if not found.parts:
        name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"
    return hashed(b"fp", text_bytes(name), found.digest.encode())


def content_bytes(value: Any, identity: Callable[[Any], bytes] | None = None) -> bytes:
    """Return the canonical bytes of a value (or of code); see `digest`."""
    leaf = LEAVES.get(type(value))
    return leaf(value) if leaf is not None else Walk(_code_bytes, identity).encode(value)


def digest(value: Any) -> str:
    """Digest any value: typed, canonical, the same after a restart and on other machines; safe from any thread.

    Args:
        value: Data of any kind, functions and classes included.

    Returns:
        32 lower-case hex digits; equal exactly where type and content are equal.

    Raises:
        Undigestable: The value holds something without lasting content (a lock, an open file, a generator); the
            error names the path to it.
    """
    return xxh3_128_hexdigest(content_bytes(value))
