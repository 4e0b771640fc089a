"""Which statements of a cell run again on a hit, and what they bind.

Imports, functions, classes and settings of modules are cheap, and bound to what is there now: they are better run again
than restored. All that is asked here is answered from the text; only `import *` needs the module. What the other
statements made is restored between the two parts of the definitions, those that need none of it and those that do.
"""

from __future__ import annotations

import ast
import importlib
import logging
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NamedTuple

from nbflow._util import package_of
from nbflow.cache.places import is_local
from nbflow.notebook.names import Effects, find_effects

__all__ = [
    "Imported",
    "attributes_set",
    "bindings",
    "first_imports",
    "global_names",
    "imported_last",
    "imported_names",
    "in_two_parts",
    "is_definition",
    "is_of_library",
    "star_names",
    "stored_into",
]

_CONFIGURING = frozenset(
    {"matplotlib", "load_ext", "reload_ext", "autoreload", "cd", "config", "env", "set_env", "pylab", "precision"}
)
_SETTERS = frozenset(
    "addFilter addHandler basicConfig captureWarnings chdir disable enable extension filterwarnings init_notebook_mode "
    "init_printing install output_notebook rcdefaults register register_matplotlib_converters removeFilter "
    "removeHandler simplefilter switch_backend use".split()
)
_SETTER = re.compile(
    r"set(_\w+|[A-Z]\w*|err|errcall|locale|recursionlimit|switchinterval|defaulttimeout|context)?"
    r"|(use|enable|disable|reset)_\w+"
)
_KNOWN = frozenset(
    "dotenv.load_dotenv load_dotenv matplotlib.rc mpl.rc nest_asyncio.apply plt.ioff plt.ion plt.rc tqdm.pandas".split()
)
_GETTERS = frozenset({"getLogger", "get_logger", "getcontext"})
_SETTINGS = frozenset("argv config environ options path rcParams renderers settings templates themes".split())
_FILLERS = frozenset({"append", "clear", "extend", "insert", "pop", "remove", "setdefault", "update"})
_TEMPORARY = frozenset({"catch_warnings", "errstate", "localcontext", "option_context", "printoptions", "rc_context"})
_LIGHT = frozenset(
    "abspath bool cwd dirname dict expanduser float Formatter getcwd getenv home int join len list lower NullHandler "
    "Path realpath resolve str StreamHandler strip tuple upper".split()
).union(_GETTERS)
_BINDING = (
    *(ast.Assign, ast.AnnAssign, ast.Expr, ast.Pass, ast.arguments, ast.arg, ast.expr_context),
    *(ast.Constant, ast.Name, ast.Attribute, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Lambda),
)


class Imported(NamedTuple):
    """Names of modules that a cell imports, some of them local, and of what it has got from libraries."""

    modules: frozenset[str]
    local: frozenset[str]
    taken: frozenset[str]


def imported_names(tree: ast.Module, namespace: Mapping[str, Any]) -> Imported:
    """Return the names of modules and of what libraries have, by imports, assignments (`P = mpl.rcParams`) or value."""
    modules: list[ast.stmt] = []
    local: set[str] = set()
    taken: set[str] = set()
    read: set[str] = set()
    bound: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.append(node)
            local.update(each.asname or each.name.partition(".")[0] for each in node.names if is_local(each.name))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level and not is_local(node.module):
            taken.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound[node.id] += 1
        elif isinstance(node, ast.Name):
            read.add(node.id)
    taken.update(name for name in read if _keeps_settings(namespace.get(name)))
    found = Imported(frozenset(find_effects(modules).outputs), frozenset(local), frozenset(taken - bound.keys()))
    names = (
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and _gives_settings(node.value, namespace, found)
        for target in node.targets
        if isinstance(target, ast.Name) and bound[target.id] == len(node.targets) == 1
    )
    return found._replace(taken=found.taken.union(names))


def _gives_settings(value: ast.expr, namespace: Mapping[str, Any], imported: Imported) -> bool:
    """Whether an expression is what a library keeps its settings in: `mpl.rcParams`, `logging.getLogger("x")`."""
    function = value.func if isinstance(value, ast.Call) else value
    name = _name_of(function)
    root = _root(function)
    return (
        root is not None
        and name in (_GETTERS if isinstance(value, ast.Call) else _SETTINGS)
        and not isinstance(value, ast.Name)
        and _is_cheap(value)
        and is_of_library(root, namespace, imported)
        and not _is_own_module(root, namespace, imported)
    )


def _keeps_settings(value: Any) -> bool:
    """Whether a value is a logger, the context of decimal numbers, or an object that keeps a library's settings."""
    kind = type(value)
    if isinstance(value, logging.Logger):
        return True
    if kind.__module__ == "decimal" and kind.__name__ == "Context":
        return value is sys.modules["decimal"].getcontext()
    if kind is list:
        return value is sys.path or value is sys.argv
    module = str(kind.__module__)
    homes = {module, package_of(kind)} & sys.modules.keys() - {"__main__", "builtins"}
    held = any(vars(sys.modules[home]).get(name) is value for home in homes for name in _SETTINGS)
    return held and not is_local(module)


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


def global_names(tree: ast.Module) -> set[str]:
    """Return the names of the notebook that functions may bind."""
    return {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}


def attributes_set(tree: ast.Module) -> frozenset[tuple[str, str]]:
    """Return names with the attributes that statements set of what they stand for."""
    return frozenset(
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
    )


def first_imports(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the modules that are imported before anything runs that could matter to them, with what is taken."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, tuple(alias.name for alias in node.names)
        elif not _only_binds(node):
            return


def _only_binds(node: ast.stmt) -> bool:
    """Whether all that a statement can do is to bind names."""
    parts: list[ast.AST | None] = [node]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        if node.decorator_list:
            return False
        parts = [node.args, node.returns]
    return all(
        isinstance(each, _BINDING) and not (isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store))
        for part in parts
        if part is not None
        for each in ast.walk(part)
    )


def star_names(module: str) -> Collection[str]:
    """The names that `from module import *` will bring; nothing if it cannot be imported."""
    try:
        found = importlib.import_module(module)
    except Exception:
        return ()
    return getattr(found, "__all__", None) or [name for name in vars(found) if not name.startswith("_")]


def is_definition(node: ast.stmt, namespace: Mapping[str, Any], imported: Imported) -> bool:
    """Whether a statement is cheap, and better run again than restored."""
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return True
    if type(node).__name__ == "TypeAlias":
        return True
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return isinstance(node.value, ast.Lambda) or node.targets[0].id in imported.taken
    if isinstance(node, (ast.If, ast.Try)):
        parts = [each for each in ast.walk(node) if isinstance(each, ast.stmt) and each is not node]
        plain = (ast.If, ast.Try, ast.Pass)
        return any(isinstance(each, (ast.Import, ast.ImportFrom)) for each in parts) and all(
            isinstance(each, plain) or _is_constant(each) or is_definition(each, namespace, imported) for each in parts
        )
    root = _configured(node, imported)
    if root is None or (isinstance(node, ast.Expr) and _is_own_module(root, namespace, imported)):
        return False  # what functions do to a local module is seen
    return root == "get_ipython" or is_of_library(root, namespace, imported)


def _is_own_module(name: str, namespace: Mapping[str, Any], imported: Imported) -> bool:
    value = namespace.get(name)
    return name in imported.local or (isinstance(value, ModuleType) and is_local(value.__name__))


def is_of_library(name: str, namespace: Mapping[str, Any], imported: Imported) -> bool:
    """Whether a name is that of a module, or of something that was taken out of an installed one."""
    if name in imported.modules or name in imported.taken:
        return True
    value = namespace.get(name)
    if isinstance(value, (FunctionType, BuiltinFunctionType, type)):
        return not is_local(value.__module__ or "builtins")
    return isinstance(value, ModuleType)


def in_two_parts(body: list[ast.stmt], definitions: list[ast.stmt]) -> tuple[list[ast.stmt], frozenset[int]]:
    """Return the definitions that can run apart from the other statements, and the ids of those that run after them.

    One that reads what is written both before and after it can do neither, nor can one that has to run after them and
    binds what is data in the end, or what data may hold: it counts as data like any other statement.
    """
    chosen = set(map(id, definitions))
    effects = [find_effects([each], star_names=star_names, bodies=False) for each in body]
    bound = [set(each.outputs) - each.mutated for each in effects]
    called = {id(each): _called(each, definitions) for each in definitions}
    pairs = list(zip(body, effects, strict=True))
    late: set[int] = set()
    while True:
        bound_late: set[str] = set()
        for place, statement in enumerate(body):
            if id(statement) not in chosen:
                continue
            calls, binds = called[id(statement)], bound[place]
            reads = {*effects[place].inputs, *effects[place].builtin_reads, *calls.inputs}
            before, after = (
                {name for each, effect in part if id(each) not in chosen for name in effect.outputs}
                for part in (pairs[:place], pairs[place + 1 :])
            )
            needs = reads & (before | bound_late)
            waits = bool(needs) or not bound_late.isdisjoint(binds)  # what binds a name again does so afterwards
            again = after.union(*bound[place + 1 :])
            held = waits and (not after.isdisjoint(binds) or _is_used(binds, body, place, chosen))
            if held or not needs.isdisjoint(again) or not before.isdisjoint(calls.outputs):
                chosen.discard(id(statement))
                break
            if waits:
                late.add(id(statement))
                bound_late.update(effects[place].outputs)
        else:
            return [each for each in definitions if id(each) in chosen], frozenset(late & chosen)
        late.clear()


def _called(statement: ast.stmt, definitions: list[ast.stmt]) -> Effects:
    """Return what the functions of the cell read and change that a definition calls when it runs, as decorators do."""
    names: set[str] = set()
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call):
            names.update(each.id for each in ast.walk(node.func) if isinstance(each, ast.Name))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.update(
                each.id for part in node.decorator_list for each in ast.walk(part) if isinstance(each, ast.Name)
            )
        inner = [node.args] if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) else [node]
        waiting.extend(each for part in inner for each in ast.iter_child_nodes(part))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    functions = {each.name: each for each in definitions if isinstance(each, kinds) and each is not statement}
    found: dict[str, ast.stmt] = {}
    while more := names & (functions.keys() - found.keys()):
        found |= {name: functions[name] for name in more}
        names |= set(find_effects([functions[name] for name in more], star_names=star_names).inputs)
    uses = [ast.Expr(ast.Name(name, ast.Load())) for name in found]
    return find_effects([*found.values(), *uses], star_names=star_names)


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


def stored_into(statements: Iterable[ast.stmt], namespace: Mapping[str, Any], imported: Imported) -> frozenset[str]:
    """Return the names whose attributes or items the statements set, or that they reload, outside of functions."""
    found: set[str | None] = set()
    waiting: list[ast.AST] = list(statements)
    temporary = {
        each for node in waiting for part in ast.walk(node) if _is_temporary(part) for each in ast.walk(part)
    }  # settings there are taken back
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, (ast.Store, ast.Del)):
            found.add(_root(node))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Name):
            function = _name_of(node.func)
            if function in ("setattr", "delattr", "reload"):
                found.add(node.args[0].id)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and node not in temporary:
            root = _root(node.value)
            if root is not None and _sets(node.value.func, imported) and not _is_own_module(root, namespace, imported):
                found.add(root)
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting.extend(ast.iter_child_nodes(node))
    return frozenset(name for name in found if name is not None)


def _is_temporary(node: ast.AST) -> bool:
    """Whether a block takes back the settings that are made in it."""
    if not isinstance(node, (ast.With, ast.AsyncWith)):
        return False
    calls = (item.context_expr for item in node.items)
    return any(_name_of(call.func) in _TEMPORARY for call in calls if isinstance(call, ast.Call))


def _is_cheap(*values: ast.expr | None) -> bool:
    """Whether expressions can be computed again at no cost: names, constants, displays of such, and calls as light."""
    dear = (ast.Await, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.NamedExpr, ast.Yield)
    nodes = [node for value in values if value is not None for node in ast.walk(value)]
    return not any(
        isinstance(node, dear) or (isinstance(node, ast.Call) and not _is_light(node.func)) for node in nodes
    )


def _is_light(function: ast.expr) -> bool:
    name = _name_of(function)
    return name in _LIGHT or ast.unparse(function) in ("environ.get", "os.environ.get")


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)


def _configured(node: ast.stmt, imported: Imported) -> str | None:
    """Return whose settings a statement changes: `os.environ["A"] = "1"`, `pd.set_option(…)`, `%matplotlib inline`."""
    target: ast.expr
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete)):
        target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
        value = None if isinstance(node, ast.Delete) else node.value
        if isinstance(target, ast.Name) or not _is_cheap(target, value):
            return None
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call, target = node.value, node.value.func
        if isinstance(target, ast.Attribute) and target.attr == "run_line_magic":
            magic = call.args[0]
            return "get_ipython" if isinstance(magic, ast.Constant) and magic.value in _CONFIGURING else None
        if not _sets(target, imported) or not _is_cheap(*call.args, *(keyword.value for keyword in call.keywords)):
            return None
    else:
        return None
    return _root(target)


def _sets(function: ast.expr, imported: Imported) -> bool:
    """Whether a function is called for what it sets, as its name tells; not one of what another call has made."""
    if not _is_cheap(function):
        return False
    if ast.unparse(function) in _KNOWN:
        return True
    name = _name_of(function)
    if isinstance(function, ast.Attribute) and name in _FILLERS:  # of a list or dict, not of a module
        return not isinstance(function.value, ast.Name) or function.value.id in imported.taken
    return name in _SETTERS or _SETTER.fullmatch(name) is not None


def _name_of(function: ast.expr) -> str:
    """Return the name of a function without what it belongs to."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _root(target: ast.AST) -> str | None:
    """Return the name at which a chain of attributes, items and calls begins."""
    while isinstance(target, (ast.Attribute, ast.Subscript, ast.Call)):
        target = target.func if isinstance(target, ast.Call) else target.value
    return target.id if isinstance(target, ast.Name) else None
