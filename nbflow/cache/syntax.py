"""The analysis of code: its syntax tree as bytes, and the names that it refers to and changes; see `source`.

A tree is found by file, name and line, and only believed where it compiles to exactly the code at hand. Loaded when
code is met whose analysis no store has; what is found out here depends on nothing but the code object, the text of its
file, and the versions of Python and nbflow.
"""

from __future__ import annotations

import ast
import dis
import linecache
import threading
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any, NamedTuple

from nbflow.cache.mentions import mentioned, runs_given
from nbflow.cache.parts import framed, hashed
from nbflow.cache.source import REBOUND, CodeFacts, ModuleFacts, code_bytes, constant_bytes, inner_codes

__all__ = ["analysed", "module_facts", "same_code"]

_MUTATORS = frozenset(
    "add append appendleft clear difference_update discard extend extendleft insert intersection_update pop popitem "
    "popleft put put_nowait remove reverse rotate setdefault sort subtract symmetric_difference_update update write "
    "writelines".split()
)


def analysed(code: CodeType) -> tuple[CodeFacts, bytes | None]:
    """Return what `code` says and refers to, and the text that its tree is from; None where it has none."""
    found = _find_node(code)
    chains, imports, stored = _references(code)
    names = (tuple(sorted(chains)), tuple(sorted(imports)))
    if found is None:
        state = frozenset(stored | _mutated_in_bytecode(code))
        return CodeFacts(code_bytes(code), *names, state, False, mentioned(code, None), runs_given(code)), None
    node, source = found
    digest = hashed(b"as", _tree_bytes(node))
    text = "".join(source.lines).encode("utf-8", "surrogatepass")
    changed, declared = _changes(node)
    # Where a comprehension is part of its function's bytecode, its variables look like captured ones of the same name.
    stored = {(name, end) for name, end in stored if name in declared or "__" in name}  # it may be mangled
    return CodeFacts(digest, *names, frozenset(stored | changed), True, mentioned(code, node), runs_given(code)), text


# --- the syntax tree ----------------------------------------------------------------------------------------------

_SKIP = frozenset({"type_comment", "type_params", "kind", "returns", "annotation", "type_ignores", "ctx"})
_DEFS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_PLAIN_DECORATORS = frozenset("cache cached_property classmethod lru_cache property staticmethod wraps".split())


def _tree_bytes(node: ast.AST) -> bytes:
    """Return the bytes of the function at `node`: parameters and body, without its name, decorators and defaults.

    Decorators and defaults have been evaluated; what came of them is in the function object.
    """
    assert isinstance(node, (ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef))
    names = [
        framed(_dump(getattr(node.args, role))) for role in ("posonlyargs", "args", "vararg", "kwonlyargs", "kwarg")
    ]
    body = node.body if isinstance(node, ast.Lambda) else _without_docstring(node.body)
    return framed(type(node).__name__.encode()) + b"".join(names) + _dump(body)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body


def _dump(item: Any, annotated: bool = False) -> bytes:
    """Write a tree as nested, framed fields; empty fields are left out, so new optional ones change nothing.

    Annotations count where something may read them while the code runs: in the body of a class (dataclasses), and
    those of a function with decorators (`singledispatch`); `annotated` says that `item` stands at such a place.
    """
    if isinstance(item, list):
        return framed(b"".join(framed(_dump(member, annotated)) for member in item))
    if isinstance(item, ast.Constant):
        return framed(b"Constant" + constant_bytes(item.value))
    if not isinstance(item, ast.AST):
        return framed(constant_bytes(item))
    out = [framed(type(item).__name__.encode())]
    fields = dict(ast.iter_fields(item))
    if isinstance(item, _DEFS):
        fields["body"] = _without_docstring(item.body)
    if isinstance(item, ast.JoinedStr):
        fields["values"] = _joined(item.values)
    decorated = _is_decorated(item)
    for name in sorted(fields):
        value = fields[name]
        keep = (name == "annotation" and annotated) or (name == "returns" and decorated)
        if value is None or value == [] or (name in _SKIP and not keep):
            continue
        inside = (
            (isinstance(item, ast.ClassDef) and name == "body")
            or (decorated and name == "args")
            or (annotated and not isinstance(item, _DEFS))
        )
        out.append(framed(name.encode()) + _dump(value, inside))
    return framed(b"".join(out))


def _is_decorated(item: ast.AST) -> bool:
    """Whether `item` is a function with a decorator that may read its annotations."""
    if not isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    called = [each.func if isinstance(each, ast.Call) else each for each in item.decorator_list]
    names = [each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in called]
    return not _PLAIN_DECORATORS.issuperset(names)


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """Merge the text pieces of an f-string, which versions of Python cut differently."""
    out: list[ast.expr] = []
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            last = out[-1] if out else None
            if isinstance(last, ast.Constant) and isinstance(last.value, str):
                out[-1] = ast.Constant(last.value + value.value)
                continue
            if not value.value:
                continue
        out.append(value)
    return out


# --- from a code object to its tree -------------------------------------------------------------------------------

_FUTURES = 0
for _name in __import__("__future__").all_feature_names:
    _FUTURES |= getattr(__import__("__future__"), _name).compiler_flag
_TOP_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_KINDS = 0x04 | 0x08 | 0x20 | 0x80 | 0x200  # of functions: `*args`, `**kwargs`, (async) generators, coroutines


class _Source(NamedTuple):
    """One parsed and compiled text; `lines` is the list that linecache gave, kept to notice a new text."""

    lines: list[str]
    nodes: dict[tuple[str, int], list[ast.AST]]
    codes: dict[tuple[str, int], list[CodeType]]

    def has(self, code: CodeType, place: tuple[str, int]) -> bool:
        """Whether the text compiles to this code."""
        return any(same_code(code, other) for other in self.codes.get(place, ()))


_sources: dict[str, _Source | None] = {}


def _find_node(code: CodeType) -> tuple[ast.AST, _Source] | None:
    """Return the tree of `code` and where it is from, or None where no text compiles to exactly this code."""
    place = (code.co_name, code.co_firstlineno)
    source = _source_of(code)
    if source is None or not source.has(code, place):
        linecache.checkcache(code.co_filename)  # a reloaded module's file is not read anew by itself
        older, source = source, _source_of(code)
        if source is None or source is older or not source.has(code, place):
            return None
    nodes = source.nodes.get(place, [])
    if len(nodes) > 1:
        spans = set(code.co_positions())
        nodes = [node for node in nodes if isinstance(node, ast.Lambda) and _span(node.body) in spans]
    return (nodes[0], source) if len(nodes) == 1 else None


def _span(node: ast.expr) -> tuple[int | None, ...]:
    return (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)


_parsing = threading.Lock()


def _parse(text: str, filename: str = "<unknown>") -> ast.Module:
    """Parse a text; up to Python 3.12 threads that do so at the same time can make each other fail with SystemError."""
    for _ in range(10):
        try:
            with _parsing:
                return ast.parse(text, filename)
        except SystemError:  # somebody else's code parses, too
            continue
    return ast.parse(text, filename)


def _source_of(code: CodeType) -> _Source | None:
    filename = code.co_filename
    lines = linecache.getlines(filename)
    known = _sources.get(filename)
    if known is not None and (known.lines is lines or known.lines == lines):
        return known
    if not lines:
        return None
    text = "".join(lines)
    try:
        tree = _parse(text, filename)
        compiled = compile(text, filename, "exec", (code.co_flags & _FUTURES) | _TOP_AWAIT, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    source = _Source(lines, {}, {})
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda):
            source.nodes.setdefault(("<lambda>", node.lineno), []).append(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            source.nodes.setdefault((node.name, first), []).append(node)
    for inner in inner_codes(compiled):
        source.codes.setdefault((inner.co_name, inner.co_firstlineno), []).append(inner)
    if len(_sources) > 256:
        _sources.clear()
    _sources[filename] = source
    return source


def same_code(one: CodeType, other: CodeType) -> bool:
    """Whether two code objects do the same, wherever their texts are."""
    if one is other:
        return True
    if one.co_code != other.co_code or len(one.co_consts) != len(other.co_consts):
        return False
    plain = (
        "co_names",
        "co_varnames",
        "co_freevars",
        "co_cellvars",
        "co_argcount",
        "co_posonlyargcount",
        "co_kwonlyargcount",
        "co_exceptiontable",
    )
    if any(getattr(one, name) != getattr(other, name) for name in plain):
        return False
    if (one.co_flags ^ other.co_flags) & _KINDS:
        return False
    return all(map(_same_constant, one.co_consts, other.co_consts))


def _same_constant(one: object, other: object) -> bool:
    """Whether two constants are equal and of the same types at every depth: `(1,) == (True,)`, `-0.0 == 0.0`."""
    if isinstance(one, CodeType) and isinstance(other, CodeType):
        return same_code(one, other)
    return one is other or (type(one) is type(other) and constant_bytes(one) == constant_bytes(other))


# --- what the code refers to --------------------------------------------------------------------------------------

_LOADS = frozenset(
    {
        "LOAD_GLOBAL",
        "LOAD_NAME",
        "LOAD_DEREF",
        "LOAD_CLASSDEREF",
        "LOAD_FROM_DICT_OR_GLOBALS",
        "LOAD_FROM_DICT_OR_DEREF",
    }
)
_NOISE = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PUSH_NULL"})
_STORES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF", "DELETE_DEREF"})


def _references(
    code: CodeType,
) -> tuple[set[tuple[str, ...]], set[tuple[str, int, tuple[str, ...]]], set[tuple[str, ...]]]:
    """Return chains loaded from outside, imports, and names from outside that are rebound."""
    chains: set[tuple[str, ...]] = set()
    imports: set[tuple[str, int, tuple[str, ...]]] = set()
    stored: set[tuple[str, ...]] = set()
    for inner, outside in _with_captured(code, frozenset(code.co_freevars)):
        chain: list[str] = []
        before: list[Any] = [None, None]
        for step in dis.get_instructions(inner):
            name = step.opname
            if name in _NOISE:
                continue
            if name in ("LOAD_ATTR", "LOAD_METHOD") and chain:
                chain.append(step.argval)
                continue
            if chain:
                chains.add(tuple(chain))
                chain = []
            if name in _LOADS and (
                name in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS") or step.argval in outside
            ):
                chain = [step.argval]
            elif name in _STORES and ("GLOBAL" in name or step.argval in outside):
                stored.add((step.argval, REBOUND))
            elif name == "IMPORT_NAME":
                level, names = before
                imports.add(
                    (step.argval, level if isinstance(level, int) else 0, names if isinstance(names, tuple) else ())
                )
            before = [before[1], step.argval]
        if chain:
            chains.add(tuple(chain))
    return chains, imports, stored


def _with_captured(code: CodeType, outside: frozenset[str]) -> Iterator[tuple[CodeType, frozenset[str]]]:
    """Yield `code` and all inside it, each with those of its variables that `code` has captured.

    A function inside may have captured a variable of the same name from a function in between.
    """
    yield code, outside
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_captured(constant, outside.intersection(constant.co_freevars))


def _chain(node: ast.AST) -> tuple[str, ...] | None:
    """Return `a.b.c` as names, looking through subscripts (`a.b[0].c` mutates `a.b`); `type(a)` is `a.__class__`."""
    names: list[str] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        elif isinstance(node, ast.Subscript):
            names.clear()
            node = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type":
            if len(node.args) != 1:
                return None
            names.append("__class__")
            node = node.args[0]
        else:
            return None
    return (node.id, *reversed(names))


def _changed(node: ast.AST) -> tuple[str, ...] | None:
    """Return the chain that one node stores into or calls a mutating method of."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)):
        return _chain(node.value)
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del)):
        chain = _chain(node)
        return (*chain, REBOUND) if chain else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATORS:
        return _chain(node.func.value)
    return None


def _changes(root: ast.AST) -> tuple[set[tuple[str, ...]], set[str]]:
    """Return chains that the code stores into or calls a mutating method of, and names that it says are from outside.

    Those of inner functions that begin at a variable of their own are left out: a global or captured variable may
    have the same name.
    """
    found: set[tuple[str, ...]] = set()
    declared: set[str] = set()
    waiting: list[tuple[ast.AST, frozenset[str]]] = [(root, frozenset())]
    while waiting:
        scope, around = waiting.pop()
        nodes = [*_nodes_of(_parts(scope)[1])]
        bound, globals_here = _variables(scope, nodes)
        if scope is not root:
            hidden = (around | bound) - globals_here
        elif isinstance(root, ast.Module):
            hidden = frozenset()
        else:
            hidden = bound & {name for each in ast.walk(root) if isinstance(each, ast.Global) for name in each.names}
        declared |= globals_here
        for node in nodes:
            if isinstance(node, ast.Nonlocal):
                declared.update(name for name in node.names if name not in hidden)
            elif isinstance(node, _SCOPES):
                waiting.append((node, around if isinstance(scope, ast.ClassDef) else hidden))  # methods see no members
            chain = _changed(node)
            if chain is not None and chain[0] not in hidden:
                found.add(chain)
    return found, declared


def _mutated_in_bytecode(code: CodeType) -> set[tuple[str, ...]]:
    """Return chains that a mutating method is taken from; subscripts cannot be told without source."""
    return {chain[:-1] for chain in _references(code)[0] if len(chain) > 1 and chain[-1] in _MUTATORS}


# --- scopes -------------------------------------------------------------------------------------------------------

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = (*_DEFS, ast.Lambda, *_COMPREHENSIONS)
_NAMED = (*_DEFS, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
_BINDING = (*_NAMED, ast.Name, ast.alias, ast.MatchMapping)


def _parts(scope: ast.AST) -> tuple[list[ast.AST], list[ast.AST]]:
    """Return what of a scope is run in the scope around it, and what inside; parameters are with the former."""
    if isinstance(scope, _COMPREHENSIONS):
        first = scope.generators[0]
        rest = [each for each in ast.iter_child_nodes(scope) if each is not first]
        return [first.iter], [first.target, *first.ifs, *rest]
    body = getattr(scope, "body", [])
    inside = [*body] if isinstance(body, list) else [body]  # that of a lambda is one expression
    known = set(map(id, inside))
    return [each for each in ast.iter_child_nodes(scope) if id(each) not in known], inside


def _nodes_of(parts: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield the nodes at and below `parts` that are in the same scope."""
    waiting = [*parts]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += _parts(node)[0] if isinstance(node, _SCOPES) else ast.iter_child_nodes(node)


def _variables(scope: ast.AST, nodes: list[ast.AST]) -> tuple[frozenset[str], set[str]]:
    """Return the names of a scope's own variables, and those that it declares global; `nodes` are those in it."""
    if isinstance(scope, _COMPREHENSIONS):
        targets = [each for generator in scope.generators for each in ast.walk(generator.target)]
        return frozenset(name for each in targets for name in _bound_by(each)), set()
    bound: set[str] = set()
    outer: set[str] = set()
    declared: set[str] = set()
    arguments = getattr(scope, "args", None)
    if isinstance(arguments, ast.arguments):
        bound.update(each.arg for each in ast.iter_child_nodes(arguments) if isinstance(each, ast.arg))
    for node in nodes:
        if isinstance(node, ast.Global):
            declared.update(node.names)
        elif isinstance(node, ast.Nonlocal):
            outer.update(node.names)
        elif isinstance(node, _COMPREHENSIONS):
            bound.update(_walruses(node))
        elif isinstance(node, _BINDING):
            bound.update(_bound_by(node))
    return frozenset(bound - declared - outer), declared


def _bound_by(node: ast.AST) -> list[str]:
    """Return the names that one node binds in its scope."""
    if isinstance(node, ast.Name):
        return [node.id] if isinstance(node.ctx, (ast.Store, ast.Del)) else []
    if isinstance(node, ast.alias):
        return [node.asname or node.name.partition(".")[0]]
    if isinstance(node, _NAMED):
        return [node.name] if node.name else []
    return [node.rest] if isinstance(node, ast.MatchMapping) and node.rest else []


def _walruses(comprehension: ast.AST) -> Iterator[str]:
    """Yield the names that `:=` binds in a comprehension: they belong to the scope around it."""
    for node in _nodes_of(_parts(comprehension)[1]):
        if isinstance(node, ast.NamedExpr) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, _COMPREHENSIONS):
            yield from _walruses(node)


# --- whole modules ------------------------------------------------------------------------------------------------


def module_facts(text: str) -> ModuleFacts:
    """Return what is known of the text of a module.

    Raises:
        SyntaxError: It is no Python.
    """
    tree = _parse(text)
    imports: set[tuple[str, int, tuple[str, ...]]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.update((alias.name, 0, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imports.add((node.module or "", node.level, tuple(alias.name for alias in node.names)))
    digest = hashed(b"mo", _dump(_without_docstring(tree.body)))
    return ModuleFacts(digest, tuple(sorted(imports)), tuple(_module_constants(tree)))


def _module_constants(tree: ast.Module) -> Iterator[tuple[str, bytes]]:
    """Yield the names that the top level binds to literals, and nothing in the module binds again or changes."""
    stored = [each.id for each in ast.walk(tree) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]
    changed = {chain[0] for chain in _changes(tree)[0]}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        target = node.target if isinstance(node, ast.AnnAssign) else target
        if not (isinstance(target, ast.Name) and stored.count(target.id) == 1 and target.id not in changed):
            continue
        assert isinstance(node, (ast.Assign, ast.AnnAssign))
        try:
            yield target.id, constant_bytes(ast.literal_eval(node.value or target))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # it is no literal
            continue
