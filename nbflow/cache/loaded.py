"""Whether a loaded module still is what its file says.

A module that is used as a whole is known by the text of its file, but a process goes on with what it imported. Where
the two differ, a result belongs to neither text, and a key must say so: else an edit that was not loaded would file
the results of the old code under the new text, for the next process to find.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType

from nbflow._typing import Any, NamedTuple
from nbflow._util import STARTED
from nbflow.cache.parts import hashed
from nbflow.cache.source import code_bytes, inner_codes

__all__ = ["loaded_as"]

_SLACK_S = 2.0  # coarse clocks of file systems


class _Seen(NamedTuple):
    spec: Any  # a reload makes a new one
    content: bytes  # digest of the text it was imported from; empty if that is not known
    text: bytes


_first: dict[str, _Seen] = {}


def loaded_as(name: str, file: str | None, text: bytes, content: bytes) -> bytes | None:
    """Return what stands for a module that is loaded from another text than its file has now, or None.

    Args:
        name: The module.
        file: Its file.
        text: What the file says.
        content: Digest of that, which comments and layout leave as it is.
    """
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if module is None or file is None or spec is None:
        return None
    known, now = _first.get(name), _Seen(spec, content, text)
    if known is None or known.spec is not spec:
        known = now if _says(module, file, text) else _Seen(spec, b"", b"")
    elif known.content != content and _frame(known.text) == _frame(text) and _says(module, file, text):
        known = now  # its functions were replaced in place, as IPython's autoreload does
    _first[name] = known
    if known.content == content:
        return None
    return hashed(b"lo", known.content, *sorted(map(code_bytes, _codes(vars(module), name, file))))


def _says(module: ModuleType, file: str, text: bytes) -> bool:
    """Whether functions and constants of a module are those of a text; one older than this process has not changed."""
    try:
        if os.stat(file).st_mtime < STARTED - _SLACK_S:
            return True
        tree = ast.parse(text)
        written = {code_bytes(code) for code in inner_codes(compile(tree, file, "exec", dont_inherit=True))}
    except (OSError, SyntaxError, ValueError):
        return False
    space = vars(module)
    return all(code_bytes(code) in written for code in _codes(space, module.__name__, file)) and all(
        _is(space.get(name, value), value) for name, value in dict(_constants(tree)).items()
    )


def _is(found: Any, constant: Any) -> bool:
    """Whether a value is that constant; values of other types have ideas of their own of what equals them."""
    return type(found) is type(constant) and bool(found == constant)


def _codes(space: Any, module: str, file: str) -> Iterator[CodeType]:
    """Yield the code of the functions and methods that a namespace has from that file."""
    for value in list(space.values()):
        if isinstance(value, FunctionType) and value.__code__.co_filename == file:
            yield value.__code__
        elif isinstance(value, type) and value.__module__ == module and "." not in value.__qualname__:
            yield from _codes({k: v for k, v in vars(value).items() if not isinstance(v, type)}, module, file)


def _constants(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """Yield the names that the top level binds to a constant."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value.value


class _Hollow(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.body = [ast.Pass()]
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]


def _frame(text: bytes) -> str:
    """Return what a text says apart from the bodies of its functions."""
    try:
        return ast.dump(_Hollow().visit(ast.parse(text)))
    except (SyntaxError, ValueError):
        return text.decode(errors="replace")
