"""A notebook as a Python script: the same code without IPython.

Cells keep their order, comments and layout between `# %%` marks. Lines of `%%task` and of magics that only time or
silence become comments, shell lines become calls of `subprocess`, cells that await run on one event loop, and what
has no meaning in a script is left in as a comment. The result needs neither a kernel nor IPython.
"""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from inspect import CO_COROUTINE
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

from nbflow.errors import DefinitionError
from nbflow.notebook.names import find_effects

__all__ = ["script_of"]

_PEELED = frozenset({"task", "time", "capture", "prun"})  # magics above a body that is plain Python
_SHELLS = frozenset({"bash", "sh"})
_SESSION = {"--backend": "backend", "--cache": "cache_store", "--datasets": "dataset_store"}
_HEADERS = {
    "asyncio": "import asyncio",
    "os": "import os",
    "subprocess": "import subprocess",
    "settings": "from nbflow.settings import load_settings, set_global_settings",
    "display": "try:\n    from IPython.display import display\nexcept ImportError:\n    display = print",
    "runner": "_runner = asyncio.Runner()",
}


def script_of(cells: Iterable[tuple[str, str]], title: str) -> str:
    """Return a script that does what the cells do, one after the other.

    Args:
        cells: Kind ("code", "markdown" or anything else, which is left out) and text of each cell.
        title: Where they come from, for the first line.

    Returns:
        The text of the script.

    Raises:
        DefinitionError: A cell is no valid Python; the message names it.
    """
    script = _Script()
    number = 0
    for kind, text in cells:
        if kind == "markdown" and text.strip():
            script.parts.append("# %% [markdown]\n" + _comment(text.strip()))
        elif kind == "code" and text.strip():
            number += 1
            script.add(number, text)
    heads = [line for need, line in _HEADERS.items() if need in script.needs]
    return "\n\n".join([f"# {title}", *(["\n".join(heads)] if heads else []), *script.parts]) + "\n"


@dataclass(slots=True)
class _Script:
    parts: list[str] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)

    def add(self, number: int, text: str) -> None:
        """Add one code cell."""
        mark, body, shell = f"# %% [{number}]", text, None
        notes = []
        while (found := re.match(r"\s*%%(\w+)[ \t]*(.*)\n?", body)) is not None:
            notes.append(f"# %%{found[1]} {found[2]}".rstrip())
            body = body[found.end() :]
            if found[1] in _PEELED:
                continue
            if found[1] not in _SHELLS:
                self.parts.append("\n".join([mark, *notes, _comment(body.rstrip())]))
                return
            shell = found[1]
            break
        if shell is not None:
            self.needs.add("subprocess")
            code = f"subprocess.run([{shell!r}, '-c', {body.rstrip()!r}], check=True)"
        else:
            code = self._python(number, body)
        self.parts.append("\n".join([mark, *notes, code.strip("\n")]))

    def _python(self, number: int, body: str) -> str:
        source = TransformerManager().transform_cell(body)  # type: ignore[no-untyped-call]
        try:
            source = self._without_magics(source)
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            tree = ast.parse(source)
            code = compile(source, f"cell {number}", "exec", flags, dont_inherit=True)
        except SyntaxError as error:
            raise DefinitionError(f"cell {number} is no valid Python (line {error.lineno}: {error.msg}).") from None
        effects = find_effects(tree.body)
        if "display" in (*effects.inputs, *effects.builtin_reads):
            self.needs.add("display")
        if not code.co_flags & CO_COROUTINE:
            return source
        self.needs |= {"asyncio", "runner"}
        names = [name for name in effects.outputs if name.isidentifier()]
        lines = ast.unparse(tree) if _has_long_strings(source) else source.strip("\n")
        head = [f"async def _cell_{number}():", *([f"    global {', '.join(names)}"] if names else [])]
        return "\n".join([*head, textwrap.indent(lines, "    "), "", f"_runner.run(_cell_{number}())"])

    def _without_magics(self, source: str) -> str:
        """Replace what the shell made of magics and of shell lines by plain Python."""
        found = []
        for node in ast.walk(ast.parse(source)):
            call = _shell_call(node)
            if call is not None:
                found.append((node, *call))
        lines = source.splitlines(keepends=True)
        for node, method, words in sorted(found, key=lambda each: _start(each[0]), reverse=True):
            _replace(lines, node, self._plain(method, words))
        return "".join(lines)

    def _plain(self, method: str, words: list[str]) -> str:
        """Return the expression for one call of the shell; `None  # …` where it has no meaning in a script."""
        if method in ("system", "getoutput"):
            self.needs.add("subprocess")
            command = _expanded(words[0])
            if method == "system":
                return f"subprocess.run({command}, shell=True)"
            return f"subprocess.run({command}, shell=True, capture_output=True, text=True).stdout.splitlines()"
        name, line = words[0], words[1] if len(words) > 1 else ""
        setting = re.fullmatch(r"(\w+)(?:\s*=\s*|\s+)(.*)", line)
        if name in ("env", "set_env") and setting is not None:
            self.needs.add("os")
            return f"os.environ.update({{{setting[1]!r}: {_expanded(setting[2])}}})"
        if name == "cd" and line:
            self.needs.add("os")
            return f"os.chdir({_expanded(line)})"
        if name == "time" and line:
            return line
        if name == "session" and (options := _session_options(line)):
            self.needs.add("settings")
            return f"set_global_settings(load_settings({options}))"
        return f"None  # %{name} {line}".rstrip()


def _comment(text: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in text.splitlines())


def _shell_call(node: ast.AST) -> tuple[str, list[str]] | None:
    """Return method and words of a call such as `get_ipython().system('ls')`."""
    if not (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call)
    ):
        return None
    owner = node.func.value.func
    if not (isinstance(owner, ast.Name) and owner.id == "get_ipython"):
        return None
    words = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return (node.func.attr, words) if len(words) == len(node.args) > 0 else None


def _start(node: Any) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _replace(lines: list[str], node: Any, text: str) -> None:
    """Put `text` where `node` stands; columns are counted in bytes."""
    first, last = node.lineno - 1, node.end_lineno - 1
    before = lines[first].encode()[: node.col_offset].decode()
    after = lines[last].encode()[node.end_col_offset :].decode()
    if "  # " in text and after.strip():  # a comment must not swallow what follows it
        text = text.partition("  # ")[0]
    lines[first : last + 1] = [before + text + after]


def _expanded(command: str) -> str:
    """Return a command as a string literal, or as an f-string where it names variables as `{name}` or `$name`."""
    shown = re.sub(r"(?<!\$)\$([A-Za-z_]\w*)", r"{\1}", command).replace("$$", "$")
    if not re.search(r"\{[^{}]+\}", shown):
        return repr(command.replace("$$", "$"))
    literal = "f" + repr(shown)
    try:
        ast.parse(literal, mode="eval")
    except SyntaxError:  # braces that are the shell's own
        return repr(command)
    return literal


def _session_options(line: str) -> str:
    words = line.split()
    pairs = [(_SESSION[word], words[place + 1]) for place, word in enumerate(words[:-1]) if word in _SESSION]
    if "--wrap-errors" in words:
        pairs.append(("wrap_errors", "1"))
    return ", ".join(f"{name}={value!r}" for name, value in pairs)


def _has_long_strings(source: str) -> bool:
    """Whether some string goes over several lines, so that indenting would change it."""
    readline: Callable[[], str] = io.StringIO(source).readline
    kinds = {getattr(tokenize, name) for name in ("STRING", "FSTRING_MIDDLE") if hasattr(tokenize, name)}
    return any(token.type in kinds and token.start[0] != token.end[0] for token in tokenize.generate_tokens(readline))
