"""A cell as a task: its text, what it reads and writes, its code, and its cache key.

`read_cell` turns the body of a `%%task` cell into a `Cell`: transformed as IPython does, parsed, walked for names,
and compiled under the name of the cell, so that line numbers, tracebacks and the debugger are those of a plain cell.
On a hit only the *definitions* of a cell run again (imports, functions, classes, and settings of imported modules),
which keeps identities right; the rest is restored.
"""

from __future__ import annotations
import __future__

import ast
import copy
import importlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import CO_COROUTINE
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from nbflow.cache.mentions import RUNNERS
from nbflow.cache.source import Imports, module_facts
from nbflow.notebook.chance import SEEDS, Seeding, find_seeding
from nbflow.notebook.names import BRANCH, Effects, find_effects

__all__ = ["Cell", "CellOptions", "Part", "compile_body", "read_cell"]

_LONG_NAME = 30
LOOP_MARK = "__nbflow_loop_{}__"
_FUTURE = 0
for _feature in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _feature).compiler_flag
_EXPANSION = re.compile(r"[{$]\s*([A-Za-z_]\w*)")
_TRANSPARENT = frozenset({"time", "capture", "prun"})
_BINDING = frozenset(
    {"cpaste", "edit", "macro", "paste", "pylab", "rerun", "reset", "reset_selective", "run", "store", "xdel"}
)
_CONFIGURING = frozenset(
    {"matplotlib", "load_ext", "reload_ext", "autoreload", "config", "env", "set_env", "pylab", "precision"}
)
_SETTERS = frozenset(
    {"use", "filterwarnings", "simplefilter", "basicConfig", "seterr", "disable", "enable", "register"}
)


@dataclass(frozen=True, slots=True)
class CellOptions:
    """The options of one `%%task` (see its usage); times are seconds, `cache` is "disk", "session" or "off"."""

    name: str | None = None
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    force: bool = False
    cache: str = "disk"
    ttl: float | None = None
    version: str | None = None
    ignore: frozenset[str] = frozenset()
    depends: tuple[str, ...] = ()
    retries: int = 0
    timeout: float | None = None
    quiet: bool = False
    verbose: bool = False
    replay: bool = True
    background: bool = False


class Part(NamedTuple):
    """Some statements of a cell, or the expression at its end.

    Attributes:
        code: Their code.
        seeding: The statement, where it is one that sets a seed.
        imports: Whether its last statement may bring a random generator.
    """

    code: CodeType
    seeding: Seeding | None = None
    imports: bool = False


@dataclass(slots=True, eq=False)
class Cell:
    """The body of one cell, read and compiled.

    Attributes:
        shown: The source as compiled, with its lines where they stand in the cell.
        filename: What its code objects are filed under; `label` is the same for people ("cell 4").
        effects: Names it reads and writes.
        digest: Digest of its code, the same for any comments and layout.
        main, last: The statements in parts, and the last expression (None where there is none).
        definitions: Statements that run again on a hit, in order; `defined` are the names that only they bind, and
            `late` the ids of those that need the data, which is restored first.
        imports: What it imports anywhere.
        imported: The names that its own imports bind, with module and the name there ("" for the module).
        first_imports: The modules that it imports before anything else, with what it takes from them.
        configured: Modules that other statements than these store into, which no record can bring back.
        seeds: Whether its text seems to seed a random generator.
        flags: Compiler flags of its code.
    """

    shown: str
    filename: str
    label: str
    effects: Effects
    digest: str
    main: list[Part]
    last: Part | None
    definitions: list[ast.stmt]
    defined: frozenset[str]
    configured: frozenset[str]
    seeds: bool
    flags: int
    loops: frozenset[int]
    late: frozenset[int] = frozenset()
    imports: Imports = ()
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    first_imports: tuple[tuple[str, tuple[str, ...]], ...] = ()
    _definition_codes: tuple[list[CodeType], list[CodeType]] | None = field(default=None)

    @property
    def is_async(self) -> bool:
        """Whether the body awaits at its top level."""
        return any(code.co_flags & CO_COROUTINE for code in self.codes)

    @property
    def parts(self) -> list[Part]:
        """All that it runs, in order."""
        return self.main if self.last is None else [*self.main, self.last]

    @property
    def codes(self) -> list[CodeType]:
        """The code of all parts."""
        return [part.code for part in self.parts]

    def default_name(self) -> str:
        """A name that stays the same as long as the cell makes the same things: the first of them, or its first line.

        What it binds comes before what it only changes, so `history = model.fit(x)` is not called after the model.
        """
        data = [name for name in self.effects.outputs if name not in self.defined and not name.startswith("_")]
        data.sort(key=self.effects.mutated.__contains__)
        made = [
            each.name
            for each in self.definitions
            if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        ]
        text = self.shown.strip().partition("\n")[0]
        return (data or made or [text if len(text) <= _LONG_NAME else text[: _LONG_NAME - 1] + "…"])[0]

    def definition_codes(self) -> tuple[list[CodeType], list[CodeType]]:
        """The definitions as code: those to run before the data is restored, and those that need the data."""
        if self._definition_codes is None:
            early: list[CodeType] = []
            late: list[CodeType] = []
            for statement in self.definitions:
                code = compile(ast.Module([statement], []), self.filename, "exec", self.flags, dont_inherit=True)
                (late if id(statement) in self.late else early).append(code)
            self._definition_codes = early, late
        return self._definition_codes

    def loops_not_entered(self, namespace: dict[str, Any]) -> frozenset[int]:
        """Return the lines of the loops that did not run, and take the marks of the others out of the namespace."""
        return frozenset(line for line in self.loops if namespace.pop(LOOP_MARK.format(line), line) == line)


def read_cell(shell: Any, body: str, source: str, *, number: int, raw: str | None = None) -> Cell:
    """Read and compile the body of a cell.

    Args:
        shell: The IPython shell.
        body: The text below the line of the magic.
        source: The same, transformed by the shell.
        number: The number of the cell, as in `In[4]`.
        raw: The whole text of the cell as typed, from which line numbers are taken.

    Returns:
        The cell.

    Raises:
        SyntaxError: The body is no valid Python.
    """
    shown = "\n" * _lines_before(body, raw) + source
    filename = shell.compile.cache(shown, number, raw_code=raw or body)
    with shell.compile.extra_flags(ast.PyCF_ALLOW_TOP_LEVEL_AWAIT):
        tree: ast.Module = shell.compile.ast_parse(shown, filename=filename)
        effects = find_effects(tree.body, star_names=_star_names, expand=_expander(shell))
        facts = module_facts("0\n" + source)  # the 0 keeps a string at the top from passing as a docstring
        imported = _imported(tree)
        found = [each for each in tree.body if _is_definition(each, shell.user_ns, imported)]
        definitions, late = _in_two_parts(tree.body, found)
        again = set(map(id, definitions))
        rest = [each for each in tree.body if id(each) not in again]
        others = find_effects(rest)
        bound = find_effects(definitions, star_names=_star_names, bodies=False).outputs
        loops = frozenset(line for lines in effects.doubtful.values() for line in lines) - {BRANCH}
        runnable = shell.transform_ast(_with_marks(tree, loops))
        main, last = _compile(shell, runnable, filename)
        flags = shell.compile.flags | main[0].code.co_flags & _FUTURE
    return Cell(
        shown=shown,
        filename=filename,
        label=f"cell {number}",
        effects=effects,
        digest=facts.digest.hex()[-32:],
        main=main,
        last=last,
        definitions=definitions,
        defined=frozenset(bound) - frozenset(others.outputs),
        configured=frozenset(
            name for name in _stored_into(rest) if name in imported or isinstance(shell.user_ns.get(name), ModuleType)
        ),
        seeds=SEEDS.search(body) is not None,
        flags=flags,
        loops=loops,
        late=late,
        imports=facts.imports,
        imported=dict(_bindings(tree)),
        first_imports=tuple(_first_imports(tree)),
    )


def compile_body(shell: Any, body: str) -> tuple[str, bool | None]:
    """Return the source of a body, and whether it awaits at its top level (None: it cannot be compiled)."""
    source: str = shell.transform_cell(body)
    flags = shell.compile.flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        code = compile(source, "<task>", "exec", flags, dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError):
        return source, None
    return source, bool(code.co_flags & CO_COROUTINE)


def _lines_before(body: str, raw: str | None) -> int:
    """How many lines of the cell as typed come before the first statement's block of its body."""
    blank = len(body) - len(body.lstrip())
    skipped = body[:blank].count("\n")  # IPython drops leading empty lines
    where = -1 if raw is None else raw.rstrip().rfind(body.strip())
    return 1 + skipped if where < 0 or raw is None else raw[:where].count("\n")


def _compile(shell: Any, tree: ast.Module, filename: str) -> tuple[list[Part], Part | None]:
    """Compile the statements, apart those that set a seed, and the last expression where the shell shows it."""
    body = tree.body
    last: ast.expr | None = None
    how = shell.ast_node_interactivity
    if body and how != "none":
        end = body[-1]
        if isinstance(end, ast.Expr):
            last, body = end.value, body[:-1]
        elif how == "last_expr_or_assign" and isinstance(end, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            target = end.targets[0] if isinstance(end, ast.Assign) else end.target
            if isinstance(target, ast.Name):
                last = ast.copy_location(ast.Name(target.id, ast.Load()), end)
    seedings = _seedings(shell, body if last is None else [*body, ast.Expr(last)])
    imports = _last_imports(body)
    main: list[Part] = []
    begin = 0
    ends = {*seedings, *(number + 1 for number in (*seedings, *imports)), len(body)}
    for until in sorted(number for number in ends if number <= len(body)):
        if begin < until or not body:
            code = shell.compile(ast.Module(body[begin:until], []), filename, "exec")
            main.append(Part(code, seedings.get(begin) if body else None, until - 1 in imports))
            begin = until
    if last is None:
        return main, None
    return main, Part(shell.compile(ast.Expression(last), filename, "eval"), seedings.get(len(body)))


def _last_imports(body: list[ast.stmt]) -> frozenset[int]:
    """Return the numbers of the imports behind which something else comes."""
    found = [number for number, statement in enumerate(body) if isinstance(statement, (ast.Import, ast.ImportFrom))]
    return frozenset(found).difference(number - 1 for number in found)


def _seedings(shell: Any, body: list[ast.stmt]) -> dict[int, Seeding]:
    """Return which statements set a seed, by their numbers."""
    functions = {
        node.name: node for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }
    expand = _expander(shell)
    found = ((number, find_seeding(statement, functions, expand)) for number, statement in enumerate(body))
    return {number: seeding for number, seeding in found if seeding is not None}


def _with_marks(tree: ast.Module, lines: Collection[int]) -> ast.Module:
    """Let the loops on these lines note that they ran, by a name set at the start of their bodies."""
    if not lines:
        return tree
    marked = copy.deepcopy(tree)
    for node in ast.walk(marked):
        if isinstance(node, (ast.For, ast.AsyncFor, ast.While)) and node.lineno in lines:
            name = ast.Name(LOOP_MARK.format(node.lineno), ast.Store())
            node.body.insert(0, ast.Assign([name], ast.Constant(None), lineno=node.lineno))
            ast.copy_location(node.body[0], node.body[1])
    return ast.fix_missing_locations(marked)


def _star_names(module: str) -> Collection[str]:
    """The names that `from module import *` will bring; nothing if it cannot be imported."""
    try:
        found = importlib.import_module(module)
    except Exception:
        return ()
    return getattr(found, "__all__", None) or [name for name in vars(found) if not name.startswith("_")]


def _expander(shell: Any) -> Callable[[ast.Call], list[ast.stmt] | None]:
    """Return what shows the walk the code behind calls of IPython's own: bodies of magics, `{name}` in commands."""

    def expand(call: ast.Call) -> list[ast.stmt] | None:
        func = call.func
        if not (isinstance(func, ast.Attribute) and isinstance(func.value, ast.Call)):
            return None
        owner = func.value.func
        texts = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        if not (isinstance(owner, ast.Name) and owner.id == "get_ipython" and len(texts) == len(call.args)):
            return None
        if func.attr == "run_cell_magic" and len(texts) == 3:
            return _magic_code(shell, texts[0], texts[1], texts[2])
        if func.attr == "run_line_magic" and texts[0] in _TRANSPARENT:
            return _magic_code(shell, "time", "", texts[1])
        if func.attr not in ("getoutput", "run_line_magic", "system"):
            return None
        if func.attr == "run_line_magic" and texts[0] in _BINDING:
            return [ast.Expr(ast.Name(f"`%{texts[0]}`", ast.Load()))]
        if func.attr == "run_line_magic" and texts[0] in RUNNERS:
            return _text_that_is_run(texts[1])
        return [ast.Expr(ast.Name(name, ast.Load())) for text in texts for name in _EXPANSION.findall(text)]

    return expand


def _text_that_is_run(text: str) -> list[ast.stmt]:
    """Return a call that stands for a magic which runs a query."""
    return [ast.Expr(ast.Call(ast.Attribute(ast.Constant(None), "sql", ast.Load()), [ast.Constant(text)], []))]


def _magic_code(shell: Any, magic: str, line: str, body: str) -> list[ast.stmt]:
    names = [ast.Expr(ast.Name(name, ast.Load())) for name in _EXPANSION.findall(line)]
    if magic in RUNNERS:
        return [*names, *_text_that_is_run(f"{line}\n{body}")]
    if magic not in _TRANSPARENT:
        return [*names]
    try:
        code = ast.parse(shell.transform_cell(body)).body
    except SyntaxError:
        return [*names]
    target = next((word for word in line.split() if word.isidentifier()), None) if magic == "capture" else None
    captured = [] if target is None else ast.parse(f"{target} = None").body
    return [*names, *code, *captured]


def _imported(tree: ast.Module) -> frozenset[str]:
    imports = [each for each in ast.walk(tree) if isinstance(each, ast.Import)]
    return frozenset(find_effects(imports).outputs)


def _bindings(tree: ast.Module) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the names that imports bind, with module and the name there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                module = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or module, (module, "")
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, (node.module, alias.name)


def _first_imports(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the modules that are imported before anything else, with what is taken from them."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, tuple(alias.name for alias in node.names)
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return


def _is_definition(node: ast.stmt, namespace: Mapping[str, Any], imported: frozenset[str]) -> bool:
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
            isinstance(each, plain) or _is_constant(each) or _is_definition(each, namespace, imported) for each in parts
        )
    root = _configured(node)
    return root is not None and (
        root in imported or isinstance(namespace.get(root), ModuleType) or root == "get_ipython"
    )


def _in_two_parts(body: list[ast.stmt], definitions: list[ast.stmt]) -> tuple[list[ast.stmt], frozenset[int]]:
    """Return the definitions that can run apart from the other statements, and the ids of those that run after them.

    One that reads what is written both before and after it can do neither; it counts as data like any other statement.
    """
    chosen = set(map(id, definitions))
    effects = [find_effects([each], star_names=_star_names, bodies=False) for each in body]
    late: set[int] = set()
    while True:
        bound_late: set[str] = set()
        for place, statement in enumerate(body):
            if id(statement) not in chosen:
                continue
            reads = {*effects[place].inputs, *effects[place].builtin_reads}
            before, after = (
                {name for each, effect in part if id(each) not in chosen for name in effect.outputs}
                for part in (
                    zip(body[:place], effects[:place], strict=True),
                    zip(body[place + 1 :], effects[place + 1 :], strict=True),
                )
            )
            waits = not reads.isdisjoint(before | bound_late)
            if waits and not reads.isdisjoint(after):
                chosen.discard(id(statement))
                break
            if waits:
                late.add(id(statement))
                bound_late.update(effects[place].outputs)
        else:
            return [each for each in definitions if id(each) in chosen], frozenset(late & chosen)
        late.clear()


def _stored_into(statements: Iterable[ast.stmt]) -> frozenset[str]:
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
