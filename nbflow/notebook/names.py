"""Which names a piece of code reads and writes: an ordered walk over its syntax tree.

The walk follows the order of execution and keeps the set of names that are bound *for certain* at each point, so that
a name counts as an input exactly when its old value may be read. It never asks `symtable`, whose answers for
comprehensions changed with Python 3.12; the result is the same on every version. The rules:

* A branch binds for certain what all of its arms bind; an arm that ends in `raise`, `return`, `break` or `continue`
  does not count.
* What only some arms bind, or the body of a loop that may run zero times, is *doubtful*: reading it later is noted
  with the loops (or `BRANCH`), so that who runs the code can see whether the old value was read. Where that would not
  be possible to see (inside a loop, or if the name is bound again afterwards) the name is an input.
* The body of a function is read when its name is first used, or else at the end; a class body is read at once.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from nbflow.notebook.scopes import Body, FunctionWalk, Names, Walk, type_parameters

__all__ = ["BRANCH", "Effects", "find_effects"]

_BUILTINS = frozenset(dir(builtins))
_SUPPRESSING = frozenset({"suppress", "raises", "assertRaises", "ignored"})
_BARE = frozenset({"dir", "vars"})  # without an argument they are about all names
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
    where they are shadowed, `mentions` where there is something of that name: texts that are run may name them, and
    with `runs_text` such a text may come from an input. `opaque` says in words what reaches names that the code does
    not tell.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    mutated: frozenset[str] = frozenset()
    deleted: frozenset[str] = frozenset()
    certain: frozenset[str] = frozenset()
    builtin_reads: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()
    runs_text: bool = False
    opaque: tuple[str, ...] = ()
    doubtful: dict[str, frozenset[int]] = field(default_factory=dict)


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
    code = list(statements)
    walk = _CellWalk(code, star_names, expand)
    walk.block(code)
    if bodies:
        walk.read_bodies_left()
    inputs = tuple(walk.inputs)
    return Effects(
        inputs=tuple(name for name in inputs if name not in _BUILTINS and name.isidentifier()),
        outputs=tuple(walk.outputs),
        mutated=frozenset(walk.mutated),
        deleted=frozenset(walk.deleted),
        certain=frozenset(name for name, lines in (walk.bound or {}).items() if not lines),
        builtin_reads=tuple(name for name in inputs if name in _BUILTINS),
        mentions=tuple(name for name in walk.mentioned if name not in walk.inputs),
        runs_text=walk.runs_text,
        opaque=tuple(name for name in inputs if not name.isidentifier()),
        doubtful={name: lines for name, lines in walk.doubted.items() if name not in inputs},
    )


@dataclass(slots=True)
class _Loop:
    """A loop around this point: the sets of bound names where it is left or continued early."""

    breaks: list[_Bound | None] = field(default_factory=list)
    continues: list[_Bound | None] = field(default_factory=list)


class _CellWalk(Walk):
    """The level of the cell: `bound` holds what is bound for certain, or None where the code cannot be reached."""

    def __init__(
        self,
        code: Sequence[ast.AST],
        star_names: Callable[[str], Collection[str]],
        expand: Callable[[ast.Call], list[ast.stmt] | None],
    ) -> None:
        super().__init__(code)
        self.inputs: Names = {}
        self.mentioned: Names = {}
        self.outputs: Names = {}
        self.mutated: set[str] = set()
        self.deleted: set[str] = set()
        self.bound: _Bound | None = {}
        self.bodies: dict[str, list[Body]] = {}
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

    def mention(self, name: str) -> None:
        if self.bound is not None and name in self.bound:
            self.read(name)
        else:
            self.mentioned[name] = None

    def call(self, body: Body) -> None:
        for name in body.reads:
            self.read(name)
        for name in body.mentions:
            self.mention(name)
        self.runs_text |= body.runs_text
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
                for name in body.mentions:
                    self.mention(name)
                self.runs_text |= body.runs_text

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

    def define(self, name: str | None, body: Body) -> None:
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
            if isinstance(node.func, ast.Name) and node.func.id in _BARE and not (node.args or node.keywords):
                self.read(f"{node.func.id}()")
        else:
            self.block(code)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for outside in [*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)]:
            self.visit(outside)
        walk = FunctionWalk(node.body, class_body=True)
        with walk.hiding(type_parameters(node)):
            for statement in node.body:
                walk.visit(statement)
        for name in walk.reads:
            self.load(name)
        for name in walk.mutated:
            if name not in walk.bound:
                self.mutate(name)
        for name in walk.mentions:
            if name not in walk.bound:
                self.mention(name)
        self.runs_text |= walk.runs_text
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


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
