"""What calls of IPython's own stand for: `!echo {name}`, `%time f(x)`, `%%bash --out c`.

IPython turns commands and magics into calls that take texts. Each is given back here as code which reads and binds the
same names, so that a walk over a cell sees through it. What may reach any name, or measures, reads what is no name but
says what it is: `` `%timeit` ``.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from IPython.core.magic import MagicAlias
from IPython.utils.text import DollarFormatter

from nbflow.cache.mentions import RUNNERS
from nbflow.notebook.names import find_effects
from nbflow.notebook.scopes import MEASURING

__all__ = ["expander", "refusal_of"]

_EXPANSION = re.compile(r"[{$]\s*([A-Za-z_]\w*)")
_ANY_NAME = frozenset(
    "aimport code_wrap cpaste debug edit macro paste pylab rerun reset reset_selective run sc store who who_ls whos "
    "xdel".split()
)
_HOMES = frozenset({"IPython", "ipykernel", "nbflow"})
_SETTING = frozenset({"autoreload"})  # of extensions that the cell itself may load
_INTO = re.compile(r"([A-Za-z_]\w*)\s*=?\s*<<")
_OUT = re.compile(r"--out[ =]\s*(\S+)")


def expander(shell: Any) -> Callable[[ast.Call], list[ast.stmt] | None]:
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
            return _cell_magic(shell, *texts)
        if func.attr == "run_line_magic" and len(texts) == 2:
            return _line_magic(shell, *texts)
        if func.attr not in ("getoutput", "system"):
            return None
        return [each for text in texts for each in _put_in(text)]

    return expand


def refusal_of(opaque: str) -> str:
    """Say why a cell is not cached that uses what cannot be followed, named in words such as `%timeit`."""
    if opaque.strip("`%") in MEASURING:
        return f"it measures with {opaque}, and a measurement is not kept"
    return f"it uses {opaque}, and what that reads and writes cannot be seen"


def _line_magic(shell: Any, magic: str, line: str) -> list[ast.stmt]:
    """Return the code that the line of a magic stands for; where that is not known, a name that says so."""
    name, home, _ = _find_magic(shell, "line", magic)
    if name == "time":
        return _code_in(shell, line) or _behind_options(shell, line)
    if name in MEASURING:
        return [_opaque(f"%{name}"), *_measured(name, _behind_options(shell, line))]
    if name in RUNNERS:
        return _text_that_is_run(line)
    if name in _ANY_NAME or (home not in _HOMES and name not in _SETTING):
        return [_opaque(f"%{magic}"), *_put_in(line)]
    return _put_in(line)


def _cell_magic(shell: Any, magic: str, line: str, body: str) -> list[ast.stmt]:
    """Return the code that a magic with a body stands for; where that is not known, a name that says so."""
    name, home, found = _find_magic(shell, "cell", magic)
    if name in MEASURING:
        return [_opaque(f"%%{name}"), *_measured(name, [*_behind_options(shell, line), *_code_in(shell, body)])]
    names = _put_in(line)
    if name in RUNNERS:
        return [*names, *_text_that_is_run(f"{line}\n{body}")]
    if name == "time":
        return [*names, *_code_in(shell, body)]
    if name == "capture":
        return [*names, *_code_in(shell, body), *_bound(*[word for word in line.split() if word[0] != "-"][:1])]
    if name in _ANY_NAME or home not in _HOMES:
        return [_opaque(f"%%{magic}"), *names]
    if name in ("!", "sx", "system"):
        return [*names, *_put_in(body), *_bound(*_OUT.findall(line))]
    if getattr(found, "__module__", "") == "IPython.core.magics.script":
        with suppress(Exception):  # a wrong line: then the magic fails as well
            options, _ = found.parser.parse_known_args(shlex.split(line))
            return [*names, *_bound(*filter(None, (options.out, options.err, options.proc)))]
    return names


def _find_magic(shell: Any, kind: str, name: str) -> tuple[str, str, Any]:
    """Return the name of a magic behind its aliases, the package that has it ("" where it is not there), and itself."""
    found: Any = None
    with suppress(Exception):  # one that is declared but cannot be loaded
        for _ in range(9):
            found = shell.find_magic(name, kind)
            if not isinstance(found, MagicAlias):
                break
            name, kind = found.magic_name, found.magic_kind
    return name, str(getattr(found, "__module__", "")).partition(".")[0], found


def _opaque(what: str) -> ast.stmt:
    """Return code that reads what is no name, as it may reach any."""
    return ast.Expr(ast.Name(f"`{what}`", ast.Load()))


def _bound(*names: str) -> list[ast.stmt]:
    """Return code that binds the names which a magic was given for its results."""
    return [
        ast.Assign([ast.Name(name, ast.Store())], ast.Constant(None)) if name.isidentifier() else _opaque(name)
        for name in names
    ]


def _code_in(shell: Any, text: str) -> list[ast.stmt]:
    """Return the code in the line or body of a magic; nothing where that is no code."""
    try:
        code: str = shell.transform_cell(text)
        return ast.parse(code).body
    except SyntaxError:
        return []


def _behind_options(shell: Any, line: str) -> list[ast.stmt]:
    """Return the code in the line of a magic behind options such as `-n 5 -q`."""
    while line:
        if line[0] != "-" and (code := _code_in(shell, line)):
            return code
        line = line.partition(" ")[2].lstrip()
    return []


def _measured(magic: str, code: list[ast.stmt]) -> list[ast.stmt]:
    """Return code as a magic that measures runs it: `%timeit` has it in a function, and so binds nothing."""
    if magic != "timeit":
        return code
    return [ast.Expr(ast.Name(name, ast.Load())) for name in find_effects(code).inputs]


def _put_in(text: str) -> list[ast.stmt]:
    """Return what IPython computes to put it into a command or the line of a magic: `{name.upper()}`, `$name`."""
    try:
        fields = [(field, spec) for _, field, spec, _ in DollarFormatter().parse(text) if field is not None]
    except ValueError:  # braces that do not match
        return _names_in(text)
    return [each for field, spec in fields for each in _field(field, spec or "")]


def _field(field: str, spec: str) -> list[ast.stmt]:
    """Return the code in a pair of braces, with what looks like a format, as that may be code too, or without."""
    for text in (f"{field}:{spec}", field):
        with suppress(SyntaxError, ValueError):
            return [ast.Expr(ast.parse(text.strip(), mode="eval").body)]
    return _names_in(f"{{{field}")


def _names_in(text: str) -> list[ast.stmt]:
    """Return the names behind braces and dollars of a text that is no code."""
    return [ast.Expr(ast.Name(name, ast.Load())) for name in _EXPANSION.findall(text)]


def _text_that_is_run(text: str) -> list[ast.stmt]:
    """Return a call that stands for a magic which runs a query, and what it binds: `%sql rows << select …`."""
    call = ast.Call(ast.Attribute(ast.Constant(None), "sql", ast.Load()), [ast.Constant(text)], [])
    return [ast.Expr(call), *_bound(*_INTO.findall(text.partition("\n")[0]))]
