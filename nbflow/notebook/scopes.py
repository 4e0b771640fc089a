"""How scopes of Python nest: which nodes of a syntax tree read, bind and mutate names, in order of execution.

`Walk` is what cells and functions have in common; `FunctionWalk` gathers what the body of one function takes from the
scopes around it. Comprehensions, lambdas, patterns and type parameters keep their own names to themselves. `x.attr =
…`, `x[k] = …`, `x += …`, `x.append(…)` and other well-known methods that change their object *mutate* `x`. What reaches
any name at all, such as `import __main__`, is noted as read under what it says, which is no name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from nbflow.cache.mentions import is_shell, names_in, texts_run

__all__ = ["MEASURING", "MUTATORS", "Body", "FunctionWalk", "Names", "Walk", "type_parameters"]

MUTATORS = frozenset(
    "__delitem__ __setattr__ __setitem__ add append appendleft clear difference_update discard extend extendleft fill "
    "fit fit_transform insert intersection_update partial_fit pop popitem popleft put remove resize reverse rotate "
    "seed setdefault setflags sort step symmetric_difference_update update".split()
)
"""Methods that by custom change their object; `set_…` and a trailing underscore count as well."""

MEASURING = frozenset({"lprun", "memit", "mprun", "prun", "timeit"})
"""Magics that measure what code takes."""
_OF_THE_SHELL = frozenset(
    "del_var drop_by_id ev ex push reset run_cell run_cell_async run_code safe_execfile user_global_ns user_ns".split()
)
_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Names: TypeAlias = dict[str, None]
"""A set of names that remembers the order."""


@dataclass(slots=True)
class Body:
    """What the body of a nested function does to the scopes around it once it is called."""

    reads: Names = field(default_factory=dict)
    writes: Names = field(default_factory=dict)
    mutates: Names = field(default_factory=dict)
    mentions: Names = field(default_factory=dict)
    runs_text: bool = False


class Walk(ast.NodeVisitor):
    """What cells and functions have in common: which nodes read, bind and mutate names, in order of execution.

    Args:
        code: All that is walked over.
    """

    def __init__(self, code: Sequence[ast.AST]) -> None:
        self.code = code
        self.runs_text = False
        self.hidden: list[set[str]] = []  # loop variables of the comprehensions around this point, type parameters

    def read(self, name: str) -> None:
        raise NotImplementedError

    def bind(self, name: str) -> None:
        raise NotImplementedError

    def unbind(self, name: str) -> None:
        raise NotImplementedError

    def mutate(self, name: str) -> None:
        raise NotImplementedError

    def mention(self, name: str) -> None:
        """A text that is run may name this."""
        raise NotImplementedError

    def define(self, name: str | None, body: Body) -> None:
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
        if node.attr == "__globals__" or (node.attr in _OF_THE_SHELL and is_shell(node.value)):
            self.read(f"`{ast.unparse(node)}`")
        if not isinstance(node.ctx, ast.Load):
            self._mutate_root(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load):
            self._mutate_root(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if node.value == "__main__":
            self.read('`"__main__"`')

    def visit_Compare(self, node: ast.Compare) -> None:
        for each in (node.left, *node.comparators):
            if not isinstance(each, ast.Constant):  # `__name__ == "__main__"` asks for no module
                self.visit(each)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        texts = texts_run(node, self.code)
        self.runs_text |= texts.from_elsewhere
        for text in texts.found:
            for name in names_in(text):
                if not any(name in names for names in self.hidden):
                    self.mention(name)
        if isinstance(node.func, ast.Attribute):
            method = node.func.attr
            if method == "run_line_magic" and is_shell(node.func.value):
                self._line_magic(node)
            in_place = any(k.arg == "inplace" and getattr(k.value, "value", None) is True for k in node.keywords)
            if in_place or method in MUTATORS or method.startswith("set_") or _ends_in_place(method):
                self._mutate_root(node.func.value)

    def _line_magic(self, node: ast.Call) -> None:
        name = node.args[0] if node.args else None
        if isinstance(name, ast.Constant) and name.value in MEASURING:
            self.read(f"`%{name.value}`")

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
            if alias.name == "__main__":
                self.read("`import __main__`")
            self.bind(alias.asname or alias.name.partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module == "__main__":
            self.read("`from __main__ import`")
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
        with self.hiding(type_parameters(node)):
            for annotation in _annotations(node):
                self.visit(annotation)
            body = _scan_function(node)
            for names in (body.reads, body.writes, body.mutates, body.mentions):
                for hidden in [each for each in names if any(each in scope for scope in self.hidden)]:
                    del names[hidden]
        self.define(name, body)

    def visit_TypeAlias(self, node: Any) -> None:
        with self.hiding(type_parameters(node)):
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


class FunctionWalk(Walk):
    """The body of one function (or, with `class_body`, of a class in one): what it takes from the scopes around it."""

    def __init__(self, code: Sequence[ast.AST], parameters: Iterable[str] = (), *, class_body: bool = False) -> None:
        super().__init__(code)
        self.reads: Names = {}
        self.mentions: Names = {}
        self.bound: set[str] = set(parameters)
        self.outer: set[str] = set()  # declared global or nonlocal
        self.mutated: Names = {}
        self.written: Names = {}
        self.inner = Body()
        self.class_body = class_body

    def result(self) -> Body:
        local = self.bound - self.outer
        inner_local = set() if self.class_body else local  # methods do not see the names of their class
        reads = {name: None for name in self.reads if self.class_body or name not in local}
        reads.update({name: None for name in self.inner.reads if name not in inner_local})
        writes = dict.fromkeys(sorted(self.bound & self.outer)) | self.inner.writes
        mutates = {name: None for name in self.mutated if name not in local}
        mutates.update({name: None for name in self.inner.mutates if name not in inner_local})
        mentions = {name: None for name in self.mentions if name not in local}
        mentions.update({name: None for name in self.inner.mentions if name not in inner_local})
        return Body(reads, writes, mutates, mentions, self.runs_text or self.inner.runs_text)

    def read(self, name: str) -> None:
        if not (self.class_body and name in self.bound):
            self.reads[name] = None

    def mention(self, name: str) -> None:
        self.mentions[name] = None

    def bind(self, name: str) -> None:
        self.bound.add(name)

    unbind = bind

    def mutate(self, name: str) -> None:
        self.mutated[name] = None

    def define(self, name: str | None, body: Body) -> None:
        if name is not None:
            self.bind(name)
        self.inner.reads.update(body.reads)
        self.inner.writes.update(body.writes)
        self.inner.mutates.update(body.mutates)
        self.inner.mentions.update(body.mentions)
        self.inner.runs_text |= body.runs_text

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


def _scan_function(node: _Function) -> Body:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    code = [node.body] if isinstance(node, ast.Lambda) else node.body
    walk = FunctionWalk(code, (argument.arg for argument in every if argument is not None))
    for part in code:
        walk.visit(part)
    return walk.result()


def _scan_class(node: ast.ClassDef) -> Body:
    walk = FunctionWalk(node.body, class_body=True)
    with walk.hiding(type_parameters(node)):
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


def type_parameters(node: ast.AST) -> set[str]:
    """Return the names of the type parameters (Python 3.12) of a function, class or alias."""
    return {parameter.name for parameter in getattr(node, "type_params", ())}


def _ends_in_place(method: str) -> bool:
    return method.endswith("_") and not method.endswith("__") and not method.startswith("_")
