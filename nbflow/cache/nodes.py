"""The nodes of a graph of code: how each kind of thing is taken apart, and what it leads to.

Each function here digests one node into a part of its graph, and follows the node's names: to code, which becomes a
node of its own, or to data, which become values. Whatever is looked at is noted in the graph, so that a change of it
is noticed later. What a function changes is left out on the way: whole containers, but only single attributes of
other objects, whose other attributes remain input.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType

from nbflow._typing import TYPE_CHECKING, Any
from nbflow._util import lazy
from nbflow.cache import modules
from nbflow.cache.claims import called_as
from nbflow.cache.classes import class_members, is_plain_object
from nbflow.cache.digest import Walk, is_data, task_function
from nbflow.cache.owners import ABSENT, OPAQUE, is_local_owner, note_owned, owner_of, reaches_all
from nbflow.cache.parts import Undigestable, framed, text_bytes
from nbflow.cache.places import is_local, is_standard, module_file, where_of
from nbflow.cache.source import REBOUND, CodeFacts, code_bytes, facts_of

if TYPE_CHECKING:
    from nbflow.cache import identity, mentions
    from nbflow.cache.graph import Graph
else:
    identity = lazy("nbflow.cache.identity")
    mentions = lazy("nbflow.cache.mentions")  # few functions run texts

__all__ = [
    "class_node",
    "code_node",
    "function_node",
    "installed_node",
    "is_code",
    "is_constant",
    "is_native",
    "object_node",
    "omit",
    "partial_node",
]

_IMPORTING = frozenset({"__import__", "import_module"})
_IMMUTABLE = frozenset({int, float, complex, bool, str, bytes, type(None), type(Ellipsis), range})


def is_constant(value: Any) -> bool:
    """Whether `value` is of a simple type and cannot change."""
    kind = type(value)
    return kind in _IMMUTABLE or (kind in (tuple, frozenset) and all(map(is_constant, value)))


def is_code(value: Any) -> bool:
    """Whether a value is known by what it says rather than by what it holds."""
    return isinstance(value, (FunctionType, type, MethodType, ModuleType, BuiltinFunctionType)) or (
        task_function(value) is not None
    )


def function_node(graph: Graph, function: FunctionType, label: str, kind: str) -> None:
    """Digest a local function: what it says, what it has captured, and what its names refer to."""
    code = function.__code__
    facts = facts_of(code, graph.shelf)
    graph.watch(function, "__code__", "__defaults__", "__kwdefaults__")
    graph.claims.says(code)
    graph.described.append((function, label))
    pieces = [facts.digest]
    _captured(graph, function, facts, label, pieces)
    _references(graph, facts, function, label, pieces)
    wrapped = getattr(function, "__wrapped__", None)
    if callable(wrapped):
        graph.watch(function, "__wrapped__")
        pieces.append(b"wrapped" + text_bytes(graph.label(wrapped)))
    graph.part(kind, label, pieces, where=where_of(code.co_filename))


def _captured(graph: Graph, function: FunctionType, facts: CodeFacts, label: str, pieces: list[bytes]) -> None:
    """Add closure cells and defaults; a cell that the code changes is its state."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:
            value = ABSENT
        for chain in facts.state:
            if chain[0] == name:
                owner, attribute = owner_of(chain, value)
                if owner is None:
                    graph.closure_state[f"{name} captured by {label}"] = cell
                elif is_local_owner(owner):
                    note_owned(graph.attribute_state, owner, attribute)
        if _mutates(facts, name, value):
            graph.claims.add((id(cell), name))
            graph.alive.append(cell)
            continue
        graph.attributes.append((cell, "cell_contents", value))
        chains = [chain for chain in facts.chains if chain[0] == name] or [(name,)]
        for chain in chains:
            pieces.append(_edge(graph, chain, value, ("closure", id(cell), _inside(graph, label, name)), facts))
    defaults = dict(function.__kwdefaults__ or {})
    arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
    values = function.__defaults__ or ()
    defaults.update(zip(arguments[len(arguments) - len(values) :], values, strict=True))
    for name in sorted(defaults):
        if any(chain[0] == name for chain in facts.state):
            note_owned(graph.attribute_state, function, "__defaults__")
            note_owned(graph.attribute_state, function, "__kwdefaults__")
        slot = ("default", id(function), _inside(graph, label, name))
        pieces.append(_edge(graph, (name,), defaults[name], slot, facts))


def _inside(graph: Graph, label: str, name: str) -> str:
    """Name a captured value: plainly where it belongs to the root, else after its function."""
    return name if not graph.root or label == graph.root else f"{label}.{name}"


def _mutates(facts: CodeFacts, name: str, value: Any) -> bool:
    """Whether a captured value is wholly the code's state."""
    chains = [chain for chain in facts.state if chain[0] == name]
    if not chains or (name, REBOUND) in chains:
        return bool(chains)
    if is_code(value) or not is_standard(str(type(value).__module__)):
        return False
    return (name,) in chains or not is_plain_object(value)  # else only its attributes: a namespace


def _references(
    graph: Graph,
    facts: CodeFacts,
    function: FunctionType,
    label: str,
    pieces: list[bytes],
) -> None:
    """Follow the names that the code loads from its globals, and what it imports."""
    scope = function.__globals__
    inner = frozenset(function.__code__.co_freevars)
    module = scope.get("__name__", "") or ""
    builtins = scope.get("__builtins__", {})
    builtins = vars(builtins) if isinstance(builtins, ModuleType) else builtins
    free = {chain[0] for chain in facts.chains}
    graph.alive.append(scope)
    for chain in facts.state:
        if chain[0] not in inner and (chain[0] in free or chain[1:] == (REBOUND,)):  # else it is a local variable
            _note_change(graph, chain, scope, module)
    if module == "__main__":  # what it binds there and never reads, a notebook's cell has changed by calling it
        stored = {chain[0] for chain in facts.state if chain[1:] == (REBOUND,)} - free - inner
        for name in stored:
            graph.claims.add((id(scope), name))
    for chain in facts.chains:
        name = chain[0]
        if name not in free:
            continue
        value = scope.get(name, ABSENT)
        if module == "__main__" and ("__globals__" in chain or reaches_all(value, chain)):
            graph.opaque[f"`{'.'.join(chain)}` in `{label}`"] = None
        if value is ABSENT and (builtins.get(name, ABSENT) is not ABSENT or name.startswith("__")):
            graph.names.append((scope.get, name, ABSENT))
            if module == "__main__" and name in OPAQUE:
                graph.opaque[f"`{name}()` in `{label}`"] = None
            continue
        if _mutates(facts, name, value):
            graph.claims.add((id(scope), name))
            continue
        graph.names.append((scope.get, name, value))
        where = name if module in ("__main__", "") else f"{module}.{name}"
        pieces.append(_edge(graph, chain, value, ("global", id(scope), where), facts))
    by_text = any(chain[-1] in _IMPORTING or chain[:2] == ("sys", "modules") for chain in facts.chains)
    for name in _mentions(function, facts):
        value = scope.get(name, ABSENT)
        if value is ABSENT:
            graph.names.append((scope.get, name, ABSENT))
            if by_text and is_local(name) and module_file(name) is not None:
                pieces.append(modules.import_node(graph, name, 0, (), module))
        elif name not in free and not _mutates(facts, name, value):
            graph.names.append((scope.get, name, value))
            where = name if module in ("__main__", "") else f"{module}.{name}"
            pieces.append(_edge(graph, (name,), value, ("global", id(scope), where), facts))
    for name, level, taken in facts.imports:
        if not level and is_local(name):
            graph.loads[name] = None
        if name == "__main__" and module == "__main__":
            graph.opaque[f"`import __main__` in `{label}`"] = None
        pieces.append(modules.import_node(graph, name, level, taken, scope.get("__package__") or module))


def _mentions(function: FunctionType, facts: CodeFacts) -> list[str]:
    """Return names in the texts that a function runs: its own, and what it has captured."""
    if not facts.runs_given:
        return [*facts.mentions]
    found = [function.__globals__.get(chain[0]) for chain in facts.chains]
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            found.append(cell.cell_contents)
    found += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    texts = [each for each in found if isinstance(each, str)]
    return sorted({*facts.mentions, *mentions.names_given(function.__code__, texts)}) if texts else [*facts.mentions]


def _note_change(graph: Graph, chain: tuple[str, ...], scope: dict[str, Any], module: str) -> None:
    """Note what a chain of names that the code changes belongs to: the notebook, a module, a class or a function."""
    owner, name = owner_of(chain, scope.get(chain[0], ABSENT))
    if owner is None and module != "__main__":
        owner = sys.modules.get(module)
        if owner is None or vars(owner) is not scope:
            return
    if owner is None:
        graph.changed_names[name] = None
    elif is_local_owner(owner):
        note_owned(graph.attribute_state, owner, name)


def _edge(graph: Graph, chain: tuple[str, ...], value: Any, slot: tuple[str, int, str], facts: CodeFacts) -> bytes:
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
        graph.names.append((space.get, name, value))
        if _chain_state(chain[: len(chain) - len(rest)], facts) and _may_be_state(value):
            graph.claims.add(key)
    if value is ABSENT:
        return framed(text.encode()) + b"absent"
    if is_code(value) or isinstance(value, partial):
        if isinstance(value, FunctionType):
            for name in _attributes_of(value, chain, rest, facts):
                _function_attribute(graph, value, name, (*chain[: len(chain) - len(rest)], name), facts)
        return framed(text.encode()) + text_bytes(graph.label(value))
    omit(graph, value, facts, chain[0], len(chain) - len(rest))
    key = (owner, where.rpartition(".")[2])
    known = graph.values.get(key)
    if known is None:
        known = graph.values[key] = (kind, graph.unique(where), value)
        graph.alive.append(value)
    return framed(text.encode()) + text_bytes("=" + known[1])


def _attributes_of(
    function: FunctionType, chain: tuple[str, ...], rest: list[str], facts: CodeFacts
) -> dict[str, None]:
    """Return which attributes of a function the code reads at the end of `chain`, or sets anywhere."""
    found = dict.fromkeys(rest[:1] if rest and rest[0] in vars(function) else ())
    depth = len(chain) - len(rest)
    path = chain[:depth]
    return found | {
        each[depth]: None
        for each in sorted(facts.state)
        if len(each) > depth and each[:depth] == path and each[depth] != REBOUND
    }


def _function_attribute(
    graph: Graph, function: FunctionType, name: str, chain: tuple[str, ...], facts: CodeFacts
) -> None:
    """Count what somebody has attached to a function, where code reads it there and does not change it itself."""
    key = (id(function), f".{name}")
    value = vars(function).get(name, ABSENT)
    if _chain_state(chain, facts):
        graph.claims.add(key)
        note_owned(graph.attribute_state, function, name)
    if value is ABSENT:
        return
    if is_code(value):
        graph.label(value)
    elif key not in graph.values:
        graph.values[key] = ("global", graph.unique(f"{graph.label(function)}.{name}"), value)
    graph.alive.append(value)
    if not _chain_state(chain, facts):
        graph.attributes.append((function, name, value))


def omit(graph: Graph, value: Any, facts: CodeFacts, root: str, depth: int = 1) -> None:
    """Leave out of an object the attributes that the code rebinds or changes; all others are input."""
    chains = [chain for chain in facts.state if chain[0] == root]
    if chains:
        graph.changed.add(id(value))
    names = {chain[depth] for chain in chains if len(chain) > depth} - {REBOUND}
    if names and is_plain_object(value):
        graph.omitted.setdefault(id(value), set()).update(names)


def _chain_state(chain: tuple[str, ...], facts: CodeFacts) -> bool:
    return any(state[: len(chain)] == chain for state in facts.state)


def installed_node(graph: Graph, function: FunctionType, label: str, kind: str) -> None:
    """Note package and version, and what a decorator of the package has captured."""
    module = function.__globals__.get("__name__", "") or ""
    graph.package(module)
    pieces = [label.encode()]
    graph.watch(function, "__code__")
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:
            continue
        graph.attributes.append((cell, "cell_contents", value))
        if is_code(value) or isinstance(value, partial) or callable(getattr(value, "__wrapped__", None)):
            pieces.append(name.encode() + text_bytes(graph.label(value)))
        else:
            pieces.append(name.encode() + graph.lenient(value))
    wrapped = getattr(function, "__wrapped__", None)
    if callable(wrapped):
        pieces.append(b"wrapped" + text_bytes(graph.label(wrapped)))
    if len(pieces) > 1 or kind != "helper":
        graph.part(kind, label, pieces)


def code_node(graph: Graph, code: CodeType, label: str, kind: str) -> None:
    """Digest a bare code object."""
    graph.part(kind, label, [code_bytes(code)])


def partial_node(graph: Graph, value: Any, label: str, kind: str) -> None:
    """Digest a partial: its function and the arguments that it has got."""
    graph.watch(value, "func", "args", "keywords")
    pieces = [text_bytes(graph.label(value.func))]
    pieces += [_lenient_strict(graph, label, value.args), _lenient_strict(graph, label, value.keywords)]
    graph.part(kind, label, pieces)


def object_node(graph: Graph, value: Any, label: str, kind: str) -> None:
    """Digest a callable object: its class, what it wraps, and its content."""
    pieces = [text_bytes(graph.label(type(value)))]
    wrapped = getattr(value, "__wrapped__", None)
    if callable(wrapped):
        graph.watch(value, "__wrapped__")
        pieces.append(text_bytes(graph.label(wrapped)))
    if type(value).__name__ == "_lru_cache_wrapper":
        graph.remembering[label] = value
        graph.note_remembered(label, value)
    else:
        graph.labels.pop(id(value), None)  # its content is the content of this node
        pieces.append(_lenient_strict(graph, label, value))
        graph.labels[id(value)] = label
    graph.part(kind, label, pieces)


def is_bound(value: BuiltinFunctionType) -> bool:
    """Whether a function that is written in C is a method of an object whose content counts."""
    owner = value.__self__
    if owner is None or isinstance(owner, (ModuleType, type)):
        return isinstance(owner, type) and is_local_owner(owner)
    shared = (
        ("random", "_inst"),
        ("numpy.random.mtrand", "_rand"),
        ("sys", "stdin"),
        ("sys", "stdout"),
        ("sys", "stderr"),
    )
    return not any(getattr(sys.modules.get(module), name, None) is owner for module, name in shared)


def bound_node(graph: Graph, value: Any, label: str, kind: str) -> None:
    """Digest a method of an object that is written in C: its name, and the content of the object."""
    graph.watch(value, "__self__")
    graph.part(kind, label, [text_bytes(value.__qualname__), _lenient_strict(graph, label, value.__self__)])


def _lenient_strict(graph: Graph, label: str, value: Any) -> bytes:
    """Encode by content; what has none makes the key a session key."""
    try:
        encoded = graph.walk.encode(value)
    except Undigestable as fault:
        graph.solid = False
        graph.notes.append(f"`{label}`{fault.path}: {fault.reason}")
        return Walk(graph.code, identity.identity_token).encode(value)
    if not is_constant(value):
        graph.contents.append(("", value, encoded))
    return encoded


def class_node(graph: Graph, cls: type, label: str, kind: str) -> None:
    """Digest a local class: its bases and what is in it."""
    pieces = [text_bytes(graph.label(base)) for base in cls.__bases__]
    if type(cls) is not type:
        pieces.append(b"meta" + text_bytes(graph.label(type(cls))))
    graph.described.append((cls, label))
    space = cls.__dict__
    members = class_members(cls)
    graph.attributes.append((cls, "__bases__", cls.__bases__))
    for name, value, watched in members:
        if watched:
            graph.names.append((space.get, name, space.get(name, ABSENT)))
        for role, piece in _accessors(value):
            tag = f"{name}:{role}".encode()
            if is_code(piece):
                pieces.append(framed(tag) + text_bytes(graph.label(piece, member=called_as(cls, name))))
            elif role:
                pieces.append(framed(tag) + graph.lenient(piece))
            else:
                member = graph.unique(f"{label}.{name}")
                graph.values[(id(cls), name)] = ("class", member, piece)
                pieces.append(framed(tag) + text_bytes("=" + member))
    graph.names.append((_count_members, cls, len(space)))
    for base in cls.__mro__:
        if base is cls or is_local_owner(base):
            for function in vars(base).values():
                _class_state(graph, function, cls)
    where = next((where_of(m.__code__.co_filename) for _, m, _w in members if isinstance(m, FunctionType)), "")
    graph.part(kind, label, pieces, where=where)


def _class_state(graph: Graph, function: Any, cls: type) -> None:
    """Leave out class attributes that a method changes through `self`, `cls` or the class's name."""
    takes_class = isinstance(function, classmethod)
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        return
    first = function.__code__.co_varnames[:1]
    for name, *rest in facts_of(function.__code__).state:
        by_name = name in (cls.__name__, "__class__") or (name in first and takes_class)
        if name in first and rest[:1] == ["__class__"]:
            by_name, rest = True, rest[1:]
        # `self.x = 1` makes an attribute of the object, `self.x[1] = 2` may change that of the class.
        if rest and rest[0] != REBOUND and (by_name or (name in first and REBOUND not in rest)):
            _class_attribute(graph, cls, rest[0], function)
            for base in cls.__mro__[1:]:
                if rest[0] in vars(base) and is_local_owner(base):
                    _class_attribute(graph, base, rest[0], function)
                    break


def _class_attribute(graph: Graph, cls: type, name: str, function: FunctionType) -> None:
    note_owned(graph.attribute_state, cls, name)
    if _may_be_state(vars(cls).get(name)):
        graph.claims.add((id(cls), name), function)


def _may_be_state(value: Any) -> bool:
    return not (is_code(value) or is_data(value))


def is_native(value: Any) -> bool:
    """Whether a callable is written in C."""
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
        more = [(role, getattr(value, role)) for role in ("args", "keywords", "dispatcher") if hasattr(value, role)]
        return [(type(value).__name__, function), *more]
    return [("", value)]
