"""Which names a piece of code reads and writes: an ordered walk over its syntax tree.

The walk follows the order of execution and keeps the set of names that are bound *for certain* at each point, so that
a name counts as an input exactly when its old value may be read. It never asks `symtable`, whose answers for
comprehensions changed with Python 3.12; the result is the same on every version. The rules:

* A branch binds for certain what all of its arms bind; an arm that ends in `raise`, `return`, `break` or `continue`
  does not count.
* What only some arms bind, or the body of a loop that may run zero times, is *doubtful*: reading it later is noted with
  the loops (or `BRANCH`), so that who runs the code can see whether the old value was read. Where that would not be
  possible to see (inside a loop, or if the name is bound again afterwards) the name is an input.
* The body of a function is read when its name is first used, or else at the end; a class body is read at once.
* `x.attr = …`, `x[k] = …`, `x += …`, `x.append(…)` and other well-known methods that change an object *mutate* `x`.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["BRANCH", "MUTATORS", "Effects", "find_effects", "function_reads"]

MUTATORS = frozenset(
    "__delitem__ __setattr__ __setitem__ add append appendleft clear difference_update discard extend extendleft fill "
    "fit fit_transform insert intersection_update partial_fit pop popitem popleft put remove resize reverse rotate "
    "seed setdefault setflags sort step symmetric_difference_update update".split()
)
"""Methods that by custom change their object; `set_…` and a trailing underscore count as well."""

_BUILTINS = frozenset(dir(builtins))
_SUPPRESSING = frozenset({"suppress", "raises", "assertRaises", "ignored"})
_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Names: TypeAlias = dict[str, None]  # a set that remembers the order
_Bound: TypeAlias = dict[str, frozenset[int]]  # bound names, with the lines of loops that must have run for it
_CERTAIN: frozenset[int] = frozenset()

BRANCH = 0
"""Stands among the lines of loops for a branch that may not have been taken."""
_MAYBE = frozenset({BRANCH})


@dataclass(frozen=True, slots=True)
class Effects:
    """What a piece of code does to the namespace it runs in; every tuple is in order of first appearance.

    `inputs` are free names read before they are bound, `outputs` names bound or visibly mutated; `mutated`, `deleted`
    and `certain` (bound at the end, whatever happens) are subsets of the outputs. `doubtful` gives, for names read
    after loops or branches that may not have run, the lines of those loops, or `BRANCH`. `builtin_reads` are inputs
    where they are shadowed.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    mutated: frozenset[str] = frozenset()
    deleted: frozenset[str] = frozenset()
    certain: frozenset[str] = frozenset()
    builtin_reads: tuple[str, ...] = ()
    doubtful: dict[str, frozenset[int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Body:
    """What the body of a nested function does to the scopes around it once it is called."""

    reads: _Names = field(default_factory=dict)
    writes: _Names = field(default_factory=dict)
    mutates: _Names = field(default_factory=dict)


def find_effects(
    statements: Iterable[ast.stmt],
    *,
    star_names: Callable[[str], Collection[str]] = lambda module: (),
    expand: Callable[[ast.Call], list[ast.stmt] | None] = lambda call: None,
    bodies: bool = True,
) -> Effects:
    """Return the effects of statements that run at the level of a cell (or a module).

    Args:
        statements: The body, in order.
        star_names: The names that `from module import *` brings in.
        expand: Code that a call stands for (a cell magic with a body of its own), or None.
        bodies: Whether functions that are made but not used count as read.

    Returns:
        The effects; the same on every version of Python.
    """
    walk = _CellWalk(star_names, expand)
    walk.block(statements)
    if bodies:
        walk.read_bodies_left()
    inputs = tuple(walk.inputs)
    return Effects(
        inputs=tuple(name for name in inputs if name not in _BUILTINS),
        outputs=tuple(walk.outputs),
        mutated=frozenset(walk.mutated),
        deleted=frozenset(walk.deleted),
        certain=frozenset(name for name, lines in (walk.bound or {}).items() if not lines),
        builtin_reads=tuple(name for name in inputs if name in _BUILTINS),
        doubtful={name: lines for name, lines in walk.doubted.items() if name not in inputs},
    )


def function_reads(node: _Function) -> tuple[str, ...]:
    """Return the free names of a function's body (not of its decorators, defaults and annotations), in order."""
    return tuple(_scan_function(node).reads)


class _Walk(ast.NodeVisitor):
    """What cells and functions have in common: which nodes read, bind and mutate names, in order of execution."""

    def __init__(self) -> None:
        self.hidden: list[set[str]] = []  # loop variables of the comprehensions around this point, type parameters

    def read(self, name: str) -> None:
        raise NotImplementedError

    def bind(self, name: str) -> None:
        raise NotImplementedError

    def unbind(self, name: str) -> None:
        raise NotImplementedError

    def mutate(self, name: str) -> None:
        raise NotImplementedError

    def define(self, name: str | None, body: _Body) -> None:
        """A function came to be, under `name` or without one."""
        raise NotImplementedError

    def load(self, name: str) -> None:
        if not any(name in names for names in self.hidden):
            self.read(name)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.load(node.id)
        elif isinstance(node.ctx, ast.Store):
            self.bind(node.id)
        else:
            self.unbind(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load):
            self._mutate_root(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load):
            self._mutate_root(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute):
            method = node.func.attr
            in_place = any(k.arg == "inplace" and getattr(k.value, "value", None) is True for k in node.keywords)
            if in_place or method in MUTATORS or method.startswith("set_") or _ends_in_place(method):
                self._mutate_root(node.func.value)

    def _mutate_root(self, node: ast.expr) -> None:
        while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
            node = node.value
        if isinstance(node, ast.Name) and not any(node.id in names for names in self.hidden):
            self.mutate(node.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        target = node.targets[0]
        if len(node.targets) == 1 and isinstance(target, ast.Name) and isinstance(node.value, ast.Lambda):
            self.function(node.value, target.id)
            return
        self.visit(node.value)
        for each in node.targets:
            self.visit(each)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.load(node.target.id)
            self.visit(node.value)
            self.mutate(node.target.id)
            self.bind(node.target.id)
        else:
            self.visit(node.value)
            self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)
        elif not isinstance(node.target, ast.Name):
            self.visit(node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.bind(node.target.id)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.bind(alias.asname or alias.name.partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name != "*":
                self.bind(alias.asname or alias.name)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        self.generic_visit(node)
        if node.name is not None:
            self.bind(node.name)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name is not None:
            self.bind(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.generic_visit(node)
        if node.rest is not None:
            self.bind(node.rest)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            self.visit(decorator)
        self.function(node, node.name)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.function(node, None)

    def function(self, node: _Function, name: str | None) -> None:
        """Visit what runs when a function is made, then note its body for the time it is called."""
        arguments = node.args
        for default in [*arguments.defaults, *arguments.kw_defaults]:
            if default is not None:
                self.visit(default)
        with self.hiding(_type_parameters(node)):
            for annotation in _annotations(node):
                self.visit(annotation)
            body = _scan_function(node)
            for names in (body.reads, body.writes, body.mutates):
                for hidden in [each for each in names if any(each in scope for scope in self.hidden)]:
                    del names[hidden]
        self.define(name, body)

    def visit_TypeAlias(self, node: Any) -> None:
        with self.hiding(_type_parameters(node)):
            self.visit(node.value)
        self.bind(node.name.id)

    def _comprehension(self, node: Any) -> None:
        targets: set[str] = set()
        first, *others = node.generators
        self.visit(first.iter)
        with self.hiding(targets):
            self._comprehension_part(first, targets)
            for other in others:
                self.visit(other.iter)
                self._comprehension_part(other, targets)
            with self.perhaps():
                for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
                    self.visit(part)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def _comprehension_part(self, part: ast.comprehension, targets: set[str]) -> None:
        for child in ast.walk(part.target):
            if isinstance(child, ast.Name):
                targets.add(child.id)
        with self.perhaps():
            for condition in part.ifs:
                self.visit(condition)

    @contextmanager
    def hiding(self, names: set[str]) -> Iterator[None]:
        self.hidden.append(names)
        try:
            yield
        finally:
            self.hidden.pop()

    @contextmanager
    def perhaps(self) -> Iterator[None]:
        """Around code that may not run; only the walk over a cell cares."""
        yield


class _FunctionWalk(_Walk):
    """The body of one function (or, with `class_body`, of a class in one): what it takes from the scopes around it."""

    def __init__(self, parameters: Iterable[str] = (), *, class_body: bool = False) -> None:
        super().__init__()
        self.reads: _Names = {}
        self.bound: set[str] = set(parameters)
        self.outer: set[str] = set()  # declared global or nonlocal
        self.mutated: _Names = {}
        self.written: _Names = {}
        self.inner = _Body()
        self.class_body = class_body

    def result(self) -> _Body:
        local = self.bound - self.outer
        inner_local = set() if self.class_body else local  # methods do not see the names of their class
        reads = {name: None for name in self.reads if self.class_body or name not in local}
        reads.update({name: None for name in self.inner.reads if name not in inner_local})
        writes = dict.fromkeys(sorted(self.bound & self.outer)) | self.inner.writes
        mutates = {name: None for name in self.mutated if name not in local}
        mutates.update({name: None for name in self.inner.mutates if name not in inner_local})
        return _Body(reads, writes, mutates)

    def read(self, name: str) -> None:
        if not (self.class_body and name in self.bound):
            self.reads[name] = None

    def bind(self, name: str) -> None:
        self.bound.add(name)

    unbind = bind

    def mutate(self, name: str) -> None:
        self.mutated[name] = None

    def define(self, name: str | None, body: _Body) -> None:
        if name is not None:
            self.bind(name)
        self.inner.reads.update(body.reads)
        self.inner.writes.update(body.writes)
        self.inner.mutates.update(body.mutates)

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        self.outer.update(node.names)

    visit_Nonlocal = visit_Global

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self.visit(node.type)
        if node.name is not None:
            self.bind(node.name)
        for statement in node.body:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for outside in [*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)]:
            self.visit(outside)
        self.define(node.name, _scan_class(node))


def _scan_function(node: _Function) -> _Body:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    walk = _FunctionWalk(argument.arg for argument in every if argument is not None)
    for part in [node.body] if isinstance(node, ast.Lambda) else node.body:
        walk.visit(part)
    return walk.result()


def _scan_class(node: ast.ClassDef) -> _Body:
    walk = _FunctionWalk(class_body=True)
    with walk.hiding(_type_parameters(node)):
        for statement in node.body:
            walk.visit(statement)
    return walk.result()


def _annotations(node: _Function) -> Iterator[ast.expr]:
    arguments = node.args
    for argument in [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]:
        if argument is not None and argument.annotation is not None:
            yield argument.annotation
    if not isinstance(node, ast.Lambda) and node.returns is not None:
        yield node.returns


def _type_parameters(node: ast.AST) -> set[str]:
    return {parameter.name for parameter in getattr(node, "type_params", ())}


@dataclass(slots=True)
class _Loop:
    """A loop around this point: the sets of bound names where it is left or continued early."""

    breaks: list[_Bound | None] = field(default_factory=list)
    continues: list[_Bound | None] = field(default_factory=list)


class _CellWalk(_Walk):
    """The level of the cell: `bound` holds what is bound for certain, or None where the code cannot be reached."""

    def __init__(
        self,
        star_names: Callable[[str], Collection[str]],
        expand: Callable[[ast.Call], list[ast.stmt] | None],
    ) -> None:
        super().__init__()
        self.inputs: _Names = {}
        self.outputs: _Names = {}
        self.mutated: set[str] = set()
        self.deleted: set[str] = set()
        self.bound: _Bound | None = {}
        self.bodies: dict[str, list[_Body]] = {}
        self.doubted: dict[str, frozenset[int]] = {}
        self.loops: list[_Loop] = []
        self.star_names = star_names
        self.expand = expand

    # -- names

    def read(self, name: str) -> None:
        if self.bound is not None:
            if name not in self.bound or (BRANCH in (lines := self.bound[name]) and self.loops):
                self.inputs[name] = None
            elif lines:
                self.doubted[name] = self.doubted.get(name, _CERTAIN) | lines
        for body in self.bodies.pop(name, ()):
            self.call(body)

    def call(self, body: _Body) -> None:
        for name in body.reads:
            self.read(name)
        for name in body.mutates:
            self.mutate(name)
        for name in body.writes:
            self.outputs.setdefault(name)

    def read_bodies_left(self) -> None:
        """At the end: functions that were made but not used still read their globals; they write nothing yet."""
        for bodies in list(self.bodies.values()):
            for body in bodies:
                for name in body.reads:
                    self.read(name)

    def bind(self, name: str) -> None:
        self.outputs.setdefault(name)
        self.deleted.discard(name)
        if BRANCH in self.doubted.get(name, _CERTAIN):
            self.inputs[name] = None
        if self.bound is not None:
            self.bound[name] = _CERTAIN

    def unbind(self, name: str) -> None:
        self.outputs.setdefault(name)
        self.deleted.add(name)
        if self.bound is not None:
            self.bound.pop(name, None)

    def mutate(self, name: str) -> None:
        self.outputs.setdefault(name)
        self.mutated.add(name)

    def define(self, name: str | None, body: _Body) -> None:
        if name is None:
            self.call(body)
        else:
            self.bind(name)
            self.bodies.setdefault(name, []).append(body)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        super().visit_ImportFrom(node)
        if any(alias.name == "*" for alias in node.names) and not node.level and node.module:
            for name in self.star_names(node.module):
                self.bind(name)

    def visit_Call(self, node: ast.Call) -> None:
        code = self.expand(node)
        if code is None:
            super().visit_Call(node)
        else:
            self.block(code)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for outside in [*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)]:
            self.visit(outside)
        walk = _FunctionWalk(class_body=True)
        with walk.hiding(_type_parameters(node)):
            for statement in node.body:
                walk.visit(statement)
        for name in walk.reads:
            self.load(name)
        for name in walk.mutated:
            if name not in walk.bound:
                self.mutate(name)
        for name in sorted(walk.bound & walk.outer):
            self.bind(name)
        self.define(node.name, walk.inner)

    # -- the order of execution

    def block(self, statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            self.visit(statement)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self._arms([lambda: self.block(node.body), lambda: self.block(node.orelse)])

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        self._arms([lambda: self.visit(node.body), lambda: self.visit(node.orelse)])

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        first, *others = node.values
        self.visit(first)
        with self.perhaps():
            for other in others:
                self.visit(other)

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        arms: list[Callable[[], None]] = [lambda case=case: self._case(case) for case in node.cases]  # type: ignore[misc]
        last = node.cases[-1]
        catches_all = last.guard is None and isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None
        self._arms(arms if catches_all else [*arms, lambda: None])

    def _case(self, case: ast.match_case) -> None:
        self.visit(case.pattern)
        if case.guard is not None:
            self.visit(case.guard)
        self.block(case.body)

    def _arms(self, arms: Iterable[Callable[[], None]]) -> None:
        before = self.bound
        after: _Bound | None = None
        for arm in arms:
            self.bound = _copy(before)
            arm()
            after = _join(after, self.bound)
        self.bound = after

    @contextmanager
    def perhaps(self) -> Iterator[None]:
        before = _copy(self.bound)
        yield
        self.bound = _join(before, self.bound)

    def visit_Raise(self, node: ast.Raise) -> None:
        self.generic_visit(node)
        self.bound = None

    def visit_Break(self, node: ast.Break) -> None:
        if self.loops:
            self.loops[-1].breaks.append(self.bound)
        self.bound = None

    def visit_Continue(self, node: ast.Continue) -> None:
        if self.loops:
            self.loops[-1].continues.append(self.bound)
        self.bound = None

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        before = _copy(self.bound)
        self.visit(node.target)
        self._loop(node, before, runs=_is_never_empty(node.iter))

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        endless = isinstance(node.test, ast.Constant) and bool(node.test.value)
        self._loop(node, _copy(self.bound), runs=endless, endless=endless)

    def _loop(self, node: Any, before: _Bound | None, *, runs: bool, endless: bool = False) -> None:
        loop = _Loop()
        self.loops.append(loop)
        self.block(node.body)
        self.loops.pop()
        for state in loop.continues:
            self.bound = _join(self.bound, state)
        if endless:
            self.bound = None
        self.block(node.orelse)
        for state in loop.breaks:
            self.bound = _join(self.bound, state)
        if not runs and self.bound is not None and before is not None:
            here = frozenset({node.lineno})
            for name, lines in self.bound.items():
                self.bound[name] = lines | before[name] if name in before else lines | here

    def visit_Try(self, node: Any) -> None:
        before = _copy(self.bound)
        self.block(node.body)
        self.block(node.orelse)
        after = self.bound
        for handler in node.handlers:
            self.bound = _copy(before)
            if handler.type is not None:
                self.visit(handler.type)
            if handler.name is not None:
                self.bind(handler.name)
            self.block(handler.body)
            if handler.name is not None:
                self.unbind(handler.name)
            after = _join(after, self.bound)
        self.bound = after  # an error that nobody caught fails the cell: what `finally` reads then is of no interest
        self.block(node.finalbody)

    visit_TryStar = visit_Try

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        before = _copy(self.bound)
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self.visit(item.optional_vars)
        self.block(node.body)
        if any(_last_name(item.context_expr) in _SUPPRESSING for item in node.items):
            self.bound = _join(before, self.bound)

    visit_AsyncWith = visit_With


def _copy(bound: _Bound | None) -> _Bound | None:
    return None if bound is None else dict(bound)


def _join(one: _Bound | None, other: _Bound | None) -> _Bound | None:
    """What is bound after either of two ways; None stands for a way that is never taken."""
    if one is None or other is None:
        return other if one is None else one
    return {
        name: one.get(name, _MAYBE) | other.get(name, _MAYBE) for name in [*one, *(n for n in other if n not in one)]
    }


def _is_never_empty(node: ast.expr) -> bool:
    """Whether a loop over `node` runs at least once, as far as its text says so."""
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return any(not isinstance(item, ast.Starred) for item in node.elts)
    if isinstance(node, ast.Constant):
        return bool(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        numbers = [item.value for item in node.args if isinstance(item, ast.Constant) and isinstance(item.value, int)]
        if node.func.id == "range" and len(numbers) == len(node.args) and 0 < len(numbers) < 3:
            return len(range(*numbers)) > 0
        if node.func.id in ("enumerate", "sorted", "list", "reversed") and node.args:
            return _is_never_empty(node.args[0])
    return False


def _ends_in_place(method: str) -> bool:
    return method.endswith("_") and not method.endswith("__") and not method.startswith("_")


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
