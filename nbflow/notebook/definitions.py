"""Which statements of a cell run again on a hit, and what they bind.

Imports, functions, classes and settings of modules are cheap, and bound to what is there now: they are better run again
than restored. All that is asked here is answered from the text; only `import *` needs the module. What the other
statements made is restored between the two parts of the definitions, those that need none of it and those that do.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from nbflow.notebook.names import find_effects

__all__ = [
    "bindings",
    "first_imports",
    "imported_last",
    "imported_names",
    "in_two_parts",
    "is_definition",
    "star_names",
    "stored_into",
]

_CONFIGURING = frozenset(
    {"matplotlib", "load_ext", "reload_ext", "autoreload", "config", "env", "set_env", "pylab", "precision"}
)
_SETTERS = frozenset(
    {"use", "filterwarnings", "simplefilter", "basicConfig", "seterr", "disable", "enable", "register"}
)


def imported_names(tree: ast.Module) -> frozenset[str]:
    """Return the names that `import` binds anywhere."""
    imports = [each for each in ast.walk(tree) if isinstance(each, ast.Import)]
    return frozenset(find_effects(imports).outputs)


def bindings(tree: ast.Module) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the names that imports bind, with module and the name there ("" for the module itself)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                module = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or module, (module, "")
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, (node.module, alias.name)


def first_imports(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the modules that are imported before anything else, with what is taken from them."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, tuple(alias.name for alias in node.names)
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return


def star_names(module: str) -> Collection[str]:
    """The names that `from module import *` will bring; nothing if it cannot be imported."""
    try:
        found = importlib.import_module(module)
    except Exception:
        return ()
    return getattr(found, "__all__", None) or [name for name in vars(found) if not name.startswith("_")]


def is_definition(node: ast.stmt, namespace: Mapping[str, Any], imported: frozenset[str]) -> bool:
    """Whether a statement is cheap, and better run again than restored."""
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return True
    if type(node).__name__ == "TypeAlias":
        return True
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return isinstance(node.value, ast.Lambda)
    if isinstance(node, (ast.If, ast.Try)):
        parts = [each for each in ast.walk(node) if isinstance(each, ast.stmt) and each is not node]
        plain = (ast.If, ast.Try, ast.Pass)
        return any(isinstance(each, (ast.Import, ast.ImportFrom)) for each in parts) and all(
            isinstance(each, plain) or _is_constant(each) or is_definition(each, namespace, imported) for each in parts
        )
    root = _configured(node)
    return root is not None and (
        root in imported or isinstance(namespace.get(root), ModuleType) or root == "get_ipython"
    )


def in_two_parts(body: list[ast.stmt], definitions: list[ast.stmt]) -> tuple[list[ast.stmt], frozenset[int]]:
    """Return the definitions that can run apart from the other statements, and the ids of those that run after them.

    One that reads what is written both before and after it can do neither, nor can one that has to run after them and
    binds what is data in the end, or what data may hold: it counts as data like any other statement.
    """
    chosen = set(map(id, definitions))
    effects = [find_effects([each], star_names=star_names, bodies=False) for each in body]
    bound = [set(each.outputs) - each.mutated for each in effects]
    pairs = list(zip(body, effects, strict=True))
    late: set[int] = set()
    while True:
        bound_late: set[str] = set()
        for place, statement in enumerate(body):
            if id(statement) not in chosen:
                continue
            reads = {*effects[place].inputs, *effects[place].builtin_reads}
            binds = bound[place]
            before, after = (
                {name for each, effect in part if id(each) not in chosen for name in effect.outputs}
                for part in (pairs[:place], pairs[place + 1 :])
            )
            needs = reads & (before | bound_late)
            waits = bool(needs) or not bound_late.isdisjoint(binds)  # what binds a name again does so afterwards
            again = after.union(*bound[place + 1 :])
            if not needs.isdisjoint(again) or (
                waits and (not after.isdisjoint(binds) or _is_used(binds, body, place, chosen))
            ):
                chosen.discard(id(statement))
                break
            if waits:
                late.add(id(statement))
                bound_late.update(effects[place].outputs)
        else:
            return [each for each in definitions if id(each) in chosen], frozenset(late & chosen)
        late.clear()


def _is_used(names: Iterable[str], body: list[ast.stmt], place: int, chosen: set[int]) -> bool:
    """Whether data statements behind `place` get at one of the names, on their own or through functions they call."""
    found = set(names)
    calls = [find_effects([each], star_names=star_names) for each in body if id(each) in chosen]
    while more := {name for each in calls if not found.isdisjoint(each.inputs) for name in each.outputs} - found:
        found |= more
    later = (each for each in body[place + 1 :] if id(each) not in chosen)
    return any(not found.isdisjoint(find_effects([each], star_names=star_names).inputs) for each in later)


def imported_last(body: list[ast.stmt], definitions: list[ast.stmt], names: Iterable[str]) -> set[str]:
    """Return which of the names are those of imports in the end, and were another thing before that nobody needs."""
    again = set(map(id, definitions))
    imports = [each for each in body if isinstance(each, (ast.Import, ast.ImportFrom)) and id(each) in again]
    wanted = set(names).intersection(find_effects(imports, star_names=star_names).outputs)
    if not wanted:
        return wanted
    last: dict[str, ast.stmt] = {}
    chosen = set(map(id, imports))
    for statement in body:
        effects = find_effects([statement], star_names=star_names)
        if id(statement) in again:  # a default value, a decorator or a base may be what the name was before
            reads = {*effects.inputs, *effects.builtin_reads}
            wanted -= {name for name in reads if name in last and id(last[name]) not in chosen}
        last |= dict.fromkeys(wanted.intersection(effects.outputs), statement)
    return {name for name in wanted if id(last[name]) in chosen}


def stored_into(statements: Iterable[ast.stmt]) -> frozenset[str]:
    """Return the names whose attributes or items the statements set, or that they reload, outside of functions."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(statements)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Store):
            root: ast.AST = node
            while isinstance(root, (ast.Attribute, ast.Subscript)):
                root = root.value
            if isinstance(root, ast.Name):
                found.add(root.id)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Name):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("setattr", "delattr", "reload"):
                found.add(node.args[0].id)
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting.extend(ast.iter_child_nodes(node))
    return frozenset(found)


def _is_cheap(*values: ast.expr | None) -> bool:
    """Whether expressions can be computed again at no cost: names, constants, and displays of such."""
    dear = (ast.Call, ast.Await, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.NamedExpr, ast.Yield)
    return not any(isinstance(node, dear) for value in values if value is not None for node in ast.walk(value))


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)


def _configured(node: ast.stmt) -> str | None:
    """Return whose settings a statement changes: `os.environ["A"] = "1"`, `pd.set_option(…)`, `%matplotlib inline`."""
    target: ast.expr | None = None
    if isinstance(node, (ast.Assign, ast.AugAssign)):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Name) or not _is_cheap(target, node.value):
            return None
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        call, target = node.value, node.value.func
        if target.attr == "run_line_magic":
            magic = call.args[0]
            return "get_ipython" if isinstance(magic, ast.Constant) and magic.value in _CONFIGURING else None
        sets = target.attr in _SETTERS or target.attr.startswith("set_")
        fills = isinstance(target.value, (ast.Attribute, ast.Subscript)) and target.attr in (
            "append",
            "insert",
            "update",
        )
        if not (sets or fills) or not _is_cheap(*call.args, *(keyword.value for keyword in call.keywords)):
            return None
    while isinstance(target, (ast.Attribute, ast.Subscript)):
        target = target.value
    return target.id if isinstance(target, ast.Name) else None
