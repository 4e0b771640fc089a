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
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from inspect import CO_COROUTINE
from types import CodeType
from typing import Any, NamedTuple

from IPython.core.error import UsageError

from nbflow._util import perhaps
from nbflow.cache.source import Imports, module_facts
from nbflow.notebook.chance import SEEDS, Seeding, find_seeding
from nbflow.notebook.definitions import (
    attributes_set,
    bindings,
    first_imports,
    global_names,
    imported_last,
    imported_names,
    in_two_parts,
    is_definition,
    is_of_library,
    star_names,
    stored_into,
)
from nbflow.notebook.expansion import expander
from nbflow.notebook.names import BRANCH, Effects, find_effects
from nbflow.notebook.opened import NamedFile, named_files

__all__ = ["Cell", "CellOptions", "Part", "check_names", "compile_body", "read_cell"]

_LONG_NAME = 30
_ANY_NAME = frozenset({"eval", "exec", "globals", "locals", "vars"})  # may bind what the text does not name
LOOP_MARK = "__nbflow_loop_{}__"
_FUTURE = 0
for _feature in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _feature).compiler_flag


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
        definitions: Statements that run again on a hit, in order; `defined` are the names that they bind last, and
            `late` the ids of those that need the data, which is restored first.
        imports: What it imports anywhere.
        imported: The names that its own imports bind, each with module and name there, see `bindings`.
        attributes_set: Names, with the attributes that it sets of what they stand for.
        first_imports: The modules that it imports before anything else, with what it takes from them.
        files: What it hands to calls that read files, see `named_files`.
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
    imported: tuple[tuple[str, tuple[str, str]], ...] = ()
    attributes_set: frozenset[tuple[str, str]] = frozenset()
    first_imports: tuple[tuple[str, tuple[str, ...]], ...] = ()
    files: tuple[NamedFile, ...] = ()
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
        effects = find_effects(tree.body, star_names=star_names, expand=expander(shell))
        facts = module_facts("0\n" + source)  # the 0 keeps a string at the top from passing as a docstring
        imported = imported_names(tree, shell.user_ns)
        found = [each for each in tree.body if is_definition(each, shell.user_ns, imported)]
        definitions, late = in_two_parts(tree.body, found)
        again = set(map(id, definitions))
        rest = [each for each in tree.body if id(each) not in again]
        others = find_effects(rest)
        bound = find_effects(definitions, star_names=star_names, bodies=False).outputs
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
        defined=frozenset(bound).difference(
            frozenset(others.outputs) - imported_last(tree.body, definitions, others.outputs), global_names(tree)
        ),
        configured=frozenset(
            name for name in stored_into(rest, shell.user_ns, imported) if is_of_library(name, shell.user_ns, imported)
        ),
        seeds=SEEDS.search(body) is not None,
        flags=flags,
        loops=loops,
        late=late,
        imports=facts.imports,
        imported=tuple(bindings(tree)),
        attributes_set=attributes_set(tree),
        first_imports=tuple(first_imports(tree)),
        files=named_files(tree),
    )


def check_names(cell: Cell, options: CellOptions, namespace: Mapping[str, Any]) -> None:
    """Refuse names among the options that neither the notebook nor the cell has.

    Raises:
        UsageError: There is one, and what was probably meant.
    """
    effects = cell.effects
    own = {*effects.inputs, *effects.outputs, *effects.mentions, *effects.builtin_reads}
    given = {
        "--inputs": options.inputs,
        "--outputs": None if effects.opaque or not _ANY_NAME.isdisjoint(effects.builtin_reads) else options.outputs,
        "--depends": options.depends,
        "--ignore": sorted(options.ignore),
    }
    for option, names in given.items():
        for name in names or ():
            if name not in own and name not in namespace:
                raise UsageError(
                    f"{option} {name}: neither the notebook nor the cell has such a name{perhaps(name, own)}"
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
    expand = expander(shell)
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
