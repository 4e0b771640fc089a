"""`-p name=value`: what a notebook or a workflow offers, and values of the right type.

A notebook's parameters are the plain assignments of its cell tagged `parameters`; the defaults found there say which
type a value must have. A workflow's parameters are those of its signature, whose annotations say the same. Values are
Python literals (`2013`, `[1, 2]`, `None`); anything else is text. What does not fit is an error that names what would.
"""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from nbflow.cli.console import usage

__all__ = ["UNKNOWN", "assigned_names", "notebook_values", "split_pairs", "workflow_values"]

UNKNOWN = object()
"""Stands for a default that is not a literal, so that any value will do."""

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def split_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """Split `name=value` texts; the last one wins where a name is given twice."""
    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip().isidentifier():
            raise usage(f"-p {pair}: write -p name=value")
        found[name.strip()] = text.strip()
    return found


def assigned_names(source: str) -> dict[str, Any]:
    """Return the names that a parameters cell assigns and their defaults (`UNKNOWN` where one is not a literal)."""
    lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines()]
    try:
        body = ast.parse("\n".join(lines)).body
    except SyntaxError as error:
        raise usage(f"the cell tagged `parameters` is not valid Python: {error.msg} (line {error.lineno})") from None
    found: dict[str, Any] = {}
    for node in body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Name):
                found[target.id] = _literal_node(getattr(node, "value", None))
    return found


def notebook_values(given: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `-p` with the types of a notebook's defaults.

    Raises:
        CliError: A name that the notebook has not, or a value of another type.
    """
    _refuse_unknown(given, defaults, "the notebook's parameters")
    return {name: _like(name, text, defaults[name]) for name, text in given.items()}


def workflow_values(given: Mapping[str, str], signature: inspect.Signature, hints: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `-p` with the types that a workflow's annotations ask for.

    Args:
        given: Names and texts.
        signature: Signature of the workflow.
        hints: Evaluated annotations by parameter name; a missing one allows any type.

    Raises:
        CliError: A name that the workflow has not, a value that does not fit, or a parameter that is missing.
    """
    takes = {name: p for name, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    extra = next((p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    if extra is None:
        _refuse_unknown(given, takes, "the workflow's parameters")
    missing = [name for name, p in takes.items() if p.default is p.empty and name not in given]
    if missing:
        raise usage(f"missing {', '.join(f'-p {name}=…' for name in missing)}")
    values = {}
    for name, text in given.items():
        default = takes[name].default if name in takes else inspect.Parameter.empty
        hint = hints.get(name, UNKNOWN)
        if hint is UNKNOWN and default is not inspect.Parameter.empty:
            values[name] = _like(name, text, default)
        else:
            values[name] = _typed(name, text, hint)
    return values


def _refuse_unknown(given: Mapping[str, str], known: Mapping[str, Any], what: str) -> None:
    if unknown := [name for name in given if name not in known]:
        names = ", ".join(known) or "none"
        raise usage(f"-p {unknown[0]}: unknown name; {what} are: {names}")


def _literal_node(node: ast.expr | None) -> Any:
    try:
        return UNKNOWN if node is None else ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


def _literal(text: str) -> Any:
    """Return `text` as a Python literal, else as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _like(name: str, text: str, default: Any) -> Any:
    """Return `text` as a value of the type of `default`."""
    if default is UNKNOWN or default is None:
        return _literal(text)
    kind = type(default)
    if kind in (int, float):
        value = _literal(text)
        # A whole number may stand for a measurement and the other way round: keep what was typed.
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        raise usage(f"-p {name}={text}: write a number (the default is {default!r})")
    if kind in (str, bool, list, tuple, dict, set):
        return _typed(name, text, kind)
    return _literal(text)


def _typed(name: str, text: str, hint: Any) -> Any:
    """Return `text` as a value that fits the annotation `hint`."""
    origin = typing.get_origin(hint) or hint
    if origin in (typing.Union, types.UnionType):
        return _first_fit(name, text, typing.get_args(hint))
    if origin is typing.Annotated:
        return _typed(name, text, typing.get_args(hint)[0])
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        for value in (_literal(text), text):
            if value in choices:
                return value
        raise usage(f"-p {name}={text}: use one of {', '.join(map(str, choices))}")
    if origin is str:
        value = _literal(text)
        return value if isinstance(value, str) else text
    if origin is bool:
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        raise usage(f"-p {name}={text}: write true or false")
    if origin is Path:
        return Path(text)
    if inspect.isclass(origin) and issubclass(origin, Enum):
        members = origin.__members__
        if text in members:
            return members[text]
        raise usage(f"-p {name}={text}: use one of {', '.join(members)}")
    if origin in (int, float, list, tuple, dict, set, frozenset):
        return _of_class(name, text, origin)
    return _literal(text)


def _of_class(name: str, text: str, kind: type) -> Any:
    """Return `text` as a number or a container of class `kind`."""
    value = _literal(text)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    if kind in (list, tuple, set, frozenset) and isinstance(value, (list, tuple, set)):
        return kind(value)
    raise usage(f"-p {name}={text}: this is no {kind.__name__}")


def _first_fit(name: str, text: str, hints: tuple[Any, ...]) -> Any:
    """Return the value for the first member of a union that `text` fits; text itself is tried last."""
    if type(None) in hints and text in ("None", "none", "null"):
        return None
    rest = sorted((hint for hint in hints if hint is not type(None)), key=lambda hint: hint is str)
    problem: Exception | None = None
    for hint in rest:
        try:
            return _typed(name, text, hint)
        except Exception as error:
            problem = error
    raise problem if problem is not None else usage(f"-p {name}={text}: write None")
