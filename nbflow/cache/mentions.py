"""Names in texts that are run: `frame.query("p > @limit")`, `duckdb.sql("from frame")`, `eval("a + b")`, `!ls {place}`.

Some calls take code, a query, a formula or a command as text, and look up its names where they are called from; the
code around them does not say which. So whatever such a text may name counts as read, if there is something of that
name: a name too many costs a computation, one too few would be a wrong result.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from keyword import iskeyword
from types import CodeType
from typing import NamedTuple

from nbflow.cache.source import inner_codes

__all__ = [
    "RUNNERS",
    "Texts",
    "is_shell",
    "mentioned",
    "names_given",
    "names_in",
    "runs_given",
    "texts_of",
    "texts_run",
]

RUNNERS = frozenset(
    "eval evaluate exec execute query read_sql read_sql_query sql sqldf "  # pandas, numexpr, polars, DuckDB
    "dmatrices dmatrix from_formula glm gls logit mixedlm ols poisson probit wls".split()  # formulas of patsy
)
"""Names of functions and methods that by custom run a text, their first argument."""
_SHELL = "get_ipython"  # commands and magics inside functions are calls of what it returns
_REACHING = frozenset({"__import__", "__main__", "globals", "import_module"})
_MAY_RUN = RUNNERS | _REACHING | {_SHELL, "modules"}  # without these names no code looks up names in texts
_COMMANDS = frozenset({"getoutput", "system"})
_MAGICS = frozenset({"run_cell_magic", "run_line_magic"})
_SPELT = frozenset({"evaluate"})  # others have methods of that name which take no text, such as models

_NAME = re.compile(r"@?\b[^\W\d]\w*")
_PUT_IN = re.compile(r"\{[^}]*\}|\$\w+")  # what IPython puts into a command
_TABLES = re.compile(r"\b(?:describe|from|join|pivot|summarize|table|using)\b", re.IGNORECASE)


def names_in(text: str) -> Iterator[str]:
    """Return what may be names of Python's in a text that is run.

    Where some are marked with `@`, as pandas has it, the others are columns; not so in SQL, which may say `@` too.
    """
    found = _NAME.findall(text)
    if any(name[0] == "@" for name in found) and _TABLES.search(text) is None:
        found = [name for name in found if name[0] == "@"]
    for name in dict.fromkeys(each.lstrip("@") for each in found):
        if not iskeyword(name):
            yield name


def mentioned(code: CodeType, node: ast.AST | None) -> tuple[str, ...]:
    """Return names in the texts of code that runs texts or looks up names in them, without its own variables."""
    codes = [code, *inner_codes(code)]
    said = _said(codes)
    if _MAY_RUN.isdisjoint(said):
        return ()
    constants = [text for each in codes for text in each.co_consts[1:] if isinstance(text, str)]  # the first: docstring
    texts = constants
    if node is not None:
        calls = (each for each in ast.walk(node) if isinstance(each, ast.Call))
        texts = [text for call in calls for text in texts_run(call, [node]).found]
    found = {name for text in texts for name in names_in(text)}
    if not _REACHING.isdisjoint(said) or said.issuperset(("sys", "modules")):
        found |= said.union(constants, *map(names_in, constants))
    return tuple(sorted(found - _own(codes)))


def runs_given(code: CodeType) -> bool:
    """Whether code may run a text that it has captured."""
    return not (RUNNERS - _SPELT).isdisjoint(_said([code, *inner_codes(code)]))


def names_given(code: CodeType, texts: Iterable[str]) -> set[str]:
    """Return names in texts that code has captured, without those of its own variables."""
    return {name for text in texts for name in names_in(text)} - _own([code, *inner_codes(code)])


def _said(codes: list[CodeType]) -> set[str]:
    return {name for each in codes for name in each.co_names}


def _own(codes: list[CodeType]) -> set[str]:
    return {name for each in codes for name in (*each.co_varnames, *each.co_cellvars, *each.co_freevars)}


class Texts(NamedTuple):
    """What a call may run: texts of the code around it, and whether the text may also come from elsewhere."""

    found: tuple[str, ...]
    from_elsewhere: bool


_NONE = Texts((), False)


def texts_run(call: ast.Call, code: Iterable[ast.AST]) -> Texts:
    """Return the texts that a call may run: its own if it is given one, else any in the code that it is part of."""
    func = call.func
    name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
    if name not in RUNNERS:
        return _text_of_shell(func.attr, call) if isinstance(func, ast.Attribute) and is_shell(func.value) else _NONE
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    if not given:
        return _NONE
    if isinstance(given[0], ast.Constant) or name in _SPELT:
        return Texts(tuple(texts_of(given)), False)
    return Texts(tuple(texts_of(code)), True)


def is_shell(node: ast.expr) -> bool:
    """Whether an expression is `get_ipython()`."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == _SHELL


def _text_of_shell(method: str, call: ast.Call) -> Texts:
    """Return what of a command or magic is code, or may be."""
    texts = texts_of(call.args)
    if method in _COMMANDS:
        return Texts(tuple(put_in for text in texts for put_in in _PUT_IN.findall(text)), False)
    return Texts(tuple(texts), False) if method in _MAGICS else _NONE


def texts_of(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Return the texts written in syntax trees, without docstrings."""
    for root in nodes:
        waiting = [root]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.Constant):
                if isinstance(node.value, str):
                    yield node.value
            elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                waiting.extend(ast.iter_child_nodes(node))
